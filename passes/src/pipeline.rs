//! From a scheme to the ordered list of passes.

use crate::canon::*;
use crate::lower;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::rewrite::{RecognizeAttention, RecognizeCausalMasks, RecognizePatterns};
use crate::scheme::Scheme;
use rsqc_ir::Phase;
use rsqc_ir::diag::Diag;

/// Marks the module as canonical: recognition is done, methods may start.
pub struct EnterCanonical;

impl Pass for EnterCanonical {
    fn name(&self) -> &'static str {
        "enter-canonical"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::change(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, _: &mut PassCx<'_>) -> Result<(), Diag> {
        Ok(())
    }
}

/// Small rewrites that open the way for each other, one walk each.
fn tidy() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(FoldConstants::default()),
        Box::new(TrimConstants),
        Box::new(SimplifyArithmetic),
        Box::new(SimplifyGathers),
        Box::new(BypassExpands),
        Box::new(RemoveIdentities),
        Box::new(OrderOperands),
        Box::new(MergeEqual),
    ]
}

/// Canonical forms and recognition: what every scheme starts with. Takes a module from `imported` to `canonical`.
pub fn canonicalize() -> Vec<Box<dyn Pass>> {
    let mut all = tidy();
    all.extend(tidy());
    all.push(Box::new(LowerPatchConvs));
    all.push(Box::new(FlattenLinears));
    all.push(Box::new(FoldAffine));
    all.push(Box::new(DropZeroAdds));
    all.extend(tidy());
    all.push(Box::new(RecognizePatterns::default()));
    all.push(Box::new(RecognizeAttention));
    all.push(Box::new(RecognizeCausalMasks));
    all.extend(tidy());
    all.push(Box::new(RemoveDead));
    all.push(Box::new(EnterCanonical));
    all
}

/// All passes of a scheme, from `imported` to `lowered`.
pub fn pipeline(scheme: &Scheme) -> Vec<Box<dyn Pass>> {
    let mut all = canonicalize();
    all.extend(lower::passes(scheme));
    all
}
