//! The calibration run: activations of the sites, sample by sample.

use super::name;
use crate::analysis::sites::Site;
use crate::pass::{Env, Samples};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{EvalError, Executor, Tensor};
use rsqc_ir::{Module, ValueId};
use std::collections::BTreeMap;

/// Model, sites, and what runs it on samples.
pub(super) struct Data<'a> {
    pub m: &'a Module,
    pub sites: &'a [Site],
    executor: &'a dyn Executor,
    samples: &'a dyn Samples,
}

/// Range of each channel of an activation over all samples.
pub(super) struct ChannelRange {
    pub min: Vec<f32>,
    pub max: Vec<f32>,
}

impl ChannelRange {
    fn new(channels: usize) -> Self {
        ChannelRange {
            min: vec![f32::INFINITY; channels],
            max: vec![f32::NEG_INFINITY; channels],
        }
    }

    /// Largest |x| of each channel; 0 for a channel that never occurred.
    pub fn magnitudes(&self) -> Vec<f32> {
        let top = |(a, b): (&f32, &f32)| if a > b { 0.0 } else { a.abs().max(b.abs()) };
        self.min.iter().zip(&self.max).map(top).collect()
    }

    fn see(&mut self, x: &[f32], inner: usize) {
        let n = self.min.len();
        if inner == 1 && n > 0 {
            for row in x.chunks_exact(n) {
                for ((v, lo), hi) in row.iter().zip(&mut self.min).zip(&mut self.max) {
                    *lo = lo.min(*v);
                    *hi = hi.max(*v);
                }
            }
            return;
        }
        for (i, part) in x.chunks(inner.max(1)).enumerate() {
            let c = i % n;
            for v in part {
                self.min[c] = self.min[c].min(*v);
                self.max[c] = self.max[c].max(*v);
            }
        }
    }
}

impl<'a> Data<'a> {
    /// Needs samples and something to run the model on.
    pub fn new(m: &'a Module, env: &Env<'a>, sites: &'a [Site]) -> Result<Self, Diag> {
        let samples = env.samples.filter(|s| s.count() > 0).ok_or_else(|| {
            Diag::new(Blame::User, "", "`smoothquant` needs calibration samples").help(
                "give --calib PATH (an .npz, or a folder of .npz or .npy), or use a scheme without `+smoothquant`",
            )
        })?;
        let executor = env
            .executor
            .ok_or_else(|| Diag::internal("", "smoothing has nothing to run the model on"))?;
        Ok(Data {
            m,
            sites,
            executor,
            samples,
        })
    }

    /// Runs the float model over all samples and hands the activation of each chosen site to `f`: number of the site, the
    /// elements, the shape. Elements are finite.
    pub fn each_activation(
        &self,
        chosen: &[usize],
        f: &mut dyn FnMut(usize, &[f32], &[usize]),
    ) -> Result<(), Diag> {
        let mut taps: Vec<ValueId> = chosen.iter().map(|i| self.sites[*i].x).collect();
        taps.sort();
        let mut prepared = self.executor.prepare(self.m, &taps).map_err(run_error)?;
        self.samples.for_each(&mut |number, inputs| {
            let mut failed: Option<Diag> = None;
            let mut sink = |v: ValueId, t: &Tensor| {
                let Some(i) = chosen.iter().find(|i| self.sites[**i].x == v) else {
                    return;
                };
                match self.finite(*i, t, number) {
                    Ok(x) => f(*i, x, &t.shape),
                    Err(d) => {
                        failed.get_or_insert(d);
                    }
                }
            };
            prepared.run(inputs, &mut sink).map_err(run_error)?;
            failed.map_or(Ok(()), Err)
        })
    }

    /// Runs `m`, the float model or one that has all of its values, over all samples and hands over the tapped values of
    /// each.
    pub fn each_sample(
        &self,
        m: &Module,
        mut taps: Vec<ValueId>,
        f: &mut dyn FnMut(&BTreeMap<ValueId, Tensor>),
    ) -> Result<(), Diag> {
        taps.sort();
        taps.dedup();
        let mut prepared = self.executor.prepare(m, &taps).map_err(run_error)?;
        self.samples.for_each(&mut |_, inputs| {
            let mut seen = BTreeMap::new();
            let mut sink = |v: ValueId, t: &Tensor| drop(seen.insert(v, t.clone()));
            prepared.run(inputs, &mut sink).map_err(run_error)?;
            f(&seen);
            Ok(())
        })
    }

    fn finite<'t>(&self, site: usize, t: &'t Tensor, sample: usize) -> Result<&'t [f32], Diag> {
        let loc = name(self.m, &self.sites[site]);
        let x: &[f32] = t
            .as_slice()
            .ok_or_else(|| Diag::internal(loc.clone(), "an activation is no f32"))?;
        if x.iter().all(|v| v.is_finite()) {
            return Ok(x);
        }
        Err(Diag::new(
            Blame::User,
            loc,
            format!("its input holds NaN or infinity in calibration sample {sample}"),
        )
        .help("check the sample with the float model: rsqc run --scheme none"))
    }

    /// Range of every channel of every site.
    pub fn channel_ranges(&self) -> Result<Vec<ChannelRange>, Diag> {
        let mut all: Vec<ChannelRange> = self.sites.iter().map(|s| ChannelRange::new(s.channels)).collect();
        let chosen: Vec<usize> = (0..self.sites.len()).collect();
        self.each_activation(&chosen, &mut |i, x, shape| {
            let inner: usize = shape[self.sites[i].axis + 1..].iter().product();
            all[i].see(x, inner);
        })?;
        Ok(all)
    }
}

fn run_error(e: EvalError) -> Diag {
    let blame = match e {
        EvalError::Input { .. } | EvalError::Node { .. } => Blame::User,
        EvalError::Unsupported(_) => Blame::Unsupported,
    };
    Diag::new(blame, "calibration", e.to_string())
}
