//! `finish-lowering`: the module becomes what backends are given.
//!
//! Before -> after: a graph output that is a graph input, a constant, or a value another output already is, becomes the
//! result of a copying region, so that every output has a writer of its own; nothing but regions may be left. Sound
//! because a copy has the elements of its operand.

use crate::fuse::copy_region;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::diag::Diag;
use rsqc_ir::graph::Port;
use rsqc_ir::{Op, Phase, ValueId};
use std::collections::BTreeSet;

/// See the file documentation.
pub struct FinishLowering;

impl Pass for FinishLowering {
    fn name(&self) -> &'static str {
        "finish-lowering"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::change(Phase::Fused, Phase::Lowered)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module();
        for id in m.graph.node_ids() {
            let n = m.graph.node(id);
            if !matches!(n.op, Op::Region(_)) {
                return Err(Diag::internal(
                    n.loc.to_string(),
                    format!("`{}` is left after fusion", n.op.name()),
                ));
            }
        }
        // Outputs without a writer of their own.
        let mut seen: BTreeSet<ValueId> = BTreeSet::new();
        let mut ports: Vec<Port> = m.graph.outputs().to_vec();
        let views: Vec<bool> = ports
            .iter()
            .map(|p| m.graph.def_node(p.value).is_none() || !seen.insert(p.value))
            .collect();
        if views.contains(&true) && !cx.permit() {
            return Ok(());
        }
        let g = &mut cx.module_mut().graph;
        for (p, _) in ports.iter_mut().zip(views).filter(|(_, view)| *view) {
            let ty = g.ty(p.value).clone();
            let (op, types) = copy_region(&ty)?;
            let id = g.add_node(op, vec![Some(p.value)], types, p.name.as_str().into());
            p.value = g.node(id).output();
        }
        g.set_outputs(ports);
        Ok(())
    }
}
