//! The one error type of the runtime, and its status in the C interface.

use rsqc_artifact::ArtifactError;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The call itself is wrong: number of tensors, element type, alignment, overlap.
    #[error("{0}")]
    Invalid(String),
    /// A shape does not fit the model, or a check of the model failed.
    #[error("{0}")]
    Shape(String),
    /// An output buffer is too small.
    #[error("output '{name}' needs {needed} bytes, the buffer has {capacity}")]
    TooSmall {
        /// Output name.
        name: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        capacity: u64,
    },
    /// The system gave no memory, or no thread.
    #[error("out of memory: {0}")]
    NoMemory(String),
    /// The artifact is damaged.
    #[error("damaged artifact: {0}")]
    Corrupt(String),
    /// The artifact needs another version of the runtime.
    #[error("{0}")]
    Version(String),
    /// This processor lacks the required instructions.
    #[error("{0}")]
    Cpu(String),
    /// The session is in use by another thread.
    #[error("the session is busy: another thread is running it")]
    Busy,
    /// A feature that this version does not have.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A file could not be opened or loaded.
    #[error("{0}")]
    Io(String),
    /// A defect of the compiler or of the runtime.
    #[error("internal error: {0}")]
    Internal(String),
}

impl RuntimeError {
    /// The status code of `rsqc_model.h`.
    pub fn status(&self) -> i32 {
        match self {
            RuntimeError::Invalid(_) => 1,
            RuntimeError::Shape(_) => 2,
            RuntimeError::TooSmall { .. } => 3,
            RuntimeError::NoMemory(_) => 4,
            RuntimeError::Corrupt(_) => 5,
            RuntimeError::Version(_) => 6,
            RuntimeError::Cpu(_) => 7,
            RuntimeError::Busy => 8,
            RuntimeError::Internal(_) => 9,
            RuntimeError::Unsupported(_) => 10,
            RuntimeError::Io(_) => 11,
        }
    }
}

impl From<ArtifactError> for RuntimeError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Version { .. } => RuntimeError::Version(error.to_string()),
            ArtifactError::Io(e) => RuntimeError::Io(e.to_string()),
            ArtifactError::Corrupt(text) => RuntimeError::Corrupt(text),
            other => RuntimeError::Corrupt(other.to_string()),
        }
    }
}

impl From<rsqc_artifact::expr::ExprError> for RuntimeError {
    fn from(error: rsqc_artifact::expr::ExprError) -> Self {
        RuntimeError::Shape(error.to_string())
    }
}
