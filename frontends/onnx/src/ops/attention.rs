//! Attention and its companions of operator set 23 and later, composed from products, masks and softmax: the same shapes
//! that exporters spell out, so that the same recognition finds them.

use rsqc_ir::ops::norm::Softmax;
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::ops::{elementwise as ir, shape as irs};
use rsqc_ir::types::{Dim, ScalarType};

use super::linalg::product;
use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::facts::{Cmp, Fact, Prop, Scalar, index};
use crate::tensor::OnnxType;

/// `[b, s, h * d]` as `[b, h, s, d]`; rank 4 stays.
fn heads(cx: &mut Cx, x: V, count: i64) -> R<V> {
    let dims = cx.shape(x).to_vec();
    if dims.len() == 4 {
        return Ok(x);
    }
    let width = match <[Dim; 3]>::try_from(dims) {
        Ok(d) if count > 0 => d[2].exact_div(&count.into()).map(|w| (d, w)),
        _ => None,
    };
    let Some(([b, s, _], w)) = width else {
        return cx.fail(format!("an operand cannot be cut into {count} heads"));
    };
    let split = cx.reshape(x, vec![b, s, count.into(), w])?;
    cx.transpose(split, &[0, 2, 1, 3])
}

/// `[b, h, s, d]` as `[b, s, h * d]`.
fn merged(cx: &mut Cx, x: V) -> R<V> {
    let y = cx.transpose(x, &[0, 2, 1, 3])?;
    let d = cx.shape(y).to_vec();
    cx.reshape(y, vec![d[0].clone(), d[1].clone(), d[2].clone() * d[3].clone()])
}

/// Each key or value head repeated for its group of query heads.
fn repeated(cx: &mut Cx, x: V, groups: &Dim) -> R<V> {
    if groups.is(1) {
        return Ok(x);
    }
    let d = cx.shape(x).to_vec();
    let (mut split, mut full, mut out) = (d.clone(), d.clone(), d.clone());
    split.insert(2, Dim::one());
    full.insert(2, groups.clone());
    out[1] = out[1].clone() * groups.clone();
    let y = cx.reshape(x, split)?;
    let y = cx.expand(y, full)?;
    cx.reshape(y, out)
}

/// What masks the scores: a truth value that keeps, a number that is added, or both in turn.
#[derive(Default)]
struct Masks {
    keep: Vec<V>,
    bias: Option<V>,
}

fn both(cx: &mut Cx, list: &[V]) -> R<Option<V>> {
    let mut total: Option<V> = None;
    for &v in list {
        total = Some(match total {
            Some(t) => super::logic::conjunction(cx, [t, v])?,
            None => v,
        });
    }
    Ok(total)
}

