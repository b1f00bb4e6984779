//! Convolution and pooling. Padding is a region of its own that copies the operand into its padded form, because an
//! index made of two axes (position and kernel) cannot be clamped in an access map. Convolution is then a Contract over
//! (n, group, channel | position... | channel in, kernel...); pooling a reduction whose row is the kernel window.

use super::LowerCx;
use super::movement::padded;
use super::reduce::extremum;
use crate::fuse::builder::RegionBuilder;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::region::{Access, Anchor};
use rsqc_ir::scalar::{BodyId, Pred, ReduceKind, ScalarConst};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// The sliding window over the spatial axes: what convolution and pooling share.
pub(super) struct Window<'a> {
    /// Kernel extents.
    pub kernel: Vec<Dim>,
    /// Steps from one position to the next.
    pub strides: &'a [i64],
    /// Steps from one tap to the next.
    pub dilations: &'a [i64],
    /// Padding in front.
    pub before: &'a [i64],
    /// Extents of the result.
    pub out: Vec<Dim>,
}

impl Window<'_> {
    /// Extent of spatial axis `i` that windows touch: `(out - 1) * stride + dilation * (kernel - 1) + 1`, 0 at least.
    pub fn touched(&self, i: usize) -> Dim {
        let one = Dim::one();
        let window = (self.kernel[i].clone() - one.clone()) * self.dilations[i].into() + one.clone();
        let stride = Dim::from(self.strides[i]);
        let touched = (self.out[i].clone() - one) * stride.clone() + window.clone();
        // Without any window the sum is negative where the stride is longer than a window.
        match (stride.as_const(), window.as_const()) {
            (Some(stride), Some(window)) if stride <= window => touched,
            _ => touched.larger(&Dim::zero()),
        }
    }

    /// Access terms of a tensor whose spatial axes have these strides, for position axes `pos..` and kernel axes `ker..`.
    pub fn terms(&self, strides: &[Dim], pos: u32, ker: u32) -> Vec<(u32, Dim)> {
        let mut out = Vec::new();
        for (i, s) in strides.iter().enumerate() {
            out.push((pos + i as u32, s.clone() * self.strides[i].into()));
            out.push((ker + i as u32, s.clone() * self.dilations[i].into()));
        }
        out
    }

    /// `x` in its padded form, holding exactly the elements that windows touch; `x` itself where nothing is padded.
    fn pad(
        &self,
        cx: &mut LowerCx<'_>,
        x: (ValueId, TensorType),
        after: &[i64],
        fill: f64,
    ) -> Result<(ValueId, TensorType), Diag> {
        let (v, t) = x;
        let spatial = self.kernel.len();
        if self.before.iter().chain(after).all(|p| *p == 0) {
            return Ok((v, t));
        }
        let mut shape = t.shape[..2].to_vec();
        shape.extend((0..spatial).map(|i| self.touched(i)));
        let mut before = vec![Dim::zero(); 2];
        before.extend(self.before.iter().map(|p| Dim::from(*p)));
        let mut b = RegionBuilder::new(&shape, 0);
        let fill = b.b.constant(ScalarConst::from_f64(t.storage(), fill));
        let y = padded(&mut b, v, &t, &before, &shape, fill);
        let ty = TensorType {
            elem: t.elem.clone(),
            shape,
        };
        b.store_all(y, ty.clone());
        Ok((cx.emit(b)?[0], ty))
    }
}

pub(super) fn conv(cx: &mut LowerCx<'_>, o: &Conv) -> Result<Vec<ValueId>, Diag> {
    let (w, wt) = cx.input(1)?;
    let out = cx.result(0);
    let n = o.strides.len();
    let window = Window {
        kernel: wt.shape[2..].to_vec(),
        strides: &o.strides,
        dilations: &o.dilations,
        before: &o.pads[..n],
        out: out.shape[2..].to_vec(),
    };
    if out.storage() != ScalarType::F32 {
        return Err(cx.unsupported(format!("convolution of {} is not supported", out.elem)));
    }
    let x = cx.input(0)?;
    let (x, xt) = window.pad(cx, x, &o.pads[n..], 0.0)?;
    let group = Dim::from(o.group);
    let per_group = wt.shape[0]
        .exact_div(&group)
        .ok_or_else(|| cx.unsupported("output channels are no multiple of the groups"))?;
    // Axes: image, group, channel of the group, position | channel in, kernel.
    let mut extents = vec![out.shape[0].clone(), group, per_group.clone()];
    extents.extend(window.out.iter().cloned());
    let mut b = RegionBuilder::new(&extents, n);
    let c = b.reduce_axis(&wt.shape[1]);
    for k in &window.kernel {
        b.reduce_axis(k);
    }
    let (xs, ws) = (xt.strides(), wt.strides());
    let mut xterms = vec![
        (0, xs[0].clone()),
        (1, xs[1].clone() * wt.shape[1].clone()),
        (c, xs[1].clone()),
    ];
    xterms.extend(window.terms(&xs[2..], 3, c + 1));
    let rhs = b.operand(x, Access::linear(xterms));
    let wterms = [
        (1, ws[0].clone() * per_group.clone()),
        (2, ws[0].clone()),
        (c, ws[1].clone()),
    ];
    let kernel = (0..n).map(|i| (c + 1 + i as u32, ws[2 + i].clone()));
    // Weights are the left factor: with channels first, positions are the contiguous columns of the product.
    let lhs = b.operand(w, Access::linear(wterms.into_iter().chain(kernel)));
    b.anchor(Anchor::Contract {
        lhs,
        rhs,
        acc: ScalarType::F32,
        pad: false,
    });
    let mut y = b.b.anchor(ScalarType::F32);
    if let Some((bias, bt)) = cx.optional(2) {
        let v = b.load(
            bias,
            Access::linear([(1, per_group), (2, Dim::one())]),
            bt.storage(),
        );
        y = b.b.add(y, v);
    }
    b.store_all(y, out);
    cx.emit(b)
}

