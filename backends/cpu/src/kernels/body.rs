//! The body walker: code for one statement of a scalar body, over any number of lanes.
//!
//! A value is an LLVM vector: 16 lanes along the row, or a single lane where it is the same for all of them; a
//! statement has as many lanes as its widest argument. Floats are computed op by op (nothing is contracted); half
//! precision values are held as f32 that are exact in their format, and rounded after every operation; bools are `i1`.
//! There is no other knowledge of what a body computes here: whatever is built from scalar ops gets code.

use crate::llvm::{Elem, Emit, FloatCmp, Int, IntCmp, Vector};
use inkwell::types::VectorType;
use rsqc_ir::ScalarType;
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::scalar::{Body, Pred, ReduceKind, ScalarConst, ScalarOp, Stmt};

/// Lanes of a vector along the row; also the number of partial sums of a reduction.
pub const LANES: u32 = 16;

/// Whether code exists for every statement of `body`.
///
/// # Errors
/// Transcendental ops (which [`rsqc_ir::scalar::expand`] removes) and f64 remainders are not supported.
pub fn check(body: &Body) -> Result<(), Diag> {
    for s in &body.stmts {
        let f64_rem = s.op == ScalarOp::Rem && s.ty == ScalarType::F64;
        if s.op.is_transcendental() || f64_rem {
            let message = format!("the cpu backend has no code for `{}` on {}", s.op.name(), s.ty);
            return Err(Diag::new(Blame::Unsupported, "", message));
        }
    }
    Ok(())
}

/// How values of a machine type are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Signed,
    Unsigned,
    Bool,
}

fn kind(ty: ScalarType) -> Kind {
    match ty {
        ScalarType::Bool => Kind::Bool,
        t if t.is_float() => Kind::Float,
        t if t.is_signed_int() => Kind::Signed,
        _ => Kind::Unsigned,
    }
}

/// The element in which values of `ty` are held while computing (bools, being `i1`, have none of their own).
pub fn held(ty: ScalarType) -> Elem {
    match ty {
        ScalarType::F64 => Elem::F64,
        ScalarType::F32 | ScalarType::F16 | ScalarType::BF16 => Elem::F32,
        ScalarType::I64 | ScalarType::U64 => Elem::I64,
        ScalarType::I32 | ScalarType::U32 => Elem::I32,
        ScalarType::I16 | ScalarType::U16 => Elem::I16,
        ScalarType::I8 | ScalarType::U8 | ScalarType::Bool => Elem::I8,
    }
}

/// The element that values of `ty` have in memory.
pub fn stored(ty: ScalarType) -> Elem {
    match ty {
        ScalarType::F16 | ScalarType::BF16 => Elem::I16,
        t => held(t),
    }
}

/// From the form in memory to the computing form.
pub fn from_memory<'c>(e: &Emit<'c>, ty: ScalarType, v: Vector<'c>) -> Vector<'c> {
    match ty {
        ScalarType::F16 => e.f16_to_f32(v),
        ScalarType::BF16 => e.bf16_to_f32(v),
        ScalarType::Bool => e.icmp(IntCmp::NE, v, e.ints(Elem::I8, 0, lanes(v))),
        _ => v,
    }
}

/// From the computing form to the form in memory.
pub fn to_memory<'c>(e: &Emit<'c>, ty: ScalarType, v: Vector<'c>) -> Vector<'c> {
    match ty {
        ScalarType::F16 => e.f32_to_f16(v),
        ScalarType::BF16 => e.f32_to_bf16(v),
        ScalarType::Bool => e.zext(v, Elem::I8),
        _ => v,
    }
}

/// Number of lanes.
pub fn lanes(v: Vector<'_>) -> u32 {
    v.get_type().get_size()
}

/// A single lane repeated; a value that has `n` lanes already stays.
pub fn widen<'c>(e: &Emit<'c>, v: Vector<'c>, n: u32) -> Vector<'c> {
    if lanes(v) == n {
        v
    } else {
        e.shuffle(v, v, &vec![0; n as usize])
    }
}

