//! rsqc-onnx: reads ONNX models into the rsqc IR.
//!
//! Files are untrusted: [`wire`] checks the bytes before a decoder sees them, [`source`] opens files and external data,
//! [`load`] decodes, and what remains is checked against the operator specification while it is imported.

pub mod error;
pub mod load;
pub mod schema;
pub mod source;
pub mod tensor;
pub mod wire;
