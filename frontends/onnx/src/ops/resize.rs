//! Resize and Upsample of constant extents: along each axis a product with a constant interpolation matrix, or a gather
//! where every result is one element (nearest).

use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::types::Dim;

use super::linalg::product;
use crate::call::{Call, axes, axis, const_ints};
use crate::cx::{Cx, R, V};

/// How coordinates and weights are computed.
struct Plan {
    mode: String,
    transform: String,
    nearest: String,
    cubic: f64,
    exclude_outside: bool,
    extrapolation: f64,
    antialias: bool,
}

/// One axis: its extents, its scale, and its part of the region of interest.
struct Line {
    input: i64,
    output: i64,
    scale: f64,
    roi: (f64, f64),
}

/// Largest interpolation matrix, in elements.
const MATRIX_LIMIT: i64 = 1 << 26;

/// Upsample: Resize by scales, asymmetric.
pub fn upsample(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let scales = match c.opt(1) {
        Some(s) => floats(cx, s, "scales")?,
        None => match c.raw("scales") {
            Some(a) => a.floats.iter().map(|&v| f64::from(v)).collect(),
            None => return cx.fail("scales are missing"),
        },
    };
    let plan = Plan {
        mode: c.text(cx, "mode", "nearest")?,
        transform: "asymmetric".into(),
        nearest: "floor".into(),
        cubic: -0.75,
        exclude_outside: false,
        extrapolation: 0.0,
        antialias: false,
    };
    let all: Vec<usize> = (0..cx.rank(x)).collect();
    Ok(vec![run(cx, x, &plan, &all, Some(scales), None, None)?])
}

/// Resize, by scales or to sizes.
pub fn resize(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let old = c.opset < 11;
    let plan = Plan {
        mode: c.text(cx, "mode", "nearest")?,
        transform: if old {
            "asymmetric".into()
        } else {
            c.text(cx, "coordinate_transformation_mode", "half_pixel")?
        },
        nearest: if old {
            "floor".into()
        } else {
            c.text(cx, "nearest_mode", "round_prefer_floor")?
        },
        cubic: f64::from(c.float(cx, "cubic_coeff_a", -0.75)?),
        exclude_outside: c.int(cx, "exclude_outside", 0)? != 0,
        extrapolation: f64::from(c.float(cx, "extrapolation_value", 0.0)?),
        antialias: c.int(cx, "antialias", 0)? != 0,
    };
    let policy = c.text(cx, "keep_aspect_ratio_policy", "stretch")?;
    let list = match c.ints(cx, "axes")? {
        Some(l) => {
            axes(cx, &l, cx.rank(x))?;
            l.iter()
                .map(|&a| axis(cx, a, cx.rank(x)))
                .collect::<R<Vec<_>>>()?
        }
        None => (0..cx.rank(x)).collect(),
    };
    let given = |v: Option<V>, cx: &Cx| v.filter(|&v| !cx.shape(v).iter().any(|d| d.is(0)));
    let (roi, scales, sizes) = if old {
        (None, c.opt(1), None)
    } else {
        (c.opt(1), c.opt(2), c.opt(3))
    };
    let roi = given(roi, cx)
        .map(|v| floats(cx, v, "the region of interest"))
        .transpose()?;
    let scales = given(scales, cx).map(|v| floats(cx, v, "scales")).transpose()?;
    let mut sizes = given(sizes, cx).map(|v| const_ints(cx, v, "sizes")).transpose()?;
    let mut scales = scales;
    if let (Some(s), "not_larger" | "not_smaller") = (&sizes, policy.as_str()) {
        let dims = extents(cx, x)?;
        let ratios: Vec<f64> = s
            .iter()
            .zip(&list)
            .map(|(s, &a)| *s as f64 / dims[a] as f64)
            .collect();
        let fold = if policy == "not_larger" {
            f64::min
        } else {
            f64::max
        };
        let ratio = ratios.into_iter().reduce(fold).unwrap_or(1.0);
        sizes = Some(
            list.iter()
                .map(|&a| (ratio * dims[a] as f64 + 0.5).floor() as i64)
                .collect(),
        );
        scales = Some(vec![ratio; list.len()]);
    } else if sizes.is_some() && scales.is_some() {
        return cx.fail("both scales and sizes are given");
    }
    Ok(vec![run(cx, x, &plan, &list, scales, sizes, roi)?])
}

