//! Shapes, types and identities.

use rsqc_ir::types::{Dim, ScalarType};

use super::elementwise::fact_of;
use crate::call::{Call, axes, known_ints};
use crate::cx::{Cx, R, V, show};
use crate::facts::{Cmp, Fact, Prop, Scalar};
use crate::tensor::OnnxType;

/// Cast.
pub fn cast(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["saturate", "round_mode"]);
    let x = c.input(cx, 0)?;
    let code = c.int(cx, "to", 0)?;
    let to = match OnnxType::from_code(i32::try_from(code).unwrap_or(-1)) {
        Ok(t) if t.bits != 4 => t.storage,
        Ok(_) => return cx.unsupported("cast to a 4-bit type"),
        Err(what) if code == 0 => return cx.fail(format!("attribute 'to' is {what}")),
        Err(what) => return cx.unsupported(format!("cast to {what}")),
    };
    Ok(vec![convert(cx, x, to)?])
}

/// CastLike.
pub fn cast_like(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["saturate", "round_mode"]);
    let (x, like) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let to = cx.elem(like);
    Ok(vec![convert(cx, x, to)?])
}

/// A conversion that keeps facts.
fn convert(cx: &mut Cx, x: V, to: ScalarType) -> R<V> {
    if cx.elem(x) == to {
        return Ok(x);
    }
    let tracked = matches!(to, ScalarType::I64 | ScalarType::I32 | ScalarType::Bool);
    if tracked && cx.constant(x).is_none() {
        let apply = |cx: &Cx, shape: &[Dim], s: &[Scalar]| match (&s[0], to) {
            (Scalar::Int(d), ScalarType::Bool) => Some(Scalar::Bool(
                Prop::cmp(Cmp::Eq, d, &Dim::zero(), shape, &cx.module.symbols).negate(),
            )),
            (Scalar::Int(d), _) => Some(Scalar::Int(d.clone())),
            (Scalar::Bool(Prop::Known(v)), _) => Some(Scalar::int(i64::from(*v))),
            (Scalar::Bool(_), _) => None,
        };
        if let Some(fact) = fact_of(cx, &[x], &apply)? {
            return Ok(cx.push_fact(to, fact));
        }
    }
    cx.cast(x, to)
}

/// Identity.
pub fn identity(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    Ok(vec![c.input(cx, 0)?])
}

/// Dropout at inference: the identity, and a mask of ones.
pub fn dropout(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["ratio", "seed", "is_test"]);
    let x = c.input(cx, 0)?;
    if let Some(mode) = c.opt(2)
        && cx.constant_scalar(mode) != Some(0.0)
    {
        return cx.unsupported("dropout in training mode");
    }
    if !c.wants(1) {
        return Ok(vec![x]);
    }
    let shape = cx.shape(x).to_vec();
    let elem = if c.opset >= 10 {
        ScalarType::Bool
    } else {
        cx.elem(x)
    };
    let one = cx.lit(elem, 1.0);
    Ok(vec![x, cx.expand(one, shape)?])
}

/// Shape, or a part of it since opset 15.
pub fn shape(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let dims = cx.shape(x).to_vec();
    let rank = dims.len() as i64;
    let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (bound(c.int(cx, "start", 0)?), bound(c.int(cx, "end", rank)?));
    let part = dims.get(start..end.max(start)).unwrap_or_default().to_vec();
    Ok(vec![cx.push_fact(ScalarType::I64, Fact::list(part))])
}

/// Size.
pub fn size(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let n = cx.ty(x).numel();
    Ok(vec![cx.push_fact(
        ScalarType::I64,
        Fact::of_elems(vec![], vec![Scalar::Int(n)]),
    )])
}

/// Flatten to two axes.
pub fn flatten(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let rank = cx.rank(x) as i64;
    let axis = c.int(cx, "axis", 1)?;
    let split = if axis < 0 { axis.saturating_add(rank) } else { axis };
    if !(0..=rank).contains(&split) {
        return cx.fail(format!("axis {axis} is outside rank {rank}"));
    }
    let (a, b) = cx.shape(x).split_at(split as usize);
    let shape = vec![a.iter().product(), b.iter().product()];
    Ok(vec![cx.reshape(x, shape)?])
}

