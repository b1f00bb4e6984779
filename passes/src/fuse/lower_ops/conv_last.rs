//! Convolution and pooling with channels last.
//!
//! Padding is a region of its own, see [`super::conv`]. Convolution is a Contract over (n, position..., o | tap..., c):
//! an implicit matrix product whose left factor is the padded operand itself. Taps that adjoin in memory form one reduce
//! axis with the channels, so a 3 x 3 kernel is three segments of 3 * c contiguous elements, and the weights
//! `[tap..., c, o]` are the dense right factor `[segments, 3 * c, o]`.

use super::LowerCx;
use super::conv::{Window, lowest};
use super::movement::padded;
use super::reduce::extremum;
use crate::fuse::builder::RegionBuilder;
use crate::fuse::edit::term;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::channels_last::{ConvLast, PoolLast};
use rsqc_ir::ops::conv::PoolKind;
use rsqc_ir::region::{Access, Anchor, Clamp, Term};
use rsqc_ir::scalar::{BodyId, Pred, ReduceKind, ScalarConst};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// Taps of a pooling window that are written out one by one; more become a reduction.
const UNROLLED: i64 = 25;

/// Fewer channels than this are no good vectors: padding then runs along the width.
const FEW_CHANNELS: i64 = 8;

/// What padding holds.
enum Fill {
    Number(f64),
    Scalar(ValueId),
    /// One a channel.
    Channels(ValueId),
}

impl Fill {
    /// `channel` is the region's axis of channels.
    fn emit(&self, b: &mut RegionBuilder, ty: ScalarType, channel: u32) -> BodyId {
        match self {
            Fill::Number(v) => b.b.constant(ScalarConst::from_f64(ty, *v)),
            Fill::Scalar(v) => b.load(*v, Access::scalar(), ty),
            Fill::Channels(v) => b.load(*v, Access::linear([(channel, Dim::one())]), ty),
        }
    }
}

/// `x` `[n, spatial..., c]` in its padded form, holding exactly the elements that windows touch; `x` itself where nothing
/// is padded. The copy's row is (width, channel), which only the start and the end of a row of `x` bound.
fn pad(
    cx: &mut LowerCx<'_>,
    w: &Window<'_>,
    x: (ValueId, TensorType),
    after: &[i64],
    fill: &Fill,
) -> Result<(ValueId, TensorType), Diag> {
    let (v, t) = x;
    if w.before.iter().chain(after).all(|p| *p == 0) {
        return Ok((v, t));
    }
    let (spatial, c) = (w.kernel.len(), t.shape[t.rank() - 1].clone());
    let mut shape = vec![t.shape[0].clone()];
    shape.extend((0..spatial).map(|i| w.touched(i)));
    shape.push(c.clone());
    let ty = TensorType {
        elem: t.elem.clone(),
        shape,
    };
    let mut before: Vec<Dim> = vec![Dim::zero()];
    before.extend(w.before.iter().map(|p| Dim::from(*p)));
    before.push(Dim::zero());
    let few = c.as_const().is_some_and(|c| c < FEW_CHANNELS);
    // A row of (width, channel) has no axis of channels.
    let b = if few || matches!(fill, Fill::Channels(_)) {
        along_width(v, &t, &ty, &before, fill)
    } else {
        along_rows(v, &t, &ty, &before, fill)
    };
    Ok((cx.emit(b)?[0], ty))
}

/// The padded copy over (n, spatial without width..., width * c).
fn along_rows(v: ValueId, t: &TensorType, to: &TensorType, before: &[Dim], fill: &Fill) -> RegionBuilder {
    let flat = |t: &TensorType| {
        let mut shape = t.shape.clone();
        let c = shape.pop().unwrap_or_else(Dim::one);
        let w = shape.pop().unwrap_or_else(Dim::one);
        shape.push(w * c);
        TensorType {
            elem: t.elem.clone(),
            shape,
        }
    };
    let c = &t.shape[t.rank() - 1];
    let mut start = before[..before.len() - 1].to_vec();
    if let Some(w) = start.last_mut() {
        *w = w.clone() * c.clone();
    }
    let extents = flat(to).shape;
    let mut b = RegionBuilder::new(&extents, 0);
    let fill = fill.emit(&mut b, t.storage(), extents.len() as u32 - 1);
    let y = padded(&mut b, v, &flat(t), &start, &extents, fill);
    b.store_all(y, to.clone());
    b
}

