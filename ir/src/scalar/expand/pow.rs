//! a^b = 2^(b log2 |a|), with log2 and the product in two f32 parts each (split arithmetic of Dekker 1971, arranged
//! as in Sun's fdlibm), so that the exponent is accurate to about 2^-27 absolutely.

use super::{BodyId, Formula, Pred};
use crate::types::ScalarType;

/// `(3 atanh(s)/s - 3 - s^2) / s^4` in s^2; relative error 2^-43.
const TAIL: [f32; 4] = [
    f32::from_bits(0x3f19_9999),
    f32::from_bits(0x3edb_6ec9),
    f32::from_bits(0x3eaa_56e6),
    f32::from_bits(0x3e96_3777),
];
/// 2 / (3 ln 2), whole and as HI + LO; HI has 12 significant bits.
const CP: f32 = 0.961_796_7;
const CP_HI: f32 = f32::from_bits(0x3f76_4000);
const CP_LO: f32 = f32::from_bits(0xb8f6_23c6);
/// Exponents beyond this give the same result; keeps products finite.
const MAX_EXPONENT: f32 = 8_589_934_592.0;

impl Formula {
    /// log2 of a positive finite number in two parts; the first has 12 significant bits.
    fn log2_parts(&mut self, a: BodyId) -> (BodyId, BodyId) {
        let (e, m) = self.split_exponent(a);
        let f = self.add(m, -1.0);
        let v = self.add(m, 1.0);
        let s = self.b.div(f, v);
        let sh = self.head(s);
        // m + 1 in two parts, and what s lacks of f / (m + 1).
        let vh = self.head(v);
        let vh1 = self.add(vh, -1.0);
        let vl = self.b.sub(m, vh1);
        let (p, q) = (self.b.mul(sh, vh), self.b.mul(sh, vl));
        let rest = self.b.sub(f, p);
        let rest = self.b.sub(rest, q);
        let sl = self.b.div(rest, v);
        // 3 + s^2 + r, where s * that * 2/3 = 2 atanh s = ln m.
        let s2 = self.b.mul(s, s);
        let tail = self.poly(s2, &TAIL);
        let s4 = self.b.mul(s2, s2);
        let r = self.b.mul(s4, tail);
        let sum = self.b.add(sh, s);
        let cross = self.b.mul(sl, sum);
        let r = self.b.add(r, cross);
        let sh2 = self.b.mul(sh, sh);
        let t = self.add(sh2, 3.0);
        let t = self.b.add(t, r);
        let th = self.head(t);
        let back = self.add(th, -3.0);
        let back = self.b.sub(back, sh2);
        let tl = self.b.sub(r, back);
        // Times s.
        let u = self.b.mul(sh, th);
        let (w1, w2) = (self.b.mul(sl, th), self.b.mul(tl, s));
        let w = self.b.add(w1, w2);
        let p = self.b.add(u, w);
        let ph = self.head(p);
        let d = self.b.sub(ph, u);
        let pl = self.b.sub(w, d);
        // Times 2 / (3 ln 2), plus e.
        let zh = self.mul(ph, CP_HI);
        let (z1, z2) = (self.mul(ph, CP_LO), self.mul(pl, CP));
        let zl = self.b.add(z1, z2);
        let z = self.b.add(zh, zl);
        let z = self.b.add(z, e);
        let hi = self.head(z);
        let d = self.b.sub(hi, e);
        let d = self.b.sub(d, zh);
        (hi, self.b.sub(zl, d))
    }

