//! Convolution and pooling.

use super::matmul::product;
use super::tensor::Tensor;
use super::{EvalCx, lanes, movement, walk};
use crate::ops::channels_last::{ConvLast, PoolLast};
use crate::ops::conv::{Conv, Pool, PoolKind, QConv};
use crate::types::ScalarType;

type R = Result<Vec<Tensor>, String>;

/// A sliding window over spatial axes.
struct Window {
    /// Spatial extents of the operand.
    x: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    before: Vec<i64>,
    after: Vec<i64>,
    /// Spatial extents of the result.
    out: Vec<usize>,
}

impl Window {
    fn new(
        x: &[usize],
        kernel: Vec<usize>,
        (strides, dilations, pads): (&[i64], &[i64], &[i64]),
        ceil: bool,
    ) -> Result<Self, String> {
        let n = x.len();
        let mut out = Vec::new();
        for i in 0..n {
            let span = x[i] as i64 + pads[i] + pads[n + i] - (dilations[i] * (kernel[i] as i64 - 1) + 1);
            let steps = if ceil {
                (span + strides[i] - 1).div_euclid(strides[i])
            } else {
                span.div_euclid(strides[i])
            };
            let extent = usize::try_from(steps + 1)
                .map_err(|_| format!("the window is larger than the padded extent {}", x[i]))?;
            out.push(extent);
        }
        Ok(Window {
            x: x.to_vec(),
            kernel,
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            before: pads[..n].to_vec(),
            after: pads[n..].to_vec(),
            out,
        })
    }

    /// For window position `o` and kernel position `k` (linear): the linear operand position if it exists, and
    /// whether it lies in the operand or its padding.
    fn at(&self, o: &[usize], k: &[usize]) -> (Option<usize>, bool) {
        let mut at = Some(0usize);
        let mut padded = true;
        for a in 0..o.len() {
            let i = o[a] as i64 * self.strides[a] + k[a] as i64 * self.dilations[a] - self.before[a];
            padded &= i < self.x[a] as i64 + self.after[a];
            let inside = usize::try_from(i).ok().filter(|i| *i < self.x[a]);
            at = at.zip(inside).map(|(at, i)| at * self.x[a] + i);
        }
        (at, padded)
    }

    fn points(shape: &[usize]) -> Vec<Vec<usize>> {
        (0..shape.iter().product())
            .map(|i| walk::unravel(i, shape))
            .collect()
    }
}

/// ONNX Conv; sums (with the bias) in f64, rounded once.
pub fn conv(op: &Conv, _cx: &EvalCx<'_>, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> R {
    if !x.elem().is_float() || w.elem() != x.elem() {
        return Err(format!("convolution of {} with {}", x.elem(), w.elem()));
    }
    let sums = convolve(op, x, w, &[], b)?;
    Ok(vec![sums.rounded(x.elem())])
}

/// Convolution of codes whose padding has the code `zero` (0 if it is absent; or one a channel): exact sums of products, i32.
pub fn qconv(op: &QConv, _cx: &EvalCx<'_>, x: &Tensor, w: &Tensor, zero: Option<&Tensor>) -> R {
    let fill = zero.map(Tensor::to_f64).unwrap_or_default();
    let sums = convolve(&op.window(), x, w, &fill, None)?;
    Ok(vec![sums.rounded(ScalarType::I32)])
}

/// [`conv`] or [`qconv`] with channels last: `x [n, spatial..., c]`, `w [kernel..., c/group, o]`.
pub fn conv_last(op: &ConvLast, x: &Tensor, w: &Tensor, zero: Option<&Tensor>) -> R {
    let rank = x.shape.len() as i64;
    // [kernel..., c, o] -> [o, c, kernel...]
    let mut filters = vec![rank - 1, rank - 2];
    filters.extend(0..rank - 2);
    let (x, w) = (
        one(movement::transpose(x, &to_first(rank))?),
        one(movement::transpose(w, &filters)?),
    );
    let elem = if x.elem().is_float() {
        x.elem()
    } else {
        ScalarType::I32
    };
    let fill = zero.map(Tensor::to_f64).unwrap_or_default();
    let y = convolve(&op.window(), &x, &w, &fill, None)?.rounded(elem);
    movement::transpose(&y, &to_last(rank))
}

/// [`pool`] with channels last.
pub fn pool_last(op: &PoolLast, cx: &EvalCx<'_>, x: &Tensor) -> R {
    let rank = x.shape.len() as i64;
    let x = one(movement::transpose(x, &to_first(rank))?);
    movement::transpose(&one(pool(&op.window(), cx, &x)?), &to_last(rank))
}

fn one(mut v: Vec<Tensor>) -> Tensor {
    v.remove(0)
}

/// `[n, spatial..., c]` to `[n, c, spatial...]`.
fn to_first(rank: i64) -> Vec<i64> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// `[n, c, spatial...]` to `[n, spatial..., c]`.
fn to_last(rank: i64) -> Vec<i64> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

