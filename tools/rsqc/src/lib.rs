//! rsqc: the compiler as a library, and the command line over it.
//!
//! - [`compiler`] goes from a model file to a compiled model in memory and writes artifacts,
//! - [`open`](mod@open) gives a runnable [`program::Program`] for artifacts and models,
//! - [`executor`] runs float graphs over calibration samples for the passes that ask for it,
//! - [`evaluate`](mod@evaluate) and [`metrics`] measure accuracy, [`selftest`] makes and replays test vectors,
//! - [`data`] reads inputs, calibration and evaluation data, [`output`] writes files atomically,
//! - [`cli`] is the command line.
#![deny(missing_docs)]

pub mod artifact;
pub mod backends;
pub mod cli;
pub mod compiler;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod executor;
pub mod inprocess;
pub mod metrics;
pub mod open;
pub mod output;
pub mod program;
pub mod selftest;
pub mod specs;
pub mod template;
