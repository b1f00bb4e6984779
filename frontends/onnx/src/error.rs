//! Errors of the frontend.
//!
//! Every error names the file and the cause, and where there is one the node, tensor, attribute or byte offset. Text
//! taken from a model file goes through [`escape`]: no control characters reach a terminal, no name fills a screen.

use std::fmt;
use std::path::Path;

/// Longest piece of a name from a file that a message repeats, in characters.
const NAME_LIMIT: usize = 80;

/// A name from an untrusted file, made fit for a message: control and format characters escaped, cut at 80 characters.
pub fn escape(name: &str) -> String {
    let mut out = String::new();
    for (count, c) in name.chars().enumerate() {
        if count >= NAME_LIMIT {
            out.push_str("...");
            break;
        }
        match c {
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out
}

/// As [`escape`], for bytes that need not be UTF-8.
pub fn escape_bytes(name: &[u8]) -> String {
    let head = name.get(..NAME_LIMIT.saturating_mul(4)).unwrap_or(name);
    escape(&String::from_utf8_lossy(head))
}

/// As [`escape`], for a path: shown whole, because the user typed it.
pub fn escape_path(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .take(400)
        .collect()
}

/// What went wrong with one file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{file}: {kind}")]
pub struct ImportError {
    /// The file as the user named it (escaped).
    pub file: String,
    /// The cause.
    pub kind: ErrorKind,
}

impl ImportError {
    /// An error about `path`.
    pub fn new(path: &Path, kind: ErrorKind) -> ImportError {
        ImportError {
            file: escape_path(path),
            kind,
        }
    }

    /// Whether the input is well formed but uses something that is not supported (exit status 3).
    pub fn is_unsupported(&self) -> bool {
        matches!(self.kind, ErrorKind::Unsupported(_))
    }
}

/// The causes of an import error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ErrorKind {
    /// The file cannot be opened or read.
    #[error("{0}")]
    Io(String),
    /// The bytes are not a protobuf message of the expected kind.
    #[error("at byte {offset}: {what}")]
    Wire {
        /// Offset of the offending field from the start of the file.
        offset: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// Something is larger than a stated limit.
    #[error("{what} is {found}, over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The size found or claimed.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A tensor's declaration and data contradict one another.
    #[error("tensor '{tensor}': {what}")]
    Tensor {
        /// Escaped name.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// The model contradicts itself or the operator specification.
    #[error("{place}: {what}")]
    Model {
        /// The node, value or part of the model.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// Well-formed, but outside the supported set. Lists everything that is missing.
    #[error("unsupported: {}", ListUnsupported(.0))]
    Unsupported(Vec<String>),
}

/// Joins the list, at most 12 entries shown.
struct ListUnsupported<'a>(&'a [String]);

impl fmt::Display for ListUnsupported<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        for (i, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, "; and {more} more"),
            _ => Ok(()),
        }
    }
}

/// Result of most frontend functions; the file name is added where the file is known.
pub type Res<T> = Result<T, ErrorKind>;

/// A [`ErrorKind::Model`] error.
pub(crate) fn model_error<T>(place: impl Into<String>, what: impl Into<String>) -> Res<T> {
    Err(ErrorKind::Model {
        place: place.into(),
        what: what.into(),
    })
}

/// A [`ErrorKind::Tensor`] error for the tensor with the (unescaped) `name`.
pub(crate) fn tensor_error<T>(name: &str, what: impl Into<String>) -> Res<T> {
    Err(ErrorKind::Tensor {
        tensor: escape(name),
        what: what.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(escape("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(escape(&"x".repeat(1000)).len(), NAME_LIMIT + 3);
        assert_eq!(escape_bytes(&[b'a', 0xff]), "a\\u{fffd}");
    }

    #[test]
    fn unsupported_lists_are_bounded() {
        let many: Vec<String> = (0..40).map(|i| format!("op{i}")).collect();
        let text = ErrorKind::Unsupported(many).to_string();
        assert!(text.ends_with("op11; and 28 more"), "{text}");
    }
}
