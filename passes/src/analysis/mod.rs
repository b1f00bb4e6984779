//! Read-only analyses: functions from a module to facts, no rewriting.

mod index_bounds;
pub mod sites;

pub use index_bounds::index_bound;