/// The mask operand, the causal frontier, the window and the unpadded lengths.
fn masks(cx: &mut Cx, c: &Call<'_>, queries: &Dim, keys: &Dim, past: &Dim) -> R<Masks> {
    let mut m = Masks::default();
    let shape = vec![queries.clone(), keys.clone()];
    let (left, right) = (
        c.int(cx, "left_window_size", -1)?,
        c.int(cx, "right_window_size", -1)?,
    );
    let causal = c.int(cx, "is_causal", 0)? != 0;
    let lengths = c.opt(6);
    if left < -1 || right < -1 {
        return cx.fail(format!(
            "window sizes are {left} and {right}, expected -1 or more"
        ));
    }
    if let Some(v) = c.opt(3) {
        let v = padded_mask(cx, v, keys)?;
        if cx.elem(v) == ScalarType::Bool {
            m.keep.push(v)
        } else {
            m.bias = Some(v)
        }
    }
    // Query i of this block stands at `offset + i`.
    let offset = match lengths {
        None => None,
        Some(n) => {
            let n = cx.cast(n, ScalarType::I64)?;
            let b = cx.ty(n).numel();
            let n = cx.reshape(n, vec![b, Dim::one(), Dim::one(), Dim::one()])?;
            let line = vec![Dim::one(), Dim::one(), Dim::one(), keys.clone()];
            let k = cx.push_fact(ScalarType::I64, Fact::of_index(line, Scalar::Int(index(3))));
            let inside = cx.elementwise(ir::Less {}, &[k, n])?;
            let q = cx.push_fact(
                ScalarType::I64,
                Fact::of_elems(vec![], vec![Scalar::Int(queries.clone())]),
            );
            m.keep.push(inside);
            Some(cx.elementwise(ir::Sub {}, &[n, q])?)
        }
    };
    let mut limit = |cx: &mut Cx, shift: i64, keys_first: bool| -> R<()> {
        // key <= query + shift, or query - shift <= key
        let v = match offset {
            None => {
                let at = index(0) + past.clone();
                let (a, b) = if keys_first {
                    (index(1), at + shift.into())
                } else {
                    (at - Dim::from(shift), index(1))
                };
                let p = Prop::cmp(Cmp::Le, &a, &b, &shape, &cx.module.symbols);
                cx.push_fact(ScalarType::Bool, Fact::of_index(shape.clone(), Scalar::Bool(p)))
            }
            Some(offset) => {
                let line = |cx: &mut Cx, axis: usize, extent: &Dim, shift: i64| {
                    let mut s = vec![Dim::one(); 4];
                    s[axis] = extent.clone();
                    cx.push_fact(
                        ScalarType::I64,
                        Fact::of_index(s, Scalar::Int(index(axis) + shift.into())),
                    )
                };
                let k = line(cx, 3, keys, 0);
                let q = line(cx, 2, queries, if keys_first { shift } else { -shift });
                let q = cx.elementwise(ir::Add {}, &[q, offset])?;
                let pair = if keys_first { [k, q] } else { [q, k] };
                cx.elementwise(ir::LessEqual {}, &pair)?
            }
        };
        m.keep.push(v);
        Ok(())
    };
    if causal {
        limit(cx, 0, true)?;
    }
    if right >= 0 {
        limit(cx, right, true)?;
    }
    if left >= 0 {
        limit(cx, left, false)?;
    }
    Ok(m)
}

/// A mask shorter than the keys hides the rest.
fn padded_mask(cx: &mut Cx, v: V, keys: &Dim) -> R<V> {
    let Some(have) = cx.shape(v).last().cloned() else {
        return cx.fail("the mask has rank 0");
    };
    if have == *keys || have.is(1) {
        return Ok(v);
    }
    if have.always_le(keys, &cx.module.symbols) {
        let rank = cx.rank(v);
        let mut after = vec![Dim::zero(); rank];
        after[rank - 1] = keys.clone() - have;
        let hidden = if cx.elem(v) == ScalarType::Bool {
            0.0
        } else {
            f64::NEG_INFINITY
        };
        let fill = cx.lit(cx.elem(v), hidden);
        return cx.emit(
            irs::Pad {
                before: vec![Dim::zero(); rank],
                after,
            },
            &[v, fill],
        );
    }
    cx.same_dim(&have, keys, "mask and keys")?;
    let mut want = cx.shape(v).to_vec();
    if let Some(last) = want.last_mut() {
        *last = keys.clone();
    }
    cx.coerce(v, &want)
}

/// Attention.
pub fn attention(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (q, k, v) = (c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?);
    let flat = cx.rank(q) == 3;
    let (q_heads, kv_heads) = (c.int(cx, "q_num_heads", 0)?, c.int(cx, "kv_num_heads", 0)?);
    let q = heads(cx, q, q_heads)?;
    let (mut k, mut v) = (heads(cx, k, kv_heads)?, heads(cx, v, kv_heads)?);
    for x in [q, k, v] {
        if cx.rank(x) != 4 || !cx.elem(x).is_float() {
            return cx.fail(format!(
                "an operand has type {} and rank {}, expected floats of rank 3 or 4",
                cx.elem(x),
                cx.rank(x)
            ));
        }
    }
    let mut past = Dim::zero();
    if let (Some(pk), Some(pv)) = (c.opt(4), c.opt(5)) {
        past = cx.shape(pk).get(2).cloned().unwrap_or_else(Dim::zero);
        k = cx.emit(irs::Concat { axis: 2 }, &[pk, k])?;
        v = cx.emit(irs::Concat { axis: 2 }, &[pv, v])?;
    }
    let present = [k, v];
    let (queries, keys) = (cx.shape(q)[2].clone(), cx.shape(k)[2].clone());
    let m = masks(cx, c, &queries, &keys, &past)?;
    let groups = match cx.shape(q)[1].exact_div(&cx.shape(k)[1].clone()) {
        Some(g) => g,
        None => return cx.fail("the query heads are not a multiple of the key heads"),
    };
    let (kr, vr) = (repeated(cx, k, &groups)?, repeated(cx, v, &groups)?);
    let scores = scores(cx, c, q, kr)?;
    let mode = c.int(cx, "qk_matmul_output_mode", 0)?;
    let (y, seen) = weigh(cx, c, scores, &m, vr, mode)?;
    let y = if flat { merged(cx, y)? } else { y };
    Ok(vec![y, present[0], present[1], seen])
}