/// A constant as a single lane.
pub fn constant<'c>(e: &Emit<'c>, c: ScalarConst) -> Vector<'c> {
    let bits = |elem| {
        let ty = e.scalar_type(elem).into_int_type();
        VectorType::const_vector(&[ty.const_int(c.bits, false)])
    };
    match c.ty {
        ScalarType::F64 => e.bitcast(bits(Elem::I64), Elem::F64, 1),
        ScalarType::F32 => e.bitcast(bits(Elem::I32), Elem::F32, 1),
        ty => from_memory(e, ty, bits(stored(ty))),
    }
}

/// The value of a statement that is neither a leaf nor a reduction.
pub fn apply<'c>(e: &Emit<'c>, stmt: &Stmt, args: &[(Vector<'c>, ScalarType)]) -> Vector<'c> {
    let width = args.iter().map(|(v, _)| lanes(*v)).max().unwrap_or(1);
    let v: Vec<Vector<'c>> = args.iter().map(|(v, _)| widen(e, *v, width)).collect();
    let from = args[0].1;
    let value = match &stmt.op {
        ScalarOp::Cast => return cast(e, v[0], from, stmt.ty),
        ScalarOp::Bitcast => return reinterpret(e, v[0], from, stmt.ty),
        ScalarOp::Cmp(p) => return compare(e, *p, from, v[0], v[1]),
        ScalarOp::Select => return e.select(v[0], v[1], v[2]),
        op if op.arity() == 1 => unary(e, op, stmt.ty, v[0]),
        op => binary(e, op, stmt.ty, v[0], v[1]),
    };
    let inexact = matches!(
        stmt.op,
        ScalarOp::Sqrt | ScalarOp::Add | ScalarOp::Sub | ScalarOp::Mul | ScalarOp::Div | ScalarOp::Rem
    );
    if inexact {
        round_to(e, stmt.ty, value)
    } else {
        value
    }
}

/// Rounds an f32 to a half precision format. The double rounding is harmless: f32 has more than twice their digits.
fn round_to<'c>(e: &Emit<'c>, ty: ScalarType, v: Vector<'c>) -> Vector<'c> {
    match ty {
        ScalarType::F16 | ScalarType::BF16 => from_memory(e, ty, to_memory(e, ty, v)),
        _ => v,
    }
}

fn zero<'c>(v: Vector<'c>) -> Vector<'c> {
    v.get_type().const_zero()
}

fn unary<'c>(e: &Emit<'c>, op: &ScalarOp, ty: ScalarType, x: Vector<'c>) -> Vector<'c> {
    let float = kind(ty) == Kind::Float;
    match op {
        ScalarOp::Neg if float => e.fneg(x),
        ScalarOp::Neg => e.sub(zero(x), x),
        ScalarOp::Abs if float => e.fabs(x),
        ScalarOp::Abs if kind(ty) == Kind::Signed => {
            e.select(e.icmp(IntCmp::SLT, x, zero(x)), e.sub(zero(x), x), x)
        }
        ScalarOp::Abs => x,
        ScalarOp::Not if ty == ScalarType::Bool => e.icmp(IntCmp::EQ, x, zero(x)),
        ScalarOp::Not => e.xor(x, e.ints(held(ty), -1, lanes(x))),
        ScalarOp::Sqrt => e.sqrt(x),
        ScalarOp::RoundEven => e.round_nearest(x),
        ScalarOp::Floor => e.round_down(x),
        ScalarOp::Ceil => e.round_up(x),
        other => panic!("`{}` is not a primitive unary op", other.name()),
    }
}

fn binary<'c>(e: &Emit<'c>, op: &ScalarOp, ty: ScalarType, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
    match op {
        ScalarOp::And => e.and(a, b),
        ScalarOp::Or => e.or(a, b),
        ScalarOp::Xor => e.xor(a, b),
        ScalarOp::Min => e.select(compare(e, Pred::Lt, ty, a, b), a, b),
        ScalarOp::Max => e.select(compare(e, Pred::Gt, ty, a, b), a, b),
        _ if kind(ty) == Kind::Float => match op {
            ScalarOp::Add => e.fadd(a, b),
            ScalarOp::Sub => e.fsub(a, b),
            ScalarOp::Mul => e.fmul(a, b),
            ScalarOp::Div => e.fdiv(a, b),
            ScalarOp::Rem => e.float_rem(a, b),
            other => panic!("`{}` is not a primitive float op", other.name()),
        },
        ScalarOp::Add => e.add(a, b),
        ScalarOp::Sub => e.sub(a, b),
        ScalarOp::Mul => e.mul(a, b),
        ScalarOp::Div | ScalarOp::Rem => divide(e, op, ty, a, b),
        ScalarOp::Shl | ScalarOp::Shr => {
            // Amounts at or beyond the width are not defined in LLVM, so they are cut off first.
            let bits = ty.size() as i64 * 8;
            let amount = e.and(b, e.ints(held(ty), bits - 1, lanes(b)));
            match (op, kind(ty)) {
                (ScalarOp::Shl, _) => e.shl(a, amount),
                (_, Kind::Signed) => e.ashr(a, amount),
                _ => e.lshr(a, amount),
            }
        }
        other => panic!("`{}` is not a primitive integer op", other.name()),
    }
}

