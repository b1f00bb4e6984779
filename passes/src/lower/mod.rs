//! Phase transitions: fake quantization to integer products, bodies to primitive ops, physical layouts.

mod assign_layouts;
#[cfg(test)]
mod conv_tests;
mod expand_transcendentals;
mod finish_lowering;
mod integer_conv;
mod lower_to_integer;
mod simplify_bodies;
#[cfg(test)]
mod tests;
mod use_channels_last;
pub(crate) mod weights;

pub use assign_layouts::AssignLayouts;
pub use expand_transcendentals::ExpandTranscendentals;
pub use finish_lowering::FinishLowering;
pub use lower_to_integer::LowerToInteger;
pub use simplify_bodies::SimplifyBodies;
pub use use_channels_last::UseChannelsLast;

use crate::calibrate::Calibrate;
use crate::fuse::{ComposeMovement, FormRegions, MergeLinears, MergeRegions};
use crate::methods::{InsertFakeQuant, SmoothQuant};
use crate::pass::{Pass, PassCx};
use crate::scheme::Scheme;
use rsqc_ir::region::Region;
use rsqc_ir::{NodeId, Op};

/// The region nodes of the module, in id order.
fn region_nodes(cx: &PassCx<'_>) -> Vec<NodeId> {
    let g = &cx.module().graph;
    g.node_ids()
        .filter(|n| matches!(g.node(*n).op, Op::Region(_)))
        .collect()
}

/// Changes the region of a node in place; types and values stay.
fn edit_region(cx: &mut PassCx<'_>, id: NodeId, f: impl FnOnce(&mut Region)) {
    if let Op::Region(op) = cx.module_mut().graph.op_mut(id) {
        f(&mut op.region);
    }
}

/// From a canonical module to one of regions alone: quantization by `scheme`, regions, fusion, layouts.
pub fn passes(scheme: &Scheme) -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(SmoothQuant {
            scheme: scheme.clone(),
        }),
        Box::new(MergeLinears {
            scheme: scheme.clone(),
        }),
        Box::new(InsertFakeQuant {
            scheme: scheme.clone(),
        }),
        Box::new(Calibrate {
            scheme: scheme.clone(),
        }),
        Box::new(LowerToInteger),
        Box::new(UseChannelsLast),
        Box::new(FormRegions),
        Box::new(ComposeMovement),
        Box::new(MergeRegions),
        Box::new(ExpandTranscendentals),
        Box::new(SimplifyBodies),
        Box::new(AssignLayouts),
        Box::new(FinishLowering),
    ]
}
