//! Arithmetic on scalars and vectors alike, conversions, shuffles and fixed-order reductions.
//!
//! Every operation here gives the same bits at every level. Where the baseline lacks an instruction (rounding), an
//! exact sequence takes its place instead of the library call that LLVM would make.

use super::emit::{Elem, Emit, ok};
use super::flow::cast;
use super::{Any, Float, FloatCmp, Int, IntCmp, Vector};
use crate::level::{Level, LevelFacts};
use inkwell::intrinsics::Intrinsic;
use inkwell::types::{BasicTypeEnum, FloatMathType, IntMathType, VectorType};
use inkwell::values::{BasicMetadataValueEnum, BasicValue, FloatMathValue, IntMathValue};

type IntOf<'c, T> =
    <<<T as FloatMathValue<'c>>::BaseType as FloatMathType<'c>>::MathConvType as IntMathType<'c>>::ValueType;

macro_rules! binary {
    ($bound:ident: $($(#[$doc:meta])* $name:ident = $build:ident;)*) => {
        $($(#[$doc])*
        pub fn $name<T: $bound<'c>>(&self, a: T, b: T) -> T {
            ok(self.builder.$build(a, b, stringify!($name)))
        })*
    };
}

impl<'c> Emit<'c> {
    binary! { IntMathValue:
        /// Wrapping sum.
        add = build_int_add;
        /// Wrapping difference.
        sub = build_int_sub;
        /// Wrapping product.
        mul = build_int_mul;
        /// Quotient of non-negative numbers; the divisor is not 0.
        udiv = build_int_unsigned_div;
        /// Remainder of non-negative numbers; the divisor is not 0.
        urem = build_int_unsigned_rem;
        /// Quotient rounded to zero; the divisor is not 0, and not MIN / -1.
        sdiv = build_int_signed_div;
        /// Remainder with the dividend's sign.
        srem = build_int_signed_rem;
        /// Bitwise and.
        and = build_and;
        /// Bitwise or.
        or = build_or;
        /// Bitwise exclusive or.
        xor = build_xor;
        /// Shift left; the count is below the width.
        shl = build_left_shift;
    }

    binary! { FloatMathValue:
        /// IEEE sum.
        fadd = build_float_add;
        /// IEEE difference.
        fsub = build_float_sub;
        /// IEEE product.
        fmul = build_float_mul;
        /// IEEE quotient.
        fdiv = build_float_div;
    }

    /// Arithmetic shift right; the count is below the width.
    pub fn ashr<T: IntMathValue<'c>>(&self, a: T, b: T) -> T {
        ok(self.builder.build_right_shift(a, b, true, "ashr"))
    }

    /// Logical shift right; the count is below the width.
    pub fn lshr<T: IntMathValue<'c>>(&self, a: T, b: T) -> T {
        ok(self.builder.build_right_shift(a, b, false, "lshr"))
    }

    /// Integer comparison.
    pub fn icmp<T: IntMathValue<'c>>(
        &self,
        how: IntCmp,
        a: T,
        b: T,
    ) -> <T::BaseType as IntMathType<'c>>::ValueType {
        ok(self.builder.build_int_compare(how, a, b, "icmp"))
    }

    /// Float comparison.
    pub fn fcmp<T: FloatMathValue<'c>>(&self, how: FloatCmp, a: T, b: T) -> IntOf<'c, T> {
        ok(self.builder.build_float_compare(how, a, b, "fcmp"))
    }

    /// `condition ? a : b`, lane by lane for a vector condition.
    pub fn select<T, C>(&self, condition: C, a: T, b: T) -> T
    where
        T: BasicValue<'c> + TryFrom<Any<'c>>,
        C: IntMathValue<'c>,
    {
        cast(ok(self.builder.build_select(condition, a, b, "select")))
    }

    /// The smaller of two signed integers.
    pub fn imin(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.select(self.icmp(IntCmp::SLT, a, b), a, b)
    }

    /// The larger of two signed integers.
    pub fn imax(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.select(self.icmp(IntCmp::SGT, a, b), a, b)
    }

    /// `ceil(a / b)` for `a >= 0`, `b > 0`.
    pub fn div_ceil(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        let one = a.get_type().const_int(1, false);
        self.udiv(self.add(a, self.sub(b, one)), b)
    }

    /// Sign flipped.
    pub fn fneg<T: FloatMathValue<'c>>(&self, a: T) -> T {
        ok(self.builder.build_float_neg(a, "fneg"))
    }

    /// Absolute value.
    pub fn fabs<T: BasicValue<'c> + TryFrom<Any<'c>>>(&self, a: T) -> T {
        self.unary("llvm.fabs", a)
    }

    /// Correctly rounded square root.
    pub fn sqrt<T: BasicValue<'c> + TryFrom<Any<'c>>>(&self, a: T) -> T {
        self.unary("llvm.sqrt", a)
    }

    /// `a * b + c` rounded once. Only for float products at levels that have the instruction.
    pub fn fma<T: BasicValue<'c> + TryFrom<Any<'c>>>(&self, a: T, b: T, c: T) -> T {
        assert!(
            self.level().has_fma(),
            "the portable level has no fused multiply-add"
        );
        let ty = a.as_basic_value_enum().get_type();
        let args = [a, b, c].map(|v| v.as_basic_value_enum().into());
        cast(self.intrinsic("llvm.fma", &[ty], &args))
    }

    /// `a * b + c` of a float product: rounded once where the level has the instruction, unless the kernel is
    /// [`unfused`](Self::unfused).
    pub fn multiply_add(&self, a: Vector<'c>, b: Vector<'c>, c: Vector<'c>) -> Vector<'c> {
        if self.fused {
            self.fma(a, b, c)
        } else {
            self.fadd(self.fmul(a, b), c)
        }
    }

    /// `a` with the sign of `b`.
    pub fn copysign<T: BasicValue<'c> + TryFrom<Any<'c>>>(&self, a: T, b: T) -> T {
        let ty = a.as_basic_value_enum().get_type();
        let args = [a, b].map(|v| v.as_basic_value_enum().into());
        cast(self.intrinsic("llvm.copysign", &[ty], &args))
    }

    /// Nearest integral value of an f32 vector, ties to even.
    pub fn round_even(&self, a: Vector<'c>) -> Vector<'c> {
        if self.level().has_round() {
            return self.unary("llvm.roundeven", a);
        }
        // Adding 2^23 leaves no fraction bits; larger magnitudes, infinities and NaN have none to begin with.
        let lanes = a.get_type().get_size();
        let big = self.f32s(8_388_608.0, lanes);
        let magnitude: Vector<'c> = self.fabs(a);
        let rounded = self.fsub(self.fadd(magnitude, big), big);
        let small = self.fcmp(FloatCmp::OLT, magnitude, big);
        self.select(small, self.copysign(rounded, a), a)
    }

    /// Largest integral value not above `a` (f32 vector).
    pub fn floor(&self, a: Vector<'c>) -> Vector<'c> {
        if self.level().has_round() {
            return self.unary("llvm.floor", a);
        }
        let lanes = a.get_type().get_size();
        let nearest = self.round_even(a);
        let above = self.fcmp(FloatCmp::OGT, nearest, a);
        let lowered = self.fsub(nearest, self.f32s(1.0, lanes));
        self.copysign_zero(self.select(above, lowered, nearest), a)
    }

    /// Smallest integral value not below `a` (f32 vector).
    pub fn ceil(&self, a: Vector<'c>) -> Vector<'c> {
        if self.level().has_round() {
            return self.unary("llvm.ceil", a);
        }
        self.fneg(self.floor(self.fneg(a)))
    }

    /// Integral part of `a` (f32 vector).
    pub fn trunc(&self, a: Vector<'c>) -> Vector<'c> {
        if self.level().has_round() {
            return self.unary("llvm.trunc", a);
        }
        let down = self.floor(self.fabs(a));
        self.copysign(down, a)
    }

    /// `rounded`, except that a zero `a` keeps its sign (and NaN stays).
    fn copysign_zero(&self, rounded: Vector<'c>, a: Vector<'c>) -> Vector<'c> {
        let zero = self.f32s(0.0, a.get_type().get_size());
        self.select(self.fcmp(FloatCmp::UEQ, a, zero), a, rounded)
    }

    /// f32 vector to i32, rounded to nearest even in one instruction; out-of-range values and NaN give `i32::MIN`.
    pub fn round_to_i32(&self, a: Vector<'c>) -> Vector<'c> {
        let lanes = a.get_type().get_size();
        let native = self.level().lanes();
        if lanes > native {
            let (low, high) = self.halves(a);
            return self.concat(self.round_to_i32(low), self.round_to_i32(high));
        }
        match lanes {
            16 => {
                let i32x16 = self.vector_type(Elem::I32, 16);
                let all = self.context.i16_type().const_all_ones();
                // The last operand asks for the current rounding mode, which the kernel ABI fixes to nearest even.
                let args = [
                    a.into(),
                    i32x16.const_zero().into(),
                    all.into(),
                    self.i32(4).into(),
                ];
                self.intrinsic("llvm.x86.avx512.mask.cvtps2dq.512", &[], &args)
                    .into_vector_value()
            }
            8 => self
                .intrinsic("llvm.x86.avx.cvt.ps2dq.256", &[], &[a.into()])
                .into_vector_value(),
            4 => self
                .intrinsic("llvm.x86.sse2.cvtps2dq", &[], &[a.into()])
                .into_vector_value(),
            _ => panic!("rounding works on 4, 8 or 16 lanes"),
        }
    }

    /// f32 vector to i32, rounded to zero; the values must be in range.
    pub fn trunc_to_i32(&self, a: Vector<'c>) -> Vector<'c> {
        let ty = self.vector_type(Elem::I32, a.get_type().get_size());
        ok(self.builder.build_float_to_signed_int(a, ty, "fptosi"))
    }

    /// Signed integer vector to f32, rounded to nearest even.
    pub fn to_f32(&self, a: Vector<'c>) -> Vector<'c> {
        let ty = self.vector_type(Elem::F32, a.get_type().get_size());
        ok(self.builder.build_signed_int_to_float(a, ty, "sitofp"))
    }

    /// Sign extension of a vector to wider integers.
    pub fn sext(&self, a: Vector<'c>, to: Elem) -> Vector<'c> {
        ok(self
            .builder
            .build_int_s_extend(a, self.vector_type(to, a.get_type().get_size()), "sext"))
    }

    /// Zero extension of a vector to wider integers.
    pub fn zext(&self, a: Vector<'c>, to: Elem) -> Vector<'c> {
        ok(self
            .builder
            .build_int_z_extend(a, self.vector_type(to, a.get_type().get_size()), "zext"))
    }

    /// Low bits of a vector's integers.
    pub fn narrow(&self, a: Vector<'c>, to: Elem) -> Vector<'c> {
        ok(self
            .builder
            .build_int_truncate(a, self.vector_type(to, a.get_type().get_size()), "trunc"))
    }

    /// Low bits of a scalar integer.
    pub fn trunc_to(&self, to: Elem, a: Int<'c>) -> Int<'c> {
        let ty = self.scalar_type(to).into_int_type();
        ok(self.builder.build_int_truncate_or_bit_cast(a, ty, "trunc"))
    }

    /// Sign extension of a scalar integer to i64.
    pub fn sext_i64(&self, a: Int<'c>) -> Int<'c> {
        ok(self
            .builder
            .build_int_s_extend_or_bit_cast(a, self.context.i64_type(), "sext"))
    }

    /// The same bits as another vector type of the same size.
    pub fn bitcast(&self, a: Vector<'c>, elem: Elem, lanes: u32) -> Vector<'c> {
        ok(self
            .builder
            .build_bit_cast(a, self.vector_type(elem, lanes), "bits"))
        .into_vector_value()
    }

    /// A vector of equal lanes.
    pub fn splat(&self, value: impl BasicValue<'c>, lanes: u32) -> Vector<'c> {
        let value = value.as_basic_value_enum();
        let ty = match value.get_type() {
            BasicTypeEnum::IntType(t) => t.vec_type(lanes),
            BasicTypeEnum::FloatType(t) => t.vec_type(lanes),
            _ => unreachable!("vectors hold integers and floats"),
        };
        let one = ok(self
            .builder
            .build_insert_element(ty.get_poison(), value, self.i32(0), "lane0"));
        self.shuffle(one, one, &vec![0; lanes as usize])
    }

    /// A constant f32 vector of equal lanes.
    pub fn f32s(&self, value: f32, lanes: u32) -> Vector<'c> {
        VectorType::const_vector(&vec![self.f32(value); lanes as usize])
    }

    /// A constant i32 vector.
    pub fn i32s(&self, values: &[i32]) -> Vector<'c> {
        let values: Vec<_> = values.iter().map(|&v| self.i32(v)).collect();
        VectorType::const_vector(&values)
    }

    /// Lane `n` of a vector.
    pub fn lane<T: TryFrom<Any<'c>>>(&self, a: Vector<'c>, n: u32) -> T {
        cast(ok(self.builder.build_extract_element(
            a,
            self.i32(n as i32),
            "lane",
        )))
    }

    /// Lanes picked from `a` then `b` by constant positions (-1: any value).
    pub fn shuffle(&self, a: Vector<'c>, b: Vector<'c>, picks: &[i32]) -> Vector<'c> {
        let i32_type = self.context.i32_type();
        let picks: Vec<_> = picks
            .iter()
            .map(|&p| if p < 0 { i32_type.get_poison() } else { self.i32(p) })
            .collect();
        ok(self
            .builder
            .build_shuffle_vector(a, b, VectorType::const_vector(&picks), "shuffle"))
    }

    /// The lower and upper half of a vector.
    pub fn halves(&self, a: Vector<'c>) -> (Vector<'c>, Vector<'c>) {
        let half = a.get_type().get_size() as i32 / 2;
        let low: Vec<i32> = (0..half).collect();
        let high: Vec<i32> = (half..2 * half).collect();
        (self.shuffle(a, a, &low), self.shuffle(a, a, &high))
    }

    /// Two vectors end to end.
    pub fn concat(&self, low: Vector<'c>, high: Vector<'c>) -> Vector<'c> {
        let lanes = low.get_type().get_size() as i32;
        let picks: Vec<i32> = (0..2 * lanes).collect();
        self.shuffle(low, high, &picks)
    }

    /// Combines all lanes by halving: 16 lanes in the order 8-4-2-1, the fixed order of every reduction.
    pub fn reduce<T: TryFrom<Any<'c>>>(
        &self,
        a: Vector<'c>,
        combine: impl Fn(Vector<'c>, Vector<'c>) -> Vector<'c>,
    ) -> T {
        let mut value = a;
        while value.get_type().get_size() > 1 {
            let (low, high) = self.halves(value);
            value = combine(low, high);
        }
        self.lane(value, 0)
    }

    /// Sum of 16 partial sums in the order 8-4-2-1.
    pub fn reduce_sum(&self, a: Vector<'c>) -> Float<'c> {
        self.reduce(a, |x, y| self.fadd(x, y))
    }

    /// A vector bit by bit `a > b ? a : b` as signed integers.
    pub fn vmax(&self, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
        self.select(self.icmp(IntCmp::SGT, a, b), a, b)
    }

    /// Signed smaller lanes of two integer vectors.
    pub fn vmin(&self, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
        self.select(self.icmp(IntCmp::SLT, a, b), a, b)
    }

    /// Products of u8 `a` with s8 `b`, summed in fours and added to i32 lanes, all exact modulo 2^32; one native
    /// register each, i32 lanes. Only at levels with VNNI.
    pub fn dot_u8_s8(&self, sum: Vector<'c>, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
        let name = match self.level() {
            Level::Avx512Vnni => "llvm.x86.avx512.vpdpbusd.512",
            _ => "llvm.x86.avx512.vpdpbusd.256",
        };
        self.intrinsic(name, &[], &[sum.into(), a.into(), b.into()])
            .into_vector_value()
    }

    /// Products of i16 lanes, summed in pairs to i32 lanes (exact); one native register each.
    pub fn dot_i16(&self, a: Vector<'c>, b: Vector<'c>) -> Vector<'c> {
        let name = match self.level() {
            Level::Portable => "llvm.x86.sse2.pmadd.wd",
            Level::Avx2 | Level::AvxVnni => "llvm.x86.avx2.pmadd.wd",
            Level::Avx512Vnni => "llvm.x86.avx512.pmaddw.d.512",
        };
        self.intrinsic(name, &[], &[a.into(), b.into()])
            .into_vector_value()
    }

    pub(super) fn unary<T: BasicValue<'c> + TryFrom<Any<'c>>>(&self, name: &str, a: T) -> T {
        let value = a.as_basic_value_enum();
        cast(self.intrinsic(name, &[value.get_type()], &[value.into()]))
    }

    /// Calls an LLVM intrinsic that returns a value; `types` are the ones its name is overloaded on.
    pub fn intrinsic(
        &self,
        name: &str,
        types: &[BasicTypeEnum<'c>],
        args: &[BasicMetadataValueEnum<'c>],
    ) -> Any<'c> {
        self.call(name, types, args)
            .try_as_basic_value()
            .expect_basic("the intrinsic returns a value")
    }

    /// Calls an LLVM intrinsic that returns nothing.
    pub fn intrinsic_void(
        &self,
        name: &str,
        types: &[BasicTypeEnum<'c>],
        args: &[BasicMetadataValueEnum<'c>],
    ) {
        self.call(name, types, args);
    }

    fn call(
        &self,
        name: &str,
        types: &[BasicTypeEnum<'c>],
        args: &[BasicMetadataValueEnum<'c>],
    ) -> inkwell::values::CallSiteValue<'c> {
        let intrinsic = Intrinsic::find(name).unwrap_or_else(|| panic!("llvm has no intrinsic {name}"));
        let function = intrinsic
            .get_declaration(&self.module, types)
            .unwrap_or_else(|| panic!("wrong overload of {name}"));
        ok(self.builder.build_call(function, args, "call"))
    }
}
