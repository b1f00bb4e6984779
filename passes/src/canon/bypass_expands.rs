//! `f(expand(x), y) -> f(x, y)` where f broadcasts anyway.
//!
//! Before: exporters expand masks, rotary frequencies and squeeze-excite gates to the full shape before an elementwise
//! op or the batch axes of a product. After: the op reads the small tensor. Sound because NumPy broadcasting reads the
//! same element that Expand would have copied there; the rewrite happens only if the result type is proven unchanged,
//! so that the expanded operand was not what gave the result its shape.

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
    if !ins.iter().any(|v| matches!(ed.op(*v), Some(Op::Expand(_)))) {
        return None;
    }
    let types: Vec<&TensorType> = ins.iter().map(|v| ed.ty(*v)).collect();
    let matmul = matches!(node.op, Op::MatMul(_));
    if !matmul && !is_elementwise(&node.op, &types) {
        return None;
    }
    let want = ed.old().graph.ty(node.output()).clone();
    let mut found = None;
    for i in 0..ins.len() {
        let Some(source) = expand_source(ed, ins[i]) else { continue };
        if matmul && !same_matrix(ed, ins[i], source) {
            continue;
        }
        let mut attempt = ins.clone();
        attempt[i] = source;
        if let Some(v) = ed.try_add(node.op.clone(), &attempt, &want, &node.loc) {
            ins = attempt;
            found = Some(v);
        }
    }
    found
}

fn expand_source(ed: &Editor<'_>, v: ValueId) -> Option<ValueId> {
    let n = ed.def(v)?;
    matches!(n.op, Op::Expand(_)).then(|| n.input(0)).flatten()
}

/// Whether expansion touched batch axes only.
fn same_matrix(ed: &Editor<'_>, expanded: ValueId, source: ValueId) -> bool {
    let (a, b) = (&ed.ty(expanded).shape, &ed.ty(source).shape);
    b.len() >= 2 && a[a.len() - 2..] == b[b.len() - 2..]
}
