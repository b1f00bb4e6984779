//! Shared parts of rsqc's tests: random modules, compiled execution of modules, the folder of extra models.

pub mod outliers;
pub mod random;
pub mod run;
pub mod shared;
