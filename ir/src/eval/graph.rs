//! Reference execution of a module's main graph.

use super::{EvalCx, EvalError, Executor, Prepared, Sink, Tensor};
use crate::graph::{ConstId, NodeId, ValueDef, ValueId};
use crate::module::Module;
use crate::types::{Atom, Dim, Ranges, Symbol, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes that one result may take; more is refused before it is allocated.
const MAX_BYTES: usize = 1 << 36;

/// Executes with the reference evaluator.
#[derive(Clone, Copy, Default, Debug)]
pub struct ReferenceExecutor;

impl Executor for ReferenceExecutor {
    fn prepare<'a>(&'a self, m: &Module, taps: &[ValueId]) -> Result<Box<dyn Prepared + 'a>, EvalError> {
        Ok(Box::new(Reference::new(m, taps)?))
    }
}

/// Runs a module's main graph once.
pub fn run(m: &Module, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    Reference::new(m, &[])?.run(inputs, &mut |_, _| {})
}

struct Reference {
    module: Module,
    order: Vec<NodeId>,
    taps: BTreeSet<ValueId>,
    consts: BTreeMap<ConstId, Arc<Tensor>>,
}

impl Reference {
    fn new(m: &Module, taps: &[ValueId]) -> Result<Self, EvalError> {
        let order = m.graph.topo_order().map_err(|n| EvalError::Node {
            loc: m.graph.node(n).loc.to_string(),
            message: "the graph is cyclic".into(),
        })?;
        Ok(Reference {
            module: m.clone(),
            order,
            taps: taps.iter().copied().collect(),
            consts: BTreeMap::new(),
        })
    }

    /// A constant's tensor, decoded once.
    fn constant(&mut self, id: ConstId) -> Result<Arc<Tensor>, EvalError> {
        if let Some(t) = self.consts.get(&id) {
            return Ok(t.clone());
        }
        let c = self.module.consts.get(id);
        let t = Tensor::from_const(c).map_err(|message| EvalError::Node {
            loc: c.name.to_string(),
            message,
        })?;
        let t = Arc::new(t);
        self.consts.insert(id, t.clone());
        Ok(t)
    }

    /// The constants that nodes and outputs use, as values.
    fn used_constants(&mut self) -> Result<Vec<(ValueId, Arc<Tensor>)>, EvalError> {
        let g = &self.module.graph;
        let used: Vec<(ValueId, ConstId)> = g
            .value_ids()
            .filter(|v| g.is_used(*v) || self.taps.contains(v))
            .filter_map(|v| Some((v, g.const_id(v)?)))
            .collect();
        used.into_iter()
            .map(|(v, c)| Ok((v, self.constant(c)?)))
            .collect()
    }
}

impl Prepared for Reference {
    fn run(&mut self, inputs: &[Tensor], sink: &mut Sink<'_>) -> Result<Vec<Tensor>, EvalError> {
        let symbols = bind_symbols(&self.module, inputs)?;
        let cx = EvalCx { symbols: &symbols };
        let consts = self.used_constants()?;
        let g = &self.module.graph;
        let mut values: Vec<Option<Arc<Tensor>>> = vec![None; g.value_bound() as usize];
        let mut left: Vec<usize> = (0..g.value_bound()).map(|v| g.use_count(ValueId(v))).collect();
        for p in g.outputs() {
            left[p.value.index()] += 1;
        }
        let given = g
            .inputs()
            .iter()
            .map(|p| p.value)
            .zip(inputs.iter().cloned().map(Arc::new));
        for (v, t) in given.chain(consts) {
            if self.taps.contains(&v) {
                sink(v, &t);
            }
            values[v.index()] = Some(t);
        }
        for id in &self.order {
            let node = g.node(*id);
            let results = eval_node(&cx, g, *id, &values)?;
            for (v, t) in node.outputs.iter().zip(results) {
                if self.taps.contains(v) {
                    sink(*v, &t);
                }
                if left[v.index()] > 0 {
                    values[v.index()] = Some(Arc::new(t));
                }
            }
            for v in node.inputs.iter().flatten() {
                left[v.index()] -= 1;
                if left[v.index()] == 0 {
                    values[v.index()] = None;
                }
            }
        }
        let out = g.outputs().iter().map(|p| {
            let t = values[p.value.index()].as_deref().cloned();
            t.ok_or_else(|| EvalError::Node {
                loc: p.name.clone(),
                message: "the output has no value".into(),
            })
        });
        out.collect()
    }
}

fn eval_node(
    cx: &EvalCx<'_>,
    g: &crate::Graph,
    id: NodeId,
    values: &[Option<Arc<Tensor>>],
) -> Result<Vec<Tensor>, EvalError> {
    let node = g.node(id);
    let fail = |message: String| EvalError::Node {
        loc: node.loc.to_string(),
        message: format!("{}: {message}", node.op.name()),
    };
    for v in &node.outputs {
        check_size(cx, g.ty(*v)).map_err(fail)?;
    }
    let mut ins: Vec<Option<&Tensor>> = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        ins.push(match v {
            None => None,
            Some(v) => {
                let t = values[v.index()].as_deref();
                Some(t.ok_or_else(|| fail(format!("value %{} was never computed", v.0)))?)
            }
        });
    }
    let results = node.op.eval(cx, &ins).map_err(fail)?;
    if results.len() != node.outputs.len() {
        let n = results.len();
        return Err(fail(format!("{n} results, declared are {}", node.outputs.len())));
    }
    for (v, t) in node.outputs.iter().zip(&results) {
        let ty = g.ty(*v);
        let shape = cx.shape(&ty.shape).map_err(fail)?;
        if t.elem() != ty.storage() || t.shape != shape {
            return Err(fail(format!(
                "the result is {}{:?}, declared is {ty} = {shape:?}",
                t.elem(),
                t.shape
            )));
        }
    }
    Ok(results)
}

