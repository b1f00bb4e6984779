//! Elementwise ops: each is one row, a scalar program; operands broadcast as in NumPy.
//!
//! The scalar program is the definition: inference runs it on types, the evaluator on values, fusion copies it into
//! regions.

use super::{InferCx, OpDef, arity};
use crate::eval::{EvalCx, Tensor, points};
use crate::module::SymbolTable;
use crate::scalar::{BodyBuilder, BodyId, Pred, ScalarConst, ScalarOp};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{attr_words, op_struct};

/// The broadcast of two shapes, or why there is none. Two extents broadcast if they are proven equal or one is 1.
pub fn broadcast(a: &[Dim], b: &[Dim], _symbols: &SymbolTable) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| {
        if i + s.len() >= rank {
            s[i + s.len() - rank].clone()
        } else {
            Dim::one()
        }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y.is(1) => Ok(x),
            (x, y) if x.is(1) => Ok(y),
            (x, y) => Err(format!(
                "cannot broadcast extent `{x}` with `{y}` (axis {i} of {rank})"
            )),
        })
        .collect()
}

/// Inference of any elementwise op from its scalar program.
fn infer_scalar<O: OpDef>(
    op: &O,
    cx: &InferCx<'_>,
    n: usize,
    ins: &[Option<&TensorType>],
) -> Result<Vec<TensorType>, String> {
    arity(ins, n, n)?;
    let mut b = BodyBuilder::new();
    let mut shape: Vec<Dim> = Vec::new();
    let mut args = Vec::new();
    for i in 0..n {
        let t = super::need(ins, i)?;
        let elem = t
            .elem
            .plain()
            .ok_or_else(|| format!("operand {i} is quantized ({t}); dequantize it first"))?;
        shape = broadcast(&shape, &t.shape, cx.symbols)?;
        args.push(b.operand(i as u32, elem));
    }
    let out = op.scalar(&mut b, &args).ok_or("op has no scalar program")?;
    let ty = b.ty(out);
    b.finish()?;
    Ok(vec![TensorType::new(ty, shape)])
}

