//! Bias correction: what quantization adds to the mean of a convolution's channels is taken off its bias (Nagel et al.,
//! arXiv 1906.04721, section 4.2, with means from samples instead of batch norms).
//!
//! For a convolution of `x` with filters `w`, of which `q(x)` and `q(w)` are the dequantized codes,
//! ```text
//! b' = b + E[x * w] - E[q(x) * q(w)]
//! ```
//! for each filter, the mean over all samples and output positions. Both terms follow from the means that each weight's
//! factor has over the positions, so no convolution is computed: the mean of tap t of channel c of `x` and of its codes is all
//! that is kept. Inputs are those of the float model, so that a layer's correction does not depend on that of others.
//!
//! A mean error does what rounding noise does not: it adds up over positions and layers and survives pooling. On the CNNs at
//! hand it is most of the error that comes from weights.

use crate::lower::weights::quantize_channels;
use crate::methods::{InputChannels, Matrix};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::Conv;
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Module, NodeId, Op, ValueId};

/// Name in schemes.
pub(crate) const NAME: &str = "biascorrection";

/// A convolution to correct, and sums over what it has read so far.
pub(super) struct Layer {
    /// The convolution.
    pub node: NodeId,
    /// What its fake-quantized input is made from.
    pub source: ValueId,
    op: Conv,
    kernel: Vec<usize>,
    of: InputChannels,
    /// Float weights, a row a filter.
    weights: Matrix,
    /// One scale for all weights instead of one a filter.
    whole: bool,
    codes: QuantType,
    /// Scale and zero point of each channel.
    parameters: Vec<(f32, i32)>,
    /// Sums over output positions of x and of its codes (from their zero points), by channel and tap.
    x: Vec<f64>,
    q: Vec<f64>,
    positions: u64,
}

impl Layer {
    /// The layer of a convolution whose operands have static codes; `None` for any other.
    pub fn new(m: &Module, id: NodeId) -> Option<Layer> {
        let n = m.graph.node(id);
        let Op::Conv(op) = &n.op else { return None };
        let fake = |v: ValueId| match m.graph.node(m.graph.def_node(v)?.0) {
            n if n.input(3).is_some() => None,
            n => match &n.op {
                Op::FakeQuant(f) => Some((n, f)),
                _ => None,
            },
        };
        let ((x, xf), (w, wf)) = (fake(n.input(0)?)?, fake(n.input(1)?)?);
        let source = x.input(0)?;
        if xf.dynamic {
            return None;
        }
        let channels = usize::try_from(m.graph.ty(source).shape.get(1)?.as_const()?).ok()?;
        let constant = w.input(0)?;
        let c = m.const_of(constant)?;
        let shape = c.ty.static_shape()?;
        let kernel = shape.get(2..)?.to_vec();
        let scales = m.const_f32(x.input(1)?)?;
        let zeros: Vec<i32> = match x.input(2) {
            Some(z) => m
                .const_of(z)?
                .bytes()
                .iter()
                .map(|b| i32::from(b.cast_signed()))
                .collect(),
            None => vec![0],
        };
        let parameters = (0..channels).map(|c| Some((*at(&scales, c)?, *at(&zeros, c)?)));
        let sums = vec![0.0; channels * kernel.iter().product::<usize>()];
        Some(Layer {
            node: id,
            source,
            op: op.clone(),
            of: InputChannels::new(&shape, op.group)?,
            weights: Matrix {
                k: *shape.first()?,
                n: shape[1..].iter().product(),
                name: c.name.to_string(),
                data: m.const_f32(constant)?,
            },
            whole: wf.qtype.granularity == Granularity::Tensor,
            codes: xf.qtype.clone(),
            parameters: parameters.collect::<Option<_>>()?,
            kernel,
            x: sums.clone(),
            q: sums,
            positions: 0,
        })
    }

