//! `alpha=auto`: for each site the alpha of a grid whose integer layers lie nearest to the float ones (the idea of
//! "enhanced SmoothQuant", intel/neural-compressor, docs/source/smooth_quant.md).
//!
//! For every sample, layer and alpha: `y = x W` and `y' = fq(x / s) fq(s W)`, activations fake-quantized as the layer's
//! scheme says (static ranges are the extremes of x / s over all samples), weights per channel or tensor. Both are divided
//! by the largest |y| of the sample (of the batch row, from rank 3 on; at least 1e-5), and the loss is `sum sqrt |y - y'|`:
//! a root, so that a few large differences do not decide alone. Losses are summed over **all** samples and over the layers
//! of a site, then the smallest decides. Float inputs are used, so that sites do not depend on each other's choice.

use super::options::Alpha;
use super::scales;
use super::stats::{ChannelRange, Data};
use crate::calibrate::{Range, parameters};
use crate::methods::activations::activation_codes;
use crate::methods::const_matrix;
use crate::scheme::{Scheme, WeightScales};
use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};
use rayon::prelude::*;
use rsqc_ir::Op;
use rsqc_ir::diag::Diag;
use rsqc_ir::quant::Granularity;

/// Codes of candidate weights held at once; more sites than that go through the samples again.
const MAX_BYTES: usize = 1 << 29;

/// Adding and subtracting 1.5 * 2^23 rounds an f32 below 2^22 to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// Alphas and their losses.
pub(super) type Losses = Vec<(f64, f64)>;

/// Activation codes of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Codes {
    /// They stay float.
    Float,
    /// One scale a row.
    Token,
    /// One scale a tensor.
    Tensor,
    /// Scale and zero point are known; codes lie between the last two.
    Static(f32, f32, f32, f32),
}

/// A layer under one alpha.
struct Candidate {
    x: Codes,
    /// `[k, n]`.
    codes: Vec<i8>,
    scales: Vec<f32>,
}

/// One alpha of a site.
struct Trial {
    alpha: f64,
    inverse: Vec<f32>,
    layers: Vec<Candidate>,
    loss: f64,
}

/// A site that is searched.
struct Search {
    site: usize,
    /// Float weights `[k, n]` of its layers.
    weights: Vec<Array2<f32>>,
    trials: Vec<Trial>,
}

/// Losses of all sites whose alpha is to be searched; `None` for the others, and for sites of convolutions.
pub(super) fn search(
    data: &Data<'_>,
    scheme: &Scheme,
    stats: &[ChannelRange],
    wmax: &[Vec<f32>],
    alphas: &[Alpha],
) -> Result<Vec<Option<Losses>>, Diag> {
    let mut found: Vec<Option<Losses>> = vec![None; data.sites.len()];
    let mut batch: Vec<Search> = Vec::new();
    let mut bytes = 0;
    for (i, alpha) in alphas.iter().enumerate() {
        let Alpha::Auto(grid) = alpha else { continue };
        let Some(s) = prepare(data, scheme, i, &stats[i], &wmax[i], &grid.points()) else {
            continue;
        };
        let own: usize = s
            .trials
            .iter()
            .flat_map(|t| &t.layers)
            .map(|l| l.codes.len())
            .sum();
        if bytes + own > MAX_BYTES && !batch.is_empty() {
            run(data, std::mem::take(&mut batch), &mut found)?;
            bytes = 0;
        }
        bytes += own;
        batch.push(s);
    }
    run(data, batch, &mut found)?;
    Ok(found)
}

/// The alpha with the smallest loss, the lowest of several.
pub(super) fn best(losses: &[(f64, f64)]) -> f64 {
    let mut least = (0.5, f64::INFINITY);
    for (a, l) in losses {
        if *l < least.1 {
            least = (*a, *l);
        }
    }
    least.0
}

