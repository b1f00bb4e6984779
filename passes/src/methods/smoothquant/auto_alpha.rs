//! `alpha=auto`: for each site the alpha of a grid whose integer layers lie nearest to the float ones (the idea of
//! "enhanced SmoothQuant", intel/neural-compressor, docs/source/smooth_quant.md).
//!
//! For every sample, layer and alpha: `y = x W` and `y' = fq(x / s) fq(s W)`, activations fake-quantized as the layer's
//! scheme says (a static range is what the layer's calibrator makes of x / s over all samples), weights per channel or
//! tensor. Both are divided by the largest |y| of the sample (of the batch row, from rank 3 on; at least 1e-5), and the
//! loss is `sum sqrt |y - y'|`: a root, so that a few large differences do not decide alone. Losses are summed over **all**
//! samples and over the layers of a site, then the smallest decides. Float inputs are used, so that sites do not depend on
//! each other's choice. With `mode=block` the sites of a block share an alpha, and the loss is that of the block's result
//! (`block.rs`).

use super::options::{Alpha, Grid};
use super::trials::{Activation, Codes, Trials, Weights};
use super::{block, loss};
use ndarray::Array2;
use rayon::prelude::*;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::{NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// Codes of candidate weights held at once; more sites than that go through the samples again.
const MAX_BYTES: usize = 1 << 29;

/// Alphas and their losses.
pub(super) type Losses = Vec<(f64, f64)>;

/// A layer under one alpha.
struct Candidate {
    x: Activation,
    w: Weights,
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
    layers: Vec<NodeId>,
    trials: Vec<Trial>,
}

/// The alphas of each site, none if it is not searched.
pub(super) fn points(grids: &[Option<&Grid>]) -> Vec<Vec<f64>> {
    grids
        .iter()
        .map(|g| g.map(Grid::points).unwrap_or_default())
        .collect()
}

/// The grid of a site, if it is to be searched and can be: sites of products.
pub(super) fn grid<'a>(data: &super::Data<'_>, site: usize, alpha: &'a Alpha) -> Option<&'a Grid> {
    let linear = |id: &NodeId| matches!(data.m.graph.node(*id).op, Op::MatMul(_));
    match alpha {
        Alpha::Auto(g) if data.sites[site].layers.iter().all(linear) => Some(g),
        _ => None,
    }
}

/// Losses of all sites whose alpha is to be searched; `None` for the others, and for sites of convolutions.
/// Also gives the sites that ask for the loss of a block and lie in none: they are searched by themselves.
pub(super) fn search(
    t: &Trials<'_>,
    grids: &[Option<&Grid>],
) -> Result<(Vec<Option<Losses>>, Vec<usize>), Diag> {
    let mut found: Vec<Option<Losses>> = vec![None; grids.len()];
    block::search(t, grids, &mut found)?;
    let alone = |i: &usize| found[*i].is_none() && grids[*i].is_some_and(|g| g.blocks);
    let alone: Vec<usize> = (0..grids.len()).filter(alone).collect();
    let mut batch: Vec<Search> = Vec::new();
    let mut bytes = 0;
    for (i, grid) in grids.iter().enumerate() {
        let Some(grid) = grid.filter(|_| found[i].is_none()) else {
            continue;
        };
        let Some(s) = prepare(t, i, &grid.points()) else {
            continue;
        };
        let layers = s.trials.iter().flat_map(|t| &t.layers);
        let own: usize = layers.map(|l| l.w.codes.len()).sum();
        if bytes + own > MAX_BYTES && !batch.is_empty() {
            run(t, std::mem::take(&mut batch), &mut found)?;
            bytes = 0;
        }
        bytes += own;
        batch.push(s);
    }
    run(t, batch, &mut found)?;
    Ok((found, alone))
}

/// The alpha with the smallest loss, the lowest of several; `None` if no loss is finite.
pub(super) fn best(losses: &[(f64, f64)]) -> Option<f64> {
    let mut least = None;
    let mut bound = f64::INFINITY;
    for (a, l) in losses {
        if *l < bound {
            (least, bound) = (Some(*a), *l);
        }
    }
    least
}

/// The one alpha that all searched sites together would take: that of the smallest sum of losses, each relative to the
/// least loss of its site. `None` if sites have different grids.
pub(super) fn best_fixed(all: &[Option<Losses>]) -> Option<f64> {
    let mut sums: Option<Losses> = None;
    for losses in all.iter().flatten() {
        let least = losses
            .iter()
            .fold(f64::INFINITY, |a, (_, l)| a.min(*l))
            .max(f64::MIN_POSITIVE);
        let sums = sums.get_or_insert_with(|| losses.iter().map(|(a, _)| (*a, 0.0)).collect());
        if sums.len() != losses.len() {
            return None;
        }
        for ((a, sum), (b, l)) in sums.iter_mut().zip(losses) {
            if a != b {
                return None;
            }
            *sum += l / least;
        }
    }
    sums.and_then(|s| best(&s))
}

/// Candidates of every alpha.
fn prepare(t: &Trials<'_>, site: usize, points: &[f64]) -> Option<Search> {
    let layers = t.data.sites[site].layers.clone();
    let weights: Vec<Array2<f32>> = layers.iter().map(|id| t.matrix(*id)).collect::<Option<_>>()?;
    let trial = |(place, alpha): (usize, &f64)| {
        let inverse = t.inverse(site, *alpha);
        let candidate = |(id, w): (&NodeId, &Array2<f32>)| {
            Some(Candidate {
                x: t.activation(site, place, &inverse, *id)?,
                w: t.weights(*id, w, &inverse)?,
            })
        };
        let layers = layers
            .iter()
            .zip(&weights)
            .map(candidate)
            .collect::<Option<_>>()?;
        Some(Trial {
            alpha: *alpha,
            inverse,
            layers,
            loss: 0.0,
        })
    };
    Some(Search {
        site,
        trials: points.iter().enumerate().map(trial).collect::<Option<_>>()?,
        layers,
    })
}

/// Runs all samples through the sites of a batch.
fn run(t: &Trials<'_>, mut batch: Vec<Search>, found: &mut [Option<Losses>]) -> Result<(), Diag> {
    if batch.is_empty() {
        return Ok(());
    }
    let g = &t.data.m.graph;
    let mut taps: Vec<ValueId> = Vec::new();
    for s in &batch {
        taps.push(t.data.sites[s.site].x);
        taps.extend(s.layers.iter().map(|id| g.node(*id).output()));
    }
    t.data.each_sample(t.data.m, taps, &mut |seen| {
        for s in &mut batch {
            sample(s, t.data.sites[s.site].x, seen, g);
        }
    })?;
    for s in batch {
        found[s.site] = Some(s.trials.iter().map(|t| (t.alpha, t.loss)).collect());
    }
    Ok(())
}

/// Adds the losses of one sample.
fn sample(s: &mut Search, x: ValueId, seen: &BTreeMap<ValueId, Tensor>, g: &rsqc_ir::Graph) {
    let floats = |v: ValueId| -> Option<&[f32]> { seen.get(&v)?.as_slice() };
    let Some(shape) = seen.get(&x).map(|t| t.shape.clone()) else {
        return;
    };
    let (Some(x), k) = (floats(x), shape.last().copied().unwrap_or(1)) else {
        return;
    };
    if k == 0 || x.is_empty() {
        return;
    }
    let together = loss::rows_together(&shape);
    let ys: Vec<(&[f32], Vec<f32>)> = s
        .layers
        .iter()
        .filter_map(|id| floats(g.node(*id).output()))
        .map(|y| (y, loss::inverse_norms(y, y.len() / (x.len() / k) * together)))
        .collect();
    s.trials.par_iter_mut().for_each(|t| {
        let mut coded: Option<(Codes, loss::Coded)> = None;
        for (l, (y, norms)) in t.layers.iter().zip(&ys) {
            if coded.as_ref().is_none_or(|(c, _)| *c != l.x.codes) {
                coded = Some((l.x.codes, loss::coded(x, k, &t.inverse, l.x.codes)));
            }
            let Some((_, x)) = &coded else { continue };
            t.loss += layer_loss(x, &l.w, y, norms, together);
        }
    });
}

/// Sum of `sqrt |y - y'|` of a layer, normalised.
fn layer_loss(x: &loss::Coded, w: &Weights, y: &[f32], norms: &[f32], together: usize) -> f64 {
    let (k, n) = (x.codes.ncols(), w.scales.len());
    let codes: Vec<f32> = w.codes.iter().map(|c| f32::from(*c)).collect();
    let codes = Array2::from_shape_vec((k, n), codes).expect("a candidate has the layer's shape");
    let out = loss::product(&x.codes, &codes);
    let mut sum = 0f64;
    for (r, (a, b)) in y.chunks_exact(n.max(1)).zip(out.rows()).enumerate() {
        let b = b
            .to_slice()
            .expect("rows of a matrix in standard layout are contiguous");
        sum += loss::root_differences(a, b, &w.scales, x.scales[r], norms[r / together]);
    }
    sum
}
