//! Attention blocks: from the product of probabilities and values back to one op.
//!
//! ```text
//! matmul([guard] softmax(mask(scale * matmul(q, kT))), v)  ->  attention(q, k, v, mask)
//! ```
//! - scale: factors behind the product, on q, on kT, or several of these (multiplied in f64);
//! - kT: `transpose(k)` with any permutation that ends in a swap, among them the fused (0, 2, 3, 1);
//! - grouped heads: `reshape(expand(reshape(k)))` that repeats each head of k and v is dropped, heads of q are a multiple;
//! - mask: a sum with any float tensor stays additive; `where(keep, 0, -inf)` added, or `where(keep, scores, -inf)`, is a
//!   bool mask; `where(keep, scores, c)` with c finite and at most -1e30 becomes additive, because scores vanish beside c;
//! - guard: `where(is_nan(p), 0, p)` asks for zeros in rows without a key; without it they are NaN.
//!
//! Finite and infinite masks are different functions on rows that are masked out completely (uniform, NaN, zero), so one
//! is never turned into the other. A block without any key gives zeros, as the empty sum it is: if keys may be fewer than
//! queries, an unmasked block asks for zeros in rows without a key; a masked one keeps NaN there, since a row that is
//! masked out is the likelier case. Sound because the op is defined as this formula; scale factors move across a product,
//! and the guard also hides NaN scores: rounding, and only where inputs are NaN something else. Three-dimensional blocks
//! get a unit head axis. Probabilities that are also read elsewhere stop the rewrite.

use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, Rewritten, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::elementwise::{Not, Where};
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::shape::{Reshape, Transpose};
use rsqc_ir::{Dim, Loc, Node, NodeId, Op, Phase, ScalarType, TensorType, ValueId};

/// See the file documentation.
pub struct RecognizeAttention;

/// Finite mask values at or below this swallow any score.
pub(super) const DROWNS: f64 = -1e30;

impl Pass for RecognizeAttention {
    fn name(&self) -> &'static str {
        "recognize-attention"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-4)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let found = sweep(cx, &mut |ed, id, ins| recognize(ed, id, ins))?;
        cx.count("attention blocks", found);
        Ok(())
    }
}

/// What masks the scores.
enum Mask {
    None,
    /// Added (float) or kept where true (bool).
    Value(ValueId),
    /// Kept where false.
    Not(ValueId),
    /// Kept where the condition is `keep`, else replaced by a huge negative number.
    Fill {
        cond: ValueId,
        keep: bool,
        value: ValueId,
    },
}

/// `scale * matmul(q, kt)`.
struct Scores {
    q: ValueId,
    kt: ValueId,
    scale: f64,
}

