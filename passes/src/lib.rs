//! rsqc-passes: everything that changes a module between import and code generation.
//!
//! A pass is one file: what it rewrites (before -> after) and why that is sound, a struct with its options, `impl`
//! [`Pass`]. [`registry`] is the list of all passes, [`pipeline`] turns a scheme into an ordered list, [`PassManager`]
//! runs it.
#![deny(missing_docs)]

pub mod analysis;
pub mod calibrate;
pub mod canon;
mod check_numeric;
#[cfg(test)]
mod framework_tests;
pub mod fuse;
pub mod lower;
pub mod manager;
pub mod methods;
pub mod pass;
pub mod pipeline;
pub mod registry;
pub mod rewrite;
pub mod scheme;
mod sweep;
#[cfg(test)]
mod testing;

pub use check_numeric::NumericFailure;
pub use manager::{ManagerOptions, PassManager, PassRecord, Report};
pub use pass::{Effect, Env, LayerReport, Pass, PassCx, PassOptions, Phases, Samples};
