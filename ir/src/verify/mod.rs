//! The verifier.

pub mod region;
