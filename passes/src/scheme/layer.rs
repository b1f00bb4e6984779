//! What one layer becomes.

use super::grammar::MethodUse;
use std::fmt;

/// What one layer becomes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LayerScheme {
    /// Stays float.
    Float,
    /// Its weights, and as far as the scheme says its activations, become codes.
    Quantized(Quantized),
}

/// A quantized layer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quantized {
    /// Bits of a weight code.
    pub weight_bits: u8,
    /// Which weights share a scale.
    pub weight_scales: WeightScales,
    /// What its activations become.
    pub activations: Activations,
    /// Methods in the order given; each reads its own parameters.
    pub methods: Vec<MethodUse>,
}

/// Which weights share a scale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WeightScales {
    /// Those of an output channel.
    Channel,
    /// All.
    Tensor,
}

/// What a layer's activations become.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Activations {
    /// They stay float: weight-only quantization.
    Float,
    /// 8-bit codes.
    Int8 {
        /// Where the scales come from.
        source: ScaleSource,
        /// Whether codes have a zero point.
        zero: ZeroPoint,
    },
}

/// Where activation scales come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ScaleSource {
    /// Computed at run time, one a token (linear layers) or a sample (convolutions).
    DynamicToken,
    /// Computed at run time, one a tensor.
    DynamicTensor,
    /// From calibration, one a tensor.
    Static,
}

/// Whether activation codes have a zero point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ZeroPoint {
    /// None for linear layers; one for convolutions and behind one-sided producers, where scales are static.
    Auto,
    /// Never.
    Symmetric,
    /// Always.
    Asymmetric,
}

impl LayerScheme {
    /// The layer's quantization, if it has one.
    pub fn quantized(&self) -> Option<&Quantized> {
        match self {
            LayerScheme::Float => None,
            LayerScheme::Quantized(q) => Some(q),
        }
    }
}

impl Quantized {
    /// The method of this name, if the layer uses it.
    pub fn method(&self, name: &str) -> Option<&MethodUse> {
        self.methods.iter().find(|m| m.name == name)
    }

    /// Whether its activation scales come from calibration.
    pub fn is_static(&self) -> bool {
        matches!(
            self.activations,
            Activations::Int8 {
                source: ScaleSource::Static,
                ..
            }
        )
    }
}

/// Prints the scheme as the grammar spells it, e.g. `w8a8-static+smoothquant:alpha=0.7`.
impl fmt::Display for LayerScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayerScheme::Float => f.write_str("none"),
            LayerScheme::Quantized(q) => q.fmt(f),
        }
    }
}

impl fmt::Display for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.weight_bits)?;
        match self.activations {
            Activations::Float => f.write_str("a16")?,
            Activations::Int8 { source, zero } => {
                f.write_str("a8")?;
                f.write_str(match source {
                    ScaleSource::DynamicToken => "",
                    ScaleSource::DynamicTensor => "-tensor",
                    ScaleSource::Static => "-static",
                })?;
                f.write_str(match zero {
                    ZeroPoint::Auto => "",
                    ZeroPoint::Symmetric => "-sym",
                    ZeroPoint::Asymmetric => "-asym",
                })?;
            }
        }
        if self.weight_scales == WeightScales::Tensor {
            f.write_str("-wtensor")?;
        }
        for m in &self.methods {
            write!(f, "+{}", m.name)?;
            for (k, v) in &m.parameters {
                write!(f, ":{k}={v}")?;
            }
        }
        Ok(())
    }
}
