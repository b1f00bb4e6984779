//! Element types, symbolic dimensions, tensor types.

mod dim;
mod elem;

pub use dim::{Atom, Dim, NoRanges, Ranges, Symbol};
pub use elem::{Elem, ScalarType};

use std::fmt;

/// The type of a value: element type and symbolic shape (rank 0 = scalar).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub elem: Elem,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A plain (not quantized) tensor type.
    pub fn new(elem: ScalarType, shape: Vec<Dim>) -> Self {
        TensorType {
            elem: Elem::Plain(elem),
            shape,
        }
    }

    /// Rank.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        self.shape.iter().product()
    }

    /// The type in which the elements are stored (for quantized types, that of the codes).
    pub fn storage(&self) -> ScalarType {
        self.elem.storage()
    }

    /// Bytes of the dense row-major tensor.
    pub fn bytes(&self) -> Dim {
        self.numel() * Dim::from(self.storage().size())
    }

    /// The shape as numbers, if no symbol occurs.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape
            .iter()
            .map(|d| d.as_const().and_then(|v| usize::try_from(v).ok()))
            .collect()
    }

    /// The same shape with another element type.
    pub fn with_elem(&self, elem: impl Into<Elem>) -> Self {
        TensorType {
            elem: elem.into(),
            shape: self.shape.clone(),
        }
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<Dim> {
        row_major_strides(&self.shape)
    }
}

/// Row-major strides, in elements, of a dense tensor of this shape.
pub fn row_major_strides(shape: &[Dim]) -> Vec<Dim> {
    let mut out = vec![Dim::one(); shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1].clone() * shape[i + 1].clone();
    }
    out
}

/// Prints `f32[batch, 384]`; a scalar is `f32[]`.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.elem)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}
