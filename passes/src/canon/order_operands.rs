//! Operands of commutative ops in canonical order: constants last, then by value id.
//!
//! `add(bias, matmul) -> add(matmul, bias)`. Sound because each op listed is commutative bit for bit in this IR (min and
//! max are not when a NaN meets a NaN of another payload, which no one observes, but they also pick among equal zeros by
//! position, so they are left alone). Later patterns then need one spelling only.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{NodeId, Op, ValueId};

/// See the file documentation.
pub struct OrderOperands;

impl Pass for OrderOperands {
    fn name(&self) -> &'static str {
        "order-operands"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(order(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn commutes(op: &Op) -> bool {
    matches!(
        op,
        Op::Add(_) | Op::Mul(_) | Op::And(_) | Op::Or(_) | Op::Xor(_) | Op::Equal(_)
    )
}

fn order(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let [Some(a), Some(b)] = ins else { return None };
    if !commutes(&node.op) {
        return None;
    }
    let g = ed.graph();
    let rank = |v: ValueId| (g.const_id(v).is_some(), v);
    // Constants get their id on first use; two of them keep their order, or a walk would never settle.
    let both_const = g.const_id(*a).is_some() && g.const_id(*b).is_some();
    if both_const || rank(*a) <= rank(*b) {
        return None;
    }
    let want = ed.old().graph.ty(node.output()).clone();
    ed.try_add(node.op.clone(), &[*b, *a], &want, &node.loc)
}
