//! Shared parts of rsqc's tests: random modules, compiled and reference execution, the folder of extra models.

pub mod random;
