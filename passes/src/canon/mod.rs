//! Canonical forms: small local rewrites, each its own pass.
