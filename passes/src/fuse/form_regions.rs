//! `form-regions`: every op becomes a region.
//!
//! Before -> after: `y = add(a, b)` -> `y = region {axes, accesses, body: add(operand 0, operand 1)}`, for every op of the
//! graph; see [`super::lower_ops`] for each family. Sound because a region's body repeats the op's own scalar program
//! (elementwise ops), or its definition with the reductions of [`rsqc_ir::scalar::ReduceKind`]: sums of floats are then
//! rounded in that order, hence `Rounding`.

use super::lower_ops;
use crate::pass::{Effect, Pass, PassCx, Phases, edit_diag};
use rsqc_ir::diag::Diag;
use rsqc_ir::{Phase, Rebuild};

/// See the file documentation.
pub struct FormRegions;

impl Pass for FormRegions {
    fn name(&self) -> &'static str {
        "form-regions"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-4)
    }
    fn phases(&self) -> Phases {
        Phases::change(Phase::Quantized, Phase::Fused)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module();
        let mut r = Rebuild::new(m);
        let order = m
            .graph
            .topo_order()
            .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
        let mut refused: Vec<Diag> = Vec::new();
        for id in order {
            let node = m.graph.node(id);
            match lower_ops::lower(m, &mut r, id) {
                Ok(new) => node.outputs.iter().zip(new).for_each(|(o, n)| r.set(*o, n)),
                Err(d) => {
                    refused.push(d);
                    // Go on with a copy, so that every op that is refused gets reported.
                    r.copy(m, id);
                }
            }
        }
        if let Some(d) = join(refused) {
            return Err(d);
        }
        cx.rebuild(r)?;
        Ok(())
    }
}

/// One diagnostic for all refusals.
fn join(mut all: Vec<Diag>) -> Option<Diag> {
    let rest: Vec<String> = all.iter().skip(1).map(ToString::to_string).collect();
    if all.is_empty() {
        return None;
    }
    let mut first = all.swap_remove(0);
    for r in rest {
        first.message += &format!("\n{r}");
    }
    Some(first)
}
