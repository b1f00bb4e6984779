//! Nodes whose operands are all constants are evaluated now.
//!
//! Before: `transpose(const)`, shape arithmetic, `1 + w` of a gain. After: a constant. Sound because the reference
//! evaluator defines each op. Limits keep the file small: a result may not be larger than its operands together unless
//! it stays below `grow` bytes. An op that the evaluator refuses (an index outside its table) is left for run time.

use crate::pass::{Effect, Pass, PassCx, PassOptions, Phases};
use crate::sweep::{Editor, Rewritten, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{EvalCx, Tensor};
use rsqc_ir::{NodeId, Op, Phase, TensorType, ValueId};
use std::collections::BTreeMap;

/// See the file documentation.
pub struct FoldConstants {
    /// Bytes that a result may have although its operands have less.
    pub grow: i64,
}

impl Default for FoldConstants {
    fn default() -> Self {
        FoldConstants { grow: 1 << 16 }
    }
}

impl FoldConstants {
    /// From the options of a pass list: `grow`.
    pub fn from_options(o: &mut PassOptions) -> Result<Self, Diag> {
        Ok(FoldConstants {
            grow: o.take("grow", FoldConstants::default().grow)?,
        })
    }
}

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Calibrated)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| self.fold(ed, id, ins))?;
        Ok(())
    }
}

fn bytes(t: &TensorType) -> Option<i64> {
    t.bytes().as_const()
}

impl FoldConstants {
    fn fold(&self, ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Rewritten {
        let node = ed.old().graph.node(id);
        // Quantization ops are decisions, not arithmetic.
        if matches!(
            node.op,
            Op::FakeQuant(_) | Op::DynamicParams(_) | Op::Quantize(_) | Op::Dequantize(_)
        ) {
            return Ok(None);
        }
        let types: Vec<TensorType> = node
            .outputs
            .iter()
            .map(|v| ed.old().graph.ty(*v).clone())
            .collect();
        let foldable = types
            .iter()
            .all(|t| t.static_shape().is_some() && t.elem.plain().is_some());
        if !foldable || !self.fits(ed, &types, ins) {
            return Ok(None);
        }
        let operands: Option<Vec<Option<Tensor>>> = ins
            .iter()
            .map(|v| v.map_or(Some(None), |v| ed.tensor(v).map(Some)))
            .collect();
        let Some(operands) = operands else { return Ok(None) };
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let no_symbols = BTreeMap::new();
        let Ok(results) = node.op.eval(&EvalCx { symbols: &no_symbols }, &refs) else {
            return Ok(None);
        };
        let consts: Vec<_> = results.iter().map(|t| t.to_const(&node.loc)).collect();
        if !consts.iter().map(|c| &c.ty).eq(types.iter()) {
            return Err(Diag::internal(
                node.loc.to_string(),
                format!("{} evaluates to another type", node.op.name()),
            ));
        }
        Ok(Some(consts.into_iter().map(|c| ed.constant(c)).collect()))
    }

    /// Whether all operands are constants and the results are not too large.
    fn fits(&self, ed: &Editor<'_>, types: &[TensorType], ins: &[Option<ValueId>]) -> bool {
        let mut have = 0i64;
        for v in ins.iter().flatten() {
            let Some(b) = ed.constant_of(*v).and_then(|c| bytes(&c.ty)) else {
                return false;
            };
            have = have.saturating_add(b);
        }
        let want: Option<i64> = types
            .iter()
            .map(bytes)
            .try_fold(0i64, |a, b| Some(a.saturating_add(b?)));
        want.is_some_and(|w| w <= have.max(self.grow))
    }
}
