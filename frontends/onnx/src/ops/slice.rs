//! Slice and Split: bounds are resolved to expressions, so that no clamping is left for run time.

use rsqc_ir::types::Dim;

use crate::call::{Call, axes, axis, const_ints, known_ints};
use crate::cx::{Cx, R, V, show};

/// One axis of a slice, resolved.
struct Cut {
    start: Dim,
    size: Dim,
    step: i64,
}

/// Slice: operands since opset 10, attributes before.
pub fn slice(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let ints = |list: Vec<i64>| list.into_iter().map(Dim::from).collect::<Vec<Dim>>();
    let (starts, ends, list, steps) = if c.opset < 10 {
        let Some(starts) = c.ints(cx, "starts")? else {
            return cx.fail("attribute 'starts' is missing");
        };
        let Some(ends) = c.ints(cx, "ends")? else {
            return cx.fail("attribute 'ends' is missing");
        };
        (ints(starts), ints(ends), c.ints(cx, "axes")?, None)
    } else {
        let starts = known_ints(cx, c.input(cx, 1)?, "a slice start")?;
        let ends = known_ints(cx, c.input(cx, 2)?, "a slice end")?;
        let list = c.opt(3).map(|v| const_ints(cx, v, "axes")).transpose()?;
        (
            starts,
            ends,
            list,
            c.opt(4).map(|v| const_ints(cx, v, "steps")).transpose()?,
        )
    };
    let n = starts.len();
    let list = list.unwrap_or_else(|| (0..n as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; n]);
    if ends.len() != n || list.len() != n || steps.len() != n {
        return cx.fail(format!(
            "has {n} starts, {} ends, {} axes and {} steps",
            ends.len(),
            list.len(),
            steps.len()
        ));
    }
    let dims = cx.shape(x).to_vec();
    axes(cx, &list, dims.len())?;
    let mut cuts: Vec<Cut> = dims
        .iter()
        .map(|d| Cut {
            start: Dim::zero(),
            size: d.clone(),
            step: 1,
        })
        .collect();
    for i in 0..n {
        let a = axis(cx, list[i], dims.len())?;
        cuts[a] = match steps[i] {
            0 => return cx.fail("a step is 0"),
            step if step > 0 => forward(cx, &dims[a], &starts[i], &ends[i], step)?,
            step => backward(cx, &dims[a], &starts[i], &ends[i], step)?,
        };
    }
    Ok(vec![apply(cx, x, cuts)?])
}

fn apply(cx: &mut Cx, x: V, cuts: Vec<Cut>) -> R<V> {
    let starts = cuts.iter().map(|c| c.start.clone()).collect();
    let steps = cuts.iter().map(|c| c.step).collect();
    cx.slice(x, starts, cuts.into_iter().map(|c| c.size).collect(), steps)
}

/// A slice with a positive step.
fn forward(cx: &mut Cx, dim: &Dim, start: &Dim, end: &Dim, step: i64) -> R<Cut> {
    if let (Some(d), Some(s), Some(e)) = (dim.as_const(), start.as_const(), end.as_const()) {
        let place = |v: i64| (if v < 0 { v.saturating_add(d) } else { v }).clamp(0, d);
        let (s, e) = (place(s), place(e));
        let size = (e - s).max(0).saturating_add(step - 1) / step;
        return Ok(Cut {
            start: s.into(),
            size: size.into(),
            step,
        });
    }
    let start = bound(cx, dim, start, false)?;
    let end = bound(cx, dim, end, true)?;
    cx.require_le(&start, &end)?;
    let span = end - start.clone();
    let size = if step == 1 {
        span
    } else {
        span.ceil_div(&Dim::from(step))
    };
    Ok(Cut { start, size, step })
}

