//! Scalar ops on columns: one statement of a body for many points at once. The meaning of each [`ScalarOp`].

use super::tensor::{Data, Native, each};
use crate::numeric::{bf16_from_f64, f16_from_f64};
use crate::scalar::{Pred, ReduceKind, ScalarConst, ScalarOp};
use crate::types::ScalarType;
use half::{bf16, f16};

/// Arithmetic of a machine type. Methods that a type does not have give `self`: [`crate::scalar::check_stmt`] refuses
/// such statements beforehand.
#[rustfmt::skip]
pub(crate) trait Lane: Native + PartialOrd {
    /// Start of a sum.
    const ZERO: Self;
    /// Start of a product.
    const ONE: Self;
    /// Start of a maximum.
    const LOWEST: Self;
    /// Start of a minimum.
    const HIGHEST: Self;
    fn neg(self) -> Self { self }
    fn abs(self) -> Self { self }
    fn not(self) -> Self { self }
    fn sqrt(self) -> Self { self }
    fn round_even(self) -> Self { self }
    fn floor(self) -> Self { self }
    fn ceil(self) -> Self { self }
    fn through(self, _: fn(f64) -> f64) -> Self { self }
    fn pow(self, _: Self) -> Self { self }
    fn add(self, _: Self) -> Self { self }
    fn sub(self, _: Self) -> Self { self }
    fn mul(self, _: Self) -> Self { self }
    fn div(self, _: Self) -> Self { self }
    fn rem(self, _: Self) -> Self { self }
    fn and(self, _: Self) -> Self { self }
    fn or(self, _: Self) -> Self { self }
    fn xor(self, _: Self) -> Self { self }
    fn shl(self, _: Self) -> Self { self }
    fn shr(self, _: Self) -> Self { self }
    /// Exact, or wrapped to 64 bits; floats truncate and saturate.
    fn to_i64(self) -> i64;
    /// Wrapped to the width; rounded once for floats.
    fn from_i64(v: i64) -> Self;
    /// Exact except for 64-bit integers.
    fn to_f64(self) -> f64;
    /// Rounded once; integers truncate and saturate, NaN is 0.
    fn from_f64(v: f64) -> Self;
    fn smaller(self, b: Self) -> Self { if self < b { self } else { b } }
    fn larger(self, b: Self) -> Self { if self > b { self } else { b } }
}

macro_rules! native_float {
    ($($t:ty),*) => {$(
        #[rustfmt::skip]
        impl Lane for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$t>::NEG_INFINITY;
            const HIGHEST: Self = <$t>::INFINITY;
            fn neg(self) -> Self { -self }
            fn abs(self) -> Self { <$t>::abs(self) }
            fn sqrt(self) -> Self { <$t>::sqrt(self) }
            fn round_even(self) -> Self { self.round_ties_even() }
            fn floor(self) -> Self { <$t>::floor(self) }
            fn ceil(self) -> Self { <$t>::ceil(self) }
            fn through(self, f: fn(f64) -> f64) -> Self { f(self as f64) as $t }
            fn pow(self, b: Self) -> Self { libm::pow(self as f64, b as f64) as $t }
            fn add(self, b: Self) -> Self { self + b }
            fn sub(self, b: Self) -> Self { self - b }
            fn mul(self, b: Self) -> Self { self * b }
            fn div(self, b: Self) -> Self { self / b }
            fn rem(self, b: Self) -> Self { self % b }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_i64(v: i64) -> Self { v as $t }
            fn to_f64(self) -> f64 { self as f64 }
            fn from_f64(v: f64) -> Self { v as $t }
        }
    )*};
}
native_float!(f64, f32);

