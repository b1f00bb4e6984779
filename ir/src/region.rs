//! Regions: fused loop nests, the only compute that reaches a backend.
//!
//! A region iterates over named axes. Its *parallel* axes come first (outermost first); the last
//! [`Region::row_axes`] of them form the **row**: body reductions combine over the row, and everything before it
//! enumerates independent rows. *Reduce* axes belong to the anchor alone.
//!
//! **Access maps are flat.** Every operand and result is dense row-major, so an element is addressed by its linear
//! offset: `offset + sum(axis index * stride) + sum(gathered index * stride)`. Reshapes vanish, transposes, slices,
//! broadcasts (stride 0), head splits and merged Q/K/V are only strides and offsets, and two adjacent axes collapse
//! into one where every access agrees. A clamped access (padding, concatenation) bounds one axis contribution to a
//! range; the body then selects by comparing the axis index.
//!
//! The anchor, if any, is evaluated first for each point of the parallel axes and read in the body through
//! [`ScalarOp::Anchor`](crate::scalar::ScalarOp::Anchor). Results are stored by [`Store`]s; a store whose access does
//! not mention the row axes stores a row-uniform value (once per row).

use crate::ops::nn::EmptyRow;
use crate::scalar::{Body, BodyId};
use crate::types::{Dim, ScalarType};
use std::sync::Arc;

/// What kind of iteration an axis is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AxisKind {
    /// Points are independent (up to body reductions over the row axes).
    Parallel,
    /// Combined by the anchor.
    Reduce,
    /// Executed in order (recurrences).
    Ordered,
}

/// A named iteration axis.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Axis {
    /// Name, unique in the region (`[a-z][a-z0-9_]*`).
    pub name: Arc<str>,
    /// Kind.
    pub kind: AxisKind,
    /// Extent; may be 0.
    pub extent: Dim,
}

/// One linear contribution to an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Term {
    /// Axis number.
    pub axis: u32,
    /// Elements per step of the axis.
    pub stride: Dim,
    /// If set, the contribution is `clamp(index + shift, 0, limit - 1) * stride` (0 when `limit` is 0).
    pub clamp: Option<Clamp>,
}

/// Bounds of a clamped term: see [`Term::clamp`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Clamp {
    /// Added to the axis index before clamping.
    pub shift: Dim,
    /// Exclusive upper limit.
    pub limit: Dim,
}

/// A data-dependent contribution to an address: the value of another operand (an integer, which is itself read through
/// its own access) times a stride. Negative indices count from the end: `i < 0` means `i + limit`. What is then
/// outside `0..limit` is clamped into it, so that no input can read out of bounds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gather {
    /// Operand number of the index tensor.
    pub operand: u32,
    /// Elements per index.
    pub stride: Dim,
    /// Extent of the gathered dimension.
    pub limit: Dim,
}

/// Address of an operand's or result's element, in elements from its start. See the module documentation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Access {
    /// Constant part.
    pub offset: Dim,
    /// Linear parts, at most one unclamped term an axis, sorted by axis; zero strides are left out.
    pub terms: Vec<Term>,
    /// Data-dependent parts.
    pub gathers: Vec<Gather>,
}

impl Access {
    /// The access that reads element 0 everywhere.
    pub fn scalar() -> Self {
        Access {
            offset: Dim::zero(),
            terms: Vec::new(),
            gathers: Vec::new(),
        }
    }

    /// Linear access from (axis, stride) pairs; zero strides are dropped.
    pub fn linear(terms: impl IntoIterator<Item = (u32, Dim)>) -> Self {
        let mut terms: Vec<Term> = terms
            .into_iter()
            .filter(|(_, s)| !s.is(0))
            .map(|(axis, stride)| Term {
                axis,
                stride,
                clamp: None,
            })
            .collect();
        terms.sort_by_key(|t| t.axis);
        Access {
            offset: Dim::zero(),
            terms,
            gathers: Vec::new(),
        }
    }

    /// Stride along `axis` (0 if it does not occur), ignoring clamps.
    pub fn stride(&self, axis: u32) -> Dim {
        self.terms
            .iter()
            .filter(|t| t.axis == axis)
            .map(|t| t.stride.clone())
            .sum()
    }

    /// Whether the address is a plain linear function of the axes.
    pub fn is_linear(&self) -> bool {
        self.gathers.is_empty() && self.terms.iter().all(|t| t.clamp.is_none())
    }

    /// Whether the address depends on `axis` directly (gathers through other operands not counted).
    pub fn uses(&self, axis: u32) -> bool {
        self.terms.iter().any(|t| t.axis == axis)
    }
}

