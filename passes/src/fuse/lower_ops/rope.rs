//! Rotary embedding: the last axis d becomes the pair (half r, position j), and the rotation partner is read with a
//! negative stride along r: element `(1 - r, j)`.

use super::LowerCx;
use crate::fuse::builder::{RegionBuilder, broadcast_strides};
use rsqc_ir::diag::Diag;
use rsqc_ir::region::Access;
use rsqc_ir::scalar::Pred;
use rsqc_ir::{Dim, ValueId};

pub(super) fn rope(cx: &mut LowerCx<'_>, interleaved: bool) -> Result<Vec<ValueId>, Diag> {
    let ((x, t), cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let last = t.rank() - 1;
    let (two, half) = (Dim::from(2i64), t.shape[last].floor_div(&Dim::from(2i64)));
    let lead = last as u32;
    // Numbers and strides of r and j.
    let (r, j, rs, js, tail) = if interleaved {
        (lead + 1, lead, Dim::one(), two.clone(), [half, two])
    } else {
        (lead, lead + 1, half.clone(), Dim::one(), [two, half])
    };
    let mut extents = t.shape[..last].to_vec();
    extents.extend(tail);
    let mut b = RegionBuilder::new(&extents, 0);
    // Access to a tensor that broadcasts to x; `flip` reads the partner along r.
    let access = |shape: &[Dim], flip: bool| {
        let s = broadcast_strides(shape, &t.shape);
        let along = s[last].clone();
        let stride = along.clone() * rs.clone();
        let terms = (0..).zip(s[..last].iter().cloned());
        let pair = [
            (r, if flip { -stride.clone() } else { stride.clone() }),
            (j, along * js.clone()),
        ];
        let mut a = Access::linear(terms.chain(pair));
        if flip {
            a.offset = stride;
        }
        a
    };
    let v = b.load(x, access(&t.shape, false), t.storage());
    let partner = b.load(x, access(&t.shape, true), t.storage());
    let c = b.load(cos.0, access(&cos.1.shape, false), cos.1.storage());
    let s = b.load(sin.0, access(&sin.1.shape, false), sin.1.storage());
    let (i, zero) = (b.b.index(r), b.b.dim(Dim::zero()));
    let first = b.b.cmp(Pred::Eq, i, zero);
    let minus = b.b.neg(partner);
    let rotated = b.b.select(first, minus, partner);
    let (p, q) = (b.b.mul(v, c), b.b.mul(rotated, s));
    let y = b.b.add(p, q);
    b.store(y, access(&t.shape, false), t.clone());
    cx.emit(b)
}