    /// 2^(h + l) for |l| < 1, results below 2^-126 as denormals, beyond the range 0 or inf.
    fn exp2_parts(&mut self, h: BodyId, l: BodyId) -> BodyId {
        let z = self.b.add(h, l);
        let (hi, lo) = (self.f(200.0), self.f(-200.0));
        let bounded = self.b.max(lo, z);
        let bounded = self.b.min(hi, bounded);
        let n = self.b.round_even(bounded);
        let f = self.b.sub(h, n);
        let f = self.b.add(f, l);
        let r = self.mul(f, std::f32::consts::LN_2);
        let p = self.expm1_small(r);
        let p = self.add(p, 1.0);
        // Two factors: one alone could overflow or underflow before its time.
        let n = self.b.cast(n, ScalarType::I32);
        let one = self.i(1);
        let n1 = self.b.shr(n, one);
        let n2 = self.b.sub(n, n1);
        let mut y = p;
        for part in [n1, n2] {
            let (bias, s) = (self.i(127), self.i(23));
            let biased = self.b.add(part, bias);
            let scale = self.b.shl(biased, s);
            let scale = self.float(scale);
            y = self.b.mul(y, scale);
        }
        let (inf, zero) = (self.f(f32::INFINITY), self.f(0.0));
        let y = self.select(Pred::Gt, z, 130.0, inf, y);
        self.select(Pred::Lt, z, -152.0, zero, y)
    }

    /// `x^y` with the special cases of IEEE 754.
    pub(super) fn pow(&mut self, x: BodyId, y: BodyId) -> BodyId {
        let a = self.b.abs(x);
        let (top, bottom) = (self.f(MAX_EXPONENT), self.f(-MAX_EXPONENT));
        let e = self.b.min(top, y);
        let e = self.b.max(bottom, e);
        let (t1, t2) = self.log2_parts(a);
        let eh = self.head(e);
        let el = self.b.sub(e, eh);
        let (l1, l2) = (self.b.mul(el, t1), self.b.mul(e, t2));
        let l = self.b.add(l1, l2);
        let h = self.b.mul(eh, t1);
        let r = self.exp2_parts(h, l);
        // |x| of 0 or inf: 0 if log2 |x| and y have different signs, else inf.
        let (zero, inf) = (self.f(0.0), self.f(f32::INFINITY));
        let is_zero = self.b.cmp(Pred::Eq, a, zero);
        let grows = self.b.cmp(Pred::Gt, y, zero);
        let vanishes = self.b.cmp(Pred::Eq, is_zero, grows);
        let extreme = self.b.select(vanishes, zero, inf);
        let is_inf = self.b.cmp(Pred::Eq, a, inf);
        let is_extreme = self.b.or(is_zero, is_inf);
        let r = self.b.select(is_extreme, extreme, r);
        // A negative base: the sign of odd powers; NaN where y is no integer.
        let whole = self.b.floor(y);
        let is_whole = self.b.cmp(Pred::Eq, whole, y);
        let half = self.mul(y, 0.5);
        let half_whole = self.b.floor(half);
        let half_fraction = self.b.cmp(Pred::Ne, half_whole, half);
        let odd = self.b.and(is_whole, half_fraction);
        let signed = self.with_sign(r, x);
        let r = self.b.select(odd, signed, r);
        let negative = self.b.cmp(Pred::Lt, x, zero);
        let not_whole = self.b.not(is_whole);
        let bad = self.b.and(negative, not_whole);
        let finite = self.b.not(is_extreme);
        let bad = self.b.and(bad, finite);
        let nan = self.f(f32::NAN);
        let r = self.b.select(bad, nan, r);
        // NaN in, NaN out, but 1 for y = 0 and for x = 1.
        let sum = self.b.add(x, y);
        let x_nan = self.b.cmp(Pred::Ne, x, x);
        let y_nan = self.b.cmp(Pred::Ne, y, y);
        let any = self.b.or(x_nan, y_nan);
        let r = self.b.select(any, sum, r);
        let one = self.f(1.0);
        let y_zero = self.b.cmp(Pred::Eq, y, zero);
        let x_one = self.b.cmp(Pred::Eq, x, one);
        let unit = self.b.or(y_zero, x_one);
        self.b.select(unit, one, r)
    }
}