/// A start or end of a forward slice, between 0 and `dim`.
fn bound(cx: &mut Cx, dim: &Dim, v: &Dim, is_end: bool) -> R<Dim> {
    let symbols = &cx.module.symbols;
    match v.as_const() {
        Some(c) if c < 0 => {
            cx.require_le(&Dim::from(c.saturating_neg()), dim)?;
            Ok(dim.clone() + v.clone())
        }
        Some(0) => Ok(Dim::zero()),
        Some(c) if is_end => {
            // Exporters write "to the end" as the largest i32 or i64.
            let far = c >= i64::from(i32::MAX) || dim.always_le(v, symbols);
            Ok(if far {
                dim.clone()
            } else if v.always_le(dim, symbols) {
                v.clone()
            } else {
                Dim::smaller(dim, v)
            })
        }
        Some(_) => {
            cx.require_le(v, dim)?;
            Ok(v.clone())
        }
        None if v.bounds(symbols).0 >= 0 => {
            cx.require_le(v, dim)?;
            Ok(v.clone())
        }
        None if v.bounds(symbols).1 < 0 => {
            cx.require_le(&-v.clone(), dim)?;
            Ok(dim.clone() + v.clone())
        }
        None => cx.unsupported(format!("slice bound {} of unknown sign", show(v))),
    }
}

/// A slice with a negative step.
fn backward(cx: &mut Cx, dim: &Dim, start: &Dim, end: &Dim, step: i64) -> R<Cut> {
    let (Some(s), Some(e)) = (start.as_const(), end.as_const()) else {
        return cx.unsupported("slice with a negative step and symbolic bounds");
    };
    if let Some(d) = dim.as_const() {
        let place = |v: i64| (if v < 0 { v.saturating_add(d) } else { v }).clamp(-1, d - 1);
        let (s, e) = (place(s), place(e));
        let back = step.checked_neg().unwrap_or(i64::MAX);
        let size = (s - e).max(0).saturating_add(back - 1) / back;
        return Ok(Cut {
            start: s.max(0).into(),
            size: size.into(),
            step: if size > 1 { step } else { -1 },
        });
    }
    let (far, low) = (i64::from(i32::MAX), i64::from(i32::MIN));
    if (s == -1 || s >= far) && e <= low + 1 {
        return Ok(Cut {
            start: dim.clone() - Dim::one(),
            size: dim.ceil_div(&Dim::from(step.saturating_neg())),
            step,
        });
    }
    cx.unsupported(format!(
        "slice from {s} to {e} with step {step} of a symbolic extent"
    ))
}

/// Split into given sizes, or evenly.
pub fn split(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let dims = cx.shape(x).to_vec();
    let axis = c.axis(cx, "axis", 0, dims.len())?;
    let given = match c.opt(1) {
        Some(v) => Some(known_ints(cx, v, "split sizes")?),
        None => c
            .ints(cx, "split")?
            .map(|l| l.into_iter().map(Dim::from).collect()),
    };
    let parts = c.int(cx, "num_outputs", c.node.output.len() as i64)?;
    let sizes = match given {
        Some(sizes) => sizes,
        None => even(cx, &dims[axis], parts)?,
    };
    if sizes.len() != c.node.output.len() {
        return cx.fail(format!(
            "has {} sizes for {} outputs",
            sizes.len(),
            c.node.output.len()
        ));
    }
    if sizes.iter().any(|s| s.as_const().is_some_and(|v| v < 0)) {
        return cx.fail("a split size is negative");
    }
    cx.same_dim(
        &sizes.iter().cloned().sum::<Dim>(),
        &dims[axis],
        "sum of the split sizes",
    )?;
    let mut start = Dim::zero();
    let mut out = Vec::new();
    for size in sizes {
        let mut cuts: Vec<Cut> = dims
            .iter()
            .map(|d| Cut {
                start: Dim::zero(),
                size: d.clone(),
                step: 1,
            })
            .collect();
        cuts[axis] = Cut {
            start: start.clone(),
            size: size.clone(),
            step: 1,
        };
        start = start + size;
        out.push(apply(cx, x, cuts)?);
    }
    Ok(out)
}

/// Parts of `ceil(extent / parts)`, the last one smaller.
fn even(cx: &Cx, extent: &Dim, parts: i64) -> R<Vec<Dim>> {
    if !(1..=4096).contains(&parts) {
        return cx.fail(format!("splits into {parts} parts"));
    }
    if let Some(one) = extent.exact_div(&Dim::from(parts)) {
        return Ok(vec![one; parts as usize]);
    }
    let Some(n) = extent.as_const() else {
        return cx.unsupported(format!("split of {} into {parts} parts", show(extent)));
    };
    let one = (n + parts - 1) / parts;
    let last = n - one * (parts - 1);
    if last < 0 {
        return cx.fail(format!("{n} cannot be split into {parts} parts"));
    }
    let mut sizes = vec![Dim::from(one); parts as usize - 1];
    sizes.push(last.into());
    Ok(sizes)
}