/// How the accumulator is produced.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Anchor {
    /// No accumulator; the body works on operands alone.
    None,
    /// `acc = sum over the reduce axes of lhs * rhs`: matrix product, convolution (several reduce axes, clamped reads:
    /// see `pad`), pooling by sums. Integer codes accumulate exactly in i32, floats in f32;
    /// so do floats (lhs) with 8-bit codes (rhs), the form of weight-only quantization.
    Contract {
        /// Operand number of the left factor (activations).
        lhs: u32,
        /// Operand number of the right factor (weights, or the second activation).
        rhs: u32,
        /// Accumulator type: i32 or f32.
        acc: ScalarType,
        /// Where a clamped lhs term had to be clamped the product counts as 0 (zero padding).
        pad: bool,
    },
    /// Softmax-weighted sum, computed online: `s[t] = score body`, `p = softmax over t`, `acc = sum_t p[t] * v[t]`.
    /// Products are of floats or of 8-bit codes ([`Products`]). The row axes are (head, channel) or (channel); `key` and `inner` are reduce axes.
    Attention(Box<Attention>),
}

/// The attention anchor. Operand accesses use the parallel axes, `key` (k, v, mask operands) and `inner` (q, k).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attention {
    /// Operand numbers of queries, keys and values.
    pub q: u32,
    /// Keys.
    pub k: u32,
    /// Values.
    pub v: u32,
    /// Reduce axis over keys (t).
    pub key: u32,
    /// Reduce axis of the dot product (d).
    pub inner: u32,
    /// What the two products multiply.
    pub products: Products,
    /// Score body: `Anchor` is the raw dot product q.k; `Operand`s are masks or biases read at (parallel axes, key);
    /// `Index` may name the key axis. Its last statement is the score (f32).
    pub score: Body,
    /// What a row gives all of whose scores are -inf.
    pub empty_row: EmptyRow,
}

/// What the two products of an attention multiply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Products {
    /// The operands as floats, in the backend's own order of sums.
    Float,
    /// 8-bit codes of the operands. What comes out is defined to the last bit: see [`crate::eval::attention8`].
    Int8 {
        /// Operand numbers of the scales of queries, keys and values (f32, one element each); `None`: scales are computed.
        scales: Option<[u32; 3]>,
    },
}

impl Attention {
    /// Operands of the two products, with their scales: all that the anchor reads apart from the score body.
    pub fn operands(&self) -> impl Iterator<Item = u32> + use<> {
        let scales = match self.products {
            Products::Int8 { scales } => scales,
            Products::Float => None,
        };
        [self.q, self.k, self.v]
            .into_iter()
            .chain(scales.into_iter().flatten())
    }

    /// Gives operand `n` of the two products the number `map(n)`; the score body is left as it is.
    pub fn renumber_operands(&mut self, map: &dyn Fn(u32) -> u32) {
        let scales = match &mut self.products {
            Products::Int8 { scales: Some(s) } => s.as_mut_slice(),
            _ => &mut [],
        };
        for n in [&mut self.q, &mut self.k, &mut self.v].into_iter().chain(scales) {
            *n = map(*n);
        }
    }
}

/// Stores a statement's value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store {
    /// What is stored; its type is the result's storage type.
    pub value: BodyId,
    /// Where; uses parallel axes only, never clamped or gathered.
    pub access: Access,
}

/// A fused loop nest. Operand `i` is the node's operand `i`; store `i` writes the node's result `i`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// Axes: parallel ones first, in order; then reduce axes.
    pub axes: Vec<Axis>,
    /// How many of the last parallel axes form the row (0 = every point is a row of its own).
    pub row_axes: u32,
    /// One access an operand. An operand read only as a gather index has its own access as well.
    pub operands: Vec<Access>,
    /// Accumulator.
    pub anchor: Anchor,
    /// Scalar program.
    pub body: Body,
    /// One store a result.
    pub stores: Vec<Store>,
}

impl Region {
    /// Numbers of the parallel axes.
    pub fn parallel(&self) -> std::ops::Range<u32> {
        0..self
            .axes
            .iter()
            .take_while(|a| a.kind == AxisKind::Parallel)
            .count() as u32
    }

    /// Numbers of the row axes (the last [`Self::row_axes`] parallel ones).
    pub fn row(&self) -> std::ops::Range<u32> {
        let end = self.parallel().end;
        end - self.row_axes.min(end)..end
    }

    /// Numbers of the parallel axes that enumerate rows.
    pub fn outer(&self) -> std::ops::Range<u32> {
        0..self.row().start
    }

    /// Product of the extents of these axes.
    pub fn extent(&self, axes: std::ops::Range<u32>) -> Dim {
        axes.map(|a| self.axes[a as usize].extent.clone()).product()
    }

    /// Whether operand `n`'s address varies along the row (directly or through a gather).
    pub fn varies_in_row(&self, n: u32) -> bool {
        let row = self.row();
        let Some(a) = self.operands.get(n as usize) else {
            return false;
        };
        a.terms.iter().any(|t| row.contains(&t.axis))
            || a.gathers
                .iter()
                .any(|g| g.operand != n && self.varies_in_row(g.operand))
    }
}
