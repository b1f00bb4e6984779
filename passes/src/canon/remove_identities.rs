//! Ops that do nothing, and chains of movement that one op does.
//!
//! - `x * 1`, `x / 1`, `x - 0`, `x + -0.0`, integer `x + 0`; cast to the same type;
//! - reshape to the same shape, reshape of reshape, transpose by the identity, transpose of transpose, transpose that
//!   moves unit axes only (a reshape), expand to the same shape, expand of expand;
//! - slice of everything, slice of slice, concat of one operand, concat operands of extent 0, pad by nothing;
//! - `reshape(transpose(reshape(x, [a*b, m, n]), (0, 2, 1)), [a, b, n, m]) -> transpose(x, (0, 1, 3, 2))`.
//!
//! Sound: each row reads exactly the elements of the original at the same places; types are proven equal by the dims'
//! normal form, and what is not proven stays.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::shape::{Concat, Reshape, Slice, Transpose};
use rsqc_ir::{Dim, NodeId, Op, ValueId};

/// See the file documentation.
pub struct RemoveIdentities;

impl Pass for RemoveIdentities {
    fn name(&self) -> &'static str {
        "remove-identities"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| {
            let Some(x) = ins.first().copied().flatten() else {
                return Ok(None);
            };
            let want = ed
                .old()
                .graph
                .node(id)
                .outputs
                .first()
                .map(|o| ed.old().graph.ty(*o));
            let new = neutral(ed, id, ins).or_else(|| movement(ed, id, x, ins));
            // Types may be equal by a run-time check only: then nothing is replaced.
            Ok(new.filter(|v| want == Some(ed.ty(*v))).map(|v| vec![v]))
        })?;
        Ok(())
    }
}

/// Arithmetic and casts that return an operand.
fn neutral(ed: &Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let want = ed.old().graph.ty(*node.outputs.first()?);
    let x = ins[0]?;
    if let Op::Cast(_) = node.op {
        return (ed.ty(x) == want).then_some(x);
    }
    let [Some(a), Some(b)] = ins else { return None };
    let is = |v: ValueId, n: f64| {
        ed.splat(v)
            .is_some_and(|s| s == n && (n != 0.0 || s.is_sign_negative() == n.is_sign_negative()))
    };
    let float = want.elem.plain()?.is_float();
    let zero = if float { -0.0 } else { 0.0 };
    let found = match node.op {
        Op::Mul(_) if is(*b, 1.0) => *a,
        Op::Mul(_) if is(*a, 1.0) => *b,
        Op::Div(_) if is(*b, 1.0) => *a,
        Op::Sub(_) if is(*b, 0.0) => *a,
        Op::Add(_) if is(*b, zero) => *a,
        Op::Add(_) if is(*a, zero) => *b,
        _ => return None,
    };
    (ed.ty(found) == want).then_some(found)
}

fn movement(ed: &mut Editor<'_>, id: NodeId, x: ValueId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let want = ed.old().graph.ty(*node.outputs.first()?).clone();
    let same = want == *ed.ty(x);
    let inner = ed.def(x).map(|n| (n.op.clone(), n.input(0)));
    let (op, source): (Op, ValueId) = match (&node.op, inner) {
        (Op::Reshape(_) | Op::Expand(_), _) if same => return Some(x),
        (Op::Reshape(_), Some((Op::Reshape(_), Some(y)))) if *ed.ty(y) == want => return Some(y),
        (Op::Reshape(r), Some((Op::Reshape(_), Some(y)))) => (r.clone().into(), y),
        (Op::Reshape(r), Some((Op::Transpose(t), Some(y)))) => (
            Transpose {
                perm: vec![0, 1, 3, 2],
            }
            .into(),
            lifted(ed, r, &t, y)?,
        ),
        (Op::Expand(e), Some((Op::Expand(_), Some(y)))) => (e.clone().into(), y),
        (Op::Transpose(t), _) if t.perm.is_sorted() => return Some(x),
        (Op::Transpose(t), Some((Op::Transpose(u), Some(y)))) => {
            let perm: Vec<i64> = t.perm.iter().map(|p| u.perm[*p as usize]).collect();
            if perm.is_sorted() {
                return Some(y);
            }
            (Transpose { perm }.into(), y)
        }
        (Op::Transpose(t), _) if moves_units_only(&t.perm, &ed.ty(x).shape) => (
            Reshape {
                shape: want.shape.clone(),
            }
            .into(),
            x,
        ),
        (Op::Slice(s), _) if same && is_whole(s) => return Some(x),
        (Op::Slice(s), Some((Op::Slice(u), Some(y)))) => (compose(s, &u).into(), y),
        (Op::Pad(p), _) if p.before.iter().chain(&p.after).all(|d| d.is(0)) => return Some(x),
        (Op::Concat(c), _) => return concat(ed, id, c.axis, ins),
        _ => return None,
    };
    ed.try_add(op, &[source], &want, &node.loc)
}

/// The rank 4 value under `reshape(transpose_021(reshape(.)))` if the reshapes only merge and split leading axes.
fn lifted(ed: &Editor<'_>, outer: &Reshape, t: &Transpose, y: ValueId) -> Option<ValueId> {
    let inner = ed.def(y)?;
    let z = matches!(inner.op, Op::Reshape(_))
        .then(|| inner.input(0))
        .flatten()?;
    let (from, mid, to) = (&ed.ty(z).shape, &ed.ty(y).shape, &outer.shape);
    let fits = t.perm == [0, 2, 1]
        && from.len() == 4
        && to.len() == 4
        && from[..2] == to[..2]
        && (&from[2], &from[3]) == (&to[3], &to[2])
        && from[2..] == mid[1..];
    fits.then_some(z)
}

/// Whether axes other than unit ones keep their order.
fn moves_units_only(perm: &[i64], shape: &[Dim]) -> bool {
    let kept: Vec<i64> = perm
        .iter()
        .copied()
        .filter(|p| !shape[*p as usize].is(1))
        .collect();
    kept.is_sorted()
}

fn is_whole(s: &Slice) -> bool {
    s.starts.iter().all(|d| d.is(0)) && s.steps.iter().all(|v| *v == 1)
}

/// `outer` of `inner`: element i is `inner.start + (outer.start + i * outer.step) * inner.step`.
fn compose(outer: &Slice, inner: &Slice) -> Slice {
    let n = outer.steps.len();
    Slice {
        starts: (0..n)
            .map(|a| inner.starts[a].clone() + outer.starts[a].clone() * Dim::from(inner.steps[a]))
            .collect(),
        sizes: outer.sizes.clone(),
        steps: (0..n)
            .map(|a| outer.steps[a].saturating_mul(inner.steps[a]))
            .collect(),
    }
}

fn concat(ed: &mut Editor<'_>, id: NodeId, axis: usize, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let all: Vec<ValueId> = ins.iter().copied().flatten().collect();
    let mut kept: Vec<ValueId> = all
        .iter()
        .copied()
        .filter(|v| !ed.ty(*v).shape[axis].is(0))
        .collect();
    if kept.is_empty() {
        kept.extend(all.first());
    }
    let want = ed.old().graph.ty(node.output()).clone();
    if let [one] = kept.as_slice() {
        return (*ed.ty(*one) == want).then_some(*one);
    }
    if kept.len() == all.len() {
        return None;
    }
    ed.try_add(Concat { axis }, &kept, &want, &node.loc)
}
