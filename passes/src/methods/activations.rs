//! Which codes a layer's activations get: the scheme's wish, and what is known about the value's producer.

use crate::scheme::{Activations, Calibrator, Quantized, ScaleSource, WeightScales, ZeroPoint};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Module, Op, ValueId};

/// Up to so many channels of a convolution's input have ranges of their own: those of a picture, which differ by their
/// normalization. With one range for all, the grid of 256 codes is coarser than that of the picture's own 8 bits and not
/// aligned with it, and the error of flat areas does not average out; with their own, it vanishes but for a constant, which
/// the bias correction takes away.
const FEW_CHANNELS: i64 = 4;

/// Steps of the walk to a value's producer.
const MAX_STEPS: usize = 16;

/// Codes of an operand.
pub(crate) struct Codes {
    /// Their type.
    pub qtype: QuantType,
    /// Whether scales are computed at run time (or, of a weight, from its values).
    pub dynamic: bool,
    /// Who chooses static ranges.
    calibrator: Option<Calibrator>,
}

impl Codes {
    /// Symmetric codes of a constant.
    pub fn weight(g: Granularity) -> Codes {
        Codes {
            qtype: QuantType::int8(g),
            dynamic: true,
            calibrator: None,
        }
    }

    /// Equal for operands that can share a fake quantization.
    pub fn key(&self) -> String {
        let by = self.calibrator.map(|c| c.to_string()).unwrap_or_default();
        format!("{} {} {by}", self.qtype, self.dynamic)
    }
}

/// Codes of the activation `x`; `token` says which elements share a scale where every token (or sample) has its own.
/// `None`: it stays float.
pub(crate) fn activation_codes(m: &Module, q: &Quantized, x: ValueId, token: Granularity) -> Option<Codes> {
    let Activations::Int8 { source, zero } = q.activations else {
        return None;
    };
    let fixed = source == ScaleSource::Static;
    // Rows of a linear layer are tokens; anything else here is an image or a signal.
    let linear = token == Granularity::Token;
    let calibrator = q.calibrator(linear);
    let granularity = match source {
        ScaleSource::DynamicToken => token,
        // Isotone looks at rows, not at channels.
        ScaleSource::Static if !linear && calibrator != Calibrator::Isotone && has_few_channels(m, x) => {
            Granularity::Axis(1)
        }
        ScaleSource::DynamicTensor | ScaleSource::Static => Granularity::Tensor,
    };
    let zero = fixed
        && match zero {
            ZeroPoint::Symmetric => false,
            ZeroPoint::Asymmetric => true,
            // Isotone chooses a scale without a zero point.
            ZeroPoint::Auto => calibrator != Calibrator::Isotone && (!linear || is_one_sided(m, x)),
        };
    Some(Codes {
        qtype: QuantType {
            zero,
            ..QuantType::int8(granularity)
        },
        dynamic: !fixed,
        calibrator: fixed.then_some(calibrator),
    })
}

/// Whether the channels (axis 1) of a convolution's input are quantized each for itself.
pub(crate) fn has_few_channels(m: &Module, v: ValueId) -> bool {
    let channels = m.graph.ty(v).shape.get(1).and_then(|d| d.as_const());
    channels.is_some_and(|c| (1..=FEW_CHANNELS).contains(&c))
}

/// Whether `v` has no negative element, or none worth half of the codes, by what computes it: Relu, Sigmoid, Softmax, Gelu
/// (never below -0.17), Silu (never below -0.28), a maximum with a constant that has none; seen through pools, movement
/// and positive constant factors (a smoothing vector).
pub(crate) fn is_one_sided(m: &Module, v: ValueId) -> bool {
    let mut at = v;
    for _ in 0..MAX_STEPS {
        let Some((id, _)) = m.graph.def_node(at) else {
            return false;
        };
        let n = m.graph.node(id);
        let mut next = n.input(0);
        match &n.op {
            Op::Relu(_) | Op::Sigmoid(_) | Op::Softmax(_) | Op::Gelu(_) | Op::Silu(_) => return true,
            Op::Max(_) => {
                return n
                    .inputs
                    .iter()
                    .flatten()
                    .any(|i| m.const_f32(*i).is_some_and(|c| c.iter().all(|x| *x >= 0.0)));
            }
            // Every reduction and mean of such elements is such an element.
            Op::Pool(_) | Op::Reduce(_) => {}
            Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) => {}
            Op::Mul(_) => {
                let positive = |i: usize| {
                    let c = n.input(i).and_then(|v| m.const_f32(v));
                    c.is_some_and(|c| c.iter().all(|x| *x > 0.0))
                };
                match (0..2).find(|i| positive(*i)) {
                    Some(i) => next = n.input(1 - i),
                    None => return false,
                }
            }
            _ => return false,
        }
        match next {
            Some(i) => at = i,
            None => return false,
        }
    }
    false
}

/// How a layer's weights and activations are quantized, in words.
pub(crate) fn describe(q: &Quantized, x: Option<&Codes>) -> String {
    let weights = match q.weight_scales {
        WeightScales::Channel => "weights symmetric per output channel",
        WeightScales::Tensor => "weights symmetric per tensor",
    };
    let Some(x) = x else {
        return format!("{weights}, activations float");
    };
    let how = match (x.dynamic, x.qtype.granularity) {
        (true, Granularity::Tensor) => "dynamic per tensor",
        (true, Granularity::Token) => "dynamic per token",
        (true, _) => "dynamic per sample",
        (false, Granularity::Axis(_)) if x.qtype.zero => "static per channel with a zero point",
        (false, Granularity::Axis(_)) => "static per channel",
        (false, _) if x.qtype.zero => "static per tensor with a zero point",
        (false, _) => "static per tensor",
    };
    format!("{weights}, activations {how}")
}
