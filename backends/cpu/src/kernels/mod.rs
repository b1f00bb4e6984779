//! Kernel generators, one family a module.

pub mod gemm;
