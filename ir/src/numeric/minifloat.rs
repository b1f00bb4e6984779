//! Floating formats of at most 8 bits, each one row: exponent bits, mantissa bits, bias, what the top codes mean.

/// What the codes above the largest number mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// Every code is a number.
    None,
    /// The code with all exponent and mantissa bits set is NaN; there is no infinity.
    Nan,
    /// The top exponent is infinity (mantissa 0) and NaN, as in IEEE 754.
    InfNan,
}

/// What becomes of numbers beyond the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// The largest number of that sign (ONNX `saturate = 1`), infinities too.
    Saturate,
    /// Infinity, or NaN where there is none (ONNX `saturate = 0`). Formats without either saturate.
    Special,
}

/// A sign bit, exponent bits, mantissa bits. Rows: [`Self::E4M3`], [`Self::E5M2`], [`Self::E3M2`], [`Self::E2M3`],
/// [`Self::E2M1`] (OCP 8-bit floating point specification 1.0, OCP microscaling formats 1.0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MiniFloat {
    /// Name.
    pub name: &'static str,
    /// Exponent bits.
    pub exponent: u32,
    /// Mantissa bits.
    pub mantissa: u32,
    /// Exponent bias.
    pub bias: i32,
    /// What the top codes mean.
    pub special: Special,
}

const fn row(name: &'static str, exponent: u32, mantissa: u32, bias: i32, special: Special) -> MiniFloat {
    MiniFloat {
        name,
        exponent,
        mantissa,
        bias,
        special,
    }
}

impl MiniFloat {
    /// fp8 e4m3fn: up to 448, NaN, no infinity.
    pub const E4M3: MiniFloat = row("e4m3fn", 4, 3, 7, Special::Nan);
    /// fp8 e5m2: up to 57344, infinities and NaNs.
    pub const E5M2: MiniFloat = row("e5m2", 5, 2, 15, Special::InfNan);
    /// fp6 e3m2: up to 28.
    pub const E3M2: MiniFloat = row("e3m2", 3, 2, 3, Special::None);
    /// fp6 e2m3: up to 7.5.
    pub const E2M3: MiniFloat = row("e2m3", 2, 3, 1, Special::None);
    /// fp4 e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
    pub const E2M1: MiniFloat = row("e2m1", 2, 1, 1, Special::None);
    /// All rows.
    pub const ALL: [MiniFloat; 5] = [Self::E4M3, Self::E5M2, Self::E3M2, Self::E2M3, Self::E2M1];

    /// Bits of a code.
    pub const fn bits(&self) -> u32 {
        1 + self.exponent + self.mantissa
    }

    /// The code of the largest positive number.
    pub const fn max_code(&self) -> u8 {
        let all = (1u32 << (self.exponent + self.mantissa)) - 1;
        let top = match self.special {
            Special::None => all,
            Special::Nan => all - 1,
            Special::InfNan => all - (1 << self.mantissa),
        };
        top as u8
    }

    /// The largest number.
    pub fn max(&self) -> f32 {
        self.decode(self.max_code())
    }

    /// Exponent of the largest number: `floor(log2 max)`.
    pub fn max_exponent(&self) -> i32 {
        i32::from(self.max_code() >> self.mantissa) - self.bias
    }

    /// The number of a code; only the low [`Self::bits`] bits count.
    pub fn decode(&self, code: u8) -> f32 {
        let magnitude = u32::from(code) & ((1 << (self.exponent + self.mantissa)) - 1);
        let sign = if code >> (self.bits() - 1) & 1 == 1 {
            -1.0
        } else {
            1.0
        };
        if magnitude > u32::from(self.max_code()) {
            let is_inf = self.special == Special::InfNan && magnitude == u32::from(self.max_code()) + 1;
            return if is_inf { sign * f32::INFINITY } else { f32::NAN };
        }
        let (e, m) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let (significand, e) = if e == 0 {
            (m, 1)
        } else {
            (m | 1 << self.mantissa, e as i32)
        };
        sign * significand as f32 * exp2(e - self.bias - self.mantissa as i32)
    }

    /// The code of the nearest number. The sign of zero stays. NaN gives NaN, or the largest number where there is
    /// none (ONNX for fp4).
    pub fn encode(&self, x: f32, overflow: Overflow) -> u8 {
        let sign = if x.is_sign_negative() {
            1 << (self.bits() - 1)
        } else {
            0u8
        };
        let max = self.max_code();
        if x.is_nan() {
            return match self.special {
                Special::None => max,
                _ => sign | ((1u32 << (self.exponent + self.mantissa)) - 1) as u8,
            };
        }
        let a = f64::from(x.abs());
        // Exponent of the unit in the last place: that of the number, or of the subnormals.
        let e = if a.is_infinite() {
            i32::MAX
        } else {
            floor_log2(a).max(1 - self.bias)
        };
        let past = i64::from(max) + 1;
        let code = if e > self.max_exponent() + 1 {
            past
        } else {
            // With the implicit bit in q, a carry out of the mantissa lands in the exponent by itself.
            let q = (a / f64::from(exp2(e - self.mantissa as i32))).round_ties_even() as i64;
            i64::from(e + self.bias - 1) * (1 << self.mantissa) + q
        };
        if code <= i64::from(max) {
            return sign | code as u8;
        }
        match (overflow, self.special) {
            (Overflow::Special, Special::Nan | Special::InfNan) => sign | (max + 1),
            _ => sign | max,
        }
    }
}

