//! `f(expand(x), y) -> f(x, y)` where f broadcasts anyway.
//!
//! Before: exporters expand masks, rotary frequencies and squeeze-excite gates to the full shape before an elementwise
//! op or the batch axes of a product, or reshape to put unit axes in front. After: the op reads the small tensor. Sound
//! because NumPy broadcasting reads the same element that Expand would have copied there, and supplies unit axes in
//! front; the rewrite happens only if the result type is proven unchanged, so that the expanded operand was not what
//! gave the result its shape. (The rank of an attention mask or a norm's gain has meaning: only ops with a scalar
//! program, products and rotary tables are touched.)

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, is_elementwise, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{NodeId, Op, TensorType, ValueId};

/// See the file documentation.
pub struct BypassExpands;

impl Pass for BypassExpands {
    fn name(&self) -> &'static str {
        "bypass-expands"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(bypass(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn bypass(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let mut ins: Vec<ValueId> = ins.iter().copied().collect::<Option<_>>()?;
    if !ins.iter().any(|v| source(ed, *v).is_some()) {
        return None;
    }
    let types: Vec<&TensorType> = ins.iter().map(|v| ed.ty(*v)).collect();
    let matmul = matches!(node.op, Op::MatMul(_));
    let broadcasts = matmul || matches!(node.op, Op::Rope(_)) || is_elementwise(&node.op, &types);
    if !broadcasts {
        return None;
    }
    let want = ed.old().graph.ty(node.output()).clone();
    let mut found = None;
    for i in 0..ins.len() {
        let Some(small) = source(ed, ins[i]) else {
            continue;
        };
        if matmul && !same_matrix(ed, ins[i], small) {
            continue;
        }
        let mut attempt = ins.clone();
        attempt[i] = small;
        if let Some(v) = ed.try_add(node.op.clone(), &attempt, &want, &node.loc) {
            ins = attempt;
            found = Some(v);
        }
    }
    found
}

/// What broadcasts to `v`: the operand of an expand, or of a reshape that only puts unit axes in front.
fn source(ed: &Editor<'_>, v: ValueId) -> Option<ValueId> {
    let n = ed.def(v)?;
    let x = n.input(0)?;
    let (from, to) = (&ed.ty(x).shape, &ed.ty(v).shape);
    match &n.op {
        Op::Expand(_) => Some(x),
        Op::Reshape(_) => {
            let front = to.len().checked_sub(from.len()).filter(|f| *f > 0)?;
            (to[front..] == from[..] && to[..front].iter().all(|d| d.is(1))).then_some(x)
        }
        _ => None,
    }
}

/// Whether expansion touched batch axes only.
fn same_matrix(ed: &Editor<'_>, expanded: ValueId, source: ValueId) -> bool {
    let (a, b) = (&ed.ty(expanded).shape, &ed.ty(source).shape);
    b.len() >= 2 && a[a.len() - 2..] == b[b.len() - 2..]
}