/// Reshape: 0 copies an extent (unless `allowzero`), one -1 is solved for.
pub fn reshape(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, target) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let allow_zero = c.int(cx, "allowzero", 0)? != 0;
    let wanted = known_ints(cx, target, "a target shape")?;
    let have = cx.shape(x).to_vec();
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, d) in wanted.into_iter().enumerate() {
        match d.as_const() {
            Some(-1) if open.is_none() => {
                open = Some(i);
                shape.push(Dim::one());
            }
            Some(-1) => return cx.fail("the target shape has -1 twice"),
            Some(0) if !allow_zero => match have.get(i) {
                Some(d) => shape.push(d.clone()),
                None => {
                    return cx.fail(format!(
                        "entry {i} of the target shape is 0, but the operand has rank {}",
                        have.len()
                    ));
                }
            },
            Some(v) if v < 0 => return cx.fail(format!("entry {i} of the target shape is {v}")),
            _ => shape.push(d),
        }
    }
    let total: Dim = have.iter().product();
    let known: Dim = shape.iter().product();
    match open {
        Some(_) if known.is(0) => return cx.fail("-1 in a target shape with an extent of 0 is ambiguous"),
        Some(i) => shape[i] = solve_open(cx, &total, &known)?,
        None => cx.same_dim(&total, &known, "reshape")?,
    }
    Ok(vec![cx.reshape(x, shape)?])
}

/// The extent that -1 stands for.
fn solve_open(cx: &mut Cx, total: &Dim, known: &Dim) -> R<Dim> {
    if let Some(q) = total.exact_div(known) {
        return Ok(q);
    }
    if let (Some(t), Some(k)) = (total.as_const(), known.as_const()) {
        return cx.fail(format!(
            "{t} elements do not fill a shape of {k} times a whole number"
        ));
    }
    let q = total.floor_div(known);
    cx.same_dim(&(q.clone() * known.clone()), total, "reshape")
        .map(|()| q)
}

/// Squeeze: the axes given, or all extents that are 1.
pub fn squeeze(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let list = axes_of(cx, c)?;
    let dims = cx.shape(x).to_vec();
    let gone = match list {
        Some(list) => axes(cx, &list, dims.len())?,
        None => (0..dims.len()).filter(|&a| dims[a].is(1)).collect(),
    };
    for &a in &gone {
        cx.same_dim(
            &dims[a],
            &Dim::one(),
            &format!("squeezed axis {a} of extent {}", show(&dims[a])),
        )?;
    }
    let kept = (0..dims.len())
        .filter(|a| !gone.contains(a))
        .map(|a| dims[a].clone())
        .collect();
    Ok(vec![cx.reshape(x, kept)?])
}

/// Unsqueeze: axes are those of the result.
pub fn unsqueeze(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let Some(list) = axes_of(cx, c)? else {
        return cx.fail("axes are missing");
    };
    let dims = cx.shape(x).to_vec();
    let rank = dims.len() + list.len();
    if rank > 64 {
        return cx.fail(format!("the result would have rank {rank}, over the limit of 64"));
    }
    let new = axes(cx, &list, rank)?;
    let mut old = dims.into_iter();
    let mut shape = Vec::with_capacity(rank);
    for a in 0..rank {
        let d = if new.contains(&a) {
            Some(Dim::one())
        } else {
            old.next()
        };
        shape.extend(d);
    }
    Ok(vec![cx.reshape(x, shape)?])
}

/// Axes: an operand since opset 13, an attribute before.
fn axes_of(cx: &Cx, c: &Call<'_>) -> R<Option<Vec<i64>>> {
    match c.opt(1) {
        Some(v) if c.opset >= 13 => crate::call::const_ints(cx, v, "axes").map(Some),
        Some(_) => cx.fail("axes are an attribute before opset 13"),
        None if c.opset >= 13 => Ok(None),
        None => c.ints(cx, "axes"),
    }
}

/// Expand: broadcast to a shape; both ways.
pub fn expand(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, target) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let wanted = known_ints(cx, target, "a target shape")?;
    if let Some(d) = wanted.iter().find(|d| d.as_const().is_some_and(|v| v < 0)) {
        return cx.fail(format!("the target shape has the extent {}", show(d)));
    }
    let have = cx.shape(x).to_vec();
    let shape = cx.broadcast(&[&have, &wanted])?;
    Ok(vec![cx.expand(x, shape)?])
}
