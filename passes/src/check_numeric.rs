//! `--check-numeric`: evaluates the module before and after a pass on seeded inputs and enforces the declared effect.
//!
//! Symbols get small values inside their ranges, several tuples; floats are uniform in [-2, 2); integers that index a
//! constant table stay inside it, other integers are 0 or 1 (masks). A failure names the first node whose value broke.

use crate::analysis::index_bound;
use crate::pass::Effect;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{EvalError, Executor, Tensor};
use rsqc_ir::{Module, NodeId, ScalarType, Symbol, TensorType, ValueId};
use std::collections::BTreeMap;

/// Input tuples tried for each pass.
const CASES: u64 = 3;

/// A module before a pass.
pub(crate) struct Snapshot {
    module: Module,
    seed: u64,
}

/// Where a pass broke its declaration.
#[derive(Clone, PartialEq, Debug)]
pub struct NumericFailure {
    /// Output or value.
    pub what: String,
    /// Largest difference found, infinite where NaN or infinities differ.
    pub difference: f64,
    /// What was allowed.
    pub allowed: f64,
}

impl Snapshot {
    /// Keeps the module as it is (constants are shared).
    pub(crate) fn take(m: &Module, seed: u64) -> Self {
        Snapshot {
            module: m.clone(),
            seed,
        }
    }
}

/// Compares. `Ok(Some(_))` says why nothing could be compared: the graph before the pass already rejects the inputs.
pub(crate) fn compare(
    before: &Snapshot,
    after: &Module,
    map: &BTreeMap<ValueId, ValueId>,
    effect: Effect,
    exec: &dyn Executor,
) -> Result<Option<String>, Diag> {
    if same_graph(&before.module, after) {
        return Ok(None);
    }
    let mut refused = None;
    for case in 0..CASES {
        let inputs = match random_inputs(&before.module, before.seed.wrapping_add(case)) {
            Ok(i) => i,
            Err(e) => return Ok(Some(format!("numbers not checked: {e}"))),
        };
        let a = match run(exec, &before.module, &inputs) {
            Ok(a) => a,
            Err(e) => {
                refused = Some(format!("numbers not checked: {e}"));
                continue;
            }
        };
        let b = run(exec, after, &inputs)
            .map_err(|e| Diag::internal("", format!("the module cannot be evaluated any more: {e}")))?;
        for (i, (x, y)) in a.iter().zip(&b).enumerate() {
            if let Some((difference, allowed)) = differs(x, y, effect) {
                let name = after.graph.outputs().get(i).map_or("", |p| p.name.as_str());
                let f = first_broken(before, after, map, effect, exec, &inputs).unwrap_or(NumericFailure {
                    what: format!("output `{name}`"),
                    difference,
                    allowed,
                });
                return Err(Diag::internal(
                    f.what.clone(),
                    format!(
                        "numbers change by {:e}, declared are {:e} (output `{name}`, input case {case})",
                        f.difference, f.allowed
                    ),
                ));
            }
        }
        refused = None;
    }
    Ok(refused)
}

/// Whether nothing was changed: then there is nothing to evaluate.
fn same_graph(a: &Module, b: &Module) -> bool {
    let (g, h) = (&a.graph, &b.graph);
    let same_node = |n: NodeId| {
        let (x, y) = (g.node(n), h.node(n));
        x.op == y.op && x.inputs == y.inputs && x.outputs == y.outputs
    };
    let same_const = |v: ValueId| g.const_id(v) == h.const_id(v);
    a.consts.len() == b.consts.len()
        && g.value_bound() == h.value_bound()
        && g.inputs() == h.inputs()
        && g.outputs() == h.outputs()
        && g.node_ids().eq(h.node_ids())
        && g.node_ids().all(same_node)
        && g.value_ids().all(same_const)
}

fn run(exec: &dyn Executor, m: &Module, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    exec.prepare(m, &[])?.run(inputs, &mut |_, _| {})
}