fn recognize(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Rewritten {
    let node = ed.old().graph.node(id);
    let (Op::MatMul(_), [Some(p), Some(v)]) = (&node.op, ins) else {
        return Ok(None);
    };
    let rank = ed.ty(*p).rank();
    if !(3..=4).contains(&rank) || ed.ty(*v).rank() != rank {
        return Ok(None);
    }
    let Some((scores, mask, mut empty_row)) = probabilities(ed, *p) else {
        return Ok(None);
    };
    if matches!(mask, Mask::None) && !has_keys(ed, *p) {
        empty_row = EmptyRow::Zero;
    }
    let loc = &node.loc;
    let want = ed.old().graph.ty(node.output()).clone();
    let k = keys(ed, scores.kt, loc)?;
    let mut operands = [scores.q, k, *v];
    let Some(mut mask) = mask_value(ed, &mask, loc)? else {
        return Ok(None);
    };
    if rank == 3 {
        for x in operands.iter_mut().chain(&mut mask) {
            *x = with_head_axis(ed, *x, loc)?;
        }
    }
    let op: Op = Attention {
        scale: scores.scale as f32,
        causal: None,
        empty_row,
    }
    .into();
    let mut ty = want.clone();
    if rank == 3 {
        ty.shape.insert(1, Dim::one());
    }
    let Some(out) = attend(ed, &op, operands, mask, &ty, loc)? else {
        return Ok(None);
    };
    if rank == 4 {
        return Ok(Some(vec![out]));
    }
    Ok(Some(vec![ed.add(Reshape { shape: want.shape }, &[out], loc)?]))
}

/// The attention node, on ungrouped heads if both k and v are repeats of the same number of heads.
fn attend(
    ed: &mut Editor<'_>,
    op: &Op,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    want: &TensorType,
    loc: &Loc,
) -> Result<Option<ValueId>, Diag> {
    let operands = |k: ValueId, v: ValueId| {
        let mut o = vec![Some(q), Some(k), Some(v)];
        o.extend(mask.map(Some));
        o
    };
    if let (Some(k0), Some(v0)) = (ungrouped(ed, k, loc)?, ungrouped(ed, v, loc)?)
        && let Some(out) = ed.try_add_optional(op.clone(), operands(k0, v0), want, loc)
    {
        return Ok(Some(out));
    }
    Ok(ed.try_add_optional(op.clone(), operands(k, v), want, loc))
}

/// `[guard] softmax(mask(scores))` over the last axis, read by nothing else.
fn probabilities(ed: &Editor<'_>, p: ValueId) -> Option<(Scores, Mask, EmptyRow)> {
    if !ed.single_use(p) {
        return None;
    }
    let (soft, empty_row) = match guarded(ed, p) {
        Some(inner) => (inner, EmptyRow::Zero),
        None => (p, EmptyRow::Nan),
    };
    let node = ed.def(soft)?;
    let last = ed.ty(soft).rank().checked_sub(1)?;
    if !matches!(&node.op, Op::Softmax(s) if s.axis == last && !s.log) {
        return None;
    }
    let s = node.input(0)?;
    if !ed.single_use(s) {
        return None;
    }
    let (scores, mask) = masked(ed, s)?;
    Some((scores, mask, empty_row))
}

/// Whether every query is certain to have a key: there are at least as many keys as queries, or at least one.
fn has_keys(ed: &Editor<'_>, p: ValueId) -> bool {
    let shape = &ed.ty(p).shape;
    let (queries, keys) = (&shape[shape.len() - 2], &shape[shape.len() - 1]);
    let symbols = &ed.old().symbols;
    queries.always_le(keys, symbols) || Dim::one().always_le(keys, symbols)
}

/// x of `where(is_nan(x), 0, x)`, if nothing else reads x.
fn guarded(ed: &Editor<'_>, p: ValueId) -> Option<ValueId> {
    let node = ed.def(p)?;
    let Op::Where(_) = node.op else { return None };
    let (c, zero, x) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let test = ed.def(c)?;
    let guards = matches!(test.op, Op::IsNan(_)) && test.input(0) == Some(x) && ed.splat(zero) == Some(0.0);
    (guards && ed.use_count(x) <= 2).then_some(x)
}

fn masked(ed: &Editor<'_>, s: ValueId) -> Option<(Scores, Mask)> {
    if let Some(scores) = product(ed, s) {
        return Some((scores, Mask::None));
    }
    let node = ed.def(s)?;
    match node.op {
        Op::Add(_) => {
            let (a, b) = (node.input(0)?, node.input(1)?);
            let (scores, m) = product(ed, a)
                .map(|x| (x, b))
                .or_else(|| product(ed, b).map(|x| (x, a)))?;
            Some((scores, additive(ed, m)))
        }
        Op::Where(_) => {
            let (cond, a, b) = (node.input(0)?, node.input(1)?, node.input(2)?);
            let (scores, keep, value) = product(ed, a)
                .map(|x| (x, true, b))
                .or_else(|| product(ed, b).map(|x| (x, false, a)))?;
            let mask = match (ed.splat(value)?, keep) {
                (f64::NEG_INFINITY, true) => Mask::Value(cond),
                (f64::NEG_INFINITY, false) => Mask::Not(cond),
                (c, _) if c <= DROWNS => Mask::Fill { cond, keep, value },
                _ => return None,
            };
            Some((scores, mask))
        }
        _ => None,
    }
}

/// A mask that is added: bool if it is `where(c, 0, -inf)` or its opposite.
fn additive(ed: &Editor<'_>, m: ValueId) -> Mask {
    let parts = |n: &Node| Some((n.input(0)?, ed.splat(n.input(1)?)?, ed.splat(n.input(2)?)?));
    match ed.def(m).filter(|n| matches!(n.op, Op::Where(_))).and_then(parts) {
        Some((c, 0.0, f64::NEG_INFINITY)) => Mask::Value(c),
        Some((c, f64::NEG_INFINITY, 0.0)) => Mask::Not(c),
        _ => Mask::Value(m),
    }
}

/// `scale * matmul(q, kt)` with every scalar factor taken out.
fn product(ed: &Editor<'_>, s: ValueId) -> Option<Scores> {
    let (m, outer) = unscaled(ed, s);
    let node = ed.def(m)?;
    let constant = |v: ValueId| ed.constant_of(v).is_some();
    let (a, b) = (node.input(0)?, node.input(1)?);
    let rank = ed.ty(s).rank();
    let fits = matches!(node.op, Op::MatMul(_)) && ed.single_use(m) && !constant(a) && !constant(b);
    if !fits || ed.ty(a).rank() != rank || ed.ty(b).rank() != rank {
        return None;
    }
    let ((q, on_q), (kt, on_k)) = (unscaled(ed, a), unscaled(ed, b));
    let scale = outer * on_q * on_k;
    ((scale as f32).is_finite()).then_some(Scores { q, kt, scale })
}

/// The value without scalar factors, and their product.
fn unscaled(ed: &Editor<'_>, mut v: ValueId) -> (ValueId, f64) {
    let mut scale = 1.0;
    loop {
        let Some(n) = ed.def(v) else { return (v, scale) };
        let (Some(a), Some(b)) = (n.input(0), n.input(1)) else {
            return (v, scale);
        };
        let factor = match n.op {
            Op::Mul(_) => ed
                .splat(b)
                .map(|c| (a, c))
                .or_else(|| ed.splat(a).map(|c| (b, c))),
            Op::Div(_) => ed.splat(b).map(|c| (a, 1.0 / c)),
            _ => None,
        };
        match factor {
            Some((x, c)) if ed.ty(x) == ed.ty(v) && c.is_finite() => (v, scale) = (x, scale * c),
            _ => return (v, scale),
        }
    }
}

/// `[..., t, d]` from the transposed keys `[..., d, t]`.
fn keys(ed: &mut Editor<'_>, kt: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
    let rank = ed.ty(kt).rank() as i64;
    let (source, mut perm) = match ed.def(kt) {
        Some(Node {
            op: Op::Transpose(t),
            inputs,
            ..
        }) => (inputs[0].unwrap_or(kt), t.perm.clone()),
        _ => (kt, (0..rank).collect()),
    };
    let n = perm.len();
    perm.swap(n - 2, n - 1);
    if perm.is_sorted() {
        Ok(source)
    } else {
        ed.add(Transpose { perm }, &[source], loc)
    }
}

/// `[b, kv, s, d]` behind `reshape(expand([b, kv, 1, s, d] -> [b, kv, g, s, d])) = [b, kv * g, s, d]`.
fn ungrouped(ed: &mut Editor<'_>, x: ValueId, loc: &Loc) -> Result<Option<ValueId>, Diag> {
    let source = |ed: &Editor<'_>, v: ValueId, is: fn(&Op) -> bool| {
        ed.def(v).filter(|n| is(&n.op)).and_then(|n| n.input(0))
    };
    let Some(wide) = source(ed, x, |o| matches!(o, Op::Reshape(_))) else {
        return Ok(None);
    };
    let Some(narrow) = source(ed, wide, |o| matches!(o, Op::Expand(_))) else {
        return Ok(None);
    };
    let (to, from, out) = (&ed.ty(wide).shape, &ed.ty(narrow).shape, &ed.ty(x).shape);
    let repeats = to.len() == 5
        && from.len() == 5
        && out.len() == 4
        && from[2].is(1)
        && (0..5).all(|a| a == 2 || from[a] == to[a])
        && out[0] == to[0]
        && out[1] == to[1].clone() * to[2].clone()
        && out[2..] == to[3..];
    if !repeats {
        return Ok(None);
    }
    let shape: Vec<Dim> = [0, 1, 3, 4].iter().map(|a| from[*a].clone()).collect();
    // The usual source is itself a reshape that only put the unit axis in.
    if let Some(inner) = source(ed, narrow, |o| matches!(o, Op::Reshape(_)))
        && ed.ty(inner).shape == shape
    {
        return Ok(Some(inner));
    }
    ed.add(Reshape { shape }, &[narrow], loc).map(Some)
}

