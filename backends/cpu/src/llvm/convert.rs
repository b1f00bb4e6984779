//! Conversions between element types with the same bits at every level, and lane insertion.
//!
//! Half precision exists in memory only: values are computed as f32 and rounded. The baseline has no conversion
//! instructions for it (LLVM would call the compiler's run-time library), so exact integer sequences take their place.

use super::emit::{Elem, Emit, ok};
use super::{FloatCmp, Int, IntCmp, Vector};
use crate::level::LevelFacts;
use inkwell::types::VectorType;
use inkwell::values::BasicValue;

impl<'c> Emit<'c> {
    /// The vector with lane `n` replaced.
    pub fn with_lane(&self, a: Vector<'c>, n: u32, value: impl BasicValue<'c>) -> Vector<'c> {
        ok(self
            .builder
            .build_insert_element(a, value, self.i32(n as i32), "with"))
    }

    /// A vector whose lanes are not yet given.
    pub fn poison(&self, elem: Elem, lanes: u32) -> Vector<'c> {
        self.vector_type(elem, lanes).get_poison()
    }

    /// A constant integer vector of equal lanes; the value is cut to the element's width.
    pub fn ints(&self, elem: Elem, value: i64, lanes: u32) -> Vector<'c> {
        let ty = self.scalar_type(elem).into_int_type();
        VectorType::const_vector(&vec![ty.const_int(value as u64, true); lanes as usize])
    }

    /// The constant `<0, 1, ..>` of i64.
    pub fn iota(&self, lanes: u32) -> Vector<'c> {
        let values: Vec<Int<'c>> = (0..i64::from(lanes)).map(|l| self.i64(l)).collect();
        VectorType::const_vector(&values)
    }

    /// Floats in a wider type.
    pub fn extend(&self, a: Vector<'c>, to: Elem) -> Vector<'c> {
        let ty = self.vector_type(to, a.get_type().get_size());
        ok(self.builder.build_float_ext(a, ty, "extend"))
    }

    /// Floats in a narrower type, rounded to nearest even.
    pub fn shorten(&self, a: Vector<'c>, to: Elem) -> Vector<'c> {
        let ty = self.vector_type(to, a.get_type().get_size());
        ok(self.builder.build_float_trunc(a, ty, "shorten"))
    }

    /// Integers to floats, rounded to nearest even.
    pub fn int_to_float(&self, a: Vector<'c>, signed: bool, to: Elem) -> Vector<'c> {
        let ty = self.vector_type(to, a.get_type().get_size());
        if signed {
            ok(self.builder.build_signed_int_to_float(a, ty, "tofloat"))
        } else {
            ok(self.builder.build_unsigned_int_to_float(a, ty, "tofloat"))
        }
    }

    /// Floats to integers: truncated, saturated, NaN to 0.
    pub fn float_to_int(&self, a: Vector<'c>, signed: bool, to: Elem) -> Vector<'c> {
        let bits = to.bytes() * 8;
        if !self.is_f64(a) && (bits < 32 || (bits == 32 && signed)) {
            return self.f32_to_int(a, signed, to);
        }
        let ty = self.vector_type(to, a.get_type().get_size());
        let name = if signed {
            "llvm.fptosi.sat"
        } else {
            "llvm.fptoui.sat"
        };
        self.intrinsic(name, &[ty.into(), a.get_type().into()], &[a.into()])
            .into_vector_value()
    }

    /// [`Self::float_to_int`] from f32 through i32 lanes: LLVM's own lowering takes such vectors apart.
    fn f32_to_int(&self, a: Vector<'c>, signed: bool, to: Elem) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        let bits = to.bytes() * 8;
        let (low, high) = match (signed, bits) {
            // The largest float below 2^31; what is above is replaced afterwards.
            (true, 32) => (-2_147_483_648.0, 2_147_483_520.0),
            (true, bits) => (-(2f32.powi(bits as i32 - 1)), 2f32.powi(bits as i32 - 1) - 1.0),
            (false, bits) => (0.0, 2f32.powi(bits as i32) - 1.0),
        };
        let (low, high) = (self.f32s(low, lanes), self.f32s(high, lanes));
        let clamped = self.select(self.fcmp(FloatCmp::OGT, a, low), a, low);
        let clamped = self.select(self.fcmp(FloatCmp::OLT, clamped, high), clamped, high);
        let mut value = self.trunc_to_i32(clamped);
        if bits == 32 {
            let above = self.fcmp(FloatCmp::OGT, a, high);
            value = self.select(above, self.ints(Elem::I32, i64::from(i32::MAX), lanes), value);
        }
        let nan = self.fcmp(FloatCmp::UNO, a, a);
        let value = self.select(nan, self.ints(Elem::I32, 0, lanes), value);
        if bits == 32 { value } else { self.narrow(value, to) }
    }

    /// IEEE half bits (i16 lanes) to f32; signalling NaNs become quiet.
    pub fn f16_to_f32(&self, bits: Vector<'c>) -> Vector<'c> {
        let lanes = bits.get_type().get_size();
        if self.level().has_fma() {
            // Every CPU with FMA that is a target here has F16C as well.
            return self.extend(self.bitcast(bits, Elem::F16, lanes), Elem::F32);
        }
        let c = |v: i64| self.ints(Elem::I32, v, lanes);
        let wide = self.zext(bits, Elem::I32);
        let sign = self.shl(self.and(wide, c(0x8000)), c(16));
        let shifted = self.shl(self.and(wide, c(0x7fff)), c(13));
        let exponent = self.and(shifted, c(0x0f80_0000));
        let normal = self.add(shifted, c(112 << 23));
        let special = self.add(normal, c(112 << 23));
        let quiet = self.or(special, c(0x0040_0000));
        let is_nan = self.icmp(IntCmp::SGT, shifted, c(0x0f80_0000));
        let special = self.select(is_nan, quiet, special);
        // A subnormal half is an f32 with one more exponent step, minus the implicit bit that it does not have.
        let raised = self.bitcast(self.add(normal, c(1 << 23)), Elem::F32, lanes);
        let one = self.bitcast(c(113 << 23), Elem::F32, lanes);
        let small = self.bitcast(self.fsub(raised, one), Elem::I32, lanes);
        let is_special = self.icmp(IntCmp::EQ, exponent, c(0x0f80_0000));
        let is_small = self.icmp(IntCmp::EQ, exponent, c(0));
        let value = self.select(is_small, small, self.select(is_special, special, normal));
        self.bitcast(self.or(value, sign), Elem::F32, lanes)
    }

    /// f32 to IEEE half bits (i16 lanes), rounded to nearest even.
    pub fn f32_to_f16(&self, a: Vector<'c>) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        if self.level().has_fma() {
            return self.bitcast(self.shorten(a, Elem::F16), Elem::I16, lanes);
        }
        let c = |v: i64| self.ints(Elem::I32, v, lanes);
        let bits = self.bitcast(a, Elem::I32, lanes);
        let sign = self.lshr(self.and(bits, c(0x8000_0000)), c(16));
        let magnitude = self.and(bits, c(0x7fff_ffff));
        let odd = self.and(self.lshr(magnitude, c(13)), c(1));
        let rebased = self.add(magnitude, c(((15 - 127) << 23) + 0xfff));
        let normal = self.lshr(self.add(rebased, odd), c(13));
        // Adding 0.5 puts a subnormal half's bits at the bottom of the mantissa, rounded.
        let half = c(126 << 23);
        let sum = self.fadd(
            self.bitcast(magnitude, Elem::F32, lanes),
            self.bitcast(half, Elem::F32, lanes),
        );
        let small = self.sub(self.bitcast(sum, Elem::I32, lanes), half);
        let payload = self.and(self.lshr(magnitude, c(13)), c(0x3ff));
        let is_nan = self.icmp(IntCmp::SGT, magnitude, c(0x7f80_0000));
        let special = self.select(is_nan, self.or(payload, c(0x7e00)), c(0x7c00));
        let is_small = self.icmp(IntCmp::SLT, magnitude, c(113 << 23));
        let is_large = self.icmp(IntCmp::SGE, magnitude, c(143 << 23));
        let value = self.select(is_small, small, self.select(is_large, special, normal));
        self.narrow(self.or(value, sign), Elem::I16)
    }

    /// bfloat16 bits (i16 lanes) to f32; signalling NaNs become quiet.
    pub fn bf16_to_f32(&self, bits: Vector<'c>) -> Vector<'c> {
        let lanes = bits.get_type().get_size();
        let c = |v: i64| self.ints(Elem::I32, v, lanes);
        let wide = self.shl(self.zext(bits, Elem::I32), c(16));
        let value = self.bitcast(wide, Elem::F32, lanes);
        let nan = self.fcmp(FloatCmp::UNO, value, value);
        let quiet = self.or(wide, c(0x0040_0000));
        self.bitcast(self.select(nan, quiet, wide), Elem::F32, lanes)
    }

    /// f32 to bfloat16 bits (i16 lanes), rounded to nearest even.
    pub fn f32_to_bf16(&self, a: Vector<'c>) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        let c = |v: i64| self.ints(Elem::I32, v, lanes);
        let bits = self.bitcast(a, Elem::I32, lanes);
        let high = self.lshr(bits, c(16));
        let odd = self.and(high, c(1));
        let rounded = self.lshr(self.add(bits, self.add(odd, c(0x7fff))), c(16));
        let nan = self.fcmp(FloatCmp::UNO, a, a);
        self.narrow(self.select(nan, self.or(high, c(0x40)), rounded), Elem::I16)
    }

    /// f64 to f32, rounded to odd: a second rounding to a format of at most 22 bits is then the only one that counts.
    pub fn f64_to_f32_odd(&self, a: Vector<'c>) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        let near = self.shorten(a, Elem::F32);
        let back = self.extend(near, Elem::F64);
        let bits = self.bitcast(near, Elem::I32, lanes);
        let one = self.ints(Elem::I32, 1, lanes);
        let above = self.fcmp(FloatCmp::OGT, self.fabs(back), self.fabs(a));
        let below = self.select(above, self.sub(bits, one), bits);
        let inexact = self.fcmp(FloatCmp::ONE, back, a);
        let odd = self.select(inexact, self.or(below, one), bits);
        self.bitcast(odd, Elem::F32, lanes)
    }

    /// Nearest integral value, ties to even, of f32 or f64 lanes.
    pub fn round_nearest(&self, a: Vector<'c>) -> Vector<'c> {
        if !self.is_f64(a) {
            return self.round_even(a);
        }
        if self.level().has_round() {
            return self.unary("llvm.roundeven", a);
        }
        let big = self.f64s(4_503_599_627_370_496.0, a.get_type().get_size());
        let magnitude: Vector<'c> = self.fabs(a);
        let rounded = self.fsub(self.fadd(magnitude, big), big);
        let small = self.fcmp(FloatCmp::OLT, magnitude, big);
        self.select(small, self.copysign(rounded, a), a)
    }

    /// Largest integral value not above, of f32 or f64 lanes.
    pub fn round_down(&self, a: Vector<'c>) -> Vector<'c> {
        if !self.is_f64(a) {
            return self.floor(a);
        }
        if self.level().has_round() {
            return self.unary("llvm.floor", a);
        }
        let nearest = self.round_nearest(a);
        let above = self.fcmp(FloatCmp::OGT, nearest, a);
        let lowered = self.fsub(nearest, self.f64s(1.0, a.get_type().get_size()));
        self.copysign(self.select(above, lowered, nearest), a)
    }

    /// Smallest integral value not below, of f32 or f64 lanes.
    pub fn round_up(&self, a: Vector<'c>) -> Vector<'c> {
        if !self.is_f64(a) {
            return self.ceil(a);
        }
        if self.level().has_round() {
            return self.unary("llvm.ceil", a);
        }
        self.fneg(self.round_down(self.fneg(a)))
    }

    /// Exact remainder of f32 lanes with the sign of the dividend, as C's `fmod`. Works in f64, where every multiple of
    /// the divisor by a power of two that is needed is exact, and subtracts the largest such multiple until none is left.
    pub fn float_rem(&self, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        let wide = |v| -> Vector<'c> { self.fabs(self.extend(v, Elem::F64)) };
        let (num, den) = (wide(a), wide(b));
        let exponent = |v| {
            self.and(
                self.bitcast(v, Elem::I64, lanes),
                self.ints(Elem::I64, 0x7ff << 52, lanes),
            )
        };
        let zero = self.f64s(0.0, lanes);
        let infinity = self.f64s(f64::INFINITY, lanes);
        let valid = self.and(
            self.fcmp(FloatCmp::OLT, num, infinity),
            self.fcmp(FloatCmp::OGT, den, zero),
        );
        // Lanes without a finite answer (or with the answer `a`) take no part in the loop.
        let active = self.and(valid, self.fcmp(FloatCmp::OLT, den, infinity));
        let rest = self.var(self.select(active, num, zero));
        let den = self.select(active, den, self.f64s(1.0, lanes));
        let more = |r| {
            let ge = self.fcmp(FloatCmp::OGE, r, den);
            self.reduce::<Int<'c>>(ge, |x, y| self.or(x, y))
        };
        // The quotient is below 2^277 (f32's whole range), and every step removes at least its leading bit.
        self.for_range(self.i64(0), self.i64(280), self.i64(1), |_| {
            let r: Vector<'c> = self.get(rest);
            self.when(more(r), || {
                let shift = self.sub(exponent(r), exponent(den));
                let bits = self.add(self.bitcast(den, Elem::I64, lanes), shift);
                let multiple = self.bitcast(bits, Elem::F64, lanes);
                let too_large = self.fcmp(FloatCmp::OGT, multiple, r);
                let half = self.fmul(multiple, self.f64s(0.5, lanes));
                let left = self.fsub(r, self.select(too_large, half, multiple));
                let ge = self.fcmp(FloatCmp::OGE, r, den);
                self.set(rest, self.select(ge, left, r));
            });
        });
        let result = self.copysign(self.shorten(self.get(rest), Elem::F32), a);
        let infinite_den = self.fcmp(FloatCmp::OEQ, wide(b), infinity);
        let nan = self.fsub(self.fmul(a, self.f32s(0.0, lanes)), self.fdiv(b, b));
        let nan = self.fadd(nan, self.f32s(f32::NAN, lanes));
        let finite = self.select(infinite_den, a, result);
        self.select(valid, finite, nan)
    }

    /// A constant f64 vector of equal lanes.
    pub fn f64s(&self, value: f64, lanes: u32) -> Vector<'c> {
        let value = self.context.f64_type().const_float(value);
        VectorType::const_vector(&vec![value; lanes as usize])
    }

    fn is_f64(&self, a: Vector<'c>) -> bool {
        a.get_type().get_element_type() == self.scalar_type(Elem::F64)
    }
}
