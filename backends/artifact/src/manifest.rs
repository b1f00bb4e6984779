//! The types of `manifest.proto`, and small conversions that every user of them needs.

pub use generated::*;

/// Version of the manifest that this crate writes; it reads every minor version of this major one.
pub const VERSION: (u32, u32) = (1, 0);

/// Largest accepted encoding of a manifest, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/rsqc.v1.rs"));
}

impl ElemType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            ElemType::F64 | ElemType::I64 | ElemType::U64 => 8,
            ElemType::F32 | ElemType::I32 | ElemType::U32 => 4,
            ElemType::F16 | ElemType::Bf16 | ElemType::I16 | ElemType::U16 => 2,
            ElemType::I8 | ElemType::U8 | ElemType::Bool => 1,
        }
    }

    /// Short name, as `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            ElemType::F32 => "f32",
            ElemType::F16 => "f16",
            ElemType::Bf16 => "bf16",
            ElemType::F64 => "f64",
            ElemType::I8 => "i8",
            ElemType::I16 => "i16",
            ElemType::I32 => "i32",
            ElemType::I64 => "i64",
            ElemType::U8 => "u8",
            ElemType::U16 => "u16",
            ElemType::U32 => "u32",
            ElemType::U64 => "u64",
            ElemType::Bool => "bool",
        }
    }
}

impl CmpOp {
    /// Whether `a op b` holds.
    pub const fn holds(self, a: i64, b: i64) -> bool {
        match self {
            CmpOp::Eq => a == b,
            CmpOp::Ne => a != b,
            CmpOp::Lt => a < b,
            CmpOp::Le => a <= b,
        }
    }

    /// The operator as text.
    pub const fn sign(self) -> &'static str {
        match self {
            CmpOp::Eq => "==",
            CmpOp::Ne => "!=",
            CmpOp::Lt => "<",
            CmpOp::Le => "<=",
        }
    }
}

impl Access {
    /// Whether the kernel may write through the argument.
    pub const fn writes(self) -> bool {
        !matches!(self, Access::Read)
    }
}

/// Encodes a manifest.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    prost::Message::encode_to_vec(manifest)
}

/// Decodes a manifest; the result is not validated yet (see [`crate::validate()`]).
///
/// # Errors
/// [`crate::ArtifactError::Corrupt`] if the bytes are not a manifest or too long.
pub fn decode(bytes: &[u8]) -> Result<Manifest, crate::ArtifactError> {
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(crate::ArtifactError::corrupt(format!(
            "the manifest has {} bytes, the limit is {MAX_MANIFEST_BYTES}",
            bytes.len()
        )));
    }
    prost::Message::decode(bytes).map_err(|e| crate::ArtifactError::corrupt(format!("manifest: {e}")))
}