/// The raw scores, and those after the soft cap.
fn scores(cx: &mut Cx, c: &Call<'_>, q: V, k: V) -> R<[V; 2]> {
    let elem = cx.elem(q);
    let scale = if c.has("scale") {
        f64::from(c.float(cx, "scale", 1.0)?)
    } else {
        match cx.shape(q)[3].as_const() {
            Some(d) if d > 0 => 1.0 / (d as f64).sqrt(),
            _ => return cx.unsupported("attention over heads of symbolic width"),
        }
    };
    let kt = cx.transpose(k, &[0, 1, 3, 2])?;
    let raw = if scale >= 0.0 {
        // Both sides are scaled, so that neither overflows.
        let root = cx.lit(elem, scale.sqrt());
        let (qs, ks) = (
            cx.elementwise(ir::Mul {}, &[q, root])?,
            cx.elementwise(ir::Mul {}, &[kt, root])?,
        );
        product(cx, qs, ks)?
    } else {
        let s = product(cx, q, kt)?;
        let factor = cx.lit(elem, scale);
        cx.elementwise(ir::Mul {}, &[s, factor])?
    };
    let cap = f64::from(c.float(cx, "softcap", 0.0)?);
    if cap <= 0.0 {
        return Ok([raw, raw]);
    }
    let cap = cx.lit(elem, cap);
    let t = cx.elementwise(ir::Div {}, &[raw, cap])?;
    let t = cx.elementwise(ir::Tanh {}, &[t])?;
    Ok([raw, cx.elementwise(ir::Mul {}, &[t, cap])?])
}

/// Masked softmax times values, and the scores that the mode asks for.
fn weigh(cx: &mut Cx, c: &Call<'_>, [raw, capped]: [V; 2], m: &Masks, v: V, mode: i64) -> R<(V, V)> {
    let elem = cx.elem(capped);
    let (zero, hidden) = (cx.lit(elem, 0.0), cx.lit(elem, f64::NEG_INFINITY));
    let mut bias = m.bias.map(|b| cx.cast(b, elem)).transpose()?;
    if let Some(keep) = both(cx, &m.keep)? {
        let b = cx.elementwise(ir::Where {}, &[keep, zero, hidden])?;
        bias = Some(match bias {
            Some(other) => cx.elementwise(ir::Add {}, &[other, b])?,
            None => b,
        });
    }
    let masked = match bias {
        Some(b) => cx.elementwise(ir::Add {}, &[capped, b])?,
        None => capped,
    };
    let code = c.int(cx, "softmax_precision", 0)?;
    let precise = match OnnxType::from_code(i32::try_from(code).unwrap_or(0)) {
        Ok(t) if t.storage.is_float() => cx.cast(masked, t.storage)?,
        _ => masked,
    };
    let mut p = cx.emit(Softmax { axis: 3, log: false }, &[precise])?;
    if let Some(b) = bias {
        // A row without any key gives zeros.
        let rank = cx.rank(b) as i64;
        let top = cx.emit(
            Reduce {
                kind: Reduction::Max,
                axes: vec![rank - 1],
                keep: true,
            },
            &[b],
        )?;
        let empty = cx.elementwise(ir::Equal {}, &[top, hidden])?;
        let none = cx.lit(cx.elem(p), 0.0);
        p = cx.elementwise(ir::Where {}, &[empty, none, p])?;
    }
    let p = cx.cast(p, elem)?;
    let seen = match mode {
        0 => raw,
        1 => capped,
        2 => masked,
        3 => p,
        other => {
            return cx.fail(format!(
                "attribute 'qk_matmul_output_mode' is {other}, expected 0 to 3"
            ));
        }
    };
    Ok((product(cx, p, v)?, seen))
}

