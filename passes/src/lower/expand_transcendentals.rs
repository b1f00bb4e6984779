//! `expand-transcendentals`: `exp`, `erf`, ... become formulas of primitive ops.
//!
//! Before -> after: a body statement `y = exp(x)` -> the statements of [`rsqc_ir::scalar::expand`], in region bodies and in
//! score bodies of attention. Sound within the error that `expand` states; every backend then executes the same formula.

use super::{edit_region, region_nodes};
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::Phase;
use rsqc_ir::diag::Diag;
use rsqc_ir::region::{Anchor, Region};
use rsqc_ir::scalar::{Body, BodyId, expand};

/// See the file documentation.
pub struct ExpandTranscendentals;

impl Pass for ExpandTranscendentals {
    fn name(&self) -> &'static str {
        "expand-transcendentals"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-5)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Fused, Phase::Fused)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        for id in region_nodes(cx) {
            let found = match &cx.module().graph.node(id).op {
                rsqc_ir::Op::Region(o) => has_transcendentals(&o.region),
                _ => false,
            };
            if found {
                if !cx.permit() {
                    return Ok(());
                }
                edit_region(cx, id, expand_region);
            }
        }
        Ok(())
    }
}

fn transcendental(b: &Body) -> bool {
    b.stmts.iter().any(|s| s.op.is_transcendental())
}

fn has_transcendentals(r: &Region) -> bool {
    let score = matches!(&r.anchor, Anchor::Attention(a) if transcendental(&a.score));
    score || transcendental(&r.body)
}

fn expand_region(r: &mut Region) {
    let mut roots: Vec<BodyId> = r.stores.iter().map(|s| s.value).collect();
    r.body = expand(&r.body, &mut roots);
    for (s, v) in r.stores.iter_mut().zip(roots) {
        s.value = v;
    }
    if let Anchor::Attention(a) = &mut r.anchor
        && let Some(last) = a.score.stmts.len().checked_sub(1)
    {
        let mut root = [BodyId(last as u32)];
        a.score = expand(&a.score, &mut root);
        // The score is the last statement: drop whatever the expansion left behind it.
        a.score.stmts.truncate(root[0].index() + 1);
    }
}
