//! Regions and their fusion. [`form_regions`] makes every op a region; [`compose_movement`] and [`merge_regions`] merge
//! them. What fuses is decided by access maps and bodies alone: no code here knows an op.

mod affine;
mod builder;
mod compose_movement;
pub(crate) mod edit;
mod epilogue;
mod form_regions;
#[cfg(test)]
mod form_tests;
#[cfg(test)]
mod fuse_tests;
mod inline;
mod lower_ops;
mod merge_linears;
mod merge_regions;
#[cfg(test)]
mod random_tests;
mod working;

pub use compose_movement::ComposeMovement;
pub(crate) use edit::simplify;
pub use form_regions::FormRegions;
pub(crate) use lower_ops::copy_region;
pub use merge_linears::MergeLinears;
pub use merge_regions::MergeRegions;