    /// Takes the input of a sample, `[n, c, spatial...]`.
    pub fn see(&mut self, t: &Tensor) -> Option<()> {
        let x: &[f32] = t.as_slice()?;
        let spatial = t.shape.get(2..)?;
        let area: usize = spatial.iter().product();
        let (taps, positions) = self.window(spatial);
        let (lo, hi) = self.codes.code_range();
        let (channels, mut codes) = (self.parameters.len(), vec![0f32; area]);
        for (plane, values) in x.chunks_exact(area.max(1)).enumerate() {
            let c = plane % channels;
            let (scale, zero) = self.parameters[c];
            let (m, zero) = (1.0 / scale, zero as f32);
            for (q, v) in codes.iter_mut().zip(values) {
                *q = ((v * m).round_ties_even() + zero).clamp(lo as f32, hi as f32) - zero;
            }
            for (t, at) in taps.iter().enumerate() {
                let i = c * taps.len() + t;
                self.x[i] += at.iter().map(|p| f64::from(values[*p])).sum::<f64>();
                self.q[i] += at.iter().map(|p| f64::from(codes[*p])).sum::<f64>();
            }
        }
        let samples = t.shape[0] as u64;
        self.positions += samples * positions;
        Some(())
    }

    /// The operand's elements that each tap reads, padding left out, and the number of output positions.
    fn window(&self, spatial: &[usize]) -> (Vec<Vec<usize>>, u64) {
        let n = spatial.len();
        // Along each axis, for each tap: (output position, operand position) pairs that exist.
        let mut outs = 1u64;
        let mut axes: Vec<Vec<Vec<usize>>> = Vec::new();
        for (i, extent) in spatial.iter().enumerate() {
            let (stride, dilation) = (self.op.strides[i], self.op.dilations[i]);
            let (before, after) = (self.op.pads[i], self.op.pads[n + i]);
            let extent = *extent as i64;
            let span = dilation * (self.kernel[i] as i64 - 1) + 1;
            let out = ((extent + before + after - span).div_euclid(stride) + 1).max(0);
            outs *= out as u64;
            let tap = |k: usize| {
                let at = (0..out).map(|o| o * stride + k as i64 * dilation - before);
                at.filter(|p| (0..extent).contains(p))
                    .map(|p| p as usize)
                    .collect()
            };
            axes.push((0..self.kernel[i]).map(tap).collect());
        }
        let mut taps: Vec<Vec<usize>> = vec![vec![0]];
        for (axis, extent) in axes.iter().zip(spatial) {
            let further = |base: &Vec<usize>| {
                let along = |k: &Vec<usize>| {
                    base.iter()
                        .flat_map(|b| k.iter().map(move |p| b * extent + p))
                        .collect()
                };
                axis.iter().map(along).collect::<Vec<Vec<usize>>>()
            };
            taps = taps.iter().flat_map(further).collect();
        }
        (taps, outs)
    }

    /// What the mean of each filter's result lacks, to be added to its bias.
    pub fn correction(&self) -> Vec<f32> {
        let mut w = self.weights.data.clone();
        let each = self.codes.granularity != Granularity::Tensor;
        if each {
            for (i, v) in w.iter_mut().enumerate() {
                *v = (f64::from(*v) * f64::from(self.parameters[self.of.of(i)].0)) as f32;
            }
        }
        let per_filter = self.weights.n.max(1);
        let matrix = Matrix {
            data: w,
            name: String::new(),
            ..self.weights
        };
        let filter = |i: usize| if self.whole { 0 } else { i / per_filter };
        let q = quantize_channels(&matrix, filter, if self.whole { 1 } else { matrix.k });
        let common = if each {
            1.0
        } else {
            self.parameters.first().map_or(1.0, |p| f64::from(p.0))
        };
        let taps: usize = self.kernel.iter().product::<usize>().max(1);
        let mut out = vec![0f64; self.weights.k];
        for (i, v) in self.weights.data.iter().enumerate() {
            let at = self.of.of(i) * taps + i % taps;
            let code = f64::from(q.codes[i]) * f64::from(q.scales[filter(i)]) * common;
            out[i / per_filter] += f64::from(*v) * self.x[at] - code * self.q[at];
        }
        let count = self.positions.max(1) as f64;
        out.iter().map(|v| (v / count) as f32).collect()
    }
}

/// The entry of channel `c` of a list of one, or of one a channel.
fn at<T>(list: &[T], c: usize) -> Option<&T> {
    list.get(if list.len() == 1 { 0 } else { c })
}
