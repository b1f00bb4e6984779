//! `x + 0 -> x` for floats.
//!
//! Kept apart from the other identities because it is not exact to the bit: `-0 + 0` is `+0`. No consumer but a
//! division by that zero or a sign test can tell.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{NodeId, Op, ValueId};

/// See the file documentation.
pub struct DropZeroAdds;

impl Pass for DropZeroAdds {
    fn name(&self) -> &'static str {
        "drop-zero-adds"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(0.0)
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(drop_add(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn drop_add(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let Op::Add(_) = node.op else { return None };
    let (a, b) = (ins[0]?, ins[1]?);
    let keeps = |ed: &Editor<'_>, v: ValueId| ed.ty(v) == ed.old().graph.ty(node.output());
    if ed.splat(b) == Some(0.0) && keeps(ed, a) {
        return Some(a);
    }
    (ed.splat(a) == Some(0.0) && keeps(ed, b)).then_some(b)
}
