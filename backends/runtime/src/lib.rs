//! rsqc-runtime