fn floats(cx: &Cx, v: V, what: &str) -> R<Vec<f64>> {
    match cx.constant(v) {
        Some(t) if t.to_f64().iter().all(|v| v.is_finite()) => Ok(t.to_f64()),
        Some(_) => cx.fail(format!("{what} are not finite")),
        None => cx.unsupported(format!("{what} that are not constant")),
    }
}

fn extents(cx: &Cx, x: V) -> R<Vec<i64>> {
    match cx.shape(x).iter().map(Dim::as_const).collect() {
        Some(d) => Ok(d),
        None => cx.unsupported("resize of symbolic extents"),
    }
}

fn run(
    cx: &mut Cx,
    x: V,
    plan: &Plan,
    list: &[usize],
    scales: Option<Vec<f64>>,
    sizes: Option<Vec<i64>>,
    roi: Option<Vec<f64>>,
) -> R<V> {
    let n = list.len();
    let lengths = [
        scales.as_ref().map(Vec::len),
        sizes.as_ref().map(Vec::len),
        roi.as_ref().map(|r| r.len() / 2),
    ];
    if (scales.is_none() && sizes.is_none()) || lengths.into_iter().flatten().any(|l| l != n) {
        return cx.fail(format!(
            "needs scales or sizes for {n} axes, and two bounds of a region for each"
        ));
    }
    let mut y = x;
    for (i, &a) in list.iter().enumerate() {
        let scale = scales.as_ref().map(|s| s[i]);
        let size = sizes.as_ref().map(|s| s[i]);
        if size.is_none() && scale == Some(1.0) && roi.is_none() {
            continue;
        }
        let Some(input) = cx.shape(y)[a].as_const() else {
            return cx.unsupported("resize of a symbolic extent");
        };
        let output = match (size, scale) {
            (Some(s), _) => s,
            (None, Some(s)) => (input as f64 * s).floor() as i64,
            (None, None) => input,
        };
        let scale = scale.unwrap_or(output as f64 / input as f64);
        if scale.is_nan() || scale <= 0.0 || input < 1 || !(0..=1 << 24).contains(&output) {
            return cx.fail(format!(
                "axis {a} would be resized from {input} to {output} with scale {scale}"
            ));
        }
        let bounds = roi.as_ref().map_or((0.0, 1.0), |r| (r[i], r[n + i]));
        let line = Line {
            input,
            output,
            scale,
            roi: bounds,
        };
        if input == output && scale == 1.0 && plan.transform != "tf_crop_and_resize" {
            continue;
        }
        y = resize_axis(cx, y, a, &line, plan)?;
    }
    Ok(y)
}

fn resize_axis(cx: &mut Cx, x: V, a: usize, line: &Line, plan: &Plan) -> R<V> {
    if line.input.saturating_mul(line.output) > MATRIX_LIMIT {
        return cx.unsupported(format!("resize from {} to {}", line.input, line.output));
    }
    let at: Vec<f64> = (0..line.output)
        .map(|i| coordinate(i, line, &plan.transform))
        .collect::<Option<_>>()
        .map_or_else(
            || {
                cx.fail(format!(
                    "coordinate transformation '{}' is not known",
                    crate::error::escape(&plan.transform)
                ))
            },
            Ok,
        )?;
    let outside = |c: f64| plan.transform == "tf_crop_and_resize" && (c < 0.0 || c > (line.input - 1) as f64);
    if plan.mode == "nearest" && !at.iter().any(|&c| outside(c)) {
        let Some(picks) = at
            .iter()
            .map(|&c| nearest(c, line.input, &plan.nearest))
            .collect::<Option<Vec<i64>>>()
        else {
            return cx.fail(format!(
                "nearest mode '{}' is not known",
                crate::error::escape(&plan.nearest)
            ));
        };
        let picks = cx.push_eval(Tensor::new(vec![picks.len()], picks));
        return cx.emit(Gather { axis: a }, &[x, picks]);
    }
    let (rows, columns) = (line.input as usize, line.output as usize);
    let mut matrix = vec![0.0f64; rows * columns];
    let mut fill = vec![0.0f64; columns];
    for (o, &c) in at.iter().enumerate() {
        if outside(c) {
            fill[o] = plan.extrapolation;
            continue;
        }
        let Some(taps) = taps(c, line, plan) else {
            return cx.fail(format!(
                "mode '{}' is not known",
                crate::error::escape(&plan.mode)
            ));
        };
        for (i, w) in taps {
            matrix[i as usize * columns + o] += w;
        }
    }
    let elem = cx.elem(x);
    let rank = cx.rank(x);
    let mut perm: Vec<usize> = (0..rank).filter(|&i| i != a).collect();
    perm.push(a);
    let m = cx.push_eval(Tensor::new(vec![rows, columns], matrix));
    let m = cx.cast(m, elem)?;
    let t = cx.transpose(x, &perm)?;
    let mut y = product(cx, t, m)?;
    if fill.iter().any(|v| *v != 0.0) {
        let f = cx.push_eval(Tensor::new(vec![columns], fill));
        let f = cx.cast(f, elem)?;
        y = cx.elementwise(rsqc_ir::ops::elementwise::Add {}, &[y, f])?;
    }
    let mut back: Vec<usize> = (0..rank - 1).collect();
    back.insert(a, rank - 1);
    cx.transpose(y, &back)
}

