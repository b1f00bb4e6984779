//! rsqc-artifact
