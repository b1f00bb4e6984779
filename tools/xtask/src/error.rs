//! Everything that a task can fail with.

use std::path::PathBuf;

/// A failed task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started at all.
    #[error("cannot start `{program}`: {source}")]
    Start { program: String, source: std::io::Error },
    /// A program ran and reported failure.
    #[error("`{command}` failed with {status}")]
    Failed {
        command: String,
        status: std::process::ExitStatus,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// A program printed something that is not what its contract says.
    #[error("unexpected output of `{command}`: {reason}")]
    Output { command: String, reason: String },
    /// A document lacks the marker lines that a generated part is put between.
    #[error("{}: no line `{marker}`", path.display())]
    Marker { path: PathBuf, marker: String },
    /// House rules are broken; the findings have been printed.
    #[error("tidy found {0} problem(s)")]
    Tidy(usize),
    /// Two runs of the compiler on the same input gave different bytes.
    #[error("not deterministic: {0}")]
    Determinism(String),
    /// Steps of the continuous integration failed; each has been reported where it ran.
    #[error("failed: {0}")]
    Steps(String),
    /// A command-line value names nothing that exists.
    #[error("{0}")]
    Usage(String),
}
