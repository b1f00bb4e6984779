//! Reductions: the reduced axes become the row. Scans compare indices of a row against the point's own.

use super::LowerCx;
use crate::fuse::builder::RegionBuilder;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::reduce::{ArgReduce, CumSum, Reduce, Reduction};
use rsqc_ir::region::Access;
use rsqc_ir::scalar::{BodyId, Pred, ReduceKind, ScalarConst};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// A builder over the axes of `t`, those in `row` last; with the access of `t` and the number each axis got.
pub(super) fn rows(t: &TensorType, row: &[usize]) -> (RegionBuilder, Access, Vec<u32>) {
    let order: Vec<usize> = (0..t.rank())
        .filter(|a| !row.contains(a))
        .chain(row.iter().copied())
        .collect();
    let extents: Vec<Dim> = order.iter().map(|a| t.shape[*a].clone()).collect();
    let mut place = vec![0; t.rank()];
    for (n, a) in order.iter().enumerate() {
        place[*a] = n as u32;
    }
    let access = Access::linear(t.strides().into_iter().enumerate().map(|(a, s)| (place[a], s)));
    (RegionBuilder::new(&extents, row.len()), access, place)
}

pub(super) fn reduce(cx: &mut LowerCx<'_>, o: &Reduce) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let axes: Vec<usize> = o.axes.iter().map(|a| *a as usize).collect();
    let (mut b, access, _) = rows(&t, &axes);
    let ty = t.storage();
    let x = b.load(v, access, ty);
    let n: Dim = axes.iter().map(|a| t.shape[*a].clone()).product();
    let y = combine(&mut b, o.kind, x, &n);
    let kept = b.dense(0..t.rank() - axes.len());
    b.store(y, kept, cx.result(0));
    cx.emit(b)
}

fn combine(b: &mut RegionBuilder, kind: Reduction, x: BodyId, n: &Dim) -> BodyId {
    let ty = b.b.ty(x);
    match kind {
        Reduction::Sum => b.sum(x),
        Reduction::Mean => {
            let s = b.sum(x);
            let n = b.count(n, ty);
            b.b.div(s, n)
        }
        Reduction::Max => extremum(b, ReduceKind::Max, x),
        Reduction::Min => extremum(b, ReduceKind::Min, x),
        Reduction::Prod => b.b.reduce(ReduceKind::Prod, x),
        Reduction::SumSquare => {
            let q = b.b.mul(x, x);
            b.sum(q)
        }
        Reduction::L2 => {
            let q = b.b.mul(x, x);
            let s = b.sum(q);
            b.b.sqrt(s)
        }
        Reduction::L1 => {
            let a = b.b.abs(x);
            b.sum(a)
        }
    }
}

/// Largest or smallest element; of floats, NaN if any element is NaN (the scalar reduction alone skips NaN).
pub(super) fn extremum(b: &mut RegionBuilder, kind: ReduceKind, x: BodyId) -> BodyId {
    let m = b.b.reduce(kind, x);
    let ty = b.b.ty(x);
    if !ty.is_float() {
        return m;
    }
    let nan = b.b.cmp(Pred::Ne, x, x);
    let (one, zero) = (
        b.b.constant(ScalarConst::int(ScalarType::I32, 1)),
        b.b.constant(ScalarConst::int(ScalarType::I32, 0)),
    );
    let flag = b.b.select(nan, one, zero);
    let any = b.b.reduce(ReduceKind::Max, flag);
    // The maximum over an empty row starts at the lowest integer.
    let bad = b.b.cmp(Pred::Gt, any, zero);
    let value = b.b.lit(x, f64::NAN);
    b.b.select(bad, value, m)
}

/// The index of the extremum: the smallest (or, for `last`, largest) index whose element equals it or is NaN.
pub(super) fn arg_reduce(cx: &mut LowerCx<'_>, o: &ArgReduce) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let (mut b, access, place) = rows(&t, &[o.axis]);
    let x = b.load(v, access, t.storage());
    let kind = if o.max { ReduceKind::Max } else { ReduceKind::Min };
    let m = b.b.reduce(kind, x);
    let mut hit = b.b.cmp(Pred::Eq, x, m);
    if t.storage().is_float() {
        let nan = b.b.cmp(Pred::Ne, x, x);
        hit = b.b.or(hit, nan);
    }
    let i = b.b.index(place[o.axis]);
    let (none, pick) = if o.last {
        (i64::MIN, ReduceKind::Max)
    } else {
        (i64::MAX, ReduceKind::Min)
    };
    let none = b.b.constant(ScalarConst::int(ScalarType::I64, none));
    let candidate = b.b.select(hit, i, none);
    let y = b.b.reduce(pick, candidate);
    let kept = b.dense(0..t.rank() - 1);
    b.store(y, kept, cx.result(0));
    cx.emit(b)
}

/// `y[i] = sum over j <= i of x[j]`: a row over j for each i, quadratic, meant for short integer scans (positions).
pub(super) fn cum_sum(cx: &mut LowerCx<'_>, o: &CumSum) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let out = cx.result(0);
    let mut extents = t.shape.clone();
    extents.push(t.shape[o.axis].clone());
    let j = t.rank() as u32;
    let mut b = RegionBuilder::new(&extents, 1);
    let access = Access::linear(t.strides().into_iter().enumerate().map(|(a, s)| {
        let axis = if a == o.axis { j } else { a as u32 };
        (axis, s)
    }));
    let x = b.load(v, access, t.storage());
    let (at, here) = (b.b.index(j), b.b.index(o.axis as u32));
    let pred = match (o.exclusive, o.reverse) {
        (false, false) => Pred::Le,
        (true, false) => Pred::Lt,
        (false, true) => Pred::Ge,
        (true, true) => Pred::Gt,
    };
    let counts = b.b.cmp(pred, at, here);
    let zero = b.b.lit(x, 0.0);
    let part = b.b.select(counts, x, zero);
    let y = b.sum(part);
    let access = b.dense(0..t.rank());
    b.store(y, access, out);
    cx.emit(b)
}
