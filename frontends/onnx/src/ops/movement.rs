//! Joining, padding, repeating, reordering.

use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::{elementwise as ir, gather as irg, shape as irs};
use rsqc_ir::types::{Dim, ScalarType};

use crate::call::{Call, axes, axis, const_ints, known_ints};
use crate::cx::{Cx, R, V, show};
use crate::facts::{Cmp, Fact, Prop, Scalar, index};

/// Concat; operands without elements are dropped.
pub fn concat(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let ins = c.all(cx)?;
    let first = ins[0];
    if c.opset >= 4 && !c.has("axis") {
        return cx.fail("attribute 'axis' is missing");
    }
    let axis = c.axis(cx, "axis", 0, cx.rank(first))?;
    let mut shape = cx.shape(first).to_vec();
    for &v in &ins[1..] {
        if cx.rank(v) != shape.len() || cx.elem(v) != cx.elem(first) {
            let what = format!("operands {} and {} cannot be joined", cx.ty(first), cx.ty(v));
            return cx.fail(crate::error::escape(&what));
        }
        let dims = cx.shape(v).to_vec();
        for a in (0..shape.len()).filter(|&a| a != axis) {
            cx.same_dim(&shape[a].clone(), &dims[a], &format!("concat axis {a}"))?;
        }
        shape[axis] = shape[axis].clone() + dims[axis].clone();
    }
    let elem = cx.elem(first);
    let facts = ins.iter().map(|&v| cx.fact(v)).collect::<Option<Vec<_>>>();
    if let Some(facts) = facts
        && let Some(fact) = Fact::concat(&facts.iter().collect::<Vec<_>>(), axis, shape.clone())
    {
        return Ok(vec![cx.push_fact(elem, fact)]);
    }
    let kept: Vec<V> = ins
        .iter()
        .copied()
        .filter(|&v| !cx.shape(v)[axis].is(0))
        .collect();
    let mut parts = Vec::with_capacity(kept.len());
    for v in kept {
        let mut want = shape.clone();
        want[axis] = cx.shape(v)[axis].clone();
        parts.push(cx.coerce(v, &want)?);
    }
    Ok(vec![match parts.as_slice() {
        [] => first,
        [one] => *one,
        _ => cx.emit(irs::Concat { axis }, &parts)?,
    }])
}

/// Transpose; without `perm` the axes are reversed.
pub fn transpose(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let rank = cx.rank(x);
    let perm = match c.ints(cx, "perm")? {
        Some(p) => p,
        None => (0..rank as i64).rev().collect(),
    };
    if perm.len() != rank {
        return cx.fail(format!(
            "attribute 'perm' has {} entries, expected {rank}",
            perm.len()
        ));
    }
    axes(cx, &perm, rank)?;
    let perm = perm.iter().map(|&p| axis(cx, p, rank)).collect::<R<Vec<_>>>()?;
    Ok(vec![cx.transpose(x, &perm)?])
}

/// Pad: by a constant, or from the operand itself; negative pads cut.
pub fn pad(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let rank = cx.rank(x);
    let mode = c.text(cx, "mode", "constant")?;
    let (pads, value, list) = if c.opset >= 11 {
        let list = c.opt(3).map(|v| const_ints(cx, v, "axes")).transpose()?;
        (known_ints(cx, c.input(cx, 1)?, "pads")?, c.opt(2), list)
    } else {
        let Some(pads) = c.ints(cx, "pads")? else {
            return cx.fail("attribute 'pads' is missing");
        };
        let value = c.float(cx, "value", 0.0)?;
        (
            pads.into_iter().map(Dim::from).collect(),
            Some(cx.lit(cx.elem(x), value.into())),
            None,
        )
    };
    let list = list.unwrap_or_else(|| (0..rank as i64).collect());
    axes(cx, &list, rank)?;
    if pads.len() != 2 * list.len() {
        return cx.fail(format!("has {} pads for {} axes", pads.len(), list.len()));
    }
    let (mut before, mut after) = (vec![Dim::zero(); rank], vec![Dim::zero(); rank]);
    for (i, &a) in list.iter().enumerate() {
        let a = axis(cx, a, rank)?;
        (before[a], after[a]) = (pads[i].clone(), pads[list.len() + i].clone());
    }
    if mode != "constant" {
        return Ok(vec![pad_from_self(cx, x, &mode, &before, &after)?]);
    }
    let x = cut_negative(cx, x, &mut before, &mut after)?;
    if before.iter().chain(&after).all(|d| d.is(0)) {
        return Ok(vec![x]);
    }
    let value = match value {
        Some(v) => cx.reshape(v, vec![])?,
        None => cx.lit(cx.elem(x), 0.0),
    };
    Ok(vec![cx.emit(irs::Pad { before, after }, &[x, value])?])
}

