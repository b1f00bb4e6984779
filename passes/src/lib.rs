//! rsqc-passes
