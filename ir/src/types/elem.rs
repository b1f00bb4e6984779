//! Element types.

use crate::quant::QuantType;
use std::fmt;
use std::sync::Arc;

/// A machine element type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum ScalarType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl ScalarType {
    /// All of them with their names in the text form.
    pub const ALL: [(ScalarType, &'static str); 13] = [
        (ScalarType::F64, "f64"),
        (ScalarType::F32, "f32"),
        (ScalarType::F16, "f16"),
        (ScalarType::BF16, "bf16"),
        (ScalarType::I64, "i64"),
        (ScalarType::I32, "i32"),
        (ScalarType::I16, "i16"),
        (ScalarType::I8, "i8"),
        (ScalarType::U64, "u64"),
        (ScalarType::U32, "u32"),
        (ScalarType::U16, "u16"),
        (ScalarType::U8, "u8"),
        (ScalarType::Bool, "bool"),
    ];

    /// Bytes an element takes in memory (a bool takes one).
    pub fn size(self) -> usize {
        match self {
            ScalarType::F64 | ScalarType::I64 | ScalarType::U64 => 8,
            ScalarType::F32 | ScalarType::I32 | ScalarType::U32 => 4,
            ScalarType::F16 | ScalarType::BF16 | ScalarType::I16 | ScalarType::U16 => 2,
            ScalarType::I8 | ScalarType::U8 | ScalarType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            ScalarType::F64 | ScalarType::F32 | ScalarType::F16 | ScalarType::BF16
        )
    }

    /// Whether it is an integer type (bool is not).
    pub fn is_int(self) -> bool {
        !self.is_float() && self != ScalarType::Bool
    }

    /// Whether it is a signed integer type.
    pub fn is_signed_int(self) -> bool {
        matches!(
            self,
            ScalarType::I64 | ScalarType::I32 | ScalarType::I16 | ScalarType::I8
        )
    }

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(t, _)| *t == self).map_or("", |(_, n)| n)
    }

    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(t, _)| *t)
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The element type of a tensor: a machine type, or codes of a quantized type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Elem {
    /// A machine type.
    Plain(ScalarType),
    /// Codes; scales and zero points are separate values.
    Quant(Arc<QuantType>),
}

impl Elem {
    /// The machine type of a stored element.
    pub fn storage(&self) -> ScalarType {
        match self {
            Elem::Plain(t) => *t,
            Elem::Quant(q) => q.storage,
        }
    }

    /// The machine type, unless quantized.
    pub fn plain(&self) -> Option<ScalarType> {
        match self {
            Elem::Plain(t) => Some(*t),
            Elem::Quant(_) => None,
        }
    }

    /// The quantized type, if it is one.
    pub fn quant(&self) -> Option<&QuantType> {
        match self {
            Elem::Plain(_) => None,
            Elem::Quant(q) => Some(q),
        }
    }
}

impl From<ScalarType> for Elem {
    fn from(t: ScalarType) -> Self {
        Elem::Plain(t)
    }
}

impl From<QuantType> for Elem {
    fn from(t: QuantType) -> Self {
        Elem::Quant(Arc::new(t))
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::Plain(t) => write!(f, "{t}"),
            Elem::Quant(q) => write!(f, "{q}"),
        }
    }
}
