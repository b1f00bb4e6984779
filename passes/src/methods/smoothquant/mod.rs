//! `smooth-quant`: moves outliers of activations into weights (SmoothQuant: Xiao et al., arXiv 2211.10438, section 4).
//!
//! Before -> after, for each site (`analysis/sites.rs`) of layers whose scheme has `+smoothquant`: `x W` -> `(x / s)(s W)`
//! with one factor for each channel k of x:
//! ```text
//! s_k = max |x_k|^alpha / max(max |W_k|, 1e-5)^(1 - alpha), at least 1e-5; 1 for a channel that is always 0
//! ```
//! The maximum of x runs over all calibration samples, that of W over the layers of the site (equation 4). 1/s lives in the
//! constants in front of x, or in a product that becomes the pre-scale of the quantization. `alpha=auto` searches a grid
//! for each site (`auto_alpha.rs`). Behind activation functions that do not commute with factors, such as GELU, only a
//! search or `sites=all` smooths, convolutions `sites=all` alone (`options.rs` has the figures). Sound because the float function stays what it is: new constants are computed in f64
//! and rounded once, each product by s and 1/s cancels up to that rounding.

mod apply;
mod auto_alpha;
mod block;
#[cfg(test)]
mod conv_tests;
mod loss;
mod options;
mod scales;
#[cfg(test)]
mod search_tests;
mod stats;
#[cfg(test)]
mod tests;
mod trials;

use options::{Alpha, Grid};

use super::activations::has_few_channels;
use super::insert_fake_quant::is_quantizable;
use crate::analysis::sites::{Role, Site, layer, sites};
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::scheme::grammar::MethodUse;
use crate::scheme::{LayerScheme, Scheme};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::{Module, NodeId, Op, Phase};
use stats::Data;
use trials::Trials;

/// See the file documentation.
pub struct SmoothQuant {
    /// What each layer becomes.
    pub scheme: Scheme,
}

/// What was chosen for a site.
pub(crate) struct Choice {
    /// Migration strength.
    pub alpha: f64,
    /// Factor of each channel.
    pub s: Vec<f64>,
    /// Loss of each alpha of the grid, if one was searched.
    pub losses: Vec<(f64, f64)>,
    /// The alpha that all searched sites together would take, if they had to agree.
    pub fixed: Option<f64>,
}

impl Pass for SmoothQuant {
    fn name(&self) -> &'static str {
        "smooth-quant"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-4)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Canonical, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module().clone();
        let sites = self.sites(cx, &m)?;
        let mut alphas = Vec::new();
        for s in &sites {
            alphas.push(self.alpha(&m, s)?);
        }
        if sites.is_empty() {
            return Ok(());
        }
        let data = Data::new(&m, cx.env(), &sites)?;
        let stats = data.channel_ranges()?;
        let wmax: Vec<Vec<f32>> = sites.iter().map(|s| scales::weight_maxima(&m, s)).collect();
        let grids: Vec<Option<&Grid>> = alphas
            .iter()
            .enumerate()
            .map(|(i, a)| auto_alpha::grid(&data, i, a))
            .collect();
        let trials = Trials::new(&data, &self.scheme, &stats, &wmax, &auto_alpha::points(&grids))?;
        let (searched, alone) = auto_alpha::search(&trials, &grids)?;
        for i in alone {
            cx.note(format!(
                "{}: no residual sum behind it, searched by itself",
                name(&m, &sites[i])
            ));
        }
        let fixed = auto_alpha::best_fixed(&searched);
        let mut choices = Vec::new();
        for (i, site) in sites.iter().enumerate() {
            let (alpha, losses) = match (&alphas[i], &searched[i]) {
                (_, Some(losses)) => {
                    let best = auto_alpha::best(losses).ok_or_else(|| {
                        Diag::new(
                            Blame::User,
                            name(&m, site),
                            "no alpha of the grid has a finite loss on the samples",
                        )
                        .help("look for infinite activations, or give alpha a number")
                    })?;
                    (best, losses.clone())
                }
                (Alpha::Fixed(a), None) => (*a, Vec::new()),
                (Alpha::Auto(g), None) => {
                    cx.note(format!(
                        "{}: no search over alpha for convolutions, alpha is {}",
                        name(&m, site),
                        g.middle()
                    ));
                    (g.middle(), Vec::new())
                }
            };
            let s = scales::factors(&stats[i].magnitudes(), &wmax[i], &site.groups, alpha);
            choices.push(Choice {
                alpha,
                s,
                losses,
                fixed,
            });
        }
        apply::apply(cx, &m, &sites, &choices)
    }
}

