//! Nodes whose results nobody needs are removed.
//!
//! Sound because ops have no effects. Walking the graph into a new one also closes the gaps in value ids.

use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::diag::Diag;
use rsqc_ir::{Phase, Rebuild};

/// See the file documentation.
pub struct RemoveDead;

impl Pass for RemoveDead {
    fn name(&self) -> &'static str {
        "remove-dead"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Lowered)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let before = cx.module().graph.node_count();
        let mut probe = cx.module().graph.clone();
        if probe.remove_dead() == 0 {
            return Ok(());
        }
        let m = cx.module();
        let mut r = Rebuild::new(m);
        for id in m
            .graph
            .topo_order()
            .map_err(|n| Diag::internal(m.graph.node(n).loc.to_string(), "the graph is cyclic"))?
        {
            if probe.has_node(id) {
                r.copy(m, id);
            }
        }
        if cx.rebuild(r)?.is_some() {
            let after = cx.module().graph.node_count();
            cx.count("dead nodes removed", (before - after) as u64);
        }
        Ok(())
    }
}
