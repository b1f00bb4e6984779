//! rsqc-onnx: reads ONNX models into the rsqc IR.
//!
//! Files are untrusted: [`wire`] checks the bytes before a decoder sees them, [`source`] opens files and external data,
//! [`load`] decodes, and [`import()`] checks what remains against the operator specification while it builds the module.
//! Operators live in [`ops`], one row each; shape arithmetic is folded away through [`facts`].

pub mod call;
pub mod cx;
pub mod dims;
pub mod error;
pub mod facts;
pub mod import;
pub mod load;
pub mod ops;
pub mod schema;
pub mod source;
pub mod tensor;
pub mod wire;

pub use error::{ErrorKind, ImportError};
pub use import::{DimSpec, ImportOptions, import, import_bytes};
