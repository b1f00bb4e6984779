//! A forward walk that builds a new graph while a local rule looks at each node: linear, and chains simplify in one
//! walk because a rule sees operands as they are already rewritten.

use crate::pass::{PassCx, edit_diag};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::scalar::BodyBuilder;
use rsqc_ir::{Const, ConstId, Graph, Loc, Module, Node, NodeId, Op, Rebuild, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Largest constant whose elements rules look at one by one.
const SPLAT_LIMIT: i64 = 1 << 16;

/// The new graph under construction, beside the old module.
pub(crate) struct Editor<'m> {
    old: &'m Module,
    r: Rebuild,
    consts: Vec<Const>,
    /// Uses that old values brought to the new value they became.
    uses: BTreeMap<ValueId, usize>,
    /// Old node results that have a new value.
    passed: BTreeSet<ValueId>,
}

/// What a rule makes of a node: its results, or `None` to keep it.
pub(crate) type Rewritten = Result<Option<Vec<ValueId>>, Diag>;

impl<'m> Editor<'m> {
    fn new(old: &'m Module) -> Self {
        let mut ed = Editor {
            old,
            r: Rebuild::new(old),
            consts: Vec::new(),
            uses: BTreeMap::new(),
            passed: BTreeSet::new(),
        };
        for p in old.graph.inputs() {
            let v = ed.r.get(old, p.value);
            ed.note_uses(p.value, v);
        }
        ed
    }

    fn note_uses(&mut self, old: ValueId, new: ValueId) {
        let g = &self.old.graph;
        *self.uses.entry(new).or_insert(0) += g.use_count(old) + usize::from(g.is_output(old));
    }

    /// The module before the walk.
    pub(crate) fn old(&self) -> &'m Module {
        self.old
    }
    /// The new value of an old one whose definition was passed already (or is a constant or an input).
    pub(crate) fn get(&mut self, old: ValueId) -> ValueId {
        self.r.get(self.old, old)
    }
    /// The same, or `None` if the walk has not been there yet.
    pub(crate) fn try_get(&mut self, old: ValueId) -> Option<ValueId> {
        let known = self.old.graph.def_node(old).is_none() || self.passed.contains(&old);
        known.then(|| self.get(old))
    }
    /// The new graph so far.
    pub(crate) fn graph(&self) -> &Graph {
        &self.r.graph
    }
    /// Type of a new value.
    pub(crate) fn ty(&self, v: ValueId) -> &TensorType {
        self.r.graph.ty(v)
    }
    /// The node of the new graph that defines `v`.
    pub(crate) fn def(&self, v: ValueId) -> Option<&Node> {
        self.r.graph.def_node(v).map(|(n, _)| self.r.graph.node(n))
    }
    /// Number of uses of `v`. An estimate while the walk runs, so it may decide cost, never soundness.
    pub(crate) fn use_count(&self, v: ValueId) -> usize {
        let built = self.r.graph.use_count(v);
        self.uses.get(&v).copied().unwrap_or(0).max(built)
    }
    /// Whether `v` has one use in all.
    pub(crate) fn single_use(&self, v: ValueId) -> bool {
        self.use_count(v) <= 1
    }
    /// The constant behind a new value.
    pub(crate) fn constant_of(&self, v: ValueId) -> Option<&Const> {
        let id = self.r.graph.const_id(v)?.index();
        let stored = self.old.consts.len();
        if id < stored {
            Some(self.old.consts.get(ConstId(id as u32)))
        } else {
            self.consts.get(id - stored)
        }
    }
    /// The tensor of a plain constant.
    pub(crate) fn tensor(&self, v: ValueId) -> Option<Tensor> {
        let c = self.constant_of(v)?;
        c.ty.elem.plain()?;
        Tensor::from_const(c).ok()
    }
    /// The one value that all elements of a constant have (bit for bit).
    pub(crate) fn splat(&self, v: ValueId) -> Option<f64> {
        splat_of(self.constant_of(v)?)
    }
    /// Adds a node with inferred types; a refusal is a bug of the rule.
    pub(crate) fn add(&mut self, op: impl Into<Op>, ins: &[ValueId], loc: &Loc) -> Result<ValueId, Diag> {
        let ins = ins.iter().map(|v| Some(*v)).collect();
        Ok(self.r.node(self.old, op.into(), ins, loc).map_err(edit_diag)?[0])
    }
    /// The type of the single result that `op` would have, if inference accepts the operands.
    pub(crate) fn try_infer(&self, op: &Op, ins: &[ValueId]) -> Option<TensorType> {
        let types: Vec<Option<&TensorType>> = ins.iter().map(|v| Some(self.r.graph.ty(*v))).collect();
        let mut got = op
            .infer(
                &rsqc_ir::ops::InferCx {
                    symbols: &self.old.symbols,
                },
                &types,
            )
            .ok()?;
        if got.len() == 1 { got.pop() } else { None }
    }
    /// Adds a node like the old one `id` over operands of the same types.
    pub(crate) fn node_like(&mut self, id: NodeId, ins: Vec<Option<ValueId>>) -> Vec<ValueId> {
        let n = self.old.graph.node(id);
        let types = n.outputs.iter().map(|v| self.old.graph.ty(*v).clone()).collect();
        let new = self.r.graph.add_node(n.op.clone(), ins, types, n.loc.clone());
        self.r.graph.node(new).outputs.clone()
    }
    /// Adds a node with one result if inference accepts it with result type `want`.
    pub(crate) fn try_add(
        &mut self,
        op: impl Into<Op>,
        ins: &[ValueId],
        want: &TensorType,
        loc: &Loc,
    ) -> Option<ValueId> {
        self.try_add_optional(op.into(), ins.iter().map(|v| Some(*v)).collect(), want, loc)
    }
    /// The same with optional operands.
    pub(crate) fn try_add_optional(
        &mut self,
        op: Op,
        ins: Vec<Option<ValueId>>,
        want: &TensorType,
        loc: &Loc,
    ) -> Option<ValueId> {
        let types: Vec<Option<&TensorType>> = ins.iter().map(|v| v.map(|v| self.r.graph.ty(v))).collect();
        let got = op
            .infer(
                &rsqc_ir::ops::InferCx {
                    symbols: &self.old.symbols,
                },
                &types,
            )
            .ok()?;
        if got.as_slice() != std::slice::from_ref(want) {
            return None;
        }
        let id = self.r.graph.add_node(op, ins, got, loc.clone());
        Some(self.r.graph.node(id).output())
    }
    /// Adds a constant.
    pub(crate) fn constant(&mut self, c: Const) -> ValueId {
        let ty = c.ty.clone();
        let id = ConstId((self.old.consts.len() + self.consts.len()) as u32);
        self.consts.push(c);
        self.r.graph.add_const(id, ty)
    }
    /// Adds a scalar (rank 0) constant of the element type of `like`; `None` if that is not a plain type.
    pub(crate) fn scalar_like(&mut self, like: ValueId, value: f64) -> Option<ValueId> {
        let elem = self.ty(like).elem.plain()?;
        let c = rsqc_ir::scalar::ScalarConst::from_f64(elem, value);
        let ty = TensorType::new(elem, Vec::new());
        let bytes = c.bits.to_le_bytes()[..elem.size()].to_vec();
        Some(self.constant(Const::from_bytes(&format!("{value}"), ty, bytes)?))
    }
}