/// Where in the operand result `i` lies.
fn coordinate(i: i64, l: &Line, transform: &str) -> Option<f64> {
    let (i, last) = (i as f64, (l.input - 1) as f64);
    Some(match transform {
        "asymmetric" => i / l.scale,
        "half_pixel" => (i + 0.5) / l.scale - 0.5,
        "half_pixel_symmetric" => {
            // Centres the rounded-off part of the result.
            let exact = l.scale * l.input as f64;
            let adjust = l.output as f64 / exact;
            let centre = l.input as f64 / 2.0;
            centre * (1.0 - adjust) + (i + 0.5) / l.scale - 0.5
        }
        "pytorch_half_pixel" if l.output > 1 => (i + 0.5) / l.scale - 0.5,
        "pytorch_half_pixel" => 0.0,
        // The extent before rounding down counts.
        "align_corners" if l.output > 1 => i * last / (l.scale * l.input as f64 - 1.0),
        "align_corners" => 0.0,
        "tf_half_pixel_for_nn" => (i + 0.5) / l.scale,
        "tf_crop_and_resize" if l.output > 1 => {
            l.roi.0 * last + i * (l.roi.1 - l.roi.0) * last / (l.output - 1) as f64
        }
        "tf_crop_and_resize" => 0.5 * (l.roi.0 + l.roi.1) * last,
        _ => return None,
    })
}

fn nearest(c: f64, input: i64, mode: &str) -> Option<i64> {
    let v = match mode {
        "floor" => c.floor(),
        "ceil" => c.ceil(),
        "round_prefer_floor" => (c - 0.5).ceil(),
        "round_prefer_ceil" => (c + 0.5).floor(),
        _ => return None,
    };
    Some((v as i64).clamp(0, input - 1))
}

/// Elements and weights that make up the value at `c`.
fn taps(c: f64, l: &Line, plan: &Plan) -> Option<Vec<(i64, f64)>> {
    let stretch = if plan.antialias { l.scale.min(1.0) } else { 1.0 };
    let a = plan.cubic;
    let kernel = |d: f64| -> f64 {
        let d = d.abs();
        match plan.mode.as_str() {
            "linear" => (1.0 - d).max(0.0),
            _ if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            _ if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            _ => 0.0,
        }
    };
    let reach = match plan.mode.as_str() {
        "nearest" => return Some(vec![(nearest(c, l.input, &plan.nearest)?, 1.0)]),
        "linear" => 1.0,
        "cubic" => 2.0,
        _ => return None,
    };
    let (low, high) = (
        (c - reach / stretch).floor() as i64,
        (c + reach / stretch).ceil() as i64,
    );
    let mut weights: Vec<(i64, f64)> = (low..=high)
        .map(|i| (i, kernel((i as f64 - c) * stretch)))
        .collect();
    if plan.exclude_outside {
        weights.retain(|(i, _)| (0..l.input).contains(i));
    }
    if plan.exclude_outside || plan.antialias {
        let sum: f64 = weights.iter().map(|w| w.1).sum();
        weights.iter_mut().for_each(|w| w.1 /= sum);
    }
    // What lies outside repeats the edge.
    Some(
        weights
            .into_iter()
            .map(|(i, w)| (i.clamp(0, l.input - 1), w))
            .collect(),
    )
}