/// Cuts where pads are negative, and sets those pads to 0.
fn cut_negative(cx: &mut Cx, x: V, before: &mut [Dim], after: &mut [Dim]) -> R<V> {
    let mut starts = vec![Dim::zero(); before.len()];
    let mut sizes = cx.shape(x).to_vec();
    for a in 0..before.len() {
        for (pads, is_before) in [(&mut *before, true), (&mut *after, false)] {
            let bounds = pads[a].bounds(&cx.module.symbols);
            if bounds.0 >= 0 {
                continue;
            }
            if bounds.1 > 0 {
                return cx.unsupported(format!("pad {} of unknown sign", show(&pads[a])));
            }
            let cut = -std::mem::replace(&mut pads[a], Dim::zero());
            sizes[a] = sizes[a].clone() - cut.clone();
            if is_before {
                starts[a] = cut;
            }
        }
    }
    if sizes.iter().any(|d| d.bounds(&cx.module.symbols).1 < 0) {
        return cx.fail("negative pads cut away more than there is");
    }
    let steps = vec![1; sizes.len()];
    cx.slice(x, starts, sizes, steps)
}

/// Edge, reflect and wrap padding: a gather by constant indices along each axis.
fn pad_from_self(cx: &mut Cx, x: V, mode: &str, before: &[Dim], after: &[Dim]) -> R<V> {
    let mut y = x;
    for a in 0..before.len() {
        if before[a].is(0) && after[a].is(0) {
            continue;
        }
        let known = (
            cx.shape(y)[a].as_const(),
            before[a].as_const(),
            after[a].as_const(),
        );
        let (Some(n), Some(lo), Some(hi)) = known else {
            return cx.unsupported(format!("{mode} padding of a symbolic extent"));
        };
        let total = n.saturating_add(lo).saturating_add(hi);
        if n < 1 || !(0..=1 << 24).contains(&total) {
            return cx.fail(format!("pads {lo} and {hi} do not fit an extent of {n}"));
        }
        let period = (2 * (n - 1)).max(1);
        let source = |i: i64| match mode {
            "edge" => Some(i.clamp(0, n - 1)),
            "wrap" => Some(i.rem_euclid(n)),
            "reflect" => {
                let m = i.rem_euclid(period);
                Some(if m < n { m } else { period - m })
            }
            _ => None,
        };
        let Some(indices) = (-lo..n + hi).map(source).collect::<Option<Vec<i64>>>() else {
            return cx.fail(format!(
                "attribute 'mode' is '{}', expected constant, edge, reflect or wrap",
                crate::error::escape(mode)
            ));
        };
        let indices = cx.push_eval(Tensor::new(vec![indices.len()], indices));
        y = cx.emit(irg::Gather { axis: a }, &[y, indices])?;
    }
    Ok(y)
}

/// Tile: each axis `[d]` becomes `[r, d]`, then `[r * d]`.
pub fn tile(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, r) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let repeats = known_ints(cx, r, "repeats")?;
    let dims = cx.shape(x).to_vec();
    if repeats.len() != dims.len() {
        return cx.fail(format!("has {} repeats for rank {}", repeats.len(), dims.len()));
    }
    if repeats.iter().any(|r| r.bounds(&cx.module.symbols).1 < 0) {
        return cx.fail("a repeat is negative");
    }
    let (mut split, mut full, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    for (d, r) in dims.iter().zip(&repeats) {
        // An axis of extent 1 repeats by itself.
        if !d.is(1) && !r.is(1) {
            split.push(Dim::one());
            full.push(r.clone());
            full.push(d.clone());
        } else {
            full.push(r.clone() * d.clone());
        }
        split.push(d.clone());
        shape.push(r.clone() * d.clone());
    }
    let y = cx.reshape(x, split)?;
    let y = cx.expand(y, full)?;
    Ok(vec![cx.reshape(y, shape)?])
}

