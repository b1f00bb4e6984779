//! rsqc-cpu
