//! Canonical forms: small local rewrites, each its own pass and exact unless it says otherwise.

mod bypass_expands;
mod drop_zero_adds;
mod flatten_linears;
mod fold_affine;
mod fold_constants;
mod lower_patch_convs;
mod merge_equal;
mod order_operands;
mod remove_dead;
mod remove_identities;
mod simplify_arithmetic;
mod simplify_gathers;
mod trim_constants;

pub use bypass_expands::BypassExpands;
pub use drop_zero_adds::DropZeroAdds;
pub use flatten_linears::FlattenLinears;
pub use fold_affine::FoldAffine;
pub use fold_constants::FoldConstants;
pub use lower_patch_convs::LowerPatchConvs;
pub use merge_equal::MergeEqual;
pub use order_operands::OrderOperands;
pub use remove_dead::RemoveDead;
pub use remove_identities::RemoveIdentities;
pub use simplify_arithmetic::SimplifyArithmetic;
pub use simplify_gathers::SimplifyGathers;
pub use trim_constants::TrimConstants;

#[cfg(test)]
mod tests;

use crate::pass::Phases;
use rsqc_ir::Phase;

/// Phases in which graphs of ops (not regions) exist.
const OP_GRAPHS: Phases = Phases::within(Phase::Imported, Phase::Quantized);
