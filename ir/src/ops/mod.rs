//! The op table: one row an op. A family file holds five to ten ops: struct, inference, reference evaluation.
//!
//! To add an op: write its struct in the family's file with [`op_struct!`](crate::op_struct) (or one row of the family's elementwise
//! list), implement [`OpDef`], add a row here. Printer, parser, verifier, evaluator and fusion follow from these.

mod attr;
pub mod channels_last;
pub mod conv;
pub mod elementwise;
pub mod gather;
pub mod linalg;
pub mod nn;
pub mod norm;
pub mod quant;
pub mod reduce;
pub mod region;
pub mod shape;
#[cfg(feature = "test-ops")]
pub mod test_only;

pub use attr::{Attr, AttrMap, AttrValue};

use crate::eval::{EvalCx, Tensor};
use crate::module::SymbolTable;
use crate::scalar::{BodyBuilder, BodyId};
use crate::types::TensorType;

/// What inference may ask about.
pub struct InferCx<'a> {
    /// Bounds of symbols.
    pub symbols: &'a SymbolTable,
}

/// What an op is: attributes, inference, evaluation.
pub trait OpDef: Sized + Clone + std::fmt::Debug {
    /// Name in the text form.
    const NAME: &'static str;
    /// Attributes in printing order.
    fn attrs(&self) -> Vec<(&'static str, Attr)>;
    /// From attributes; consumes those it knows.
    fn from_attrs(a: &mut AttrMap) -> Result<Self, String>;
    /// Result types, or why the operands are not accepted (lower case, says expected and found).
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String>;
    /// Reference evaluation.
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String>;
    /// For elementwise ops: the scalar program of one point. Operands broadcast.
    fn scalar(&self, _b: &mut BodyBuilder, _args: &[BodyId]) -> Option<BodyId> {
        None
    }
}

/// Declares an op struct with its attributes (each attribute type is an [`AttrValue`]).
#[macro_export]
macro_rules! op_struct {
    ($(#[$m:meta])* $name:ident { $($(#[$fm:meta])* $f:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$fm])* pub $f: $t),* }
    };
}

/// The attribute part of [`OpDef`] for a struct made by [`op_struct!`](crate::op_struct): its name and fields.
#[macro_export]
macro_rules! op_attrs {
    ($text:literal $(, $f:ident)*) => {
        const NAME: &'static str = $text;
        fn attrs(&self) -> Vec<(&'static str, $crate::ops::Attr)> {
            vec![$((stringify!($f), $crate::ops::AttrValue::to_attr(&self.$f))),*]
        }
        #[allow(unused_variables)]
        fn from_attrs(a: &mut $crate::ops::AttrMap) -> Result<Self, String> {
            Ok(Self { $($f: a.take(stringify!($f))?),* })
        }
    };
}

macro_rules! op_table {
    ($($(#[$cfg:meta])* $name:ident : $path:path,)*) => {
        /// An operation with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op { $($(#[$cfg])* $name($path),)* }

        impl Op {
            /// Names of all ops.
            pub const NAMES: &'static [&'static str] = &[$($(#[$cfg])* <$path as OpDef>::NAME,)*];

            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $($(#[$cfg])* Op::$name(_) => <$path as OpDef>::NAME,)* }
            }
            /// Attributes in printing order.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self { $($(#[$cfg])* Op::$name(o) => o.attrs(),)* }
            }
            /// The op of this name with these attributes; unknown names and attributes are errors.
            pub fn parse(name: &str, mut attrs: AttrMap) -> Result<Op, String> {
                let op = match name {
                    $($(#[$cfg])* n if n == <$path as OpDef>::NAME => Op::$name(<$path as OpDef>::from_attrs(&mut attrs)?),)*
                    _ => return Err(format!("unknown op `{name}`")),
                };
                attrs.finish()?;
                Ok(op)
            }
            /// Result types, or why the operands are not accepted.
            pub fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
                match self { $($(#[$cfg])* Op::$name(o) => o.infer(cx, ins),)* }
            }
            /// Reference evaluation.
            pub fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
                match self { $($(#[$cfg])* Op::$name(o) => o.eval(cx, ins),)* }
            }
            /// For elementwise ops: appends the scalar program of one point.
            pub fn scalar(&self, b: &mut BodyBuilder, args: &[BodyId]) -> Option<BodyId> {
                match self { $($(#[$cfg])* Op::$name(o) => o.scalar(b, args),)* }
            }
        }
        $($(#[$cfg])* impl From<$path> for Op {
            fn from(o: $path) -> Op { Op::$name(o) }
        })*
    };
}

op_table! {
    // elementwise: operands broadcast
    Neg: elementwise::Neg,
    Abs: elementwise::Abs,
    Not: elementwise::Not,
    Sqrt: elementwise::Sqrt,
    Reciprocal: elementwise::Reciprocal,
    Exp: elementwise::Exp,
    Log: elementwise::Log,
    Erf: elementwise::Erf,
    Tanh: elementwise::Tanh,
    Sigmoid: elementwise::Sigmoid,
    Sin: elementwise::Sin,
    Cos: elementwise::Cos,
    Relu: elementwise::Relu,
    Softplus: elementwise::Softplus,
    Floor: elementwise::Floor,
    Ceil: elementwise::Ceil,
    Round: elementwise::Round,
    IsNan: elementwise::IsNan,
    IsInf: elementwise::IsInf,
    Sign: elementwise::Sign,
    Silu: elementwise::Silu,
    Add: elementwise::Add,
    Sub: elementwise::Sub,
    Mul: elementwise::Mul,
    Div: elementwise::Div,
    Rem: elementwise::Rem,
    FloorMod: elementwise::FloorMod,
    Pow: elementwise::Pow,
    Min: elementwise::Min,
    Max: elementwise::Max,
    And: elementwise::And,
    Or: elementwise::Or,
    Xor: elementwise::Xor,
    Equal: elementwise::Equal,
    Less: elementwise::Less,
    LessEqual: elementwise::LessEqual,
    Where: elementwise::Where,
    Gelu: elementwise::Gelu,
    LeakyRelu: elementwise::LeakyRelu,
    Elu: elementwise::Elu,
    Cast: elementwise::Cast,
    // shapes
    Reshape: shape::Reshape,
    Transpose: shape::Transpose,
    Expand: shape::Expand,
    Concat: shape::Concat,
    Slice: shape::Slice,
    Pad: shape::Pad,
    DimValue: shape::DimValue,
    Iota: shape::Iota,
    // gathers
    Gather: gather::Gather,
    GatherElements: gather::GatherElements,
    GatherNd: gather::GatherNd,
    // reductions
    Reduce: reduce::Reduce,
    ArgReduce: reduce::ArgReduce,
    CumSum: reduce::CumSum,
    // linear algebra, convolution, pooling
    MatMul: linalg::MatMul,
    Conv: conv::Conv,
    Pool: conv::Pool,
    QConv: conv::QConv,
    ConvLast: channels_last::ConvLast,
    PoolLast: channels_last::PoolLast,
    // normalization, attention
    LayerNorm: norm::LayerNorm,
    RmsNorm: norm::RmsNorm,
    Softmax: norm::Softmax,
    Rope: nn::Rope,
    Attention: nn::Attention,
    // quantization
    FakeQuant: quant::FakeQuant,
    DynamicParams: quant::DynamicParams,
    Quantize: quant::Quantize,
    Dequantize: quant::Dequantize,
    QMatMul: quant::QMatMul,
    WeightMatMul: quant::WeightMatMul,
    QAttention: quant::QAttention,
    // fused compute
    Region: region::RegionOp,
    #[cfg(feature = "test-ops")]
    TestMish: test_only::TestMish,
}

/// Operand `i`, or an error that it is missing.
pub(crate) fn need<'a, T>(ins: &[Option<&'a T>], i: usize) -> Result<&'a T, String> {
    ins.get(i)
        .copied()
        .flatten()
        .ok_or_else(|| format!("operand {i} is missing"))
}

/// Checks the number of operands: between `min` and `max`.
pub(crate) fn arity<T>(ins: &[Option<T>], min: usize, max: usize) -> Result<(), String> {
    if ins.len() < min || ins.len() > max {
        let want = if min == max {
            format!("{min}")
        } else {
            format!("{min} to {max}")
        };
        return Err(format!("expected {want} operands, found {}", ins.len()));
    }
    Ok(())
}
