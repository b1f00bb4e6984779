//! rsqc-onnx: reads ONNX models into the rsqc IR.
//!
//! Files are untrusted: [`wire`] checks the bytes before a decoder sees them, [`source`] opens files and external data,
//! [`load`] decodes, and [`import()`] checks what remains against the operator specification while it builds the module.
//! Operators live in [`ops`], one row each; shape arithmetic is folded away through [`facts`].

// Bytes of files are read without panicking operations. The modules below that are exempt work on what has passed those
// checks: axes are below ranks by construction, and the arithmetic of dims saturates.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod call;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub mod cx;
#[allow(clippy::arithmetic_side_effects)]
pub mod dims;
pub mod error;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub mod facts;
pub mod import;
pub mod load;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub mod ops;
pub mod schema;
pub mod source;
pub mod tensor;
pub mod wire;

pub use error::{ErrorKind, ImportError};
pub use import::{DimSpec, ImportOptions, import, import_bytes};