impl SmoothQuant {
    /// The sites to smooth; those left out are noted.
    fn sites(&self, cx: &mut PassCx<'_>, m: &Module) -> Result<Vec<Site>, Diag> {
        for id in m.graph.node_ids() {
            let n = m.graph.node(id);
            if self.is_smoothed(&n.loc) && is_picture(m, id) {
                cx.remark_layer(&n.loc, "smooth", "none, few channels with ranges of their own");
            }
        }
        let mut all = sites(m, &|id| self.role(m, id))?;
        all.retain(|s| {
            let asks = |f: fn(&MethodUse) -> bool| {
                s.layers.iter().any(|id| {
                    let scheme = self.scheme.of_layer(&m.graph.node(*id).loc).0;
                    scheme.quantized().and_then(|q| q.method(options::NAME)).is_some_and(f)
                })
            };
            let is_conv = |id: &NodeId| matches!(m.graph.node(*id).op, Op::Conv(_));
            if s.layers.iter().any(is_conv) && !asks(options::conv_sites) {
                for id in &s.layers {
                    let why = "none, a convolution; `sites=all` smooths it";
                    cx.remark_layer(&m.graph.node(*id).loc, "smooth", why);
                }
                return false;
            }
            let wanted = asks(options::all_sites);
            let Some(op) = s.activation_function(m).filter(|_| !wanted) else {
                return true;
            };
            for id in &s.layers {
                cx.remark_layer(&m.graph.node(*id).loc, "smooth", format!("none, behind {op}"));
            }
            cx.note(format!(
                "{}: not smoothed, `{op}` in front does not commute with factors; `alpha=auto` and `sites=all` smooth it",
                name(m, s)
            ));
            false
        });
        Ok(all)
    }

    fn is_smoothed(&self, loc: &str) -> bool {
        let scheme = self.scheme.of_layer(loc).0.quantized();
        scheme.is_some_and(|q| q.method(options::NAME).is_some())
    }

    fn role(&self, m: &Module, id: NodeId) -> Role {
        if layer(m, id).is_none() {
            return Role::Other;
        }
        match self.scheme.of_layer(&m.graph.node(id).loc).0 {
            LayerScheme::Quantized(_) if !is_quantizable(m, id) => Role::Float,
            LayerScheme::Quantized(_) if is_picture(m, id) => Role::Other,
            LayerScheme::Quantized(q) if q.method(options::NAME).is_some() => Role::Smoothed,
            LayerScheme::Quantized(_) => Role::Other,
            LayerScheme::Float => Role::Float,
        }
    }

    /// The alpha of a site: its layers must agree.
    fn alpha(&self, m: &Module, site: &Site) -> Result<Alpha, Diag> {
        let mut found: Option<(Alpha, &str)> = None;
        for id in &site.layers {
            let loc: &str = &m.graph.node(*id).loc;
            let scheme = self.scheme.of_layer(loc).0;
            let Some(method) = scheme.quantized().and_then(|q| q.method(options::NAME)) else {
                continue;
            };
            let a = Alpha::of(method, loc)?;
            match &found {
                Some((b, other)) if *b != a => {
                    return Err(options::disagree(other, b, loc, &a));
                }
                Some(_) => {}
                None => found = Some((a, loc)),
            }
        }
        found
            .map(|(a, _)| a)
            .ok_or_else(|| Diag::internal(name(m, site), "a site without a smoothed layer"))
    }
}

/// Whether the node is a convolution of so few channels that each is quantized for itself: no factor could help.
fn is_picture(m: &Module, id: NodeId) -> bool {
    let n = m.graph.node(id);
    matches!(n.op, Op::Conv(_)) && n.input(0).is_some_and(|x| has_few_channels(m, x))
}

/// What a site is called in messages: its layers.
pub(crate) fn name(m: &Module, site: &Site) -> String {
    let names: Vec<&str> = site.layers.iter().map(|id| &*m.graph.node(*id).loc).collect();
    names.join(" + ")
}