/// Integer division; by 0 it gives 0, and `MIN / -1` wraps.
fn divide<'c>(e: &Emit<'c>, op: &ScalarOp, ty: ScalarType, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
    let one = e.ints(held(ty), 1, lanes(b));
    let by_zero = e.icmp(IntCmp::EQ, b, zero(b));
    let signed = kind(ty) == Kind::Signed;
    let mut divisor = e.select(by_zero, one, b);
    if signed {
        let min = e.ints(held(ty), 1i64 << (ty.size() * 8 - 1), lanes(a));
        let minus_one = e.ints(held(ty), -1, lanes(b));
        // The CPU traps here. A divisor of 1 gives the wrapped quotient and the right remainder.
        let traps = e.and(e.icmp(IntCmp::EQ, a, min), e.icmp(IntCmp::EQ, b, minus_one));
        divisor = e.select(traps, one, divisor);
    }
    let value = match (op, signed) {
        (ScalarOp::Div, true) => e.sdiv(a, divisor),
        (ScalarOp::Div, false) => e.udiv(a, divisor),
        (_, true) => e.srem(a, divisor),
        (_, false) => e.urem(a, divisor),
    };
    e.select(by_zero, zero(value), value)
}

fn compare<'c>(e: &Emit<'c>, p: Pred, ty: ScalarType, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
    match kind(ty) {
        Kind::Float => {
            let how = match p {
                Pred::Eq => FloatCmp::OEQ,
                Pred::Ne => FloatCmp::UNE,
                Pred::Lt => FloatCmp::OLT,
                Pred::Le => FloatCmp::OLE,
                Pred::Gt => FloatCmp::OGT,
                Pred::Ge => FloatCmp::OGE,
            };
            e.fcmp(how, a, b)
        }
        k => {
            let signed = k == Kind::Signed;
            let how = match p {
                Pred::Eq => IntCmp::EQ,
                Pred::Ne => IntCmp::NE,
                Pred::Lt if signed => IntCmp::SLT,
                Pred::Le if signed => IntCmp::SLE,
                Pred::Gt if signed => IntCmp::SGT,
                Pred::Ge if signed => IntCmp::SGE,
                Pred::Lt => IntCmp::ULT,
                Pred::Le => IntCmp::ULE,
                Pred::Gt => IntCmp::UGT,
                Pred::Ge => IntCmp::UGE,
            };
            e.icmp(how, a, b)
        }
    }
}

/// Conversion of a value: floats to integers truncate and saturate, NaN becomes 0; anything but 0 is true.
pub fn cast<'c>(e: &Emit<'c>, v: Vector<'c>, from: ScalarType, to: ScalarType) -> Vector<'c> {
    if from == to {
        return v;
    }
    match (kind(from), kind(to)) {
        (Kind::Float, Kind::Bool) => e.fcmp(FloatCmp::UNE, v, zero(v)),
        (_, Kind::Bool) => e.icmp(IntCmp::NE, v, zero(v)),
        (Kind::Float, Kind::Float) => float_to_float(e, v, from, to),
        (Kind::Float, k) => e.float_to_int(v, k == Kind::Signed, held(to)),
        (k, Kind::Float) => {
            let v = if k == Kind::Bool { e.zext(v, Elem::I32) } else { v };
            let signed = k != Kind::Unsigned;
            // Wide integers go to half precision through f64, so that they are rounded once.
            let through_f64 = to == ScalarType::F64 || (to != ScalarType::F32 && from.size() >= 4);
            if through_f64 {
                float_to_float(e, e.int_to_float(v, signed, Elem::F64), ScalarType::F64, to)
            } else {
                round_to(e, to, e.int_to_float(v, signed, Elem::F32))
            }
        }
        (Kind::Bool, _) => e.zext(v, held(to)),
        (k, _) => match from.size().cmp(&to.size()) {
            std::cmp::Ordering::Equal => v,
            std::cmp::Ordering::Greater => e.narrow(v, held(to)),
            std::cmp::Ordering::Less if k == Kind::Signed => e.sext(v, held(to)),
            std::cmp::Ordering::Less => e.zext(v, held(to)),
        },
    }
}

