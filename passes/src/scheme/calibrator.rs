//! Calibrators: how the range of a static activation is chosen from what was observed.

use super::layer::Quantized;

/// Method names of the calibrators.
pub(super) const CALIBRATORS: [&str; 6] = ["minmax", "ema", "percentile", "entropy", "mse", "isotone"];

/// A calibrator with its parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Calibrator {
    /// Smallest and largest value.
    MinMax,
    /// Moving average of the samples' smallest and largest values.
    Ema {
        /// Weight of the newest sample.
        momentum: f64,
    },
    /// The range that keeps this share of the values.
    Percentile {
        /// Per cent.
        p: f64,
    },
    /// Least Kullback-Leibler divergence between the values and their codes.
    Entropy,
    /// Least mean squared error.
    Mse,
    /// The scale at which most rows keep their largest element.
    Isotone,
}

impl Quantized {
    /// The calibrator of the layer's activations. Without a method it is the range of the values for linear layers, whose
    /// outliers matter, and the least squared error for convolutions, whose long tails do not.
    pub fn calibrator(&self, linear: bool) -> Calibrator {
        let used = self.methods.iter().find(|m| CALIBRATORS.contains(&m.name));
        let number = |key, default| used.and_then(|m| m.number(key)).unwrap_or(default);
        match used.map(|m| m.name) {
            Some("ema") => Calibrator::Ema {
                momentum: number("momentum", 0.1),
            },
            Some("percentile") => Calibrator::Percentile {
                p: number("p", 99.99),
            },
            Some("entropy") => Calibrator::Entropy,
            Some("mse") => Calibrator::Mse,
            Some("isotone") => Calibrator::Isotone,
            None if !linear => Calibrator::Mse,
            _ => Calibrator::MinMax,
        }
    }
}

/// Prints the method as the grammar spells it, parameters included.
impl std::fmt::Display for Calibrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Calibrator::MinMax => f.write_str("minmax"),
            Calibrator::Ema { momentum } => write!(f, "ema:momentum={momentum}"),
            Calibrator::Percentile { p } => write!(f, "percentile:p={p}"),
            Calibrator::Entropy => f.write_str("entropy"),
            Calibrator::Mse => f.write_str("mse"),
            Calibrator::Isotone => f.write_str("isotone"),
        }
    }
}
