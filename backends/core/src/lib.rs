//! rsqc-backend
