//! rsqc: the compiler as a library, and the command line over it.
#![deny(missing_docs)]

pub mod template;
