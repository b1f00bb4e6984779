//! Kernel generators, one family a module.

pub mod access;
pub mod attention;
pub mod body;
pub mod gemm;
pub mod linear;
pub mod rows;
