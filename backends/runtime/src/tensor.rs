//! Dense tensors as the Rust interface passes them.

use rsqc_artifact::manifest::ElemType;

/// An owned dense tensor: little-endian elements, last dimension fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub elem: ElemType,
    /// Extents, outermost first.
    pub dims: Vec<i64>,
    /// The elements.
    pub data: Vec<u8>,
}

/// A borrowed dense tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element type.
    pub elem: ElemType,
    /// Extents, outermost first.
    pub dims: &'a [i64],
    /// The elements; at least the dense size, aligned to the element.
    pub data: &'a [u8],
}

impl Tensor {
    /// A tensor from f32 values.
    pub fn from_f32(dims: &[i64], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor {
            elem: ElemType::F32,
            dims: dims.to_vec(),
            data,
        }
    }

    /// A tensor from i64 values.
    pub fn from_i64(dims: &[i64], values: &[i64]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor {
            elem: ElemType::I64,
            dims: dims.to_vec(),
            data,
        }
    }

    /// The elements as f32; `None` if the tensor has another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let value = |c: &[u8]| f32::from_le_bytes(c.try_into().expect("chunks of four"));
        (self.elem == ElemType::F32).then(|| self.data.chunks_exact(4).map(value).collect())
    }

    /// Borrows the tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            elem: self.elem,
            dims: &self.dims,
            data: &self.data,
        }
    }
}

/// Bytes of a dense tensor; `None` if a dimension is negative or the product overflows.
pub fn dense_bytes(elem: ElemType, dims: &[i64]) -> Option<usize> {
    let mut bytes = elem.size();
    let mut empty = false;
    for dim in dims {
        let dim = usize::try_from(*dim).ok()?;
        empty |= dim == 0;
        bytes = bytes.checked_mul(dim.max(1))?;
    }
    (isize::try_from(bytes).is_ok()).then_some(if empty { 0 } else { bytes })
}
