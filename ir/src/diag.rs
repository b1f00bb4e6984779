//! Diagnostics: what went wrong, where, whose fault it is, and what to do.

use std::fmt;

/// Whose fault a problem is. Decides the exit status: user 1, unsupported 3, internal 1 with a request to report it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The input is wrong.
    User,
    /// The input is legitimate, but not supported.
    Unsupported,
    /// rsqc is wrong.
    Internal,
}

/// A problem with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diag {
    /// Whose fault.
    pub blame: Blame,
    /// The node, tensor or file position; empty if none.
    pub loc: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diag {
    /// A diagnostic without help.
    pub fn new(blame: Blame, loc: impl Into<String>, message: impl Into<String>) -> Self {
        Diag {
            blame,
            loc: loc.into(),
            message: message.into(),
            help: None,
        }
    }
    /// An internal error.
    pub fn internal(loc: impl Into<String>, message: impl Into<String>) -> Self {
        Diag::new(Blame::Internal, loc, message)
    }
    /// Adds the help line.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.loc.is_empty() {
            write!(f, "{}: ", self.loc)?;
        }
        f.write_str(&self.message)?;
        if let Some(h) = &self.help {
            write!(f, "\n  help: {h}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diag {}