/// Candidate weights of every alpha; `None` if the site is none of products.
fn prepare(
    data: &Data<'_>,
    scheme: &Scheme,
    site: usize,
    range: &ChannelRange,
    wmax: &[f32],
    points: &[f64],
) -> Option<Search> {
    let (m, s) = (data.m, &data.sites[site]);
    let mut weights = Vec::new();
    for id in &s.layers {
        let n = m.graph.node(*id);
        let Op::MatMul(_) = n.op else { return None };
        let w = const_matrix(m, n.input(1)?)?;
        weights.push(Array2::from_shape_vec((w.k, w.n), w.data).ok()?);
    }
    let trial = |alpha: f64| {
        let factors = scales::factors(&range.magnitudes(), wmax, &s.groups, alpha);
        let inverse: Vec<f32> = factors.iter().map(|s| (1.0 / s) as f32).collect();
        let layers = s.layers.iter().zip(&weights).map(|(id, w)| {
            let q = scheme.of_layer(&m.graph.node(*id).loc).0.quantized()?;
            let codes = activation_codes(m, q, s.x, Granularity::Token);
            let x = match codes {
                None => Codes::Float,
                Some(c) if c.dynamic && c.qtype.granularity == Granularity::Token => Codes::Token,
                Some(c) if c.dynamic => Codes::Tensor,
                Some(c) => {
                    let (scale, zero) = parameters(&smoothed_range(range, &inverse), &c.qtype);
                    let (lo, hi) = c.qtype.code_range();
                    Codes::Static(scale, f32::from(zero), lo as f32, hi as f32)
                }
            };
            Some(candidate(x, w, &inverse, q.weight_scales))
        });
        let layers: Vec<Candidate> = layers.collect::<Option<_>>()?;
        Some(Trial {
            alpha,
            inverse,
            layers,
            loss: 0.0,
        })
    };
    Some(Search {
        site,
        trials: points.iter().map(|a| trial(*a)).collect::<Option<_>>()?,
        weights,
    })
}

/// Extremes of x / s with 0 in between.
fn smoothed_range(r: &ChannelRange, inverse: &[f32]) -> Range {
    let mut all = Range {
        low: 0.0,
        high: 0.0,
        clipped: 0.0,
    };
    for ((lo, hi), f) in r.min.iter().zip(&r.max).zip(inverse) {
        if lo <= hi {
            all.low = all.low.min(f64::from(lo * f));
            all.high = all.high.max(f64::from(hi * f));
        }
    }
    all
}

/// Codes of `s W`, as `lower-to-integer` makes them.
fn candidate(x: Codes, w: &Array2<f32>, inverse: &[f32], shared: WeightScales) -> Candidate {
    let n = w.ncols();
    let mut amax = vec![0f32; n];
    for (row, f) in w.rows().into_iter().zip(inverse) {
        for (a, v) in amax.iter_mut().zip(row) {
            *a = a.max((v / f).abs());
        }
    }
    if shared == WeightScales::Tensor {
        let top = amax.iter().copied().fold(0f32, f32::max);
        amax.fill(top);
    }
    let scales: Vec<f32> = amax
        .iter()
        .map(|a| if *a == 0.0 { 1.0 } else { a / 127.0 })
        .collect();
    let mut codes = Vec::with_capacity(w.len());
    for (row, f) in w.rows().into_iter().zip(inverse) {
        let code = |(v, s): (&f32, &f32)| (v / f / s + ROUNDER - ROUNDER).clamp(-127.0, 127.0) as i8;
        codes.extend(row.iter().zip(&scales).map(code));
    }
    Candidate { x, codes, scales }
}

/// Runs all samples through the sites of a batch.
fn run(data: &Data<'_>, mut batch: Vec<Search>, found: &mut [Option<Losses>]) -> Result<(), Diag> {
    if batch.is_empty() {
        return Ok(());
    }
    let chosen: Vec<usize> = batch.iter().map(|s| s.site).collect();
    data.each_activation(&chosen, &mut |i, x, shape| {
        if let Some(s) = batch.iter_mut().find(|s| s.site == i) {
            sample(s, x, shape);
        }
    })?;
    for s in batch {
        found[s.site] = Some(s.trials.iter().map(|t| (t.alpha, t.loss)).collect());
    }
    Ok(())
}

/// Adds the losses of one sample.
fn sample(s: &mut Search, x: &[f32], shape: &[usize]) {
    let k = shape.last().copied().unwrap_or(1);
    if k == 0 || x.is_empty() {
        return;
    }
    let rows = x.len() / k;
    // Rows that are normalised together.
    let together = if shape.len() > 2 { rows / shape[0] } else { rows };
    let view = ArrayView2::from_shape((rows, k), x).expect("rows of k elements");
    let ys: Vec<(Array2<f32>, Vec<f32>)> = s
        .weights
        .iter()
        .map(|w| {
            let y = view.dot(w);
            let norms = y
                .axis_chunks_iter(ndarray::Axis(0), together)
                .map(|part| part.iter().fold(1e-5f32, |a, v| a.max(v.abs())))
                .collect();
            (y, norms)
        })
        .collect();
    s.trials.par_iter_mut().for_each(|t| {
        let mut coded: Option<(Codes, Array2<f32>)> = None;
        for (l, (y, norms)) in t.layers.iter().zip(&ys) {
            if coded.as_ref().is_none_or(|(c, _)| *c != l.x) {
                coded = Some((l.x, fake_quantized(x, k, &t.inverse, l.x)));
            }
            let Some((_, xq)) = &coded else { continue };
            t.loss += layer_loss(xq, l, y, norms, together);
        }
    });
}