/// The padded copy over (n, spatial without width..., c, width).
fn along_width(v: ValueId, t: &TensorType, to: &TensorType, before: &[Dim], fill: &Fill) -> RegionBuilder {
    let rank = t.rank();
    // Axis of the region for each axis of the tensor: the last two change places.
    let place = |a: usize| match a {
        a if a == rank - 1 => rank - 2,
        a if a == rank - 2 => rank - 1,
        a => a,
    };
    let mut extents = to.shape.clone();
    extents.swap(rank - 1, rank - 2);
    let mut b = RegionBuilder::new(&extents, 0);
    let fill = fill.emit(&mut b, t.storage(), place(rank - 1) as u32);
    let clamped = |a: usize| to.shape[a] != t.shape[a] || !before[a].is(0);
    let mut terms: Vec<Term> = Vec::new();
    for (a, stride) in t.strides().into_iter().enumerate() {
        let clamp = clamped(a).then(|| Clamp {
            shift: -before[a].clone(),
            limit: t.shape[a].clone(),
        });
        terms.push(Term {
            clamp,
            ..term(place(a) as u32, stride)
        });
    }
    terms.sort_by_key(|t| t.axis);
    let access = Access {
        offset: Dim::zero(),
        terms,
        gathers: Vec::new(),
    };
    let mut y = b.load(v, access, t.storage());
    for a in (0..rank).filter(|a| clamped(*a)) {
        let i = b.b.index(place(a) as u32);
        let (from, end) = (before[a].clone(), before[a].clone() + t.shape[a].clone());
        let (from, end) = (b.b.dim(from), b.b.dim(end));
        let (low, high) = (b.b.cmp(Pred::Ge, i, from), b.b.cmp(Pred::Lt, i, end));
        let inside = b.b.and(low, high);
        y = b.b.select(inside, y, fill);
    }
    let store = (0..rank as u32).map(|a| place(a as usize) as u32);
    b.store(y, Access::linear(store.zip(to.strides())), to.clone());
    b
}

/// A reduce axis: extent, stride in the operand, stride in the weights.
type Segment = (Dim, Dim, Dim);

/// The reduce axes, outermost first: axes of extent 1 are left out, and neighbours that both factors step through as
/// through one axis are one.
fn segments(all: Vec<Segment>) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::new();
    for (extent, x, w) in all.into_iter().rev().filter(|(e, ..)| !e.is(1)) {
        match out.last_mut() {
            Some((n, xs, ws)) if x == xs.clone() * n.clone() && w == ws.clone() * n.clone() && !n.is(0) => {
                *n = n.clone() * extent;
            }
            _ => out.push((extent, x, w)),
        }
    }
    out.reverse();
    out
}

