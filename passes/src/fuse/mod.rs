//! Regions: every op becomes one ([`form_regions`]).

mod builder;
pub(crate) mod edit;
mod form_regions;
#[cfg(test)]
mod form_tests;
mod lower_ops;

pub(crate) use edit::simplify;
pub use form_regions::FormRegions;
pub(crate) use lower_ops::copy_region;
