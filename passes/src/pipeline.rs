//! From a scheme to the ordered list of passes.

use crate::pass::Pass;

/// Canonical forms and recognition: what every scheme starts with.
pub fn canonicalize() -> Vec<Box<dyn Pass>> {
    Vec::new()
}
