//! Data for and from models: `.npy`, `.npz` and ONNX `TensorProto` files, texts; inputs, calibration samples, outputs.
//!
//! Files are untrusted: sizes that a header claims are checked against what is there before anything is allocated,
//! decompression has limits, pickled objects are refused unseen, and only regular files are opened.

pub mod calib;
pub mod inputs;
pub mod npy;
pub mod npz;
mod reader;
pub mod text;
pub mod tokens;

use std::path::Path;

use rsqc_ir::types::ScalarType;
use rsqc_onnx::error::escape_path;

/// A dense array: row-major, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Element type.
    pub ty: ScalarType,
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<u8>,
}

impl Array {
    /// Bytes of one index of axis 0.
    fn row_bytes(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>() * self.ty.size()
    }

    /// Entry `i` of axis 0. With `keep` the axis stays, with extent 1; otherwise it is dropped.
    fn row(&self, i: usize, keep: bool) -> Array {
        let bytes = self.row_bytes();
        let mut shape = self.shape.get(1..).unwrap_or_default().to_vec();
        if keep {
            shape.insert(0, 1);
        }
        Array {
            ty: self.ty,
            shape,
            data: self.data[i * bytes..(i + 1) * bytes].to_vec(),
        }
    }

    /// The part `range` of `axis`.
    pub fn cut(&self, axis: usize, range: std::ops::Range<usize>) -> Array {
        let inner = self.shape[axis + 1..].iter().product::<usize>() * self.ty.size();
        let block = inner * self.shape[axis];
        let outer: usize = self.shape[..axis].iter().product();
        let mut data = Vec::with_capacity(outer * inner * range.len());
        for o in 0..outer {
            data.extend_from_slice(
                &self.data[o * block + range.start * inner..o * block + range.end * inner],
            );
        }
        let mut shape = self.shape.clone();
        shape[axis] = range.len();
        Array {
            ty: self.ty,
            shape,
            data,
        }
    }

    /// The elements as f64, any type.
    pub fn to_f64(&self) -> Vec<f64> {
        macro_rules! read {
            ($t:ty, $n:literal, $f:expr) => {
                self.data
                    .chunks_exact($n)
                    .map(|b| {
                        $f(<$t>::from_le_bytes(
                            b.try_into().expect("chunks have this size"),
                        ))
                    })
                    .collect()
            };
        }
        match self.ty {
            ScalarType::F64 => read!(f64, 8, |v| v),
            ScalarType::F32 => read!(f32, 4, f64::from),
            ScalarType::F16 => read!(u16, 2, |v| half::f16::from_bits(v).to_f64()),
            ScalarType::BF16 => read!(u16, 2, |v| half::bf16::from_bits(v).to_f64()),
            ScalarType::I64 => read!(i64, 8, |v| v as f64),
            ScalarType::I32 => read!(i32, 4, f64::from),
            ScalarType::I16 => read!(i16, 2, f64::from),
            ScalarType::I8 => read!(i8, 1, f64::from),
            ScalarType::U64 => read!(u64, 8, |v| v as f64),
            ScalarType::U32 => read!(u32, 4, f64::from),
            ScalarType::U16 => read!(u16, 2, f64::from),
            ScalarType::U8 | ScalarType::Bool => self.data.iter().map(|&b| f64::from(b)).collect(),
        }
    }

    /// Whether it is a float array that holds a NaN or an infinity.
    fn has_non_finite(&self) -> bool {
        let high = |size: usize, mask: u16| {
            self.data
                .chunks_exact(size)
                .any(|b| u16::from_le_bytes([b[size - 2], b[size - 1]]) & mask == mask)
        };
        // All exponent bits set; they lie in the two highest bytes of every float format.
        match self.ty {
            ScalarType::F64 => high(8, 0x7ff0),
            ScalarType::F32 => high(4, 0x7f80),
            ScalarType::F16 => high(2, 0x7c00),
            ScalarType::BF16 => high(2, 0x7f80),
            _ => false,
        }
    }
}

/// `f32[2, 3]`, for messages.
fn describe(ty: ScalarType, shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{ty}[{}]", dims.join(", "))
}

/// A data file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub struct DataError {
    /// The file (escaped).
    pub file: String,
    /// The cause.
    pub what: String,
}

impl DataError {
    /// An error about `path`.
    pub fn new(path: &Path, what: impl Into<String>) -> DataError {
        DataError {
            file: escape_path(path),
            what: what.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_and_rows() {
        let a = Array {
            ty: ScalarType::U8,
            shape: vec![2, 3, 2],
            data: (0..12).collect(),
        };
        let c = a.cut(1, 1..3);
        assert_eq!((c.shape, c.data), (vec![2, 2, 2], vec![2, 3, 4, 5, 8, 9, 10, 11]));
        assert_eq!(a.row(1, true).shape, [1, 3, 2]);
        assert_eq!(a.row(1, false).data, [6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn non_finite_values_are_seen() {
        for (ty, good, bad) in [
            (
                ScalarType::F32,
                3.0e38f32.to_le_bytes().to_vec(),
                f32::NAN.to_le_bytes().to_vec(),
            ),
            (
                ScalarType::F64,
                f64::MAX.to_le_bytes().to_vec(),
                f64::NEG_INFINITY.to_le_bytes().to_vec(),
            ),
            (
                ScalarType::F16,
                half::f16::MAX.to_le_bytes().to_vec(),
                half::f16::INFINITY.to_le_bytes().to_vec(),
            ),
        ] {
            assert!(
                !Array {
                    ty,
                    shape: vec![1],
                    data: good
                }
                .has_non_finite()
            );
            assert!(
                Array {
                    ty,
                    shape: vec![1],
                    data: bad
                }
                .has_non_finite()
            );
        }
    }
}
