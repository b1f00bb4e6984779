//! sin and cos: `x = n pi/2 + r` in four steps, of which three are exact for n below 2^13; then minimax polynomials
//! on `|r| <= pi/4`, chosen and signed by the quadrant n mod 4.

use super::{BodyId, Formula, Pred};
use crate::types::ScalarType;

const TWO_OVER_PI: f32 = std::f32::consts::FRAC_2_PI;
/// pi/2 in parts of 11, 11, 11 and 24 significant bits.
const PIO2: [f32; 4] = [
    f32::from_bits(0x3fc9_0000),
    f32::from_bits(0x39fd_a000),
    f32::from_bits(0x33a2_2000),
    f32::from_bits(0x2c34_611a),
];
/// `(sin r - r) / r^3` in r^2; relative error of sin 2^-27.9.
const SIN: [f32; 3] = [
    f32::from_bits(0xbe2a_aaa3),
    f32::from_bits(0x3c08_83ba),
    f32::from_bits(0xb94c_a8fb),
];
/// `(cos r - 1 + r^2/2) / r^4` in r^2; relative error of cos 2^-33.
const COS: [f32; 3] = [
    f32::from_bits(0x3d2a_aaa5),
    f32::from_bits(0xbab6_0614),
    f32::from_bits(0x37cc_f406),
];

impl Formula {
    /// sin x, or cos x.
    pub(super) fn sin_cos(&mut self, x: BodyId, cos: bool) -> BodyId {
        let t = self.mul(x, TWO_OVER_PI);
        let n = self.b.round_even(t);
        let mut r = x;
        for part in PIO2 {
            let p = self.mul(n, part);
            r = self.b.sub(r, p);
        }
        // Where the reduction has failed (huge x) at least the range of the result holds. Constant first: NaN stays.
        let (top, bottom) = (self.f(1.0), self.f(-1.0));
        let r = self.b.min(top, r);
        let r = self.b.max(bottom, r);
        let r2 = self.b.mul(r, r);
        let s = self.poly(r2, &SIN);
        let r3 = self.b.mul(r2, r);
        let rs = self.b.mul(r3, s);
        let s = self.b.add(r, rs);
        let c = self.poly(r2, &COS);
        let r4 = self.b.mul(r2, r2);
        let c = self.b.mul(r4, c);
        let half = self.mul(r2, 0.5);
        let one = self.f(1.0);
        let base = self.b.sub(one, half);
        // 1 - r^2/2 loses bits of r^2/2; put them back.
        let kept = self.b.sub(one, base);
        let lost = self.b.sub(kept, half);
        let c = self.b.add(c, lost);
        let c = self.b.add(base, c);
        // Quadrant: odd ones use the other function, the upper two change the sign.
        let mut k = self.b.cast(n, ScalarType::I32);
        let unit = self.i(1);
        if cos {
            k = self.b.add(k, unit);
        }
        let odd = self.b.and(k, unit);
        let zero = self.i(0);
        let is_even = self.b.cmp(Pred::Eq, odd, zero);
        let y = self.b.select(is_even, s, c);
        let (two, thirty) = (self.i(2), self.i(30));
        let upper = self.b.and(k, two);
        let sign = self.b.shl(upper, thirty);
        let bits = self.bits(y);
        let signed = self.b.xor(bits, sign);
        let y = self.float(signed);
        if cos {
            return y;
        }
        // The reduction turns -0 into +0.
        self.select(Pred::Eq, x, 0.0, x, y)
    }
}
