//! Gathers with constant indices in arithmetic progression become slices.
//!
//! `gather(x, 3, axis) -> reshape(slice(x, start 3, size 1))`, `gather(x, [0, 2, 4]) -> slice(x, start 0, step 2)`; negative
//! indices count from the end. Sound because both read the same elements wherever the gather is defined. Constant tables
//! are left to folding.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, Rewritten, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::shape::{Reshape, Slice};
use rsqc_ir::{Dim, NodeId, Op, ValueId};

/// See the file documentation.
pub struct SimplifyGathers;

impl Pass for SimplifyGathers {
    fn name(&self) -> &'static str {
        "simplify-gathers"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut to_slice)?;
        Ok(())
    }
}

fn to_slice(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Rewritten {
    let node = ed.old().graph.node(id);
    let (Op::Gather(g), [Some(x), Some(i)]) = (&node.op, ins) else {
        return Ok(None);
    };
    if ed.constant_of(*x).is_some() || ed.ty(*i).rank() > 1 || ed.ty(*x).elem.plain().is_none() {
        return Ok(None);
    }
    let Some(indices) = ed.tensor(*i) else {
        return Ok(None);
    };
    let indices: Vec<i64> = indices.to_f64().iter().map(|v| *v as i64).collect();
    let shape = ed.ty(*x).shape.clone();
    let Some((start, step)) = progression(&indices, &shape[g.axis]) else {
        return Ok(None);
    };
    let mut op = Slice {
        starts: vec![Dim::zero(); shape.len()],
        steps: vec![1; shape.len()],
        sizes: shape,
    };
    (op.starts[g.axis], op.steps[g.axis], op.sizes[g.axis]) = (start, step, Dim::from(indices.len()));
    let v = ed.add(op, &[*x], &node.loc)?;
    let want = ed.old().graph.ty(node.output()).shape.clone();
    Ok(Some(vec![if ed.ty(v).shape == want {
        v
    } else {
        ed.add(Reshape { shape: want }, &[v], &node.loc)?
    }]))
}

/// First index (inside `extent`) and step, if the indices are an arithmetic progression of one sign.
fn progression(i: &[i64], extent: &Dim) -> Option<(Dim, i64)> {
    let step = match i {
        [] => return None,
        [_] => 1,
        [a, b, ..] => b.checked_sub(*a)?,
    };
    let even = i.windows(2).all(|w| w[1].checked_sub(w[0]) == Some(step));
    let one_sign = i.iter().all(|v| *v >= 0) || i.iter().all(|v| *v < 0);
    if step == 0 || !even || !one_sign {
        return None;
    }
    let inside = |v: i64| extent.as_const().is_none_or(|n| (-n..n).contains(&v));
    if !i.iter().all(|v| inside(*v)) {
        return None;
    }
    let first = Dim::from(i[0]);
    Some((if i[0] < 0 { extent.clone() + first } else { first }, step))
}