/// The one value that all elements of a plain constant have.
pub(crate) fn splat_of(c: &Const) -> Option<f64> {
    let n = c.ty.numel().as_const()?;
    c.ty.elem.plain()?;
    if !(1..=SPLAT_LIMIT).contains(&n) {
        return None;
    }
    let size = c.ty.storage().size();
    let first = c.bytes().get(..size)?;
    if !c.bytes().chunks_exact(size).all(|e| e == first) {
        return None;
    }
    Tensor::from_bytes(c.ty.storage(), vec![1], first)?
        .to_f64()
        .first()
        .copied()
}

/// Whether an op is defined by a scalar program, so that its operands broadcast.
pub(crate) fn is_elementwise(op: &Op, operands: &[&TensorType]) -> bool {
    let mut b = BodyBuilder::new();
    let mut args = Vec::new();
    for (i, t) in operands.iter().enumerate() {
        match t.elem.plain() {
            Some(e) => args.push(b.operand(i as u32, e)),
            None => return false,
        }
    }
    !args.is_empty() && op.scalar(&mut b, &args).is_some()
}

/// Walks the main graph once; `rule` gets each node with its operands in the new graph. Gives the number of edits; with
/// none the module is left as it is.
pub(crate) fn sweep(
    cx: &mut PassCx<'_>,
    rule: &mut dyn FnMut(&mut Editor<'_>, NodeId, &[Option<ValueId>]) -> Rewritten,
) -> Result<u64, Diag> {
    let old = std::mem::take(cx.module_mut());
    let mut edits = 0;
    let built = walk(cx, &old, rule, &mut edits);
    let (r, consts) = match built {
        Ok(parts) => parts,
        Err(d) => {
            *cx.module_mut() = old;
            return Err(d);
        }
    };
    *cx.module_mut() = old;
    if edits > 0 {
        for c in consts {
            cx.module_mut().consts.add(c);
        }
        cx.install(r)?;
    }
    Ok(edits)
}

fn walk(
    cx: &mut PassCx<'_>,
    old: &Module,
    rule: &mut dyn FnMut(&mut Editor<'_>, NodeId, &[Option<ValueId>]) -> Rewritten,
    edits: &mut u64,
) -> Result<(Rebuild, Vec<Const>), Diag> {
    let order = old
        .graph
        .topo_order()
        .map_err(|n| Diag::internal(old.graph.node(n).loc.to_string(), "the graph is cyclic"))?;
    let mut ed = Editor::new(old);
    let mut active = true;
    for id in order {
        let node = old.graph.node(id);
        let ins: Vec<Option<ValueId>> = node.inputs.iter().map(|v| v.map(|v| ed.get(v))).collect();
        let new = if active { rule(&mut ed, id, &ins)? } else { None };
        let new = new.filter(|_| {
            active = cx.permit();
            active
        });
        match new {
            None => ed.r.copy(old, id),
            Some(values) => {
                *edits += 1;
                for (o, v) in node.outputs.iter().zip(&values) {
                    let (a, b) = (old.graph.ty(*o), ed.ty(*v));
                    if a != b {
                        let text = format!("a rewrite of {} turns {a} into {b}", node.op.name());
                        return Err(Diag::internal(node.loc.to_string(), text));
                    }
                    ed.r.set(*o, *v);
                }
            }
        }
        for o in &node.outputs {
            let v = ed.get(*o);
            ed.passed.insert(*o);
            ed.note_uses(*o, v);
        }
    }
    Ok((ed.r, ed.consts))
}