/// Sum of `sqrt |y - y'|` of a layer, normalised.
fn layer_loss(xq: &Array2<f32>, l: &Candidate, y: &Array2<f32>, norms: &[f32], together: usize) -> f64 {
    let (k, n) = (xq.ncols(), y.ncols());
    let w: Vec<f32> = l.codes.iter().map(|c| f32::from(*c)).collect();
    let w = Array2::from_shape_vec((k, n), w).expect("a candidate has the layer's shape");
    let mut out = Array2::<f32>::zeros(y.raw_dim());
    general_mat_mul(1.0, xq, &w, 0.0, &mut out);
    let mut loss = 0f64;
    for (r, (a, b)) in y.rows().into_iter().zip(out.rows()).enumerate() {
        let inverse = 1.0 / norms[r / together];
        let row = "rows of a matrix in standard layout are contiguous";
        let (a, b) = (a.to_slice().expect(row), b.to_slice().expect(row));
        loss += root_differences(a, b, &l.scales, inverse);
    }
    loss
}

/// `sum sqrt(|a - b * scale| * inverse)`, in eight interleaved sums.
fn root_differences(a: &[f32], b: &[f32], scales: &[f32], inverse: f32) -> f64 {
    const LANES: usize = 8;
    let one = |a: f32, b: f32, s: f32| ((a - b * s).abs() * inverse).sqrt();
    let mut sums = [0f32; LANES];
    let whole = a.len() / LANES * LANES;
    let parts = a[..whole]
        .chunks_exact(LANES)
        .zip(b[..whole].chunks_exact(LANES))
        .zip(scales[..whole].chunks_exact(LANES));
    for ((a, b), s) in parts {
        for i in 0..LANES {
            sums[i] += one(a[i], b[i], s[i]);
        }
    }
    let rest: f32 = (whole..a.len()).map(|i| one(a[i], b[i], scales[i])).sum();
    sums.iter().map(|s| f64::from(*s)).sum::<f64>() + f64::from(rest)
}

/// `fq(x / s)`, dequantized.
pub(super) fn fake_quantized(x: &[f32], k: usize, inverse: &[f32], codes: Codes) -> Array2<f32> {
    let rows = x.len() / k.max(1);
    let mut out: Vec<f32> = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k) {
        out.extend(row.iter().zip(inverse).map(|(v, f)| v * f));
    }
    let magnitude = |v: &[f32]| v.iter().fold(0f32, |a, v| a.max(v.abs()));
    let symmetric = |v: &mut [f32], amax: f32| {
        let (mult, scale) = if amax == 0.0 {
            (0.0, 0.0)
        } else {
            ((127.0 / amax).min(f32::MAX), amax / 127.0)
        };
        fake(v, mult, scale, 0.0, -127.0, 127.0);
    };
    match codes {
        Codes::Float => {}
        Codes::Token => {
            for row in out.chunks_exact_mut(k) {
                let amax = magnitude(row);
                symmetric(row, amax);
            }
        }
        Codes::Tensor => {
            let amax = magnitude(&out);
            symmetric(&mut out, amax);
        }
        Codes::Static(scale, zero, lo, hi) => fake(&mut out, 1.0 / scale, scale, zero, lo, hi),
    }
    Array2::from_shape_vec((rows, k), out).expect("rows of k elements")
}

fn fake(v: &mut [f32], mult: f32, scale: f32, zero: f32, lo: f32, hi: f32) {
    for v in v {
        // Clamped before rounding too: the rounder needs small numbers.
        let t = (*v * mult).clamp(lo - zero - 1.0, hi - zero + 1.0);
        let q = (t + ROUNDER - ROUNDER + zero).clamp(lo, hi);
        *v = (q - zero) * scale;
    }
}