pub(super) fn conv(cx: &mut LowerCx<'_>, o: &ConvLast) -> Result<Vec<ValueId>, Diag> {
    let (w, wt) = cx.input(1)?;
    let out = cx.result(0);
    let n = o.strides.len();
    if !matches!(out.storage(), ScalarType::F32 | ScalarType::I32) {
        return Err(cx.unsupported(format!("convolution of {} is not supported", out.elem)));
    }
    let window = Window {
        kernel: wt.shape[..n].to_vec(),
        strides: &o.strides,
        dilations: &o.dilations,
        before: &o.pads[..n],
        out: out.shape[1..=n].to_vec(),
    };
    let fill = match cx.optional(2) {
        None => Fill::Number(0.0),
        Some((z, t)) if t.rank() == 0 => Fill::Scalar(z),
        Some((z, _)) => Fill::Channels(z),
    };
    let x = cx.input(0)?;
    let (x, xt) = pad(cx, &window, x, &o.pads[n..], &fill)?;
    let channels = wt.shape[n].clone();
    let group = Dim::from(o.group);
    let per_group = wt.shape[n + 1]
        .exact_div(&group)
        .ok_or_else(|| cx.unsupported("output channels are no multiple of the groups"))?;
    let mut extents = vec![out.shape[0].clone()];
    extents.extend(window.out.iter().cloned());
    let grouped = !group.is(1);
    if grouped {
        extents.push(group);
    }
    // With one filter a group the groups themselves are what vectors run along.
    let depthwise = grouped && per_group.is(1);
    if !depthwise {
        extents.push(per_group.clone());
    }
    let mut b = RegionBuilder::new(&extents, 1);
    let (xs, ws) = (xt.strides(), wt.strides());
    let mut xterms = vec![(0, xs[0].clone())];
    let mut wterms = Vec::new();
    for i in 0..n {
        xterms.push((1 + i as u32, xs[1 + i].clone() * Dim::from(o.strides[i])));
    }
    let mut axis = 1 + n as u32;
    if grouped {
        xterms.push((axis, channels.clone()));
        wterms.push((axis, per_group.clone()));
        axis += 1;
    }
    if !depthwise {
        wterms.push((axis, Dim::one()));
    }
    let mut taps: Vec<Segment> = (0..n)
        .map(|i| {
            let step = xs[1 + i].clone() * Dim::from(o.dilations[i]);
            (window.kernel[i].clone(), step, ws[i].clone())
        })
        .collect();
    taps.push((channels, Dim::one(), ws[n].clone()));
    for (extent, x, w) in segments(taps) {
        let k = b.reduce_axis(&extent);
        xterms.push((k, x));
        wterms.push((k, w));
    }
    let lhs = b.operand(x, Access::linear(xterms));
    let rhs = b.operand(w, Access::linear(wterms));
    let acc = out.storage();
    b.anchor(Anchor::Contract {
        lhs,
        rhs,
        acc,
        pad: false,
    });
    let y = b.b.anchor(acc);
    b.store_all(y, out);
    cx.emit(b)
}

pub(super) fn pool(cx: &mut LowerCx<'_>, o: &PoolLast) -> Result<Vec<ValueId>, Diag> {
    let out = cx.result(0);
    let n = o.kernel.len();
    let window = Window {
        kernel: o.kernel.iter().map(|k| Dim::from(*k)).collect(),
        strides: &o.strides,
        dilations: &o.dilations,
        before: &o.pads[..n],
        out: out.shape[1..=n].to_vec(),
    };
    let x = cx.input(0)?;
    let extents: Vec<Dim> = x.1.shape[1..=n].to_vec();
    let none = match o.kind {
        PoolKind::Max => f64::NEG_INFINITY,
        _ => 0.0,
    };
    // With rounding up a window may end behind the operand even where no padding is declared.
    let after: Vec<i64> = o.pads[n..].iter().map(|p| p + i64::from(o.ceil)).collect();
    let fill = Fill::Number(lowest(out.storage(), none));
    let (x, xt) = pad(cx, &window, x, &after, &fill)?;
    let b = if o.kernel.iter().product::<i64>() <= UNROLLED {
        unrolled(o, &window, (x, &xt), &extents, &out)
    } else {
        reduced(o, &window, (x, &xt), &extents, &out)
    };
    cx.emit(b)
}

/// The terms of the operand at the positions: axes 0 (n), 1.. (positions), and the channel.
fn position_terms(w: &Window<'_>, strides: &[Dim]) -> Vec<(u32, Dim)> {
    let n = w.kernel.len();
    let mut terms = vec![(0, strides[0].clone()), (1 + n as u32, Dim::one())];
    for i in 0..n {
        terms.push((1 + i as u32, strides[1 + i].clone() * Dim::from(w.strides[i])));
    }
    terms
}

/// Every tap is an operand of its own.
fn unrolled(
    o: &PoolLast,
    w: &Window<'_>,
    (x, xt): (ValueId, &TensorType),
    extents: &[Dim],
    out: &TensorType,
) -> RegionBuilder {
    let n = o.kernel.len();
    let mut b = RegionBuilder::new(&out.shape, 0);
    let strides = xt.strides();
    let mut sum: Option<BodyId> = None;
    for tap in 0..o.kernel.iter().product::<i64>() {
        let mut access = Access::linear(position_terms(w, &strides));
        let mut rest = tap;
        for i in (0..n).rev() {
            let k = rest % o.kernel[i];
            rest /= o.kernel[i];
            access.offset = access.offset + strides[1 + i].clone() * Dim::from(k * o.dilations[i]);
        }
        let v = b.load(x, access, xt.storage());
        sum = Some(match (sum, o.kind) {
            (None, _) => v,
            (Some(s), PoolKind::Max) => larger(&mut b, s, v),
            (Some(s), _) => b.b.add(s, v),
        });
    }
    let mut y = sum.expect("a window has a tap");
    if o.kind != PoolKind::Max {
        let count = count(&mut b, o, extents, y);
        y = b.b.div(y, count);
    }
    b.store_all(y, out.clone());
    b
}