/// `2^e` for -149 <= e <= 127.
pub(super) fn exp2(e: i32) -> f32 {
    if e >= -126 {
        f32::from_bits(((e + 127) as u32) << 23)
    } else {
        f32::from_bits(1 << (e + 149))
    }
}

/// `floor(log2 a)` of a nonnegative finite number that f32 can hold; far below every exponent for 0.
pub(super) fn floor_log2(a: f64) -> i32 {
    (a.to_bits() >> 52) as i32 - 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All numbers of a format with their codes, ascending, without negative ones.
    fn numbers(f: &MiniFloat) -> Vec<(f32, u8)> {
        (0..=f.max_code()).map(|c| (f.decode(c), c)).collect()
    }

    #[test]
    fn ranges_are_those_of_the_specifications() {
        let want = [
            (448.0, 2f32.powi(-9), 8),
            (57344.0, 2f32.powi(-16), 15),
            (28.0, 0.0625, 4),
            (7.5, 0.125, 2),
            (6.0, 0.5, 2),
        ];
        for (f, (max, least, e)) in MiniFloat::ALL.iter().zip(want) {
            assert_eq!(
                (f.max(), f.decode(1), f.max_exponent()),
                (max, least, e),
                "{}",
                f.name
            );
        }
        let fp4: Vec<f32> = numbers(&MiniFloat::E2M1).iter().map(|(v, _)| *v).collect();
        assert_eq!(fp4, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert!(MiniFloat::E4M3.decode(0x7f).is_nan() && MiniFloat::E4M3.decode(0xff).is_nan());
        assert_eq!(MiniFloat::E5M2.decode(0xfc), f32::NEG_INFINITY);
        assert!((0x7d..0x80).all(|c| MiniFloat::E5M2.decode(c).is_nan()));
    }

    #[test]
    fn every_code_comes_back() {
        for f in MiniFloat::ALL {
            for code in 0..=((1u32 << f.bits()) - 1) as u8 {
                let v = f.decode(code);
                if v.is_nan() {
                    assert!(f.decode(f.encode(v, Overflow::Saturate)).is_nan());
                    continue;
                }
                let overflow = if v.is_infinite() {
                    Overflow::Special
                } else {
                    Overflow::Saturate
                };
                assert_eq!(f.encode(v, overflow), code, "{} {v}", f.name);
            }
        }
    }

    #[test]
    fn midpoints_go_to_even_and_neighbours_to_the_nearer() {
        for f in MiniFloat::ALL {
            for pair in numbers(&f).windows(2) {
                let ((a, ca), (b, cb)) = (pair[0], pair[1]);
                assert!(a < b);
                let mid = (a + b) / 2.0;
                let even = if ca & 1 == 0 { ca } else { cb };
                let (below, above) = (
                    f32::from_bits(mid.to_bits() - 1),
                    f32::from_bits(mid.to_bits() + 1),
                );
                assert_eq!(f.encode(mid, Overflow::Saturate), even, "{} {mid}", f.name);
                assert_eq!(f.encode(below, Overflow::Saturate), ca);
                assert_eq!(f.encode(above, Overflow::Saturate), cb);
                let sign = 1 << (f.bits() - 1);
                assert_eq!(f.encode(-mid, Overflow::Saturate), sign | even);
            }
        }
    }

    #[test]
    fn encoding_is_monotone_over_all_f32() {
        for f in MiniFloat::ALL {
            let mut last = 0;
            for bits in (0..0x7f80_0000u32).step_by(0x1235) {
                let code = f.encode(f32::from_bits(bits), Overflow::Saturate);
                assert!(code >= last, "{} {bits:x}", f.name);
                last = code;
            }
            assert_eq!(last, f.max_code());
        }
    }

    #[test]
    fn overflow() {
        let e4 = |x, o| MiniFloat::E4M3.encode(x, o);
        // 464 is the tie between 448 and the missing 480.
        assert_eq!(e4(464.0, Overflow::Special), 0x7e);
        assert_eq!(e4(465.0, Overflow::Saturate), 0x7e);
        assert_eq!(e4(465.0, Overflow::Special), 0x7f);
        assert_eq!(e4(f32::NEG_INFINITY, Overflow::Saturate), 0xfe);
        assert_eq!(e4(f32::INFINITY, Overflow::Special), 0x7f);
        let e5 = |x, o| MiniFloat::E5M2.encode(x, o);
        assert_eq!(e5(61439.0, Overflow::Special), 0x7b);
        assert_eq!(e5(61440.0, Overflow::Special), 0x7c);
        assert_eq!(e5(f32::MAX, Overflow::Saturate), 0x7b);
        let fp4 = |x| MiniFloat::E2M1.encode(x, Overflow::Special);
        assert_eq!(
            [fp4(f32::NAN), fp4(1e9), fp4(-1e9), fp4(5.0), fp4(-0.25)],
            [7, 7, 15, 6, 8]
        );
    }
}
