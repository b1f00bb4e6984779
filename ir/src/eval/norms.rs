//! Normalizations, computed in f64 and rounded once.

use super::lanes;
use super::tensor::Tensor;
use rayon::prelude::*;

type R = Result<Vec<Tensor>, String>;

/// Applies `f` to each row of the last axis, in f64.
fn rows(x: &Tensor, f: impl Fn(&mut [f64]) + Send + Sync) -> R {
    let mut v = x.to_f64();
    let n = *x.shape.last().ok_or("a scalar has no rows")?;
    if n > 0 {
        v.par_chunks_mut(n).for_each(f);
    }
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data: lanes::from_f64(v.into_iter(), x.elem()),
    }])
}

/// `(x - mean) / sqrt(var + eps) * g + b` over the last axis.
pub fn layer_norm(x: &Tensor, g: &Tensor, b: Option<&Tensor>, eps: f32) -> R {
    let (g, b) = (g.to_f64(), b.map(Tensor::to_f64));
    rows(x, |row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let scale = 1.0 / (var + f64::from(eps)).sqrt();
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) * scale * g[i] + b.as_ref().map_or(0.0, |b| b[i]);
        }
    })
}

/// `x / sqrt(mean(x^2) + eps) * g` over the last axis.
pub fn rms_norm(x: &Tensor, g: &Tensor, eps: f32) -> R {
    let g = g.to_f64();
    rows(x, |row| {
        let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (square + f64::from(eps)).sqrt();
        for (v, g) in row.iter_mut().zip(&g) {
            *v = *v * scale * g;
        }
    })
}

/// Softmax of a row in place: `e^(x - max) / sum`, or its logarithm. A row of -inf alone is NaN.
pub(crate) fn softmax_row(row: &mut [f64], log: bool) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|v| libm::exp(v - max)).sum();
    for v in row.iter_mut() {
        *v = if log {
            *v - max - libm::log(sum)
        } else {
            libm::exp(*v - max) / sum
        };
    }
}

/// Softmax over `axis`.
pub fn softmax(x: &Tensor, axis: usize, log: bool) -> R {
    if axis + 1 == x.shape.len() {
        return rows(x, |row| softmax_row(row, log));
    }
    let (extent, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let mut v = x.to_f64();
    if extent * inner > 0 {
        v.par_chunks_mut(extent * inner).for_each(|block| {
            for i in 0..inner {
                let mut row: Vec<f64> = (0..extent).map(|j| block[j * inner + i]).collect();
                softmax_row(&mut row, log);
                for (j, v) in row.into_iter().enumerate() {
                    block[j * inner + i] = v;
                }
            }
        });
    }
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data: lanes::from_f64(v.into_iter(), x.elem()),
    }])
}
