//! exp and tanh.
//!
//! `e^x = 2^n * e^r` with `n = round(x / ln 2)` and `r = x - n ln 2` in two steps (n times the upper part of ln 2 is
//! exact), `e^r = 1 + (r + r^2 q(r))` with a minimax q on `|r| <= ln 2 / 2`.

use super::{BodyId, Formula, Pred};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 = HI + LO; HI has 15 significant bits.
const LN2_HI: f32 = f32::from_bits(0x3f31_7200);
const LN2_LO: f32 = f32::from_bits(0x35bf_be8e);
/// q of the module documentation; relative error 2^-28.2.
const Q: [f32; 5] = [
    f32::from_bits(0x3eff_fffe),
    f32::from_bits(0x3e2a_aa49),
    f32::from_bits(0x3d2a_ac56),
    f32::from_bits(0x3c09_1cbe),
    f32::from_bits(0x3ab5_289a),
];

impl Formula {
    /// `(e^r - 1, n << 23)` for `x = n ln 2 + r`.
    fn exp_parts(&mut self, x: BodyId) -> (BodyId, BodyId) {
        let t = self.mul(x, LOG2_E);
        let (n, shifted) = self.round_shift(t);
        let hi = self.mul(n, LN2_HI);
        let r = self.b.sub(x, hi);
        let lo = self.mul(n, LN2_LO);
        let r = self.b.sub(r, lo);
        (self.expm1_small(r), shifted)
    }

    /// `e^r - 1 = r + r^2 q(r)` for `|r| <= ln 2 / 2`.
    pub(super) fn expm1_small(&mut self, r: BodyId) -> BodyId {
        let q = self.poly(r, &Q);
        let r2 = self.b.mul(r, r);
        let rq = self.b.mul(r2, q);
        self.b.add(r, rq)
    }

    /// e^x: 0 where the result would be below 2^-126.
    pub(super) fn exp(&mut self, x: BodyId) -> BodyId {
        let (p, shifted) = self.exp_parts(x);
        let p = self.add(p, 1.0);
        // Adding n to the exponent reaches up to 2^128 - ulp, where a factor 2^n would overflow.
        let bits = self.bits(p);
        let scaled = self.b.add(bits, shifted);
        let y = self.float(scaled);
        // ln of the largest f32; beyond it, and for NaN, a product that is inf or NaN.
        let over = self.mul(x, f32::MAX);
        let y = self.select(Pred::Le, x, 88.722_83, y, over);
        let zero = self.f(0.0);
        // ln 2^-126.
        self.select(Pred::Lt, x, -87.336_54, zero, y)
    }

    /// tanh x = (e^2|x| - 1) / (e^2|x| + 1), with the sign of x; e^2|x| - 1 = 2^n (e^r - 1) + (2^n - 1) is accurate
    /// for small x too. Beyond 9.02 the result rounds to 1.
    pub(super) fn tanh(&mut self, x: BodyId) -> BodyId {
        let (a, end) = (self.b.abs(x), self.f(9.02));
        let a = self.b.min(end, a);
        let two = self.b.add(a, a);
        let (p, shifted) = self.exp_parts(two);
        let one = self.i(0x3f80_0000);
        let scale = self.b.add(shifted, one);
        let scale = self.float(scale);
        let sp = self.b.mul(scale, p);
        let s1 = self.add(scale, -1.0);
        let e = self.b.add(sp, s1);
        let d = self.add(e, 2.0);
        let y = self.b.div(e, d);
        self.with_sign(y, x)
    }
}
