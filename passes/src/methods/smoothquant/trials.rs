//! What a site looks like under one alpha of a grid: factors, weight codes, and the codes of its activation, static ones
//! with the range that the layer's own calibrator gives for `x / s`.

use super::loss::ROUNDER;
use super::scales;
use super::stats::{ChannelRange, Data};
use crate::calibrate::{Observer, Range, parameters};
use crate::methods::activations::activation_codes;
use crate::methods::const_matrix;
use crate::scheme::{Calibrator, Quantized, Scheme, WeightScales};
use ndarray::Array2;
use rayon::prelude::*;
use rsqc_ir::NodeId;
use rsqc_ir::diag::Diag;
use rsqc_ir::quant::{Granularity, QuantType};
use std::collections::BTreeMap;

/// Activation codes of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Codes {
    /// One scale a row.
    Token,
    /// One scale a tensor.
    Tensor,
    /// Scale and zero point are known; codes lie between the last two.
    Static(f32, f32, f32, f32),
}

/// Codes of an activation with their type in the IR.
pub(super) struct Activation {
    pub codes: Codes,
    pub qtype: QuantType,
}

/// Weight codes of a layer, `[k, n]`, and the scale of each column.
pub(super) struct Weights {
    pub codes: Vec<i8>,
    pub scales: Vec<f32>,
}

/// All sites under all alphas that are searched.
pub(super) struct Trials<'a> {
    pub data: &'a Data<'a>,
    scheme: &'a Scheme,
    stats: &'a [ChannelRange],
    wmax: &'a [Vec<f32>],
    /// By site and place in its grid.
    observers: BTreeMap<(usize, usize), Watch>,
}

/// What calibrators that need more than extremes see of x / s.
struct Watch {
    inverse: Vec<f32>,
    seen: Vec<(Calibrator, Observer)>,
}

impl<'a> Trials<'a> {
    /// Observes what is needed: one run over the samples if some calibrator needs more than extremes. `grids` has the
    /// alphas of each site, none if it is not searched.
    pub fn new(
        data: &'a Data<'a>,
        scheme: &'a Scheme,
        stats: &'a [ChannelRange],
        wmax: &'a [Vec<f32>],
        grids: &[Vec<f64>],
    ) -> Result<Self, Diag> {
        let mut t = Trials {
            data,
            scheme,
            stats,
            wmax,
            observers: BTreeMap::new(),
        };
        let mut chosen = Vec::new();
        for (site, grid) in grids.iter().enumerate() {
            let mut used: Vec<Calibrator> = Vec::new();
            for id in &data.sites[site].layers {
                let calibrator = t.static_calibrator(site, *id);
                if let Some(c) = calibrator.filter(|c| *c != Calibrator::MinMax && !used.contains(c)) {
                    used.push(c);
                }
            }
            if !used.is_empty() && !grid.is_empty() {
                chosen.push(site);
                for (i, alpha) in grid.iter().enumerate() {
                    let watch = Watch {
                        inverse: t.inverse(site, *alpha),
                        seen: used.iter().map(|c| (*c, Observer::new(*c))).collect(),
                    };
                    t.observers.insert((site, i), watch);
                }
            }
        }
        if !chosen.is_empty() {
            let mut observers = std::mem::take(&mut t.observers);
            data.each_activation(&chosen, &mut |site, x, _| {
                let k = data.sites[site].channels;
                let of_site: Vec<&mut Watch> = observers
                    .range_mut((site, 0)..=(site, usize::MAX))
                    .map(|(_, w)| w)
                    .collect();
                of_site.into_par_iter().for_each(|w| w.see(x, k));
            })?;
            t.observers = observers;
        }
        Ok(t)
    }

    fn quantized(&self, layer: NodeId) -> Option<&Quantized> {
        let loc = &self.data.m.graph.node(layer).loc;
        self.scheme.of_layer(loc).0.quantized()
    }

