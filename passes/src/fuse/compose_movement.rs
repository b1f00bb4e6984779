//! `compose-movement`: regions that only move elements vanish into the accesses of their readers.
//!
//! Before -> after: `t = region{copy x[j, i]}; y = region{... t[i, j] ...}` -> `y = region{... x[j, i] ...}`. Exact: the
//! reader's address, written in the mover's axes (see [`super::affine`]), gives the address in the source. A matrix
//! product or attention takes part only if its sums and its row keep their axes, and a contiguous left factor stays so;
//! otherwise the mover stays as a copy.

use super::edit::Loop;
use super::inline::{compose_copy, copied_operand, readers};
use super::working::Working;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::diag::Diag;
use rsqc_ir::region::{Anchor, AxisKind, Region};
use rsqc_ir::types::Ranges;
use rsqc_ir::{Phase, ValueId};

/// See the file documentation.
pub struct ComposeMovement;

impl Pass for ComposeMovement {
    fn name(&self) -> &'static str {
        "compose-movement"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Fused, Phase::Fused)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let mut w = Working::new(cx.module())?;
        'all: for i in 0..w.len() {
            let Some(mover) = w.get(i).filter(|l| copied_operand(l).is_some()).cloned() else {
                continue;
            };
            let v = mover.outputs[0];
            for u in w.users(v) {
                let Some(user) = w.get(u) else { continue };
                if let Some(new) = composed(user, &mover, v, &w.symbols) {
                    if !cx.permit() {
                        break 'all;
                    }
                    w.set(u, Some(new));
                    cx.count("accesses composed", 1);
                }
            }
            if !w.needed_beside(v, i) {
                w.set(i, None);
            }
        }
        let r = w.rebuild(cx.module())?;
        cx.install(r)?;
        Ok(())
    }
}

/// `user` reading past `mover`, if all its reads of `v` can.
fn composed(user: &Loop, mover: &Loop, v: ValueId, ranges: &dyn Ranges) -> Option<Loop> {
    let anchored = user.region.anchor != Anchor::None;
    if anchored && mover.region.operands.iter().any(|a| !a.is_linear()) {
        return None;
    }
    let mut new = user.clone();
    for k in readers(user, v) {
        compose_copy(&mut new, k, mover, ranges)?;
    }
    if anchored && !keeps_shape(&user.region, &new.region) {
        return None;
    }
    new.prune(&|_| true);
    Some(new)
}

fn count(r: &Region, kind: AxisKind) -> usize {
    r.axes.iter().filter(|a| a.kind == kind).count()
}

/// Whether an anchored region still has the axes that its kernels rely on.
fn keeps_shape(old: &Region, new: &Region) -> bool {
    if count(old, AxisKind::Reduce) != count(new, AxisKind::Reduce) || old.row_axes != new.row_axes {
        return false;
    }
    match &old.anchor {
        Anchor::Attention(_) => count(old, AxisKind::Parallel) == count(new, AxisKind::Parallel),
        Anchor::Contract { lhs, .. } => {
            // The first reduce axis is k of a matrix product.
            let along = |r: &Region| r.operands[*lhs as usize].stride(r.parallel().end);
            !along(old).is(1) || along(new).is(1)
        }
        Anchor::None => true,
    }
}
