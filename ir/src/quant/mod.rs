//! Quantized element types: how real numbers become codes. Scales and zero points are ordinary values of the graph.

use crate::types::ScalarType;
use std::fmt;

/// How codes map to real numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CodeMap {
    /// `x = (q - z) * s`.
    Affine,
    /// `x = table[q] * s` with the NormalFloat-4 table (QLoRA, Dettmers et al. 2023, appendix E).
    Nf4,
}

/// Which elements share one scale (and zero point).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granularity {
    /// The whole tensor; scale shape `[]`.
    Tensor,
    /// One scale for each index of this axis; scale shape `[n]`.
    Axis(u32),
    /// One scale for each row along the last axis; scale shape = the tensor's with last extent 1.
    Token,
    /// Contiguous groups of `size` along `axis`; scale shape = the tensor's with that extent divided, rounded up.
    Group {
        /// The axis that is cut into groups.
        axis: u32,
        /// Elements in a group.
        size: u32,
    },
    /// Blocks as in ONNX `block_size` and OCP microscaling; same scale shape as `Group`.
    Block {
        /// The axis that is cut into blocks.
        axis: u32,
        /// Elements in a block.
        size: u32,
    },
}

/// A quantized element type. See DESIGN: `{ storage, expressed, map, granularity, zero, levels }`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct QuantType {
    /// Machine type of a code.
    pub storage: ScalarType,
    /// Bits of a code that carry information (8 for int8, 4 for int4 kept in bytes).
    pub bits: u8,
    /// The real type the codes stand for.
    pub expressed: ScalarType,
    /// Code to number.
    pub map: CodeMap,
    /// Which elements share a scale.
    pub granularity: Granularity,
    /// Whether a zero point other than 0 exists.
    pub zero: bool,
    /// Scale levels: 1, or 2 where the scales are themselves scaled.
    pub levels: u8,
}

impl QuantType {
    /// Symmetric int8 codes in `[-127, 127]` for f32.
    pub fn int8(granularity: Granularity) -> Self {
        QuantType {
            storage: ScalarType::I8,
            bits: 8,
            expressed: ScalarType::F32,
            map: CodeMap::Affine,
            granularity,
            zero: false,
            levels: 1,
        }
    }

    /// Smallest and largest code. Symmetric signed types use the restricted range (`-127..=127` for 8 bits).
    pub fn code_range(&self) -> (i32, i32) {
        let half = 1i32 << (self.bits - 1);
        match (self.storage.is_signed_int(), self.zero) {
            (true, false) => (1 - half, half - 1),
            (true, true) => (-half, half - 1),
            (false, _) => (0, 2 * half - 1),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Axis(a) => write!(f, "axis({a})"),
            Granularity::Token => f.write_str("token"),
            Granularity::Group { axis, size } => write!(f, "group({axis}, {size})"),
            Granularity::Block { axis, size } => write!(f, "block({axis}, {size})"),
        }
    }
}

/// Prints `quant<i8/8:f32, token>`; `, zero` with a zero point, `, nf4` for that table, `, levels 2` for two levels.
impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "quant<{}/{}:{}, {}",
            self.storage, self.bits, self.expressed, self.granularity
        )?;
        if self.zero {
            f.write_str(", zero")?;
        }
        if self.map == CodeMap::Nf4 {
            f.write_str(", nf4")?;
        }
        if self.levels != 1 {
            write!(f, ", levels {}", self.levels)?;
        }
        f.write_str(">")
    }
}
