//! rsqc
