//! The natural logarithm: `x = 2^e m` with m in `[sqrt 1/2, sqrt 2)`, `f = m - 1`, `s = f / (2 + f)`; then
//! `log m = 2 atanh s = f - (f^2/2 - s (f^2/2 + R(s^2)))` (the arrangement of Sun's fdlibm).

use super::{BodyId, Formula, Pred};

/// `(2 atanh(s) - 2s) / s` in s^2; relative error 2^-35.
const R: [f32; 4] = [
    f32::from_bits(0x3f2a_aaaa),
    f32::from_bits(0x3ecc_ce13),
    f32::from_bits(0x3e91_e9f0),
    f32::from_bits(0x3e78_9d80),
];
/// ln 2 = HI + LO; HI has 15 significant bits, so that e * HI is exact.
const LN2_HI: f32 = f32::from_bits(0x3f31_7200);
const LN2_LO: f32 = f32::from_bits(0x35bf_be8e);

impl Formula {
    /// `(e, m)` with `a = 2^e m`, e as float, m in `[sqrt 1/2, sqrt 2)`, for a positive finite `a`; denormals are
    /// scaled first.
    pub(super) fn split_exponent(&mut self, a: BodyId) -> (BodyId, BodyId) {
        let scaled = self.mul(a, 16_777_216.0);
        let tiny = self.f(f32::MIN_POSITIVE);
        let is_tiny = self.b.cmp(Pred::Lt, a, tiny);
        let a = self.b.select(is_tiny, scaled, a);
        let (lift, zero) = (self.f(-24.0), self.f(0.0));
        let lift = self.b.select(is_tiny, lift, zero);
        // bits of sqrt 1/2; the arithmetic shift rounds down.
        let (bits, root, s) = (self.bits(a), self.i(-0x3f35_04f3), self.i(23));
        let from_root = self.b.add(bits, root);
        let e = self.b.shr(from_root, s);
        let back = self.b.shl(e, s);
        let m = self.b.sub(bits, back);
        let m = self.float(m);
        let e = self.b.cast(e, crate::types::ScalarType::F32);
        (self.b.add(e, lift), m)
    }

    /// Natural logarithm.
    pub(super) fn log(&mut self, x: BodyId) -> BodyId {
        let (e, m) = self.split_exponent(x);
        let f = self.add(m, -1.0);
        let d = self.add(f, 2.0);
        let s = self.b.div(f, d);
        let z = self.b.mul(s, s);
        let r = self.poly(z, &R);
        let r = self.b.mul(z, r);
        let h = self.mul(f, 0.5);
        let half = self.b.mul(h, f);
        let hr = self.b.add(half, r);
        let shr = self.b.mul(s, hr);
        let lo = self.mul(e, LN2_LO);
        let t = self.b.add(shr, lo);
        let t = self.b.sub(half, t);
        let t = self.b.sub(t, f);
        let hi = self.mul(e, LN2_HI);
        let y = self.b.sub(hi, t);
        // inf and NaN stay; zero gives -inf; negative numbers give NaN.
        let y = self.select(Pred::Lt, x, f32::INFINITY, y, x);
        let low = self.f(f32::NEG_INFINITY);
        let y = self.select(Pred::Eq, x, 0.0, low, y);
        let nan = self.f(f32::NAN);
        self.select(Pred::Lt, x, 0.0, nan, y)
    }
}