/// Implements inference and evaluation of an elementwise op through its scalar program.
#[macro_export]
macro_rules! elementwise_op {
    ($name:ident, $text:literal, $n:literal $(, $f:ident)*; |$s:ident, $b:ident, $x:ident| $e:expr) => {
        impl $crate::ops::OpDef for $name {
            $crate::op_attrs!($text $(, $f)*);
            fn infer(&self, cx: &$crate::ops::InferCx<'_>, ins: &[Option<&$crate::types::TensorType>])
                -> Result<Vec<$crate::types::TensorType>, String> {
                $crate::ops::elementwise::infer_elementwise(self, cx, $n, ins)
            }
            fn eval(&self, cx: &$crate::eval::EvalCx<'_>, ins: &[Option<&$crate::eval::Tensor>])
                -> Result<Vec<$crate::eval::Tensor>, String> {
                $crate::ops::elementwise::eval_elementwise(self, cx, ins)
            }
            fn scalar(&self, $b: &mut $crate::scalar::BodyBuilder, $x: &[$crate::scalar::BodyId]) -> Option<$crate::scalar::BodyId> {
                let $s = self;
                let _ = $s;
                Some($e)
            }
        }
    };
}

/// See [`elementwise_op!`].
pub fn infer_elementwise<O: OpDef>(
    op: &O,
    cx: &InferCx<'_>,
    n: usize,
    ins: &[Option<&TensorType>],
) -> Result<Vec<TensorType>, String> {
    infer_scalar(op, cx, n, ins)
}

/// See [`elementwise_op!`].
pub fn eval_elementwise<O: OpDef>(
    op: &O,
    cx: &EvalCx<'_>,
    ins: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, String> {
    let ins: Vec<&Tensor> = (0..ins.len())
        .map(|i| super::need(ins, i))
        .collect::<Result<_, _>>()?;
    let mut b = BodyBuilder::new();
    let args: Vec<BodyId> = ins
        .iter()
        .enumerate()
        .map(|(i, t)| b.operand(i as u32, t.elem()))
        .collect();
    let out = op.scalar(&mut b, &args).ok_or("op has no scalar program")?;
    let body = b.finish()?;
    Ok(vec![points::broadcast_eval(cx, &body, out, &ins)?])
}

macro_rules! rows {
    ($($(#[$m:meta])* $name:ident $text:literal ($n:literal) |$b:ident, $x:ident| $e:expr;)*) => {$(
        op_struct! { $(#[$m])* $name {} }
        elementwise_op!($name, $text, $n; |_s, $b, $x| $e);
    )*};
}

rows! {
    /// `-x`.
    Neg "neg" (1) |b, x| b.neg(x[0]);
    /// `|x|`.
    Abs "abs" (1) |b, x| b.abs(x[0]);
    /// Logical (bool) or bitwise not.
    Not "not" (1) |b, x| b.not(x[0]);
    /// Square root.
    Sqrt "sqrt" (1) |b, x| b.sqrt(x[0]);
    /// `1 / x`.
    Reciprocal "reciprocal" (1) |b, x| { let one = b.lit(x[0], 1.0); b.div(one, x[0]) };
    /// e^x.
    Exp "exp" (1) |b, x| b.exp(x[0]);
    /// Natural logarithm.
    Log "log" (1) |b, x| b.log(x[0]);
    /// Error function.
    Erf "erf" (1) |b, x| b.erf(x[0]);
    /// Hyperbolic tangent.
    Tanh "tanh" (1) |b, x| b.tanh(x[0]);
    /// `1 / (1 + e^-x)`.
    Sigmoid "sigmoid" (1) |b, x| sigmoid(b, x[0]);
    /// Sine.
    Sin "sin" (1) |b, x| b.sin(x[0]);
    /// Cosine.
    Cos "cos" (1) |b, x| b.cos(x[0]);
    /// `max(x, 0)`; NaN stays NaN.
    Relu "relu" (1) |b, x| { let z = b.lit(x[0], 0.0); b.max(z, x[0]) };
    /// `log(1 + e^x)`, computed as `max(x, 0) + log(1 + e^-|x|)`.
    Softplus "softplus" (1) |b, x| softplus(b, x[0]);
    /// Round down.
    Floor "floor" (1) |b, x| b.floor(x[0]);
    /// Round up.
    Ceil "ceil" (1) |b, x| b.ceil(x[0]);
    /// Round to nearest, ties to even.
    Round "round" (1) |b, x| b.round_even(x[0]);
    /// Whether x is NaN.
    IsNan "is_nan" (1) |b, x| b.cmp(Pred::Ne, x[0], x[0]);
    /// Whether x is +inf or -inf.
    IsInf "is_inf" (1) |b, x| { let a = b.abs(x[0]); let i = b.lit(x[0], f64::INFINITY); b.cmp(Pred::Eq, a, i) };
    /// -1, 0 or 1; NaN stays NaN.
    Sign "sign" (1) |b, x| sign(b, x[0]);
    /// `x * sigmoid(x)`.
    Silu "silu" (1) |b, x| { let s = sigmoid(b, x[0]); b.mul(x[0], s) };
    /// Sum.
    Add "add" (2) |b, x| b.add(x[0], x[1]);
    /// Difference.
    Sub "sub" (2) |b, x| b.sub(x[0], x[1]);
    /// Product.
    Mul "mul" (2) |b, x| b.mul(x[0], x[1]);
    /// Quotient; integers truncate, division by 0 gives 0.
    Div "div" (2) |b, x| b.div(x[0], x[1]);
    /// Remainder with the sign of the dividend (ONNX Mod with fmod = 1).
    Rem "rem" (2) |b, x| b.rem(x[0], x[1]);
    /// Remainder with the sign of the divisor (ONNX Mod, Python %).
    FloorMod "floor_mod" (2) |b, x| floor_mod(b, x[0], x[1]);
    /// a^b.
    Pow "pow" (2) |b, x| b.pow(x[0], x[1]);
    /// The smaller; NaN if either is.
    Min "min" (2) |b, x| nan_propagating(b, ScalarOp::Min, x[0], x[1]);
    /// The larger; NaN if either is.
    Max "max" (2) |b, x| nan_propagating(b, ScalarOp::Max, x[0], x[1]);
    /// Logical or bitwise and.
    And "and" (2) |b, x| b.and(x[0], x[1]);
    /// Logical or bitwise or.
    Or "or" (2) |b, x| b.or(x[0], x[1]);
    /// Logical or bitwise exclusive or.
    Xor "xor" (2) |b, x| b.xor(x[0], x[1]);
    /// `a == b`.
    Equal "equal" (2) |b, x| b.cmp(Pred::Eq, x[0], x[1]);
    /// `a < b`.
    Less "less" (2) |b, x| b.cmp(Pred::Lt, x[0], x[1]);
    /// `a <= b`.
    LessEqual "less_equal" (2) |b, x| b.cmp(Pred::Le, x[0], x[1]);
    /// `c ? a : b`.
    Where "where" (3) |b, x| b.select(x[0], x[1], x[2]);
}

fn sigmoid(b: &mut BodyBuilder, x: BodyId) -> BodyId {
    let (n, one) = (b.neg(x), b.lit(x, 1.0));
    let e = b.exp(n);
    let d = b.add(one, e);
    b.div(one, d)
}

fn softplus(b: &mut BodyBuilder, x: BodyId) -> BodyId {
    let (zero, one, a) = (b.lit(x, 0.0), b.lit(x, 1.0), b.abs(x));
    let n = b.neg(a);
    let e = b.exp(n);
    let s = b.add(one, e);
    let l = b.log(s);
    let m = b.max(zero, x);
    b.add(m, l)
}

fn sign(b: &mut BodyBuilder, x: BodyId) -> BodyId {
    let (zero, one) = (b.lit(x, 0.0), b.lit(x, 1.0));
    let minus = if b.ty(x).is_float() || b.ty(x).is_signed_int() {
        b.lit(x, -1.0)
    } else {
        zero
    };
    let (gt, lt) = (b.cmp(Pred::Gt, x, zero), b.cmp(Pred::Lt, x, zero));
    let neg = b.select(lt, minus, x);
    b.select(gt, one, neg)
}

fn floor_mod(b: &mut BodyBuilder, x: BodyId, y: BodyId) -> BodyId {
    let (r, zero) = (b.rem(x, y), b.lit(x, 0.0));
    let (nonzero, rneg, yneg) = (
        b.cmp(Pred::Ne, r, zero),
        b.cmp(Pred::Lt, r, zero),
        b.cmp(Pred::Lt, y, zero),
    );
    let differ = b.xor(rneg, yneg);
    let fix = b.and(nonzero, differ);
    let moved = b.add(r, y);
    b.select(fix, moved, r)
}

/// Min/Max pick their second argument when a NaN is involved; this makes a NaN in the first win too.
fn nan_propagating(b: &mut BodyBuilder, op: ScalarOp, x: BodyId, y: BodyId) -> BodyId {
    let m = b.binary(op, x, y);
    if !b.ty(x).is_float() {
        return m;
    }
    let x_nan = b.cmp(Pred::Ne, x, x);
    b.select(x_nan, x, m)
}

/// Which GELU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GeluKind {
    /// `x * 0.5 * (1 + erf(x / sqrt 2))`.
    Erf,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    Tanh,
    /// `x * sigmoid(1.702 x)`.
    Quick,
}
attr_words!(GeluKind { Erf = "erf", Tanh = "tanh", Quick = "quick" });

op_struct! {
    /// Gaussian error linear unit (Hendrycks and Gimpel 2016), in one of its three spellings.
    Gelu {
        /// Which formula.
        kind: GeluKind,
    }
}
elementwise_op!(Gelu, "gelu", 1, kind; |s, b, x| gelu(s.kind, b, x[0]));

fn gelu(kind: GeluKind, b: &mut BodyBuilder, x: BodyId) -> BodyId {
    let (half, one) = (b.lit(x, 0.5), b.lit(x, 1.0));
    let gate = match kind {
        GeluKind::Erf => {
            let c = b.lit(x, std::f64::consts::FRAC_1_SQRT_2);
            let s = b.mul(x, c);
            b.erf(s)
        }
        GeluKind::Tanh => {
            let (c3, c1) = (b.lit(x, 0.044715), b.lit(x, (2.0 / std::f64::consts::PI).sqrt()));
            let x2 = b.mul(x, x);
            let x3 = b.mul(x2, x);
            let t = b.mul(c3, x3);
            let u = b.add(x, t);
            let v = b.mul(c1, u);
            b.tanh(v)
        }
        GeluKind::Quick => {
            let c = b.lit(x, 1.702);
            let s = b.mul(x, c);
            let g = sigmoid(b, s);
            return b.mul(x, g);
        }
    };
    let sum = b.add(gate, one);
    let xs = b.mul(x, half);
    b.mul(xs, sum)
}

op_struct! {
    /// `x >= 0 ? x : alpha * x`.
    LeakyRelu {
        /// Slope for negative x.
        alpha: f32,
    }
}
elementwise_op!(LeakyRelu, "leaky_relu", 1, alpha; |s, b, x| {
    let (zero, a) = (b.lit(x[0], 0.0), b.lit(x[0], f64::from(s.alpha)));
    let (neg, lt) = (b.mul(a, x[0]), b.cmp(Pred::Lt, x[0], zero));
    b.select(lt, neg, x[0])
});

op_struct! {
    /// `x >= 0 ? gamma * x : gamma * alpha * (e^x - 1)` (ELU; SELU with its gamma).
    Elu {
        /// Scale of the negative part.
        alpha: f32,
        /// Scale of all.
        gamma: f32,
    }
}
elementwise_op!(Elu, "elu", 1, alpha, gamma; |s, b, x| {
    let (zero, one) = (b.lit(x[0], 0.0), b.lit(x[0], 1.0));
    let (a, g) = (b.lit(x[0], f64::from(s.alpha)), b.lit(x[0], f64::from(s.gamma)));
    let e = b.exp(x[0]);
    let e1 = b.sub(e, one);
    let neg = b.mul(a, e1);
    let lt = b.cmp(Pred::Lt, x[0], zero);
    let y = b.select(lt, neg, x[0]);
    b.mul(g, y)
});

op_struct! {
    /// Conversion to another machine type: float to integer truncates and saturates, anything to bool is `x != 0`.
    Cast {
        /// Target type.
        to: ScalarType,
    }
}
elementwise_op!(Cast, "cast", 1, to; |s, b, x| {
    if s.to == ScalarType::Bool && b.ty(x[0]) != ScalarType::Bool {
        let zero = b.lit(x[0], 0.0);
        b.cmp(Pred::Ne, x[0], zero)
    } else if b.ty(x[0]) == ScalarType::Bool && s.to != ScalarType::Bool {
        let (one, zero) = (b.constant(ScalarConst::from_f64(s.to, 1.0)), b.constant(ScalarConst::from_f64(s.to, 0.0)));
        b.select(x[0], one, zero)
    } else {
        b.cast(x[0], s.to)
    }
});
