//! The error function, without a division: on `|x| < 0.95` the odd polynomial `x + x p(x^2)`, beyond it
//! `1 - 2^q(|x|)` with q fitted to `log2 erfc` up to 3.93, where the result rounds to 1.

use super::{BodyId, Formula, Pred};

/// `(erf(x) - x) / x` in x^2; relative error of erf 2^-25.1.
const SMALL: [f32; 6] = [
    f32::from_bits(0x3e03_75d2),
    f32::from_bits(0xbec0_9357),
    f32::from_bits(0x3de7_0900),
    f32::from_bits(0xbcdb_0cbf),
    f32::from_bits(0x3ba2_648a),
    f32::from_bits(0xba18_5685),
];
/// `log2 erfc(a)`; error relative to erf 2^-25.5.
const TAIL: [f32; 6] = [
    f32::from_bits(0xbb4f_9bcf),
    f32::from_bits(0xbfce_a74f),
    f32::from_bits(0xbf70_e91c),
    f32::from_bits(0xbe05_1381),
    f32::from_bits(0x3cb4_247b),
    f32::from_bits(0xbae4_8cb5),
];
/// `(2^f - 1) / f` on `|f| <= 1/2`; relative error of 2^f 2^-23.4.
const EXP2: [f32; 5] = [
    f32::from_bits(0x3f31_7215),
    f32::from_bits(0x3e75_fce1),
    f32::from_bits(0x3d63_5b6f),
    f32::from_bits(0x3c1e_746e),
    f32::from_bits(0x3aad_ebf5),
];

impl Formula {
    /// See the module documentation.
    pub(super) fn erf(&mut self, x: BodyId) -> BodyId {
        let x2 = self.b.mul(x, x);
        let p = self.poly(x2, &SMALL);
        let xp = self.b.mul(x, p);
        let small = self.b.add(x, xp);
        let (a, end) = (self.b.abs(x), self.f(3.93));
        let c = self.b.min(end, a);
        let q = self.poly(c, &TAIL);
        let (n, shifted) = self.round_shift(q);
        let f = self.b.sub(q, n);
        let g = self.poly(f, &EXP2);
        let e = self.mul_add(f, g, 1.0);
        // q > -26: the exponent stays normal.
        let bits = self.bits(e);
        let scaled = self.b.add(bits, shifted);
        let erfc = self.float(scaled);
        let one = self.f(1.0);
        let tail = self.b.sub(one, erfc);
        let tail = self.with_sign(tail, x);
        // NaN takes the small branch, where it survives.
        self.select(Pred::Ge, a, 0.95, tail, small)
    }
}
