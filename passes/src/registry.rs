//! THE list of passes. A new pass is one file and one row here; its place in compilation is in [`crate::pipeline`].

use crate::pass::{Pass, PassOptions};
use crate::scheme::Scheme;
use crate::{calibrate, canon, fuse, lower, methods, rewrite};
use rsqc_ir::diag::{Blame, Diag};

/// Makes a pass from its options.
type Make = fn(&mut PassOptions) -> Result<Box<dyn Pass>, Diag>;

/// A row of the list.
pub struct PassInfo {
    /// Name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    make: Make,
}

macro_rules! passes {
    ($($name:literal, $doc:literal, $make:expr;)*) => {
        /// All passes, grouped by folder.
        pub const PASSES: &[PassInfo] = &[$(PassInfo { name: $name, doc: $doc, make: $make }),*];
    };
}

passes! {
    // canon
    "fold-constants", "evaluates nodes whose operands are constants (grow)", |o| Ok(Box::new(canon::FoldConstants::from_options(o)?));
    "merge-equal", "common subexpressions; equal constants become one", |_| Ok(Box::new(canon::MergeEqual));
    "remove-identities", "ops that do nothing; chains of movement", |_| Ok(Box::new(canon::RemoveIdentities));
    "drop-zero-adds", "x + 0 of floats", |_| Ok(Box::new(canon::DropZeroAdds));
    "order-operands", "constants last, then by value", |_| Ok(Box::new(canon::OrderOperands));
    "simplify-arithmetic", "one spelling of powers, quotients, conditions", |_| Ok(Box::new(canon::SimplifyArithmetic));
    "simplify-gathers", "constant gathers become slices", |_| Ok(Box::new(canon::SimplifyGathers));
    "trim-constants", "constant operands in their smallest broadcasting form", |_| Ok(Box::new(canon::TrimConstants));
    "bypass-expands", "expands in front of ops that broadcast", |_| Ok(Box::new(canon::BypassExpands));
    "flatten-linears", "products between a pair of reshapes", |_| Ok(Box::new(canon::FlattenLinears));
    "lower-patch-convs", "convolutions with stride = kernel become products", |_| Ok(Box::new(canon::LowerPatchConvs));
    "fold-affine", "scales and offsets per channel move into weights", |_| Ok(Box::new(canon::FoldAffine));
    "remove-dead", "nodes that nobody needs", |_| Ok(Box::new(canon::RemoveDead));
    "enter-canonical", "marks the module as canonical", |_| Ok(Box::new(crate::pipeline::EnterCanonical));
    // rewrite
    "recognize-patterns", "norms, activations, softmax, rotary embedding (iterations, nodes)", |o| Ok(Box::new(rewrite::RecognizePatterns::from_options(o)?));
    "recognize-attention", "attention blocks with masks and grouped heads", |_| Ok(Box::new(rewrite::RecognizeAttention));
    "recognize-causal-masks", "causal mask tensors become a predicate", |_| Ok(Box::new(rewrite::RecognizeCausalMasks));
    // methods
    "smooth-quant", "outliers of activations move into weights (scheme)", |o| {
        let name: String = o.take("scheme", "w8a8+smoothquant".into())?;
        Ok(Box::new(methods::SmoothQuant { scheme: Scheme::parse(&name)? }))
    };
    "insert-fake-quant", "marks what the scheme quantizes (scheme)", |o| {
        let name: String = o.take("scheme", "w8a8".into())?;
        Ok(Box::new(methods::InsertFakeQuant { scheme: Scheme::parse(&name)? }))
    };
    // calibrate
    "calibrate", "static fake quantizations get scales and zero points from samples (scheme)", |o| {
        let name: String = o.take("scheme", "w8a8-static".into())?;
        Ok(Box::new(calibrate::Calibrate { scheme: Scheme::parse(&name)? }))
    };
    // fuse
    "merge-linears", "the q, k, v products of attention become one (scheme)", |o| {
        let name: String = o.take("scheme", "none".into())?;
        Ok(Box::new(fuse::MergeLinears { scheme: Scheme::parse(&name)? }))
    };
    "compose-movement", "regions that only move elements vanish into accesses", |_| Ok(Box::new(fuse::ComposeMovement));
    "merge-regions", "fusion: prologues, epilogues, shared rows", |_| Ok(Box::new(fuse::MergeRegions));
    "form-regions", "every op becomes a region", |_| Ok(Box::new(fuse::FormRegions));
    // lower
    "lower-to-integer", "fake quantization becomes codes and integer products", |_| Ok(Box::new(lower::LowerToInteger));
    "use-channels-last", "convolutions and pools with channels last; transposes sink", |_| Ok(Box::new(lower::UseChannelsLast));
    "expand-transcendentals", "exp, erf, ... become formulas of primitive ops", |_| Ok(Box::new(lower::ExpandTranscendentals));
    "simplify-bodies", "drops dead and equal statements of bodies", |_| Ok(Box::new(lower::SimplifyBodies));
    "assign-layouts", "packed weights and offset activation codes", |_| Ok(Box::new(lower::AssignLayouts));
    "finish-lowering", "every output gets a writer of its own", |_| Ok(Box::new(lower::FinishLowering));
}

/// The pass of this name with the given options.
fn make(name: &str, mut options: PassOptions) -> Result<Box<dyn Pass>, Diag> {
    let row = PASSES
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| unknown(name))?;
    let pass = (row.make)(&mut options)?;
    options.finish()?;
    Ok(pass)
}

/// Passes from text `name,name:x=1:y=2,...`. Unknown names and options are user errors that list what exists.
pub fn parse(list: &str) -> Result<Vec<Box<dyn Pass>>, Diag> {
    list.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| {
            let (name, options) = PassOptions::parse(s)?;
            make(&name, options)
        })
        .collect()
}

fn unknown(name: &str) -> Diag {
    let near = PASSES
        .iter()
        .map(|p| (strsim::osa_distance(name, p.name), p.name))
        .min()
        .filter(|(d, n)| *d <= n.len() / 2);
    let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
    let help = match near {
        Some((_, n)) => format!("did you mean `{n}`? passes: {}", names.join(", ")),
        None => format!("passes: {}", names.join(", ")),
    };
    Diag::new(Blame::User, name, format!("there is no pass `{name}`")).help(help)
}
