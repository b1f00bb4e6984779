//! The one error type of this crate.

/// Why an artifact was refused or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The file is not an rsqc artifact at all.
    #[error("not an rsqc artifact: {0}")]
    NotAnArtifact(String),
    /// The file is damaged: a digest differs or a range lies outside the file.
    #[error("damaged artifact: {0}")]
    Corrupt(String),
    /// The file needs a newer reader.
    #[error("unsupported artifact version: the file has {found}, this reader knows {known}")]
    Version {
        /// What the file asks for.
        found: String,
        /// What this crate reads.
        known: String,
    },
    /// The manifest contradicts itself.
    #[error("invalid manifest: {0}")]
    Invalid(String),
    /// The template that artifacts are made from is unusable.
    #[error("unusable template: {0}")]
    Template(String),
    /// A size does not fit.
    #[error("too large: {0}")]
    TooLarge(String),
    /// An expression has no value.
    #[error("{0}")]
    Expr(#[from] crate::expr::ExprError),
    /// Writing failed.
    #[error("cannot write the artifact: {0}")]
    Io(#[from] std::io::Error),
}

impl ArtifactError {
    pub(crate) fn corrupt(text: impl Into<String>) -> Self {
        ArtifactError::Corrupt(text.into())
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        ArtifactError::Invalid(text.into())
    }
}