macro_rules! half_float {
    ($($t:ty, $round:path;)*) => {$(
        // Single operations computed in f32 and rounded are correctly rounded: 24 >= 2 * 11 + 2 bits.
        #[rustfmt::skip]
        impl Lane for $t {
            const ZERO: Self = <$t>::ZERO;
            const ONE: Self = <$t>::ONE;
            const LOWEST: Self = <$t>::NEG_INFINITY;
            const HIGHEST: Self = <$t>::INFINITY;
            fn neg(self) -> Self { -self }
            fn abs(self) -> Self { <$t>::from_bits(self.to_bits() & 0x7fff) }
            fn sqrt(self) -> Self { <$t>::from_f32(self.to_f32().sqrt()) }
            fn round_even(self) -> Self { <$t>::from_f32(self.to_f32().round_ties_even()) }
            fn floor(self) -> Self { <$t>::from_f32(self.to_f32().floor()) }
            fn ceil(self) -> Self { <$t>::from_f32(self.to_f32().ceil()) }
            fn through(self, f: fn(f64) -> f64) -> Self { $round(f(self.to_f64())) }
            fn pow(self, b: Self) -> Self { $round(libm::pow(self.to_f64(), b.to_f64())) }
            fn add(self, b: Self) -> Self { <$t>::from_f32(self.to_f32() + b.to_f32()) }
            fn sub(self, b: Self) -> Self { <$t>::from_f32(self.to_f32() - b.to_f32()) }
            fn mul(self, b: Self) -> Self { <$t>::from_f32(self.to_f32() * b.to_f32()) }
            fn div(self, b: Self) -> Self { <$t>::from_f32(self.to_f32() / b.to_f32()) }
            fn rem(self, b: Self) -> Self { <$t>::from_f32(self.to_f32() % b.to_f32()) }
            fn to_i64(self) -> i64 { self.to_f32() as i64 }
            fn from_i64(v: i64) -> Self { $round(v as f64) }
            fn to_f64(self) -> f64 { <$t>::to_f64(self) }
            fn from_f64(v: f64) -> Self { $round(v) }
        }
    )*};
}
half_float!(f16, f16_from_f64; bf16, bf16_from_f64;);

macro_rules! integer {
    ($($t:ty => |$x:ident| $abs:expr),*) => {$(
        #[rustfmt::skip]
        impl Lane for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = <$t>::MIN;
            const HIGHEST: Self = <$t>::MAX;
            fn neg(self) -> Self { self.wrapping_neg() }
            fn abs(self) -> Self { let $x = self; $abs }
            fn not(self) -> Self { !self }
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            fn rem(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_rem(b) } }
            fn and(self, b: Self) -> Self { self & b }
            fn or(self, b: Self) -> Self { self | b }
            fn xor(self, b: Self) -> Self { self ^ b }
            fn shl(self, b: Self) -> Self { self.wrapping_shl(b as u32) }
            fn shr(self, b: Self) -> Self { self.wrapping_shr(b as u32) }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_i64(v: i64) -> Self { v as $t }
            fn to_f64(self) -> f64 { self as f64 }
            fn from_f64(v: f64) -> Self { v as $t }
        }
    )*};
}
integer!(i64 => |x| x.wrapping_abs(), i32 => |x| x.wrapping_abs(), i16 => |x| x.wrapping_abs(),
         i8 => |x| x.wrapping_abs(), u64 => |x| x, u32 => |x| x, u16 => |x| x, u8 => |x| x);

#[rustfmt::skip]
impl Lane for bool {
    const ZERO: Self = false;
    const ONE: Self = true;
    const LOWEST: Self = false;
    const HIGHEST: Self = true;
    fn not(self) -> Self { !self }
    fn and(self, b: Self) -> Self { self & b }
    fn or(self, b: Self) -> Self { self | b }
    fn xor(self, b: Self) -> Self { self ^ b }
    fn to_i64(self) -> i64 { i64::from(self) }
    fn from_i64(v: i64) -> Self { v != 0 }
    fn to_f64(self) -> f64 { f64::from(u8::from(self)) }
    fn from_f64(v: f64) -> Self { v != 0.0 }
}

/// Runs `$e` with `$T` bound to the Rust type of a [`ScalarType`].
macro_rules! with_type {
    ($ty:expr, $T:ident => $e:expr) => {
        with_type!(@ $ty, $T, $e; F64 f64, F32 f32, F16 ::half::f16, BF16 ::half::bf16, I64 i64, I32 i32, I16 i16,
                   I8 i8, U64 u64, U32 u32, U16 u16, U8 u8, Bool bool)
    };
    (@ $ty:expr, $T:ident, $e:expr; $($v:ident $t:ty),*) => {
        match $ty { $($crate::types::ScalarType::$v => { type $T = $t; $e })* }
    };
}

