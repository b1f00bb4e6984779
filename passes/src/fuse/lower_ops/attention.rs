//! Attention: one anchored region over (batch, query | head, channel | key, inner). The score body applies scale, mask
//! and causal bound to the raw product. Grouped heads split the head axis into (group, head of the group), so that keys
//! and values are read with stride 0 along the second. Whether products are of floats or of codes is the anchor's affair;
//! static scales become operands that are read at one place.

use super::LowerCx;
use crate::fuse::builder::{RegionBuilder, broadcast_strides};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::nn::Attention as AttentionOp;
use rsqc_ir::region::{Access, Anchor, Attention, Products};
use rsqc_ir::scalar::{Body, BodyBuilder, Pred};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// Axis numbers: batch and query come first.
struct Axes {
    /// Group and head of the group, or head alone; with the extent of each.
    heads: Vec<(u32, Dim)>,
    channel: u32,
    key: u32,
    inner: u32,
}

/// Strides along the head axes for a tensor whose head stride is `s`; `shared`: the heads of a group share it.
fn heads(ax: &Axes, s: &Dim, shared: bool) -> Vec<(u32, Dim)> {
    match ax.heads.as_slice() {
        [(g, _), _] if shared => vec![(*g, s.clone())],
        [(g, _), (h, n)] => vec![(*g, s.clone() * n.clone()), (*h, s.clone())],
        _ => vec![(ax.heads[0].0, s.clone())],
    }
}

/// Attention, over codes if `coded`.
pub(super) fn attention(cx: &mut LowerCx<'_>, o: &AttentionOp, coded: bool) -> Result<Vec<ValueId>, Diag> {
    let ((q, qt), (k, kt), (v, vt)) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let mask = cx.optional(3);
    let out = cx.result(0);
    if out.storage() != ScalarType::F32 {
        return Err(cx.unsupported(format!("attention in {} is not supported", out.elem)));
    }
    let per_group = qt.shape[1]
        .exact_div(&kt.shape[1])
        .ok_or_else(|| cx.bug("heads are no multiple of groups"))?;
    let grouped = !per_group.is(1) && !kt.shape[1].is(1);
    let head_extents = if grouped {
        vec![kt.shape[1].clone(), per_group.clone()]
    } else {
        vec![qt.shape[1].clone()]
    };
    let nh = head_extents.len() as u32;
    let mut extents = vec![qt.shape[0].clone(), qt.shape[2].clone()];
    extents.extend(head_extents.iter().cloned());
    extents.push(out.shape[3].clone());
    let mut b = RegionBuilder::new(&extents, nh as usize + 1);
    let ax = Axes {
        heads: (2..).zip(head_extents).collect(),
        channel: 2 + nh,
        key: b.reduce_axis(&kt.shape[2]),
        inner: b.reduce_axis(&qt.shape[3]),
    };
    // One key head for all query heads is stride 0; else groups as above.
    let shared = |s: Dim| {
        if kt.shape[1].is(1) && !qt.shape[1].is(1) {
            heads(&ax, &Dim::zero(), true)
        } else {
            heads(&ax, &s, true)
        }
    };
    let access = |t: &TensorType, along: Vec<(u32, Dim)>, row: u32, last: u32| {
        let s = t.strides();
        Access::linear(along.into_iter().chain([
            (0, s[0].clone()),
            (row, s[2].clone()),
            (last, s[3].clone()),
        ]))
    };
    let qa = b.operand(q, access(&qt, heads(&ax, &qt.strides()[1], false), 1, ax.inner));
    let ka = b.operand(k, access(&kt, shared(kt.strides()[1].clone()), ax.key, ax.inner));
    let va = b.operand(
        v,
        access(&vt, shared(vt.strides()[1].clone()), ax.key, ax.channel),
    );
    let mask = mask.map(|(m, mt)| {
        let scores: Vec<Dim> = qt.shape[..3].iter().chain([&kt.shape[2]]).cloned().collect();
        let s = broadcast_strides(&mt.shape, &scores);
        let along = heads(&ax, &s[1], false);
        let at = Access::linear(along.into_iter().chain([
            (0, s[0].clone()),
            (1, s[2].clone()),
            (ax.key, s[3].clone()),
        ]));
        (b.operand(m, at), mt.storage())
    });
    let score = score_body(o, mask, ax.key).map_err(|e| cx.bug(e))?;
    let products = if coded {
        let mut scale = |i: usize| cx.optional(i).map(|(s, _)| b.operand(s, Access::scalar()));
        let scales = [scale(4), scale(5), scale(6)];
        Products::Int8 {
            scales: match scales {
                [Some(q), Some(k), Some(v)] => Some([q, k, v]),
                _ => None,
            },
        }
    } else {
        Products::Float
    };
    b.anchor(Anchor::Attention(Box::new(Attention {
        q: qa,
        k: ka,
        v: va,
        key: ax.key,
        inner: ax.inner,
        products,
        score,
        empty_row: o.empty_row,
    })));
    let y = b.b.anchor(ScalarType::F32);
    let at = access(&out, heads(&ax, &out.strides()[1], false), 1, ax.channel);
    b.store(y, at, out);
    cx.emit(b)
}

/// `raw * scale`, then the mask (added, or -inf where false), then -inf behind the causal bound.
fn score_body(o: &AttentionOp, mask: Option<(u32, ScalarType)>, key: u32) -> Result<Body, String> {
    let mut b = BodyBuilder::new();
    let raw = b.anchor(ScalarType::F32);
    let scale = b.f32(o.scale);
    let mut s = b.mul(raw, scale);
    if let Some((n, ty)) = mask {
        let m = b.operand(n, ty);
        if ty == ScalarType::Bool {
            let never = b.f32(f32::NEG_INFINITY);
            s = b.select(m, s, never);
        } else {
            let m = b.cast(m, ScalarType::F32);
            s = b.add(s, m);
        }
    }
    if let Some(past) = &o.causal {
        let (t, query, past) = (b.index(key), b.index(1), b.dim(past.clone()));
        let bound = b.add(query, past);
        let seen = b.cmp(Pred::Le, t, bound);
        let never = b.f32(f32::NEG_INFINITY);
        b.select(seen, s, never);
    }
    // The last statement is the score.
    b.finish()
}
