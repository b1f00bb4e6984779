//! `simplify-bodies`: dead and equal statements of bodies go.
//!
//! Before -> after: `a = mul(x, y); b = mul(x, y); c = add(a, b)` -> `a = mul(x, y); c = add(a, a)`. Sound because a statement's
//! value depends on its op, arguments and point alone.

use super::{edit_region, region_nodes};
use crate::fuse::simplify;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::Phase;
use rsqc_ir::diag::Diag;

/// See the file documentation.
pub struct SimplifyBodies;

impl Pass for SimplifyBodies {
    fn name(&self) -> &'static str {
        "simplify-bodies"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Fused, Phase::Lowered)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        if cx.permit() {
            for id in region_nodes(cx) {
                edit_region(cx, id, simplify);
            }
        }
        Ok(())
    }
}