/// The mask operand; the outer `None` says that there is no way to make it.
fn mask_value(ed: &mut Editor<'_>, m: &Mask, loc: &Loc) -> Result<Option<Option<ValueId>>, Diag> {
    Ok(Some(match m {
        Mask::None => None,
        Mask::Value(v) => {
            let elem = ed.ty(*v).elem.plain();
            if !matches!(elem, Some(ScalarType::F32 | ScalarType::Bool)) {
                return Ok(None);
            }
            Some(*v)
        }
        Mask::Not(c) => Some(ed.add(Not {}, &[*c], loc)?),
        Mask::Fill { cond, keep, value } => {
            let Some(zero) = ed.scalar_like(*value, 0.0) else {
                return Ok(None);
            };
            let (a, b) = if *keep { (zero, *value) } else { (*value, zero) };
            Some(ed.add(Where {}, &[*cond, a, b], loc)?)
        }
    }))
}

/// `[b, s, d]` as `[b, 1, s, d]`; tensors of lower rank broadcast as they are.
fn with_head_axis(ed: &mut Editor<'_>, x: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
    let mut shape = ed.ty(x).shape.clone();
    if shape.len() != 3 {
        return Ok(x);
    }
    shape.insert(1, Dim::one());
    ed.add(Reshape { shape }, &[x], loc)
}
