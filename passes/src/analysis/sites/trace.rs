//! The way from an activation back to constants that can carry a factor for each channel.

use super::Carrier;
use super::channels::{Places, extent_along};
use crate::methods::{is_f32, matrix_shape};
use rsqc_ir::ops::reduce::Reduction;
use rsqc_ir::{Module, Node, NodeId, Op, ValueId};

/// Ops on the way from an activation to its carriers.
const MAX_DEPTH: usize = 48;

/// Constants which, if each element is divided by its channel's factor, divide the channels of `v` by their factors.
/// The caller has made sure that every reader of `v` agrees; here every value further back must have one reader, and
/// every op must commute with positive factors.
pub(super) fn carriers(m: &Module, v: ValueId, at: &Places) -> Option<Vec<Carrier>> {
    value(m, v, at, MAX_DEPTH)
}

fn value(m: &Module, v: ValueId, at: &Places, depth: usize) -> Option<Vec<Carrier>> {
    let depth = depth.checked_sub(1)?;
    if !is_f32(m, v) {
        return None;
    }
    let (id, result) = m.graph.def_node(v)?;
    if result != 0 {
        return None;
    }
    let n = m.graph.node(id);
    let rank = m.graph.ty(v).rank();
    // The operand in this slot with these places in it.
    let back = |slot: usize, at: Option<Places>| {
        let u = n.input(slot)?;
        only_reader(m, u, id, at.as_ref()?).then_some(())?;
        value(m, u, &at?, depth)
    };
    match &n.op {
        Op::LayerNorm(_) | Op::RmsNorm(_) => {
            let at = at.project(|a| a + 1 == rank)?.rename(|_| Some(0))?;
            let slots = (1..n.inputs.len()).filter(|i| n.input(*i).is_some());
            slots.map(|i| constant(m, id, i, &at)).collect()
        }
        Op::MatMul(_) => {
            let at = at.project(|a| a + 1 == rank)?.rename(|_| Some(1))?;
            matrix_shape(m, n.input(1)?)?;
            Some(vec![Carrier::new(id, 1, &at)])
        }
        Op::Conv(_) => {
            let at = at.project(|a| a == 1)?.rename(|_| Some(0))?;
            let slots = (1..n.inputs.len()).filter(|i| n.input(*i).is_some());
            slots.map(|i| constant(m, id, i, &at)).collect()
        }
        Op::Add(_) | Op::Sub(_) => {
            let slot = (0..2).find(|i| is_const(m, n, *i))?;
            let (carrier, at) = broadcast_constant(m, id, slot, rank, at)?;
            same_type(m, n, 1 - slot, v)?;
            let mut all = back(1 - slot, Some(at))?;
            all.push(carrier);
            Some(all)
        }
        Op::Mul(_) => product(m, id, v, at, &back),
        Op::Div(_) => same_type(m, n, 0, v).and_then(|()| back(0, Some(at.clone()))),
        Op::Relu(_) | Op::LeakyRelu(_) | Op::Neg(_) | Op::Abs(_) => back(0, Some(at.clone())),
        Op::Pool(_) => back(0, at.project(|a| a == 1)),
        Op::Reduce(r)
            if matches!(
                r.kind,
                Reduction::Sum | Reduction::Mean | Reduction::Max | Reduction::Min
            ) =>
        {
            let ty = m.graph.ty(n.input(0)?);
            let reduced = |a: usize| r.axes.contains(&(a as i64));
            let kept: Vec<usize> = (0..ty.rank()).filter(|a| r.keep || !reduced(*a)).collect();
            back(0, at.rename(|a| kept.get(a).copied().filter(|a| !reduced(*a))))
        }
        Op::Transpose(t) => back(
            0,
            at.rename(|a| t.perm.get(a).and_then(|p| usize::try_from(*p).ok())),
        ),
        Op::Reshape(r) => back(0, at.reshape(&r.shape, &m.graph.ty(n.input(0)?).shape)),
        Op::Expand(_) => {
            let ty = m.graph.ty(n.input(0)?);
            let in_axis = |a: usize| (a + ty.rank()).checked_sub(rank).filter(|i| !ty.shape[*i].is(1));
            back(0, at.rename(in_axis))
        }
        Op::Slice(s) => back(0, at.slice(s)),
        Op::Pad(p) => {
            // 0 divided by a factor is 0; where channels are padded, some have none.
            let zero = m.const_scalar(n.input(1)?)? == 0.0;
            let whole = |a: &usize| p.before[*a].is(0) && p.after[*a].is(0);
            (zero && at.along.keys().all(whole)).then_some(())?;
            back(0, Some(at.clone()))
        }
        Op::Concat(c) => concat(m, n, c.axis, at, &back),
        Op::Attention(_) => {
            // Rows of v are only mixed over tokens; query heads share the heads of v in groups.
            let heads = |slot: usize| m.graph.ty(n.input(slot)?).shape.get(1)?.as_const();
            let group = u32::try_from(heads(0)?.checked_div(heads(2)?)?).ok()?;
            let mut at = at.project(|a| a == 1 || a == 3)?;
            if let Some(h) = at.along.get_mut(&1) {
                h.iter_mut().for_each(|h| *h /= group.max(1));
            }
            back(2, Some(at))
        }
        _ => None,
    }
}