/// Refuses results that cannot be meant, before anything of that size is allocated.
fn check_size(cx: &EvalCx<'_>, ty: &TensorType) -> Result<(), String> {
    let shape = cx.shape(&ty.shape)?;
    let bytes = shape
        .iter()
        .try_fold(ty.storage().size(), |n, d| n.checked_mul(*d));
    if bytes.is_none_or(|b| b > MAX_BYTES) {
        return Err(format!("a result of type {ty} = {shape:?} is too large"));
    }
    Ok(())
}

/// Values of the symbols for these inputs: bare symbols first, then expressions in which one symbol is still unknown;
/// then every extent, range and check is tested.
pub fn bind_symbols(m: &Module, inputs: &[Tensor]) -> Result<BTreeMap<Symbol, i64>, EvalError> {
    let ports = m.graph.inputs();
    if ports.len() != inputs.len() {
        return Err(EvalError::Unsupported(format!(
            "the model has {} inputs, {} were given",
            ports.len(),
            inputs.len()
        )));
    }
    let mut pairs: Vec<(usize, usize, &Dim, i64)> = Vec::new();
    for (i, (p, t)) in ports.iter().zip(inputs).enumerate() {
        let ty = m.graph.ty(p.value);
        if !matches!(m.graph.value(p.value).def, ValueDef::Input(_)) || t.elem() != ty.storage() {
            return Err(input(
                p,
                format!("expected {ty}, found elements of type {}", t.elem()),
            ));
        }
        if t.shape.len() != ty.rank() {
            return Err(input(p, format!("expected {ty}, found shape {:?}", t.shape)));
        }
        let extents = ty.shape.iter().zip(&t.shape).enumerate();
        pairs.extend(extents.map(|(a, (d, n))| (i, a, d, *n as i64)));
    }
    let mut env: BTreeMap<Symbol, i64> = BTreeMap::new();
    for (_, _, d, n) in &pairs {
        if let Some(s) = d.as_symbol() {
            env.entry(s.clone()).or_insert(*n);
        }
    }
    while let Some((s, v)) = pairs.iter().find_map(|(_, _, d, n)| solve(d, *n, &env)) {
        env.insert(s, v);
    }
    for (i, a, d, n) in &pairs {
        let value = d.eval(&|s| env.get(s).copied());
        if value != Some(*n) {
            let ty = m.graph.ty(ports[*i].value);
            let want = value.map_or("no value".into(), |v| v.to_string());
            return Err(input(
                &ports[*i],
                format!("expected {ty}: axis {a} should be `{d}` = {want}, found {n}"),
            ));
        }
    }
    for (s, v) in &env {
        let (lo, hi) = m.symbols.range(s);
        if !(lo..=hi).contains(v) {
            return Err(EvalError::Node {
                loc: format!("dimension `{s}`"),
                message: format!("{v} is outside {lo} to {hi}"),
            });
        }
    }
    let cx = EvalCx { symbols: &env };
    for c in &m.checks {
        let fail = |message| EvalError::Node {
            loc: c.loc.to_string(),
            message,
        };
        let (a, b) = (cx.dim(&c.a).map_err(fail)?, cx.dim(&c.b).map_err(fail)?);
        if a != b {
            return Err(fail(format!("`{}` = {a} must equal `{}` = {b}", c.a, c.b)));
        }
    }
    Ok(env)
}

fn input(p: &crate::Port, message: String) -> EvalError {
    EvalError::Input {
        name: p.name.clone(),
        message,
    }
}

/// If `d` is linear in its only unknown symbol: that symbol and the value that makes `d` equal `n`.
fn solve(d: &Dim, n: i64, env: &BTreeMap<Symbol, i64>) -> Option<(Symbol, i64)> {
    let unknown: Vec<Symbol> = d.symbols().into_iter().filter(|s| !env.contains_key(s)).collect();
    let [s] = unknown.as_slice() else { return None };
    let linear = d.terms().all(|(m, _)| {
        let within = |a: &Atom| match a {
            Atom::Sym(x) => x == s,
            Atom::FloorDiv(x, y) | Atom::Mod(x, y) | Atom::Min(x, y) | Atom::Max(x, y) => {
                x.symbols().contains(s) || y.symbols().contains(s)
            }
        };
        let mut hits = m.iter().filter(|a| within(a));
        matches!((hits.next(), hits.next()), (None, _) | (Some(Atom::Sym(_)), None))
    });
    let at = |v: i64| d.eval(&|x| if x == s { Some(v) } else { env.get(x).copied() });
    let (zero, one) = (at(0)?, at(1)?);
    let (slope, rest) = (one.checked_sub(zero)?, n.checked_sub(zero)?);
    (linear && slope != 0 && rest.checked_rem(slope)? == 0).then(|| (s.clone(), rest / slope))
}