/// The column of a statement that is not a leaf nor a reduction. Argument columns are equally long and well typed.
pub(crate) fn apply(op: &ScalarOp, args: &[&Data], ty: ScalarType) -> Result<Data, String> {
    use ScalarOp::*;
    let mixed = || format!("`{}` has arguments of different types", op.name());
    match (op, args) {
        (Cast, [x]) => Ok(cast(x, ty)),
        (Bitcast, [x]) => {
            Data::from_bytes(ty, &x.to_bytes()).ok_or_else(|| "bit cast between widths".to_string())
        }
        (Cmp(p), [a, b]) => each!(a, a => compare(*p, a, Native::slice(b).ok_or_else(mixed)?)),
        (Select, [Data::Bool(c), a, b]) => each!(a, a => {
            let b = Native::slice(b).ok_or_else(mixed)?;
            Ok(Native::wrap(pick(c, a, b)))
        }),
        (_, [x]) => Ok(each!(x, x => Native::wrap(unary(op, x)))),
        (_, [a, b]) => {
            each!(a, a => Ok(Native::wrap(binary(op, a, Native::slice(b).ok_or_else(mixed)?))))
        }
        _ => Err(format!("`{}` cannot be applied to columns", op.name())),
    }
}

fn pick<T: Copy>(c: &[bool], a: &[T], b: &[T]) -> Vec<T> {
    c.iter()
        .zip(a.iter().zip(b))
        .map(|(c, (a, b))| if *c { *a } else { *b })
        .collect()
}

fn compare<T: Lane>(p: Pred, a: &[T], b: &[T]) -> Result<Data, String> {
    let run = |f: fn(&T, &T) -> bool| Data::Bool(a.iter().zip(b).map(|(a, b)| f(a, b)).collect());
    Ok(match p {
        Pred::Eq => run(|a, b| a == b),
        Pred::Ne => run(|a, b| a != b),
        Pred::Lt => run(|a, b| a < b),
        Pred::Le => run(|a, b| a <= b),
        Pred::Gt => run(|a, b| a > b),
        Pred::Ge => run(|a, b| a >= b),
    })
}

fn unary<T: Lane>(op: &ScalarOp, x: &[T]) -> Vec<T> {
    macro_rules! map {
        ($f:expr) => {
            x.iter().map(|v| $f(*v)).collect()
        };
    }
    match op {
        ScalarOp::Neg => map!(T::neg),
        ScalarOp::Abs => map!(T::abs),
        ScalarOp::Not => map!(T::not),
        ScalarOp::Sqrt => map!(T::sqrt),
        ScalarOp::RoundEven => map!(T::round_even),
        ScalarOp::Floor => map!(T::floor),
        ScalarOp::Ceil => map!(T::ceil),
        ScalarOp::Exp => map!(|v: T| v.through(libm::exp)),
        ScalarOp::Log => map!(|v: T| v.through(libm::log)),
        ScalarOp::Erf => map!(|v: T| v.through(libm::erf)),
        ScalarOp::Tanh => map!(|v: T| v.through(libm::tanh)),
        ScalarOp::Sin => map!(|v: T| v.through(libm::sin)),
        ScalarOp::Cos => map!(|v: T| v.through(libm::cos)),
        _ => x.to_vec(),
    }
}

fn binary<T: Lane>(op: &ScalarOp, a: &[T], b: &[T]) -> Vec<T> {
    macro_rules! zip {
        ($f:expr) => {
            a.iter().zip(b).map(|(a, b)| $f(*a, *b)).collect()
        };
    }
    match op {
        ScalarOp::Add => zip!(T::add),
        ScalarOp::Sub => zip!(T::sub),
        ScalarOp::Mul => zip!(T::mul),
        ScalarOp::Div => zip!(T::div),
        ScalarOp::Rem => zip!(T::rem),
        ScalarOp::Min => zip!(T::smaller),
        ScalarOp::Max => zip!(T::larger),
        ScalarOp::Pow => zip!(T::pow),
        ScalarOp::And => zip!(T::and),
        ScalarOp::Or => zip!(T::or),
        ScalarOp::Xor => zip!(T::xor),
        ScalarOp::Shl => zip!(T::shl),
        ScalarOp::Shr => zip!(T::shr),
        _ => a.to_vec(),
    }
}