type Back<'a> = dyn Fn(usize, Option<Places>) -> Option<Vec<Carrier>> + 'a;

/// A product is divided by dividing either factor: a constant if it tells the channels apart, else whichever computed one
/// leads to a carrier (`up` of a gated MLP; never `gate`, which an activation function reads).
fn product(m: &Module, id: NodeId, v: ValueId, at: &Places, back: &Back<'_>) -> Option<Vec<Carrier>> {
    let n = m.graph.node(id);
    let rank = m.graph.ty(v).rank();
    if n.input(0) == n.input(1) {
        return None;
    }
    for slot in 0..2 {
        if is_const(m, n, slot)
            && let Some((carrier, kept)) = broadcast_constant(m, id, slot, rank, at)
            && kept == *at
        {
            return Some(vec![carrier]);
        }
    }
    (0..2)
        .filter(|slot| !is_const(m, n, *slot) && same_type(m, n, *slot, v).is_some())
        .find_map(|slot| back(slot, Some(at.clone())))
}

/// A concatenation along a channel axis shares the channels out; along another axis, every operand carries all.
fn concat(m: &Module, n: &Node, axis: usize, at: &Places, back: &Back<'_>) -> Option<Vec<Carrier>> {
    let mut all = Vec::new();
    let mut start = 0u32;
    for slot in 0..n.inputs.len() {
        let part = if at.along.contains_key(&axis) {
            let extent = m.graph.ty(n.input(slot)?).shape.get(axis)?.as_const()?;
            let end = start + u32::try_from(extent).ok()?;
            let part = at.within(axis, &(start..end))?;
            start = end;
            part
        } else {
            at.clone()
        };
        if !part.channels.is_empty() {
            all.extend(back(slot, Some(part))?);
        }
    }
    Some(all)
}

fn is_const(m: &Module, n: &Node, slot: usize) -> bool {
    n.input(slot).is_some_and(|v| m.const_f32(v).is_some())
}

fn same_type(m: &Module, n: &Node, slot: usize, v: ValueId) -> Option<()> {
    (m.graph.ty(n.input(slot)?) == m.graph.ty(v)).then_some(())
}

/// A constant operand whose axes are those of the places.
fn constant(m: &Module, id: NodeId, slot: usize, at: &Places) -> Option<Carrier> {
    m.const_f32(m.graph.node(id).input(slot)?)?;
    Some(Carrier::new(id, slot, at))
}

/// A constant operand that broadcasts to the result, and the channels that it can tell apart.
fn broadcast_constant(
    m: &Module,
    id: NodeId,
    slot: usize,
    rank: usize,
    at: &Places,
) -> Option<(Carrier, Places)> {
    let n = m.graph.node(id);
    let c = n.input(slot)?;
    let full = &m.graph.ty(n.output()).shape;
    let own = m.const_of(c)?.ty.rank();
    let kept = at.project(|a| {
        extent_along(m, c, rank, a)
            .is_some_and(|e| full[a].as_const().and_then(|d| usize::try_from(d).ok()) == Some(e))
    })?;
    let inside = kept.rename(|a| (a + own).checked_sub(rank))?;
    Some((Carrier::new(id, slot, &inside), kept))
}

/// Whether `node` is the only reader of `v`, or one of several slices of it that share no channel with the others.
fn only_reader(m: &Module, v: ValueId, node: NodeId, at: &Places) -> bool {
    if m.graph.is_output(v) {
        return false;
    }
    if m.graph.use_count(v) == 1 {
        return true;
    }
    // Along one channel axis, no other slice may touch the range of this one.
    let touched = |id: NodeId, axis: usize| match &m.graph.node(id).op {
        Op::Slice(s) => {
            let (a, n) = (s.starts.get(axis)?.as_const()?, s.sizes.get(axis)?.as_const()?);
            let b = a + (n - 1) * s.steps.get(axis)?;
            Some((a.min(b), a.max(b)))
        }
        _ => None,
    };
    at.along.keys().any(|axis| {
        let Some(ours) = touched(node, *axis) else {
            return false;
        };
        m.graph
            .users(v)
            .filter(|(id, _)| *id != node)
            .all(|(id, _)| touched(id, *axis).is_some_and(|other| other.1 < ours.0 || ours.1 < other.0))
    })
}