/// RotaryEmbedding.
pub fn rotary(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, mut cos, mut sin) = (c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?);
    let original = cx.shape(x).to_vec();
    let x = heads(cx, x, c.int(cx, "num_heads", 0)?)?;
    let dims = cx.shape(x).to_vec();
    let interleaved = c.int(cx, "interleaved", 0)? != 0;
    let Some(width) = dims[3].as_const() else {
        return cx.unsupported("rotary embedding of symbolic width");
    };
    let part = match c.int(cx, "rotary_embedding_dim", 0)? {
        0 => width,
        n if (0..=width).contains(&n) && n % 2 == 0 => n,
        n => {
            return cx.fail(format!(
                "attribute 'rotary_embedding_dim' is {n}, expected an even number up to {width}"
            ));
        }
    };
    if let Some(ids) = c.opt(3) {
        cos = cx.emit(rsqc_ir::ops::gather::Gather { axis: 0 }, &[cos, ids])?;
        sin = cx.emit(rsqc_ir::ops::gather::Gather { axis: 0 }, &[sin, ids])?;
    }
    let mut tables = [cos, sin];
    for t in &mut tables {
        let d = cx.shape(*t).to_vec();
        if d.len() != 3 || !d[2].is(part / 2) {
            return cx.fail(format!(
                "a table has rank {}, expected [batch, sequence, {}]",
                d.len(),
                part / 2
            ));
        }
        *t = cx.reshape(*t, vec![d[0].clone(), Dim::one(), d[1].clone(), d[2].clone()])?;
    }
    let cut = |cx: &mut Cx, start: i64, size: i64, step: i64| {
        let mut sizes = dims.clone();
        sizes[3] = size.into();
        cx.slice(
            x,
            vec![Dim::zero(), Dim::zero(), Dim::zero(), start.into()],
            sizes,
            vec![1, 1, 1, step],
        )
    };
    let half = part / 2;
    let (a, b) = if interleaved {
        (cut(cx, 0, half, 2)?, cut(cx, 1, half, 2)?)
    } else {
        (cut(cx, 0, half, 1)?, cut(cx, half, half, 1)?)
    };
    let [cos, sin] = tables;
    let (ca, sb) = (
        cx.elementwise(ir::Mul {}, &[cos, a])?,
        cx.elementwise(ir::Mul {}, &[sin, b])?,
    );
    let (sa, cb) = (
        cx.elementwise(ir::Mul {}, &[sin, a])?,
        cx.elementwise(ir::Mul {}, &[cos, b])?,
    );
    let real = cx.elementwise(ir::Sub {}, &[ca, sb])?;
    let imaginary = cx.elementwise(ir::Add {}, &[sa, cb])?;
    let mut parts = if interleaved {
        let mut pair = cx.shape(real).to_vec();
        pair.push(Dim::one());
        let (r, i) = (cx.reshape(real, pair.clone())?, cx.reshape(imaginary, pair)?);
        let both = cx.emit(irs::Concat { axis: 4 }, &[r, i])?;
        let mut joined = dims.clone();
        joined[3] = part.into();
        vec![cx.reshape(both, joined)?]
    } else {
        vec![real, imaginary]
    };
    if part < width {
        parts.push(cut(cx, part, width - part, 1)?);
    }
    let y = if parts.len() == 1 {
        parts[0]
    } else {
        cx.emit(irs::Concat { axis: 3 }, &parts)?
    };
    Ok(vec![if original.len() == 3 { merged(cx, y)? } else { y }])
}
