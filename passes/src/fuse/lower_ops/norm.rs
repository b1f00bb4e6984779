//! Normalizations and softmax: reductions over a row, then a pointwise part. Sums of half-width types are taken in f32.

use super::LowerCx;
use super::reduce::rows;
use crate::fuse::builder::RegionBuilder;
use rsqc_ir::diag::Diag;
use rsqc_ir::region::Access;
use rsqc_ir::scalar::{BodyId, ReduceKind};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// The type in which a norm of elements of this type is computed.
fn wide(t: ScalarType) -> ScalarType {
    if t == ScalarType::F64 { t } else { ScalarType::F32 }
}

/// Operand `i` (a vector along the last axis of a rank-`rank` tensor), if given.
fn vector(
    cx: &mut LowerCx<'_>,
    b: &mut RegionBuilder,
    i: usize,
    rank: usize,
    ty: ScalarType,
) -> Option<BodyId> {
    let (v, t) = cx.optional(i)?;
    let x = b.load(v, Access::linear([(rank as u32 - 1, Dim::one())]), t.storage());
    Some(b.b.cast(x, ty))
}

/// `d * (1 / sqrt(mean(d^2) + eps))`.
fn normalize(b: &mut RegionBuilder, d: BodyId, n: &Dim, eps: f32) -> BodyId {
    let ty = b.b.ty(d);
    let q = b.b.mul(d, d);
    let s = b.sum(q);
    let n = b.count(n, ty);
    let mean = b.b.div(s, n);
    let eps = b.b.lit(d, f64::from(eps));
    let shifted = b.b.add(mean, eps);
    let root = b.b.sqrt(shifted);
    let one = b.b.lit(d, 1.0);
    let inv = b.b.div(one, root);
    b.b.mul(d, inv)
}

fn finish(
    cx: &mut LowerCx<'_>,
    mut b: RegionBuilder,
    y: BodyId,
    out: TensorType,
) -> Result<Vec<ValueId>, Diag> {
    let y = b.b.cast(y, out.storage());
    b.store_all(y, out);
    cx.emit(b)
}

/// `(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias`.
pub(super) fn layer_norm(cx: &mut LowerCx<'_>, eps: f32) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let last = t.rank() - 1;
    let (mut b, access, _) = rows(&t, &[last]);
    let n = t.shape[last].clone();
    let x = b.load(v, access, t.storage());
    let x = b.b.cast(x, wide(t.storage()));
    let ty = b.b.ty(x);
    let (s, count) = (b.sum(x), b.count(&n, ty));
    let mean = b.b.div(s, count);
    let d = b.b.sub(x, mean);
    let mut y = normalize(&mut b, d, &n, eps);
    if let Some(g) = vector(cx, &mut b, 1, t.rank(), ty) {
        y = b.b.mul(y, g);
    }
    if let Some(c) = vector(cx, &mut b, 2, t.rank(), ty) {
        y = b.b.add(y, c);
    }
    finish(cx, b, y, t)
}

/// `x / sqrt(mean(x^2) + eps) * gain`.
pub(super) fn rms_norm(cx: &mut LowerCx<'_>, eps: f32) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let last = t.rank() - 1;
    let (mut b, access, _) = rows(&t, &[last]);
    let x = b.load(v, access, t.storage());
    let x = b.b.cast(x, wide(t.storage()));
    let ty = b.b.ty(x);
    let mut y = normalize(&mut b, x, &t.shape[last].clone(), eps);
    if let Some(g) = vector(cx, &mut b, 1, t.rank(), ty) {
        y = b.b.mul(y, g);
    }
    finish(cx, b, y, t)
}

/// `e^(x - max) / sum`, or `x - max - log(sum)`.
pub(super) fn softmax(cx: &mut LowerCx<'_>, axis: usize, log: bool) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let (mut b, access, _) = rows(&t, &[axis]);
    let x = b.load(v, access.clone(), t.storage());
    let x = b.b.cast(x, wide(t.storage()));
    let m = b.b.reduce(ReduceKind::Max, x);
    let d = b.b.sub(x, m);
    let e = b.b.exp(d);
    let s = b.sum(e);
    let y = if log {
        let l = b.b.log(s);
        b.b.sub(d, l)
    } else {
        b.b.div(e, s)
    };
    let y = b.b.cast(y, t.storage());
    b.store(y, access, t);
    cx.emit(b)
}
