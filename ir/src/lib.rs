//! rsqc-ir
