//! Ops that only move elements: nothing but access maps. Concatenation and padding read clamped and select by index.

use super::LowerCx;
use crate::fuse::builder::{RegionBuilder, broadcast_strides};
use crate::fuse::edit::term;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::shape::{Pad, Slice, Transpose};
use rsqc_ir::region::{Access, Clamp, Term};
use rsqc_ir::scalar::{BodyId, Pred};
use rsqc_ir::{Dim, TensorType, ValueId};

/// A region that copies operand 0 through an access given by offset and one stride for each result axis.
fn copy(cx: &mut LowerCx<'_>, extents: &[Dim], offset: Dim, strides: Vec<Dim>) -> Result<Vec<ValueId>, Diag> {
    let (v, t) = cx.input(0)?;
    let mut b = RegionBuilder::new(extents, 0);
    let mut access = Access::linear((0..).zip(strides));
    access.offset = offset;
    let x = b.load(v, access, t.storage());
    b.store_all(x, cx.result(0));
    cx.emit(b)
}

/// Row-major order stays: one flat axis.
pub(super) fn reshape(cx: &mut LowerCx<'_>) -> Result<Vec<ValueId>, Diag> {
    copy(cx, &[cx.result(0).numel()], Dim::zero(), vec![Dim::one()])
}

pub(super) fn transpose(cx: &mut LowerCx<'_>, o: &Transpose) -> Result<Vec<ValueId>, Diag> {
    let (_, t) = cx.input(0)?;
    let s = t.strides();
    let strides = o.perm.iter().map(|p| s[*p as usize].clone()).collect();
    copy(cx, &cx.result(0).shape, Dim::zero(), strides)
}

pub(super) fn expand(cx: &mut LowerCx<'_>) -> Result<Vec<ValueId>, Diag> {
    let (_, t) = cx.input(0)?;
    let out = cx.result(0).shape;
    copy(cx, &out, Dim::zero(), broadcast_strides(&t.shape, &out))
}

pub(super) fn slice(cx: &mut LowerCx<'_>, o: &Slice) -> Result<Vec<ValueId>, Diag> {
    let (_, t) = cx.input(0)?;
    let s = t.strides();
    let offset = s.iter().zip(&o.starts).map(|(s, a)| s.clone() * a.clone()).sum();
    let strides = s
        .iter()
        .zip(&o.steps)
        .map(|(s, step)| s.clone() * Dim::from(*step))
        .collect();
    copy(cx, &cx.result(0).shape, offset, strides)
}

/// Access of a tensor with these strides at axes `0..`, where axis `a` reads index `clamp(i + shift, 0, limit - 1)`.
fn clamped(t: &TensorType, clamps: Vec<Option<Clamp>>) -> Access {
    let terms: Vec<Term> = t
        .strides()
        .into_iter()
        .zip(clamps)
        .enumerate()
        .filter(|(_, (s, _))| !s.is(0))
        .map(|(a, (s, clamp))| Term {
            clamp,
            ..term(a as u32, s)
        })
        .collect();
    Access {
        offset: Dim::zero(),
        terms,
        gathers: Vec::new(),
    }
}

pub(super) fn concat(cx: &mut LowerCx<'_>, axis: usize) -> Result<Vec<ValueId>, Diag> {
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&out.shape, 0);
    let mut start = Dim::zero();
    let mut parts: Vec<(Dim, BodyId)> = Vec::new();
    for i in 0..cx.m.graph.node(cx.id).inputs.len() {
        let (v, t) = cx.input(i)?;
        let n = t.shape[axis].clone();
        if n.is(0) {
            continue;
        }
        let mut clamps = vec![None; t.rank()];
        if n != out.shape[axis] {
            clamps[axis] = Some(Clamp {
                shift: -start.clone(),
                limit: n.clone(),
            });
        }
        let x = b.load(v, clamped(&t, clamps), t.storage());
        parts.push((start.clone(), x));
        start = start + n;
    }
    let Some((_, mut y)) = parts.first().cloned() else {
        // Every part is empty, and so is the result; it reads nothing.
        let (v, t) = cx.input(0)?;
        let x = b.load(v, clamped(&t, vec![None; t.rank()]), t.storage());
        b.store_all(x, out);
        return cx.emit(b);
    };
    for (from, x) in parts.into_iter().skip(1) {
        let i = b.b.index(axis as u32);
        let from = b.b.dim(from);
        let here = b.b.cmp(Pred::Ge, i, from);
        y = b.b.select(here, x, y);
    }
    b.store_all(y, out);
    cx.emit(b)
}

pub(super) fn pad(cx: &mut LowerCx<'_>, o: &Pad) -> Result<Vec<ValueId>, Diag> {
    let (x, t) = cx.input(0)?;
    let (v, vt) = cx.input(1)?;
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&out.shape, 0);
    let fill = b.load(v, Access::scalar(), vt.storage());
    let y = padded(&mut b, x, &t, &o.before, &out.shape, fill);
    b.store_all(y, out);
    cx.emit(b)
}

/// The element of `x` at (axis index - before), or `fill` outside of it; axes `0..rank` have the extents `to`.
pub(super) fn padded(
    b: &mut RegionBuilder,
    x: ValueId,
    t: &TensorType,
    before: &[Dim],
    to: &[Dim],
    fill: BodyId,
) -> BodyId {
    let clamps = (0..t.rank())
        .map(|a| {
            (to[a] != t.shape[a] || !before[a].is(0)).then(|| Clamp {
                shift: -before[a].clone(),
                limit: t.shape[a].clone(),
            })
        })
        .collect::<Vec<_>>();
    let mut y = b.load(x, clamped(t, clamps.clone()), t.storage());
    for (a, c) in clamps.into_iter().enumerate() {
        let Some(c) = c else { continue };
        let i = b.b.index(a as u32);
        let (from, n) = (b.b.dim(before[a].clone()), b.b.dim(before[a].clone() + c.limit));
        let (low, high) = (b.b.cmp(Pred::Ge, i, from), b.b.cmp(Pred::Lt, i, n));
        let inside = b.b.and(low, high);
        y = b.b.select(inside, y, fill);
    }
    y
}
