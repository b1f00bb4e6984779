//! The text form `.rsq`: canonical printer and parser.

mod cursor;
mod dim;

pub use cursor::ParseError;
