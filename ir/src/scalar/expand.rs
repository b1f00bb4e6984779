//! Replaces transcendental scalar ops by formulas of primitive ops, the same on every target.
//!
//! The formulas are plain f32 and i32 arithmetic, one IEEE operation after the other, without fma. f16 and bf16
//! statements compute in f32 and round once more. f64 statements stay as they are: backends refuse them.
//!
//! Accuracy, measured over **all** 2^32 arguments, for `pow` over 2^28 pairs whose results are mostly in range
//! (`cargo run --release -p rsqc-ir --example transcendental_ulp` prints these figures; operations without bit casts):
//!
//! | op | largest error | operations | range |
//! |---|---|---|---|
//! | exp | 0.99 ULP | 26 | results below 2^-126 are flushed to 0 |
//! | log | 0.84 ULP | 37 | |
//! | erf | 1.73 ULP | 45 | |
//! | tanh | 2.67 ULP | 30 | |
//! | sin | 2.48 ULP for abs(x) <= 10^4 | 41 | absolute error below 10^-6 up to 10^5; then it degrades, within [-1, 1] |
//! | cos | 2.39 ULP for abs(x) <= 10^4 | 40 | as sin |
//! | pow | 1.14 ULP | 131 | denormal results are rounded twice |
//!
//! A unit in the last place (ULP) is that of the exact result; that of 2^-126 for smaller results.
//! NaN gives NaN (except `pow(x, 0)` and `pow(1, y)`, which are 1), infinities and signed zeros as in IEEE 754.

mod erf;
mod exp;
mod log;
mod pow;
mod trig;

use super::{Body, BodyBuilder, BodyId, Pred, ScalarConst, ScalarOp};
use crate::types::ScalarType;
use std::collections::BTreeMap;

/// Expands every transcendental op of `body`; `roots` are rewritten to the new statement numbers.
pub fn expand(body: &Body, roots: &mut [BodyId]) -> Body {
    let mut f = Formula {
        b: BodyBuilder::new(),
        consts: BTreeMap::new(),
    };
    let mut map: Vec<BodyId> = Vec::with_capacity(body.stmts.len());
    for s in &body.stmts {
        let args: Vec<BodyId> = s.args.iter().map(|a| map[a.index()]).collect();
        let expanded = f.transcendental(&s.op, &args, s.ty);
        map.push(expanded.unwrap_or_else(|| f.b.push(s.op.clone(), &args, s.ty)));
    }
    for r in roots {
        *r = map[r.index()];
    }
    f.b.body().clone()
}

/// `exp` of one f32, which is the body's anchor; its last statement is the result.
pub fn exponential() -> Body {
    let mut b = BodyBuilder::new();
    let x = b.anchor(ScalarType::F32);
    let y = b.push(ScalarOp::Exp, &[x], ScalarType::F32);
    let mut roots = [y];
    let mut body = expand(b.body(), &mut roots);
    body.simplify(&mut roots);
    body.stmts.truncate(roots[0].index() + 1);
    body
}

/// A body under construction, with the constants that formulas have already used.
struct Formula {
    b: BodyBuilder,
    consts: BTreeMap<(ScalarType, u64), BodyId>,
}

impl Formula {
    /// The formula of a transcendental op; `None` for other ops and for f64.
    fn transcendental(&mut self, op: &ScalarOp, args: &[BodyId], ty: ScalarType) -> Option<BodyId> {
        if !op.is_transcendental() || ty == ScalarType::F64 {
            return None;
        }
        let wide: Vec<BodyId> = args.iter().map(|a| self.b.cast(*a, ScalarType::F32)).collect();
        let y = match op {
            ScalarOp::Exp => self.exp(wide[0]),
            ScalarOp::Log => self.log(wide[0]),
            ScalarOp::Erf => self.erf(wide[0]),
            ScalarOp::Tanh => self.tanh(wide[0]),
            ScalarOp::Sin => self.sin_cos(wide[0], false),
            ScalarOp::Cos => self.sin_cos(wide[0], true),
            ScalarOp::Pow => self.pow(wide[0], wide[1]),
            _ => return None,
        };
        Some(self.b.cast(y, ty))
    }

    fn constant(&mut self, c: ScalarConst) -> BodyId {
        let b = &mut self.b;
        *self.consts.entry((c.ty, c.bits)).or_insert_with(|| b.constant(c))
    }

    fn f(&mut self, v: f32) -> BodyId {
        self.constant(ScalarConst::f32(v))
    }

    fn i(&mut self, v: i32) -> BodyId {
        self.constant(ScalarConst::int(ScalarType::I32, i64::from(v)))
    }

    fn bits(&mut self, x: BodyId) -> BodyId {
        self.b.bitcast(x, ScalarType::I32)
    }

    fn float(&mut self, x: BodyId) -> BodyId {
        self.b.bitcast(x, ScalarType::F32)
    }

    fn add(&mut self, x: BodyId, c: f32) -> BodyId {
        let c = self.f(c);
        self.b.add(x, c)
    }

    fn mul(&mut self, x: BodyId, c: f32) -> BodyId {
        let c = self.f(c);
        self.b.mul(x, c)
    }

    /// `x * y + c`, rounded twice.
    fn mul_add(&mut self, x: BodyId, y: BodyId, c: f32) -> BodyId {
        let p = self.b.mul(x, y);
        self.add(p, c)
    }

    /// `c[0] + x*(c[1] + x*(c[2] + ..))`.
    fn poly(&mut self, x: BodyId, c: &[f32]) -> BodyId {
        let (last, rest) = c.split_last().expect("a polynomial has coefficients");
        let mut acc = self.f(*last);
        for c in rest.iter().rev() {
            acc = self.mul_add(acc, x, *c);
        }
        acc
    }

    /// `p x c ? a : b`.
    fn select(&mut self, p: Pred, x: BodyId, c: f32, a: BodyId, b: BodyId) -> BodyId {
        let c = self.f(c);
        let t = self.b.cmp(p, x, c);
        self.b.select(t, a, b)
    }

    /// `x` with the bits below the mask cleared: a number of 12 significant bits, so that products of two are exact.
    fn head(&mut self, x: BodyId) -> BodyId {
        let (bits, mask) = (self.bits(x), self.i(-0x1000));
        let cut = self.b.and(bits, mask);
        self.float(cut)
    }

    /// `magnitude` (not negative) with the sign of `x`.
    fn with_sign(&mut self, magnitude: BodyId, x: BodyId) -> BodyId {
        let (m, x, mask) = (self.bits(magnitude), self.bits(x), self.i(i32::MIN));
        let sign = self.b.and(x, mask);
        let y = self.b.or(m, sign);
        self.float(y)
    }

    /// `t` rounded to an integer n (ties to even), as float and as `n << 23`. Needs `|t| < 2^22`: adding 1.5 * 2^23
    /// leaves n in the low bits.
    fn round_shift(&mut self, t: BodyId) -> (BodyId, BodyId) {
        const MAGIC: f32 = 12_582_912.0;
        let big = self.add(t, MAGIC);
        let n = self.add(big, -MAGIC);
        let (bits, s) = (self.bits(big), self.i(23));
        let shifted = self.b.shl(bits, s);
        (n, shifted)
    }
}