pub(super) fn pool(cx: &mut LowerCx<'_>, o: &Pool) -> Result<Vec<ValueId>, Diag> {
    let out = cx.result(0);
    let n = o.kernel.len();
    let window = Window {
        kernel: o.kernel.iter().map(|k| Dim::from(*k)).collect(),
        strides: &o.strides,
        dilations: &o.dilations,
        before: &o.pads[..n],
        out: out.shape[2..].to_vec(),
    };
    let x = cx.input(0)?;
    let extents_in: Vec<Dim> = x.1.shape[2..].to_vec();
    let fill = if o.kind == PoolKind::Max {
        f64::NEG_INFINITY
    } else {
        0.0
    };
    // With rounding up a window may end behind the operand even where no padding is declared.
    let after: Vec<i64> = o.pads[n..].iter().map(|p| p + i64::from(o.ceil)).collect();
    let (x, xt) = window.pad(cx, x, &after, lowest(out.storage(), fill))?;
    let mut extents = out.shape.clone();
    extents.extend(window.kernel.iter().cloned());
    let mut b = RegionBuilder::new(&extents, n);
    let xs = xt.strides();
    let mut terms = vec![(0, xs[0].clone()), (1, xs[1].clone())];
    terms.extend(window.terms(&xs[2..], 2, 2 + n as u32));
    let v = b.load(x, Access::linear(terms), xt.storage());
    let y = match o.kind {
        PoolKind::Max => extremum(&mut b, ReduceKind::Max, v),
        PoolKind::Average | PoolKind::AverageWithPad => {
            let s = b.sum(v);
            let c = count(&mut b, &window, o, &extents_in, v);
            b.b.div(s, c)
        }
    };
    let access = b.dense(0..out.rank());
    b.store(y, access, out);
    cx.emit(b)
}

/// A padding value that never wins in this type (integers have no infinity).
pub(super) fn lowest(t: ScalarType, fill: f64) -> f64 {
    match t {
        _ if t.is_float() || fill == 0.0 => fill,
        ScalarType::I8 => f64::from(i8::MIN),
        ScalarType::I16 => f64::from(i16::MIN),
        ScalarType::I32 => f64::from(i32::MIN),
        ScalarType::I64 => i64::MIN as f64,
        _ => 0.0,
    }
}

/// Number of window elements that exist (with `AverageWithPad`, padding counts).
fn count(b: &mut RegionBuilder, w: &Window<'_>, o: &Pool, extents: &[Dim], like: BodyId) -> BodyId {
    let n = w.kernel.len();
    let whole = o.pads.iter().all(|p| *p == 0) && !o.ceil;
    if whole {
        return b.count(&w.kernel.iter().cloned().product(), b.b.ty(like));
    }
    let (one, zero) = (b.b.lit(like, 1.0), b.b.lit(like, 0.0));
    let mut counted = one;
    for (i, extent) in extents.iter().enumerate() {
        let (pos, ker) = (b.b.index(2 + i as u32), b.b.index((2 + n + i) as u32));
        let (s, d) = (b.b.dim(w.strides[i].into()), b.b.dim(w.dilations[i].into()));
        let (p, k) = (b.b.mul(pos, s), b.b.mul(ker, d));
        let at = b.b.add(p, k);
        // `at` counts from the start of the padding.
        let (before, after) = (Dim::from(o.pads[i]), Dim::from(o.pads[n + i]));
        let (lo, hi) = match o.kind {
            PoolKind::AverageWithPad => (Dim::zero(), before + extent.clone() + after),
            _ => (before.clone(), before + extent.clone()),
        };
        let (lo, hi) = (b.b.dim(lo), b.b.dim(hi));
        let (low, high) = (b.b.cmp(Pred::Ge, at, lo), b.b.cmp(Pred::Lt, at, hi));
        let inside = b.b.and(low, high);
        counted = b.b.select(inside, counted, zero);
    }
    b.sum(counted)
}
