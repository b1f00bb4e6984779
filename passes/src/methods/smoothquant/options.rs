//! Parameters of `+smoothquant`.

use crate::scheme::grammar::MethodUse;
use rsqc_ir::diag::{Blame, Diag};
use std::fmt;

/// Name in schemes.
pub(super) const NAME: &str = "smoothquant";

/// Points of a grid.
const MAX_POINTS: f64 = 1000.0;

/// Values of alpha to search.
#[derive(Clone, PartialEq, Debug)]
pub struct Grid {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Distance between two.
    pub step: f64,
    /// Whether the sites of a block share an alpha.
    pub blocks: bool,
}

impl Grid {
    /// All points, ascending; each is rounded to 1e-9, so that 0.1 steps print as such.
    pub fn points(&self) -> Vec<f64> {
        let n = ((self.max - self.min) / self.step + 1e-9).floor() as usize;
        (0..=n)
            .map(|i| ((self.min + i as f64 * self.step) * 1e9).round() / 1e9)
            .collect()
    }

    /// The point in the middle, for sites that are not searched.
    pub fn middle(&self) -> f64 {
        let p = self.points();
        p[p.len() / 2]
    }
}

/// How much of the difficulty moves from activations (1: all of it) into weights.
#[derive(Clone, PartialEq, Debug)]
pub enum Alpha {
    /// Given.
    Fixed(f64),
    /// The point of a grid with the least loss, site by site.
    Auto(Grid),
}

impl Alpha {
    /// The alpha that a method's parameters ask for; `loc` names the layer in messages. Default 0.5; a grid goes from 0 to
    /// 1 in steps of 0.1.
    pub fn of(m: &MethodUse, loc: &str) -> Result<Alpha, Diag> {
        let get = |key: &str| m.text(key);
        let number = |key: &str, default: f64| match get(key) {
            None => Ok(default),
            Some(t) => t
                .parse::<f64>()
                .ok()
                .filter(|v| (0.0..=1.0).contains(v))
                .ok_or_else(|| bad(loc, format!("parameter `{key}` of `{NAME}` cannot be `{t}`"))),
        };
        if get("alpha") == Some("auto") {
            let g = Grid {
                min: number("min", 0.0)?,
                max: number("max", 1.0)?,
                step: number("step", 0.1)?,
                blocks: get("mode") == Some("block"),
            };
            let points = (g.max - g.min) / g.step;
            if !(0.0..MAX_POINTS).contains(&points) {
                return Err(bad(
                    loc,
                    format!(
                        "there is no grid from {} to {} in steps of {}",
                        g.min, g.max, g.step
                    ),
                ));
            }
            return Ok(Alpha::Auto(g));
        }
        if let Some(k) = ["min", "max", "step", "mode"]
            .into_iter()
            .find(|k| get(k).is_some())
        {
            return Err(bad(
                loc,
                format!("parameter `{k}` of `{NAME}` describes a search, but alpha is not searched"),
            ));
        }
        Ok(Alpha::Fixed(number("alpha", 0.5)?))
    }
}

fn bad(loc: &str, message: String) -> Diag {
    Diag::new(Blame::User, loc, message).help(
        "parameters of `smoothquant`: alpha (0 to 1, or `auto`); with alpha=auto also min, max and step of the search (0 to 1) and its mode (layer, block); sites (all, commuting)",
    )
}

/// Whether a layer's parameters ask for sites behind activation functions that do not commute with factors. A search does
/// by default: it sees whether that helps. A fixed alpha often does harm there (with few large values behind a GELU, the
/// smaller range does not make up for the larger weights), and the paper leaves these sites alone.
pub(super) fn all_sites(m: &MethodUse) -> bool {
    match m.text("sites") {
        Some(word) => word == "all",
        None => m.text("alpha") == Some("auto"),
    }
}

/// Whether a layer's parameters ask for sites of convolutions, which `sites=all` alone does: one range for all channels
/// rarely harms a trained CNN, and larger weights do. With alpha 0.5, SNR of the logits, calibrated with one half of
/// `calib.npz` and measured on the other, both ways: resnet20 `w8a8-static` 31.8 and 30.8 dB with such sites, 33.6 and 33.0
/// without; squeezenet 31.2 and 34.7, without 32.9 and 35.8 (`rsqc compile --calib`, `rsqc eval --task outputs`).
pub(super) fn conv_sites(m: &MethodUse) -> bool {
    m.text("sites") == Some("all")
}

/// Two layers that share a smoothing vector ask for different ones.
pub(super) fn disagree(a: &str, alpha_a: &Alpha, b: &str, alpha_b: &Alpha) -> Diag {
    Diag::new(
        Blame::User,
        b,
        format!("it shares its input, and so its smoothing vector, with `{a}`, but asks for alpha {alpha_b} instead of {alpha_a}"),
    )
    .help("give layers that read the same value the same `+smoothquant:alpha=...` in the recipe")
}

impl fmt::Display for Alpha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alpha::Fixed(a) => write!(f, "{a}"),
            Alpha::Auto(g) => {
                let mode = if g.blocks { ", block by block" } else { "" };
                write!(f, "auto ({} to {} by {}{mode})", g.min, g.max, g.step)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parameters: &[(&str, &str)]) -> Result<Alpha, String> {
        let m = MethodUse {
            name: NAME,
            parameters: parameters
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        };
        Alpha::of(&m, "layer").map_err(|d| d.message)
    }

    #[test]
    fn alphas_and_grids() {
        assert_eq!(of(&[]), Ok(Alpha::Fixed(0.5)));
        assert_eq!(of(&[("alpha", "0.85")]), Ok(Alpha::Fixed(0.85)));
        let Ok(Alpha::Auto(g)) = of(&[("alpha", "auto")]) else {
            panic!("auto is known");
        };
        assert_eq!(
            g.points(),
            [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        );
        assert_eq!(g.middle(), 0.5);
        let Ok(Alpha::Auto(g)) = of(&[
            ("alpha", "auto"),
            ("min", "0.3"),
            ("max", "0.7"),
            ("step", "0.25"),
        ]) else {
            panic!("a grid is known");
        };
        assert_eq!(g.points(), [0.3, 0.55]);
        for (p, want) in [
            (&[("alpha", "1.5")][..], "cannot be `1.5`"),
            (&[("alpha", "nan")], "cannot be `nan`"),
            (&[("step", "0.1")], "describes a search"),
            (&[("alpha", "auto"), ("step", "0")], "no grid"),
            (&[("alpha", "auto"), ("min", "0.9"), ("max", "0.1")], "no grid"),
        ] {
            assert!(of(p).expect_err("invalid").contains(want), "{p:?}");
        }
    }
}
