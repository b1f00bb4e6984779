//! Dense tensors of machine types.

use crate::module::Const;
use crate::types::{ScalarType, TensorType};
use half::{bf16, f16};

/// Elements, row-major.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    I8(Vec<i8>),
    U64(Vec<u64>),
    U32(Vec<u32>),
    U16(Vec<u16>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// A dense row-major tensor. Codes of quantized values are held in their storage type.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements; `shape` gives their number.
    pub data: Data,
}

macro_rules! each {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            $crate::eval::Data::F64($v) => $e,
            $crate::eval::Data::F32($v) => $e,
            $crate::eval::Data::F16($v) => $e,
            $crate::eval::Data::BF16($v) => $e,
            $crate::eval::Data::I64($v) => $e,
            $crate::eval::Data::I32($v) => $e,
            $crate::eval::Data::I16($v) => $e,
            $crate::eval::Data::I8($v) => $e,
            $crate::eval::Data::U64($v) => $e,
            $crate::eval::Data::U32($v) => $e,
            $crate::eval::Data::U16($v) => $e,
            $crate::eval::Data::U8($v) => $e,
            $crate::eval::Data::Bool($v) => $e,
        }
    };
}
pub(crate) use each;

/// A Rust type that is a machine element type.
pub trait Native: Copy + Send + Sync + 'static {
    /// The machine type.
    const TYPE: ScalarType;
    /// The elements of a tensor of this type.
    fn slice(d: &Data) -> Option<&[Self]>;
    /// Wraps elements.
    fn wrap(v: Vec<Self>) -> Data;
}

macro_rules! native {
    ($($t:ty => $v:ident),*) => {$(
        impl Native for $t {
            const TYPE: ScalarType = ScalarType::$v;
            fn slice(d: &Data) -> Option<&[Self]> {
                if let Data::$v(v) = d { Some(v) } else { None }
            }
            fn wrap(v: Vec<Self>) -> Data {
                Data::$v(v)
            }
        }
    )*};
}
native!(f64 => F64, f32 => F32, f16 => F16, bf16 => BF16, i64 => I64, i32 => I32, i16 => I16, i8 => I8,
        u64 => U64, u32 => U32, u16 => U16, u8 => U8, bool => Bool);

impl Data {
    /// Machine type of the elements.
    pub fn elem(&self) -> ScalarType {
        match self {
            Data::F64(_) => ScalarType::F64,
            Data::F32(_) => ScalarType::F32,
            Data::F16(_) => ScalarType::F16,
            Data::BF16(_) => ScalarType::BF16,
            Data::I64(_) => ScalarType::I64,
            Data::I32(_) => ScalarType::I32,
            Data::I16(_) => ScalarType::I16,
            Data::I8(_) => ScalarType::I8,
            Data::U64(_) => ScalarType::U64,
            Data::U32(_) => ScalarType::U32,
            Data::U16(_) => ScalarType::U16,
            Data::U8(_) => ScalarType::U8,
            Data::Bool(_) => ScalarType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements from dense little-endian bytes; the length must be a multiple of the element size. A bool is any
    /// nonzero byte.
    pub fn from_bytes(elem: ScalarType, b: &[u8]) -> Option<Data> {
        if !b.len().is_multiple_of(elem.size()) {
            return None;
        }
        macro_rules! num {
            ($t:ty, $v:ident) => {
                Data::$v(
                    b.chunks_exact(size_of::<$t>())
                        .map(|c| <$t>::from_le_bytes(c.try_into().expect("exact chunk")))
                        .collect(),
                )
            };
        }
        Some(match elem {
            ScalarType::F64 => num!(f64, F64),
            ScalarType::F32 => num!(f32, F32),
            ScalarType::F16 => num!(f16, F16),
            ScalarType::BF16 => num!(bf16, BF16),
            ScalarType::I64 => num!(i64, I64),
            ScalarType::I32 => num!(i32, I32),
            ScalarType::I16 => num!(i16, I16),
            ScalarType::I8 => num!(i8, I8),
            ScalarType::U64 => num!(u64, U64),
            ScalarType::U32 => num!(u32, U32),
            ScalarType::U16 => num!(u16, U16),
            ScalarType::U8 => num!(u8, U8),
            ScalarType::Bool => Data::Bool(b.iter().map(|v| *v != 0).collect()),
        })
    }

    /// Dense little-endian bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        macro_rules! num {
            ($v:expr) => {
                $v.iter().flat_map(|x| x.to_le_bytes()).collect()
            };
        }
        match self {
            Data::F64(v) => num!(v),
            Data::F32(v) => num!(v),
            Data::F16(v) => num!(v),
            Data::BF16(v) => num!(v),
            Data::I64(v) => num!(v),
            Data::I32(v) => num!(v),
            Data::I16(v) => num!(v),
            Data::I8(v) => num!(v),
            Data::U64(v) => num!(v),
            Data::U32(v) => num!(v),
            Data::U16(v) => num!(v),
            Data::U8(v) => v.clone(),
            Data::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
        }
    }
}

impl Tensor {
    /// A tensor of native elements. Panics if the shape does not fit: callers compute both.
    pub fn new<T: Native>(shape: Vec<usize>, data: Vec<T>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape and data disagree"
        );
        Tensor {
            shape,
            data: T::wrap(data),
        }
    }

    /// A tensor of type `elem` from dense bytes; `None` if lengths disagree.
    pub fn from_bytes(elem: ScalarType, shape: Vec<usize>, bytes: &[u8]) -> Option<Self> {
        let n = shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d))?;
        let data = Data::from_bytes(elem, bytes)?;
        (data.len() == n).then_some(Tensor { shape, data })
    }

    /// The tensor a constant holds.
    pub fn from_const(c: &Const) -> Result<Self, String> {
        let shape = c.ty.static_shape().ok_or("a constant has a symbolic shape")?;
        Tensor::from_bytes(c.ty.storage(), shape, c.bytes())
            .ok_or_else(|| "a constant's bytes do not fit its type".into())
    }

    /// As a constant of the same plain type.
    pub fn to_const(&self, name: &str) -> Const {
        let ty = TensorType::new(self.elem(), self.shape.iter().map(|d| (*d).into()).collect());
        Const::from_bytes(name, ty, self.data.to_bytes()).expect("bytes fill the shape")
    }

    /// Machine type of the elements.
    pub fn elem(&self) -> ScalarType {
        self.data.elem()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Native>(&self) -> Option<&[T]> {
        T::slice(&self.data)
    }

    /// The elements as f64 (integers beyond 2^53 round).
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::F64(v) => v.clone(),
            Data::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::I64(v) => v.iter().map(|x| *x as f64).collect(),
            Data::I32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::I16(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::I8(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::U64(v) => v.iter().map(|x| *x as f64).collect(),
            Data::U32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::U16(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::U8(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        }
    }
}
