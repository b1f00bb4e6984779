//! What a command ends with when it fails: exit status and text.

use crate::data::DataError;
use rsqc_ir::diag::{Blame, Diag};
use std::path::Path;

/// A failed command. Exit status: 1 error, 2 wrong usage, 3 unsupported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// What to print after `error: `; may have several lines.
    pub text: String,
}

impl Failure {
    /// An error (status 1).
    pub fn error(text: impl Into<String>) -> Self {
        Failure {
            status: 1,
            text: text.into(),
        }
    }

    /// Wrong usage (status 2).
    pub fn usage(text: impl Into<String>) -> Self {
        Failure {
            status: 2,
            text: text.into(),
        }
    }

    /// Unsupported (status 3).
    pub fn unsupported(text: impl Into<String>) -> Self {
        Failure {
            status: 3,
            text: text.into(),
        }
    }

    /// Diagnostics about `file`; the worst blame decides the status. At most 12 are printed, the rest is counted.
    pub fn from_diags(file: &Path, diags: &[Diag]) -> Self {
        const SHOWN: usize = 12;
        let file = rsqc_onnx::error::escape_path(file);
        let unsupported = diags.iter().all(|d| d.blame == Blame::Unsupported);
        let mut lines: Vec<String> = diags
            .iter()
            .take(SHOWN)
            .map(|d| format!("{file}: {}", shorten(&d.to_string())))
            .collect();
        if diags.len() > SHOWN {
            lines.push(format!("and {} more", diags.len() - SHOWN));
        }
        if diags.iter().any(|d| d.blame == Blame::Internal) {
            lines.push("  help: this is a defect of rsqc; please report it with the model".into());
        }
        Failure {
            status: if unsupported { 3 } else { 1 },
            text: lines.join("\n"),
        }
    }

    /// One diagnostic about `file`.
    pub fn from_diag(file: &Path, diag: Diag) -> Self {
        Failure::from_diags(file, &[diag])
    }
}

/// Texts may carry names from the model; a message stays a short paragraph.
fn shorten(text: &str) -> String {
    const MAX: usize = 600;
    if text.chars().count() <= MAX {
        return text.into();
    }
    text.chars().take(MAX).chain("...".chars()).collect()
}

impl From<DataError> for Failure {
    fn from(e: DataError) -> Self {
        Failure::error(e.to_string())
    }
}

impl From<rsqc_onnx::error::ImportError> for Failure {
    fn from(e: rsqc_onnx::error::ImportError) -> Self {
        Failure {
            status: if e.is_unsupported() { 3 } else { 1 },
            text: e.to_string(),
        }
    }
}