/// Trilu: keeps one side of a diagonal.
pub fn trilu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let upper = c.int(cx, "upper", 1)? != 0;
    let k = match c.opt(1) {
        Some(v) => match const_ints(cx, v, "the diagonal")?.as_slice() {
            [k] => *k,
            other => return cx.fail(format!("the diagonal has {} values, expected 1", other.len())),
        },
        None => 0,
    };
    let rank = cx.rank(x);
    if rank < 2 {
        return cx.fail(format!("has rank {rank}, expected 2 or more"));
    }
    let shape = cx.shape(x)[rank - 2..].to_vec();
    let (row, column) = (index(0) + Dim::from(k), index(1));
    let (a, b) = if upper { (row, column) } else { (column, row) };
    let keep = Prop::cmp(Cmp::Le, &a, &b, &shape, &cx.module.symbols);
    let keep = cx.push_fact(ScalarType::Bool, Fact::of_index(shape, Scalar::Bool(keep)));
    if cx.elem(x) == ScalarType::Bool {
        return Ok(vec![cx.elementwise(ir::And {}, &[keep, x])?]);
    }
    let zero = cx.lit(cx.elem(x), 0.0);
    Ok(vec![cx.elementwise(ir::Where {}, &[keep, x, zero])?])
}

/// The block size of DepthToSpace and SpaceToDepth, and the operand's extents.
fn blocks(cx: &Cx, c: &Call<'_>, x: V) -> R<(Dim, [Dim; 4])> {
    let b = c.int(cx, "blocksize", 0)?;
    if !(1..=1 << 20).contains(&b) {
        return cx.fail(format!("attribute 'blocksize' is {b}, expected 1 or more"));
    }
    match <[Dim; 4]>::try_from(cx.shape(x).to_vec()) {
        Ok(dims) => Ok((b.into(), dims)),
        Err(dims) => cx.fail(format!("has rank {}, expected 4", dims.len())),
    }
}

/// An extent divided by a block size.
fn divide(cx: &Cx, d: &Dim, by: &Dim) -> R<Dim> {
    match d.exact_div(by) {
        Some(q) => Ok(q),
        None => cx.fail(format!("extent {} is not a multiple of {}", show(d), show(by))),
    }
}

/// DepthToSpace, by depth or by column.
pub fn depth_to_space(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (b, [n, ch, h, w]) = blocks(cx, c, x)?;
    let depth = divide(cx, &ch, &(b.clone() * b.clone()))?;
    let (split, perm): (_, [usize; 6]) = match c.text(cx, "mode", "DCR")?.as_str() {
        "DCR" => (
            [
                n.clone(),
                b.clone(),
                b.clone(),
                depth.clone(),
                h.clone(),
                w.clone(),
            ],
            [0, 3, 4, 1, 5, 2],
        ),
        "CRD" => (
            [
                n.clone(),
                depth.clone(),
                b.clone(),
                b.clone(),
                h.clone(),
                w.clone(),
            ],
            [0, 1, 4, 2, 5, 3],
        ),
        other => {
            return cx.fail(format!(
                "attribute 'mode' is '{}', expected DCR or CRD",
                crate::error::escape(other)
            ));
        }
    };
    let y = cx.reshape(x, split.to_vec())?;
    let y = cx.transpose(y, &perm)?;
    Ok(vec![cx.reshape(y, vec![n, depth, h * b.clone(), w * b])?])
}

/// SpaceToDepth.
pub fn space_to_depth(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (b, [n, ch, h, w]) = blocks(cx, c, x)?;
    let (h, w) = (divide(cx, &h, &b)?, divide(cx, &w, &b)?);
    let y = cx.reshape(
        x,
        vec![n.clone(), ch.clone(), h.clone(), b.clone(), w.clone(), b.clone()],
    )?;
    let perm = match c.text(cx, "mode", "DCR")?.as_str() {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => {
            return cx.fail(format!(
                "attribute 'mode' is '{}', expected DCR or CRD",
                crate::error::escape(other)
            ));
        }
    };
    let y = cx.transpose(y, &perm)?;
    Ok(vec![cx.reshape(y, vec![n, ch * b.clone() * b, h, w])?])
}