/// The larger of two; a NaN wins.
fn larger(b: &mut RegionBuilder, m: BodyId, v: BodyId) -> BodyId {
    if !b.b.ty(v).is_float() {
        return b.b.max(m, v);
    }
    let (more, nan) = (b.b.cmp(Pred::Gt, v, m), b.b.cmp(Pred::Ne, v, v));
    let wins = b.b.or(more, nan);
    b.b.select(wins, v, m)
}

/// The window is the row of a reduction.
fn reduced(
    o: &PoolLast,
    w: &Window<'_>,
    (x, xt): (ValueId, &TensorType),
    extents: &[Dim],
    out: &TensorType,
) -> RegionBuilder {
    let n = o.kernel.len();
    let mut all = out.shape.clone();
    all.extend(w.kernel.iter().cloned());
    let mut b = RegionBuilder::new(&all, n);
    let strides = xt.strides();
    let mut terms = position_terms(w, &strides);
    for i in 0..n {
        let step = strides[1 + i].clone() * Dim::from(o.dilations[i]);
        terms.push(((2 + n + i) as u32, step));
    }
    let v = b.load(x, Access::linear(terms), xt.storage());
    let y = match o.kind {
        PoolKind::Max => extremum(&mut b, ReduceKind::Max, v),
        PoolKind::Average | PoolKind::AverageWithPad => {
            let s = b.sum(v);
            let c = count(&mut b, o, extents, s);
            b.b.div(s, c)
        }
    };
    let access = b.dense(0..out.rank());
    b.store(y, access, out.clone());
    b
}

/// Number of elements of the window at a position: the product over the axes of the taps that lie in the operand (with
/// `AverageWithPad`, in its padded form).
fn count(b: &mut RegionBuilder, o: &PoolLast, extents: &[Dim], like: BodyId) -> BodyId {
    let n = o.kernel.len();
    let mut all: Option<BodyId> = None;
    let one = b.b.lit(like, 1.0);
    for (i, extent) in extents.iter().enumerate() {
        let whole = o.pads[i] == 0 && o.pads[n + i] == 0 && !o.ceil;
        let along = if whole {
            b.b.lit(like, o.kernel[i] as f64)
        } else {
            taps_inside(b, o, i, extent, like)
        };
        all = Some(match all {
            Some(a) => b.b.mul(a, along),
            None => along,
        });
    }
    // A window without elements gives 0.
    all.map_or(one, |all| b.b.max(all, one))
}

/// Taps along spatial axis `i` that count.
fn taps_inside(b: &mut RegionBuilder, o: &PoolLast, i: usize, extent: &Dim, like: BodyId) -> BodyId {
    let n = o.kernel.len();
    let (before, after) = (o.pads[i], o.pads[n + i]);
    let padded = o.kind == PoolKind::AverageWithPad;
    // Positions count from the start of the padding.
    let (low, high) = if padded {
        (0, extent.clone() + Dim::from(before + after))
    } else {
        (before, extent.clone() + Dim::from(before))
    };
    let (one, zero) = (b.b.lit(like, 1.0), b.b.lit(like, 0.0));
    let (low, high) = (b.b.dim(Dim::from(low)), b.b.dim(high));
    let position = b.b.index(1 + i as u32);
    let step = b.b.dim(Dim::from(o.strides[i]));
    let start = b.b.mul(position, step);
    let mut sum = zero;
    for k in 0..o.kernel[i] {
        let tap = b.b.dim(Dim::from(k * o.dilations[i]));
        let at = b.b.add(start, tap);
        let (ge, lt) = (b.b.cmp(Pred::Ge, at, low), b.b.cmp(Pred::Lt, at, high));
        let inside = b.b.and(ge, lt);
        let counted = b.b.select(inside, one, zero);
        sum = b.b.add(sum, counted);
    }
    sum
}