    /// Who chooses the range of a layer's activation, if it is static.
    fn static_calibrator(&self, site: usize, layer: NodeId) -> Option<Calibrator> {
        let q = self.quantized(layer)?;
        let codes = activation_codes(self.data.m, q, self.data.sites[site].x, Granularity::Token)?;
        (!codes.dynamic).then(|| q.calibrator(true))
    }

    /// 1/s of a site.
    pub fn inverse(&self, site: usize, alpha: f64) -> Vec<f32> {
        let groups = &self.data.sites[site].groups;
        let s = scales::factors(&self.stats[site].magnitudes(), &self.wmax[site], groups, alpha);
        s.iter().map(|s| (1.0 / s) as f32).collect()
    }

    /// Codes of the activation that a layer of a site reads; `place` is that of the alpha in the grid.
    pub fn activation(
        &self,
        site: usize,
        place: usize,
        inverse: &[f32],
        layer: NodeId,
    ) -> Option<Activation> {
        let q = self.quantized(layer)?;
        let c = activation_codes(self.data.m, q, self.data.sites[site].x, Granularity::Token)?;
        let codes = match (c.dynamic, &c.qtype.granularity) {
            (true, Granularity::Token) => Codes::Token,
            (true, _) => Codes::Tensor,
            (false, _) => {
                let own = self.observers.get(&(site, place));
                let wanted = q.calibrator(true);
                let seen = own.and_then(|w| w.seen.iter().find(|(c, _)| *c == wanted));
                let range = match seen {
                    Some((_, o)) => o.range(&c.qtype),
                    None => smoothed_range(&self.stats[site], inverse),
                };
                let (scale, zero) = parameters(&range, &c.qtype);
                let (lo, hi) = c.qtype.code_range();
                Codes::Static(scale, f32::from(zero), lo as f32, hi as f32)
            }
        };
        Some(Activation {
            codes,
            qtype: c.qtype,
        })
    }

    /// Float weights `[k, n]` of a layer.
    pub fn matrix(&self, layer: NodeId) -> Option<Array2<f32>> {
        let m = self.data.m;
        let w = const_matrix(m, m.graph.node(layer).input(1)?)?;
        Array2::from_shape_vec((w.k, w.n), w.data).ok()
    }

    /// Codes of `s W`, as `lower-to-integer` makes them.
    pub fn weights(&self, layer: NodeId, w: &Array2<f32>, inverse: &[f32]) -> Option<Weights> {
        let shared = self.quantized(layer)?.weight_scales;
        let mut amax = vec![0f32; w.ncols()];
        for (row, f) in w.rows().into_iter().zip(inverse) {
            for (a, v) in amax.iter_mut().zip(row) {
                *a = a.max((v / f).abs());
            }
        }
        if shared == WeightScales::Tensor {
            let top = amax.iter().copied().fold(0f32, f32::max);
            amax.fill(top);
        }
        let scale = |a: &f32| if *a == 0.0 { 1.0 } else { a / 127.0 };
        let scales: Vec<f32> = amax.iter().map(scale).collect();
        let mut codes = Vec::with_capacity(w.len());
        for (row, f) in w.rows().into_iter().zip(inverse) {
            let code = |(v, s): (&f32, &f32)| (v / f / s + ROUNDER - ROUNDER).clamp(-127.0, 127.0) as i8;
            codes.extend(row.iter().zip(&scales).map(code));
        }
        Some(Weights { codes, scales })
    }

    /// Which elements of a layer's weights share a scale.
    pub fn weight_granularity(&self, layer: NodeId) -> Option<Granularity> {
        Some(match self.quantized(layer)?.weight_scales {
            WeightScales::Channel => Granularity::Axis(1),
            WeightScales::Tensor => Granularity::Tensor,
        })
    }
}

impl Watch {
    /// Takes the activation of one sample, rows of `k` finite elements.
    fn see(&mut self, x: &[f32], k: usize) {
        let factors = self.inverse.iter().cycle();
        let scaled: Vec<f32> = x.iter().zip(factors).map(|(x, f)| x * f).collect();
        for (_, o) in &mut self.seen {
            // An overflow would show in the losses as well.
            if o.observe(&scaled, k).is_ok() {
                o.end_sample();
            }
        }
    }
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
