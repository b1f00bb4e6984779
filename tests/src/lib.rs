//! rsqc-tests
