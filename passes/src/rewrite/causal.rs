//! Causal masks that are computed as tensors become the attention's predicate.
//!
//! ```text
//! attention(q, k, v, keep & (iota_k <= iota_q + past))  ->  attention(q, k, v, keep) causal past
//! attention(q, k, v, iota_k <= iota_q + past)           ->  attention(q, k, v) causal past
//! attention(q, k, v, where(iota_k <= iota_q + past, 0, c))  ->  attention(q, k, v) causal past     (c <= -1e30)
//! ```
//! Sound: the predicate keeps key t for query s exactly if `t <= s + past`, which is what comparing the two index vectors
//! says: `iota_k` counts the last axis from 0, `iota_q` the axis before from `past`. The first two rows are equal to the
//! bit. The third is too: past is not negative, so every row keeps key 0, and beside it a score with c added vanishes. A
//! finite mask that also hides padding could hide whole rows, where finite and infinite differ: it stays a tensor.

use super::attention::DROWNS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{Dim, NodeId, Op, Phase, ScalarType, TensorType, ValueId};

/// See the file documentation.
pub struct RecognizeCausalMasks;

impl Pass for RecognizeCausalMasks {
    fn name(&self) -> &'static str {
        "recognize-causal-masks"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-6)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let found = sweep(cx, &mut |ed, id, ins| Ok(recognize(ed, id, ins).map(|v| vec![v])))?;
        cx.count("causal masks", found);
        Ok(())
    }
}

fn recognize(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let (Op::Attention(a), [Some(q), Some(k), _, Some(mask)]) = (&node.op, ins) else {
        return None;
    };
    if a.causal.is_some() {
        return None;
    }
    let extents = (ed.ty(*q).shape[2].clone(), ed.ty(*k).shape[2].clone());
    let (past, rest) = split(ed, *mask, &extents)?;
    let mut op = a.clone();
    op.causal = Some(past);
    let mut operands = ins[..3].to_vec();
    operands.extend(rest.map(Some));
    let want: TensorType = ed.old().graph.ty(node.output()).clone();
    ed.try_add_optional(op.into(), operands, &want, &node.loc)
}

/// The causal offset in a mask, and what is left of the mask.
fn split(ed: &Editor<'_>, mask: ValueId, extents: &(Dim, Dim)) -> Option<(Dim, Option<ValueId>)> {
    if let Some(past) = offset(ed, mask, extents) {
        return Some((past, None));
    }
    let n = ed.def(mask)?;
    let (a, b) = (n.input(0)?, n.input(1)?);
    match &n.op {
        Op::And(_) if ed.ty(mask).elem.plain() == Some(ScalarType::Bool) => offset(ed, b, extents)
            .map(|p| (p, Some(a)))
            .or_else(|| offset(ed, a, extents).map(|p| (p, Some(b)))),
        Op::Where(_) => {
            let (on, off) = (ed.splat(b)?, ed.splat(n.input(2)?)?);
            let past = match (on == 0.0 && off <= DROWNS, off == 0.0 && on <= DROWNS) {
                (true, _) => offset(ed, a, extents)?,
                (_, true) => offset_of_hidden(ed, a, extents)?,
                _ => return None,
            };
            Some((past, None))
        }
        _ => None,
    }
}

/// `past` if `v` is `iota_k <= iota_q + past` over the scores' last two axes, with past >= 0.
fn offset(ed: &Editor<'_>, v: ValueId, extents: &(Dim, Dim)) -> Option<Dim> {
    let n = ed.def(v)?;
    match n.op {
        Op::LessEqual(_) => compared(ed, n.input(0)?, n.input(1)?, extents),
        Op::Not(_) => offset_of_hidden(ed, n.input(0)?, extents),
        _ => None,
    }
}

/// The same if `v` is true for what is hidden: `iota_q + past < iota_k`.
fn offset_of_hidden(ed: &Editor<'_>, v: ValueId, extents: &(Dim, Dim)) -> Option<Dim> {
    let n = ed.def(v)?;
    match n.op {
        Op::Less(_) => compared(ed, n.input(1)?, n.input(0)?, extents),
        _ => None,
    }
}

fn compared(ed: &Editor<'_>, k: ValueId, q: ValueId, (queries, keys): &(Dim, Dim)) -> Option<Dim> {
    let (k_start, k_len) = index_along(ed, k, 1)?;
    let (q_start, q_len) = index_along(ed, q, 2)?;
    let fits = k_start.is(0) && k_len == *keys && q_len == *queries;
    let not_negative = q_start.bounds(&ed.old().symbols).0 >= 0;
    (fits && not_negative).then_some(q_start)
}

/// Start and length of a unit-step index vector along the axis `back` from the end, all other extents 1.
fn index_along(ed: &Editor<'_>, v: ValueId, back: usize) -> Option<(Dim, Dim)> {
    let n = ed.def(v)?;
    let (iota, shape) = match &n.op {
        Op::Iota(_) if back == 1 => (n, &ed.ty(v).shape),
        Op::Reshape(r) => (ed.def(n.input(0)?)?, &r.shape),
        _ => return None,
    };
    let Op::Iota(i) = &iota.op else { return None };
    let at = shape.len().checked_sub(back)?;
    let along = shape
        .iter()
        .enumerate()
        .all(|(a, d)| if a == at { *d == i.len } else { d.is(1) });
    (along && i.step.is(1)).then(|| (i.start.clone(), i.len.clone()))
}