/// Sums before they are rounded.
struct Sums {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Sums {
    fn rounded(self, elem: ScalarType) -> Tensor {
        Tensor {
            shape: self.shape,
            data: lanes::from_f64(self.values.into_iter(), elem),
        }
    }
}

/// Sums of products, channels first; elements outside of `x` count as `fill`: nothing (0), one number, or one a channel.
fn convolve(op: &Conv, x: &Tensor, w: &Tensor, fill: &[f64], b: Option<&Tensor>) -> Result<Sums, String> {
    let group = usize::try_from(op.group)
        .ok()
        .filter(|g| *g > 0)
        .ok_or("no groups")?;
    let (n, c, o) = (x.shape[0], x.shape[1], w.shape[0]);
    let (cg, og) = (w.shape[1], o / group);
    if cg * group != c || og * group != o {
        return Err(format!(
            "{c} channels and {o} filters do not divide into {group} groups of {cg}"
        ));
    }
    let win = Window::new(
        &x.shape[2..],
        w.shape[2..].to_vec(),
        (&op.strides, &op.dilations, &op.pads),
        false,
    )?;
    let (positions, taps) = (Window::points(&win.out), Window::points(&win.kernel));
    // Operand position of each (tap, output position), shared by all channels and samples.
    let table: Vec<Option<usize>> = taps
        .iter()
        .flat_map(|k| positions.iter().map(|p| win.at(p, k).0))
        .collect();
    let (fx, fw, fb) = (x.to_f64(), w.to_f64(), b.map(Tensor::to_f64));
    let (area, np, nt) = (win.x.iter().product::<usize>(), positions.len(), taps.len());
    let mut values = Vec::with_capacity(n * o * np);
    for sample in 0..n {
        for g in 0..group {
            let mut cols = Vec::with_capacity(cg * nt * np);
            for ch in 0..cg {
                let plane = &fx[(sample * c + g * cg + ch) * area..][..area];
                let fill = match fill {
                    [] => 0.0,
                    [all] => *all,
                    each => each[g * cg + ch],
                };
                cols.extend(table.iter().map(|i| i.map_or(fill, |i| plane[i])));
            }
            let filters = &fw[g * og * cg * nt..(g + 1) * og * cg * nt];
            let mut part = product(filters, &cols, og, cg * nt, np);
            if let Some(b) = &fb {
                for (f, row) in part.chunks_mut(np.max(1)).enumerate() {
                    row.iter_mut().for_each(|v| *v += b[g * og + f]);
                }
            }
            values.extend(part);
        }
    }
    let mut shape = vec![n, o];
    shape.extend(&win.out);
    Ok(Sums { shape, values })
}

/// Sliding-window pool. A NaN in a window wins a maximum; a window without elements gives -inf or 0.
pub fn pool(op: &Pool, _cx: &EvalCx<'_>, x: &Tensor) -> R {
    if x.elem().size() == 8 && !x.elem().is_float() {
        return Err(format!("pooling of {}", x.elem()));
    }
    let kernel = op
        .kernel
        .iter()
        .map(|k| usize::try_from(*k).map_err(|_| "negative kernel"))
        .collect::<Result<Vec<_>, _>>()?;
    let win = Window::new(
        &x.shape[2..],
        kernel,
        (&op.strides, &op.dilations, &op.pads),
        op.ceil,
    )?;
    let taps = Window::points(&win.kernel);
    let windows: Vec<(Vec<usize>, usize)> = Window::points(&win.out)
        .iter()
        .map(|o| {
            let hits: Vec<(Option<usize>, bool)> = taps.iter().map(|k| win.at(o, k)).collect();
            let padded = hits.iter().filter(|(_, p)| *p).count();
            (hits.into_iter().filter_map(|(i, _)| i).collect(), padded)
        })
        .collect();
    let v = x.to_f64();
    let area: usize = win.x.iter().product();
    let planes = x.shape[0] * x.shape[1];
    let mut out = Vec::with_capacity(planes * windows.len());
    for plane in (0..planes).map(|p| &v[p * area..(p + 1) * area]) {
        for (at, padded) in &windows {
            let items = at.iter().map(|i| plane[*i]);
            out.push(match op.kind {
                PoolKind::Max => {
                    items.fold(f64::NEG_INFINITY, |m, v| if v > m || v.is_nan() { v } else { m })
                }
                PoolKind::Average => items.sum::<f64>() / at.len().max(1) as f64,
                PoolKind::AverageWithPad => items.sum::<f64>() / (*padded).max(1) as f64,
            });
        }
    }
    let mut shape = x.shape[..2].to_vec();
    shape.extend(&win.out);
    Ok(vec![Tensor {
        shape,
        data: lanes::from_f64(out.into_iter(), x.elem()),
    }])
}
