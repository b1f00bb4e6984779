//! Read-only analyses.