fn float_to_float<'c>(e: &Emit<'c>, v: Vector<'c>, from: ScalarType, to: ScalarType) -> Vector<'c> {
    match (from, to) {
        (ScalarType::F64, ScalarType::F64) => v,
        (ScalarType::F64, ScalarType::F32) => e.shorten(v, Elem::F32),
        (ScalarType::F64, half) => round_to(e, half, e.f64_to_f32_odd(v)),
        (_, ScalarType::F64) => e.extend(v, Elem::F64),
        (_, to) => round_to(e, to, v),
    }
}

fn reinterpret<'c>(e: &Emit<'c>, v: Vector<'c>, from: ScalarType, to: ScalarType) -> Vector<'c> {
    let bits = to_memory(e, from, v);
    let bits = if stored(from) == stored(to) {
        bits
    } else {
        e.bitcast(bits, stored(to), lanes(v))
    };
    from_memory(e, to, bits)
}

/// The value from which a reduction starts, in one lane.
pub fn neutral<'c>(e: &Emit<'c>, kind_of: ReduceKind, ty: ScalarType) -> Vector<'c> {
    let bits = ty.size() as u32 * 8;
    let value = match (kind_of, kind(ty)) {
        (ReduceKind::Sum, _) => ScalarConst::from_f64(ty, 0.0),
        (ReduceKind::Prod, _) => ScalarConst::from_f64(ty, 1.0),
        (ReduceKind::Max, Kind::Float) => ScalarConst::from_f64(ty, f64::NEG_INFINITY),
        (ReduceKind::Min, Kind::Float) => ScalarConst::from_f64(ty, f64::INFINITY),
        (ReduceKind::Max, Kind::Signed) => ScalarConst::int(ty, i64::MIN >> (64 - bits)),
        (ReduceKind::Min, Kind::Signed) => ScalarConst::int(ty, i64::MAX >> (64 - bits)),
        (ReduceKind::Max, _) => ScalarConst::int(ty, 0),
        (ReduceKind::Min, _) => ScalarConst::int(ty, -1),
    };
    constant(e, value)
}

/// One step of a reduction: `x` combined into the accumulator `acc`.
pub fn combine<'c>(
    e: &Emit<'c>,
    kind_of: ReduceKind,
    ty: ScalarType,
    acc: Vector<'c>,
    x: Vector<'c>,
) -> Vector<'c> {
    let (op, a, b) = match kind_of {
        ReduceKind::Sum => (ScalarOp::Add, acc, x),
        ReduceKind::Prod => (ScalarOp::Mul, acc, x),
        // With a NaN as `x` the comparison is false and the accumulator stays.
        ReduceKind::Max => (ScalarOp::Max, x, acc),
        ReduceKind::Min => (ScalarOp::Min, x, acc),
    };
    round_to(e, ty, binary(e, &op, ty, a, b))
}

/// The 16 partials of a reduction combined in the order 8-4-2-1, as a single lane.
pub fn finish_reduce<'c>(e: &Emit<'c>, kind_of: ReduceKind, ty: ScalarType, acc: Vector<'c>) -> Vector<'c> {
    let mut value = acc;
    while lanes(value) > 1 {
        let (low, high) = e.halves(value);
        value = combine(e, kind_of, ty, low, high);
    }
    value
}

/// A scalar integer as a single lane of i64.
pub fn single<'c>(e: &Emit<'c>, v: Int<'c>) -> Vector<'c> {
    e.with_lane(e.poison(Elem::I64, 1), 0, v)
}
