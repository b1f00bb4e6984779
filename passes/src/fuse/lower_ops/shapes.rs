//! Ops that materialise dim expressions.

use super::LowerCx;
use crate::fuse::builder::RegionBuilder;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::shape::{DimValue, Iota};
use rsqc_ir::scalar::Pred;
use rsqc_ir::{Dim, ValueId};

/// A few values, told apart by the index.
pub(super) fn dim_value(cx: &mut LowerCx<'_>, o: &DimValue) -> Result<Vec<ValueId>, Diag> {
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&[out.numel()], 0);
    let mut y = b.b.dim(o.values.first().cloned().unwrap_or_else(Dim::zero));
    for (n, v) in o.values.iter().enumerate().skip(1) {
        let (i, n, v) = (b.b.index(0), b.b.dim(n.into()), b.b.dim(v.clone()));
        let here = b.b.cmp(Pred::Ge, i, n);
        y = b.b.select(here, v, y);
    }
    b.store_all(y, out);
    cx.emit(b)
}

/// `start + step * i`.
pub(super) fn iota(cx: &mut LowerCx<'_>, o: &Iota) -> Result<Vec<ValueId>, Diag> {
    let mut b = RegionBuilder::new(std::slice::from_ref(&o.len), 0);
    let (i, step, start) = (b.b.index(0), b.b.dim(o.step.clone()), b.b.dim(o.start.clone()));
    let scaled = b.b.mul(step, i);
    let y = b.b.add(start, scaled);
    b.store_all(y, cx.result(0));
    cx.emit(b)
}