/// The first node, in the order of the new graph, whose value is not what it was before the pass.
fn first_broken(
    before: &Snapshot,
    after: &Module,
    map: &BTreeMap<ValueId, ValueId>,
    effect: Effect,
    exec: &dyn Executor,
    inputs: &[Tensor],
) -> Option<NumericFailure> {
    let is_node = |m: &Module, v: ValueId| v.0 < m.graph.value_bound() && m.graph.def_node(v).is_some();
    let pairs: Vec<(ValueId, ValueId)> = map
        .iter()
        .map(|(a, b)| (*a, *b))
        .filter(|(a, b)| is_node(&before.module, *a) && is_node(after, *b))
        .collect();
    let old = collect(exec, &before.module, pairs.iter().map(|p| p.0).collect(), inputs)?;
    let new = collect(exec, after, pairs.iter().map(|p| p.1).collect(), inputs)?;
    let place: BTreeMap<u32, usize> = after
        .graph
        .topo_order()
        .ok()?
        .iter()
        .enumerate()
        .map(|(i, n)| (n.0, i))
        .collect();
    let mut broken: Vec<(usize, NumericFailure)> = Vec::new();
    for (a, b) in pairs {
        let (Some(x), Some(y), Some((node, _))) = (old.get(&a), new.get(&b), after.graph.def_node(b)) else {
            continue;
        };
        if let Some((difference, allowed)) = differs(x, y, effect) {
            let what = after.graph.node(node).loc.to_string();
            let at = place.get(&node.0).copied().unwrap_or(usize::MAX);
            broken.push((
                at,
                NumericFailure {
                    what,
                    difference,
                    allowed,
                },
            ));
        }
    }
    broken.into_iter().min_by_key(|(i, _)| *i).map(|(_, f)| f)
}

fn collect(
    exec: &dyn Executor,
    m: &Module,
    mut taps: Vec<ValueId>,
    inputs: &[Tensor],
) -> Option<BTreeMap<ValueId, Tensor>> {
    taps.sort_unstable();
    taps.dedup();
    let mut out = BTreeMap::new();
    let mut p = exec.prepare(m, &taps).ok()?;
    p.run(inputs, &mut |v, t| {
        out.insert(v, t.clone());
    })
    .ok()?;
    Some(out)
}

/// `(difference, allowed)` if `y` is not what `effect` allows `x` to become.
pub(crate) fn differs(x: &Tensor, y: &Tensor, effect: Effect) -> Option<(f64, f64)> {
    let tol = match effect {
        Effect::Lossy => return None,
        Effect::Exact => 0.0,
        Effect::Rounding(t) => t,
    };
    if x.shape != y.shape || x.elem() != y.elem() {
        return Some((f64::INFINITY, 0.0));
    }
    let (a, b) = (x.to_f64(), y.to_f64());
    if effect == Effect::Exact && !x.elem().is_float() {
        return (x.data.to_bytes() != y.data.to_bytes()).then_some((max_difference(&a, &b), 0.0));
    }
    let finite: Vec<f64> = a.iter().copied().filter(|v| v.is_finite()).collect();
    let rms = (finite.iter().map(|v| v * v).sum::<f64>() / finite.len().max(1) as f64).sqrt();
    let allowed = tol * rms;
    let signs = effect == Effect::Exact
        && a.iter()
            .zip(&b)
            .any(|(p, q)| *p == 0.0 && *q == 0.0 && p.is_sign_negative() != q.is_sign_negative());
    let d = max_difference(&a, &b);
    (d > allowed || signs).then_some((d, allowed))
}

fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(p, q)| {
            if (p.is_nan() && q.is_nan()) || p == q {
                0.0
            } else if p.is_finite() && q.is_finite() {
                (p - q).abs()
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}

/// SplitMix64 (Steele et al. 2014): the same numbers on every machine.
pub(crate) struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in `[-2, 2)`, exact in f32.
    pub(crate) fn float(&mut self) -> f64 {
        (self.bits() >> 41) as f64 / f64::from(1 << 21) - 2.0
    }
    /// Uniform in `0..n` (n > 0).
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

/// Inputs for the main graph, deterministic in `seed`.
pub(crate) fn random_inputs(m: &Module, seed: u64) -> Result<Vec<Tensor>, String> {
    let mut rng = Rng(seed);
    let env = random_symbols(m, &mut rng);
    m.graph
        .inputs()
        .iter()
        .map(|p| {
            let ty = m.graph.ty(p.value);
            let shape = ty
                .shape
                .iter()
                .map(|d| {
                    d.eval(&|s| env.get(s).copied())
                        .and_then(|v| usize::try_from(v).ok())
                })
                .collect::<Option<Vec<usize>>>()
                .ok_or_else(|| format!("input `{}` of type {ty} has no small shape", p.name))?;
            random_tensor(ty, shape, index_bound(m, p.value), &mut rng)
                .ok_or_else(|| format!("input `{}` of type {ty} cannot be made up", p.name))
        })
        .collect()
}

fn random_symbols(m: &Module, rng: &mut Rng) -> BTreeMap<Symbol, i64> {
    let mut env = BTreeMap::new();
    for p in m.graph.inputs() {
        for s in m.graph.ty(p.value).shape.iter().flat_map(|d| d.symbols()) {
            let info = m.symbols.0.get(&s).copied().unwrap_or_default();
            let v = 1 + rng.below(6) as i64;
            env.entry(s).or_insert(v.clamp(info.lo, info.hi.max(info.lo)));
        }
    }
    env
}

fn random_tensor(ty: &TensorType, shape: Vec<usize>, bound: Option<i64>, rng: &mut Rng) -> Option<Tensor> {
    let n = shape.iter().product::<usize>();
    let elem = ty.elem.plain()?;
    let numbers: Vec<f64> = (0..n)
        .map(|_| {
            if elem.is_float() {
                rng.float()
            } else if let (true, Some(b)) = (elem.is_int(), bound) {
                rng.below(b.max(1) as u64) as f64
            } else {
                f64::from(u8::from(rng.below(4) > 0))
            }
        })
        .collect();
    Some(match elem {
        ScalarType::F64 => Tensor::new(shape, numbers),
        ScalarType::F32 => Tensor::new(shape, numbers.iter().map(|v| *v as f32).collect::<Vec<_>>()),
        ScalarType::I64 => Tensor::new(shape, numbers.iter().map(|v| *v as i64).collect::<Vec<_>>()),
        ScalarType::I32 => Tensor::new(shape, numbers.iter().map(|v| *v as i32).collect::<Vec<_>>()),
        ScalarType::I8 => Tensor::new(shape, numbers.iter().map(|v| *v as i8).collect::<Vec<_>>()),
        ScalarType::U8 => Tensor::new(shape, numbers.iter().map(|v| *v as u8).collect::<Vec<_>>()),
        ScalarType::Bool => Tensor::new(shape, numbers.iter().map(|v| *v != 0.0).collect::<Vec<_>>()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(v: &[f32]) -> Tensor {
        Tensor::new(vec![v.len()], v.to_vec())
    }

    #[test]
    fn effects_are_enforced_to_the_bit() {
        let nan = f32::from_bits(0x7fc0_0001);
        assert_eq!(
            differs(&t(&[1.0, f32::NAN]), &t(&[1.0, nan]), Effect::Exact),
            None
        );
        assert!(differs(&t(&[0.0]), &t(&[-0.0]), Effect::Exact).is_some());
        assert_eq!(differs(&t(&[0.0]), &t(&[-0.0]), Effect::Rounding(0.0)), None);
        assert!(differs(&t(&[1.0]), &t(&[1.0 + f32::EPSILON]), Effect::Exact).is_some());
        assert!(differs(&t(&[1.0, 100.0]), &t(&[1.0005, 100.0]), Effect::Rounding(1e-5)).is_none());
        assert!(differs(&t(&[1.0, 100.0]), &t(&[1.005, 100.0]), Effect::Rounding(1e-5)).is_some());
        assert!(differs(&t(&[f32::NAN]), &t(&[1.0]), Effect::Rounding(1.0)).is_some());
        assert!(differs(&t(&[f32::INFINITY]), &t(&[f32::MAX]), Effect::Rounding(1.0)).is_some());
    }

    #[test]
    fn integers_beyond_f64_are_compared_exactly() {
        let a = Tensor::new(vec![1], vec![i64::MAX]);
        let b = Tensor::new(vec![1], vec![i64::MAX - 1]);
        assert!(differs(&a, &b, Effect::Exact).is_some());
    }
}