/// Conversion of a column: floats round once, float to integer truncates and saturates, integers wrap, to bool is
/// `!= 0`.
pub(crate) fn cast(x: &Data, ty: ScalarType) -> Data {
    // 64-bit integers do not fit f64: convert them directly.
    if let Data::U64(v) = x
        && ty.is_float()
    {
        return match ty {
            ScalarType::F32 => Data::F32(v.iter().map(|x| *x as f32).collect()),
            _ => from_f64(v.iter().map(|x| *x as f64), ty),
        };
    }
    let through_f64 = x.elem().is_float();
    each!(x, x => with_type!(ty, T => {
        let out: Vec<T> = if through_f64 {
            x.iter().map(|v| <T as Lane>::from_f64(v.to_f64())).collect()
        } else {
            x.iter().map(|v| <T as Lane>::from_i64(v.to_i64())).collect()
        };
        Native::wrap(out)
    }))
}

/// Elements of type `ty` from f64: floats round once; integers truncate and saturate.
pub(crate) fn from_f64(v: impl Iterator<Item = f64>, ty: ScalarType) -> Data {
    with_type!(ty, T => Native::wrap(v.map(<T as Lane>::from_f64).collect::<Vec<T>>()))
}

/// Elements of type `ty` from i64, wrapped (rounded for floats).
pub(crate) fn from_i64(v: impl Iterator<Item = i64>, ty: ScalarType) -> Data {
    with_type!(ty, T => Native::wrap(v.map(<T as Lane>::from_i64).collect::<Vec<T>>()))
}

/// A column as i64.
pub(crate) fn to_i64(x: &Data) -> Vec<i64> {
    each!(x, x => x.iter().map(|v| v.to_i64()).collect())
}

/// A column of a constant.
pub(crate) fn constant(c: &ScalarConst, n: usize) -> Data {
    let bytes = c.bits.to_le_bytes();
    let one = Data::from_bytes(c.ty, &bytes[..c.ty.size()]).expect("one element of its size");
    each!(&one, v => Native::wrap(vec![v[0]; n]))
}

/// The elements at `at`, which must lie inside.
pub(crate) fn take(x: &Data, at: &[usize]) -> Data {
    each!(x, x => Native::wrap(at.iter().map(|i| x[*i]).collect::<Vec<_>>()))
}

/// Each element repeated `n` times.
pub(crate) fn repeat(x: &Data, n: usize) -> Data {
    each!(x, x => Native::wrap(x.iter().flat_map(|v| std::iter::repeat_n(*v, n)).collect::<Vec<_>>()))
}

/// `n` zeros of type `ty`.
pub(crate) fn zeros(ty: ScalarType, n: usize) -> Data {
    with_type!(ty, T => Native::wrap(vec![<T as Lane>::ZERO; n]))
}

/// Reduces each of `rows` rows of `len` elements; see [`ReduceKind`] for the order.
pub(crate) fn reduce(kind: ReduceKind, x: &Data, rows: usize, len: usize) -> Data {
    each!(x, x => Native::wrap((0..rows).map(|r| reduce_row(kind, &x[r * len..(r + 1) * len])).collect::<Vec<_>>()))
}

fn reduce_row<T: Lane>(kind: ReduceKind, row: &[T]) -> T {
    let (start, f): (T, fn(T, T) -> T) = match kind {
        ReduceKind::Sum => (T::ZERO, |acc, x| acc.add(x)),
        ReduceKind::Prod => (T::ONE, |acc, x| acc.mul(x)),
        ReduceKind::Max => (T::LOWEST, |acc, x| x.larger(acc)),
        ReduceKind::Min => (T::HIGHEST, |acc, x| x.smaller(acc)),
    };
    let mut p = [start; 16];
    for chunk in row.chunks(16) {
        for (p, x) in p.iter_mut().zip(chunk) {
            *p = f(*p, *x);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            p[i] = f(p[i], p[i + half]);
        }
    }
    p[0]
}
