//! Attention whose two products multiply 8-bit codes: its definition, to the last bit. Every backend gives these bits.
//!
//! Codes are symmetric, in `-127..=127`. Their multiplier and scale come from the largest magnitude of the elements that
//! share them, as those of [`crate::ops::quant::DynamicParams`], or from a given scale s with the multiplier `f32(1 / s)`.
//! Sharing is by row for queries and keys (a token of a head), and by column of a block of [`KEYS`] keys for values: what is
//! summed over must share its scale. All arithmetic is f32, one operation after the other, except the exact sums of
//! products of codes.
//!
//! ```text
//! raw[t]   = (f32(sum_d qc[d] * kc[t, d]) * qs) * ks[t]             score[t] = score body of raw[t]
//! for each block of keys, in order; before the first m = -inf, l = 0, out = 0:
//!   n      = max of the block's scores, NaN left out                m' = max(m, n)
//!   p[t]   = exp(score[t] - n)                                      c[t] = rne(p[t] * 255)
//!   a      = exp(m - m')       b = exp(n - m')                      (-inf is subtracted as 0)
//!   out[e] = out[e] * a + (f32(sum_t c[t] * vc[t, e]) * vs[e]) * b
//!   l      = l * a + (sum_t c[t]) * b                               m = m'
//! result[e] = out[e] / l
//! ```
//!
//! Weights have steps of 1/255 of the largest one of their *block*, not of the row, so that a block far from the row's
//! maximum keeps its precision. Since l sums what is multiplied, the weights of a row add up to 1 and the factor 255
//! cancels. `exp` is the formula of [`exponential`]. A NaN score makes l NaN, and so does an
//! infinite or NaN element its scale where scales are computed.

use super::lanes;
use super::tensor::{Data, Native};
use crate::ops::nn::EmptyRow;
use crate::scalar::{Body, ScalarOp, exponential};

/// Keys of a block.
pub const KEYS: usize = 256;

/// Longest row of a query: the sum of its products, either factor moved to `0..=255`, fits 32 bits.
pub const MAX_INNER: usize = i32::MAX as usize / (127 * 255);

/// Largest magnitude of a code of queries, keys and values.
const LARGEST: f32 = 127.0;

/// Steps of the weights.
pub const STEPS: f32 = 255.0;

/// How elements become codes and back.
#[derive(Clone, Copy)]
struct Scale {
    multiplier: f32,
    scale: f32,
}

impl Scale {
    fn given(scale: f32) -> Self {
        Scale {
            multiplier: 1.0 / scale,
            scale,
        }
    }

    /// Of elements that share a scale.
    fn of(elements: impl Iterator<Item = f32>) -> Self {
        // Magnitudes are ordered as their bits are, with infinity and NaN on top.
        let top = elements.map(|x| x.abs().to_bits()).max().unwrap_or(0);
        let amax = f32::from_bits(top);
        let (multiplier, scale) = match amax {
            _ if !amax.is_finite() => (0.0, f32::NAN),
            0.0 => (0.0, 0.0),
            _ => ((LARGEST / amax).min(f32::MAX), amax * (1.0 / LARGEST)),
        };
        Scale { multiplier, scale }
    }

    /// NaN gives the lowest code.
    fn code(self, x: f32) -> i8 {
        let r = (x * self.multiplier).round_ties_even();
        if r > -LARGEST { r.min(LARGEST) as i8 } else { -127 }
    }
}

/// Codes of the keys and values that some queries share.
pub(crate) struct Packed {
    inner: usize,
    channels: usize,
    /// `[keys, inner]`, and a scale a key.
    keys: Vec<i8>,
    key_scales: Vec<f32>,
    /// `[keys, channels]`, and for each block a scale a channel.
    values: Vec<i8>,
    value_scales: Vec<f32>,
    query: Option<Scale>,
    exp: Body,
}

impl Packed {
    /// Of `keys` `[t, d]` and `values` `[t, e]`; `given` are static scales of queries, keys and values.
    pub fn new(
        keys: &[f32],
        values: &[f32],
        (t, d, e): (usize, usize, usize),
        given: Option<[f32; 3]>,
    ) -> Self {
        let given = given.map(|s| s.map(Scale::given));
        let key_scales: Vec<Scale> = (0..t)
            .map(|t| given.map_or_else(|| Scale::of(keys[t * d..(t + 1) * d].iter().copied()), |s| s[1]))
            .collect();
        let value_scales: Vec<Scale> = values
            .chunks((KEYS * e).max(1))
            .flat_map(|block| (0..e).map(move |c| (block, c)))
            .map(|(block, c)| {
                let column = block.iter().skip(c).step_by(e);
                given.map_or_else(|| Scale::of(column.copied()), |s| s[2])
            })
            .collect();
        let coded = |(i, v): (usize, &f32)| value_scales[i / (KEYS * e) * e + i % e].code(*v);
        Packed {
            inner: d,
            channels: e,
            keys: (0..t * d).map(|i| key_scales[i / d].code(keys[i])).collect(),
            key_scales: key_scales.iter().map(|s| s.scale).collect(),
            values: values.iter().enumerate().map(coded).collect(),
            value_scales: value_scales.iter().map(|s| s.scale).collect(),
            query: given.map(|s| s[0]),
            exp: exponential(),
        }
    }

    /// What the score body reads for each key.
    pub fn dots(&self, query: &[f32]) -> Vec<f32> {
        let s = self.query.unwrap_or_else(|| Scale::of(query.iter().copied()));
        let codes: Vec<i32> = query.iter().map(|x| i32::from(s.code(*x))).collect();
        let raw = |(t, key_scale): (usize, &f32)| {
            let key = &self.keys[t * self.inner..(t + 1) * self.inner];
            let sum: i32 = codes.iter().zip(key).map(|(q, k)| q * i32::from(*k)).sum();
            (sum as f32 * s.scale) * key_scale
        };
        self.key_scales.iter().enumerate().map(raw).collect()
    }

    /// The values weighted by the softmax of `scores`.
    pub fn weigh(&self, scores: &[f32], empty: EmptyRow) -> Result<Vec<f32>, String> {
        let e = self.channels;
        let mut out = vec![0f32; e];
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0f32);
        for (b, block) in scores.chunks(KEYS).enumerate() {
            let top = block.iter().copied().fold(f32::NEG_INFINITY, larger);
            let new = larger(max, top);
            let mut args: Vec<f32> = block.iter().map(|s| s - finite(top)).collect();
            args.extend([max - finite(new), top - finite(new)]);
            let powers = self.powers(args)?;
            let (weights, factors) = powers.split_at(block.len());
            let codes: Vec<f32> = weights.iter().map(|p| (p * STEPS).round_ties_even()).collect();
            let (old, fresh) = (factors[0], factors[1]);
            // Sums of up to 256 codes are exact in any order.
            sum = sum * old + codes.iter().sum::<f32>() * fresh;
            for (c, out) in out.iter_mut().enumerate() {
                let column = self.values[b * KEYS * e..].iter().skip(c).step_by(e);
                let acc: i32 = codes
                    .iter()
                    .zip(column)
                    .map(|(p, v)| *p as i32 * i32::from(*v))
                    .sum();
                *out = *out * old + (acc as f32 * self.value_scales[b * e + c]) * fresh;
            }
            max = new;
        }
        let divisor = if sum == 0.0 && empty == EmptyRow::Zero {
            1.0
        } else {
            sum
        };
        Ok(out.into_iter().map(|o| o / divisor).collect())
    }

    fn powers(&self, x: Vec<f32>) -> Result<Vec<f32>, String> {
        let n = x.len();
        let mut columns: Vec<Data> = Vec::with_capacity(self.exp.stmts.len());
        let x = Data::F32(x);
        for s in &self.exp.stmts {
            columns.push(match &s.op {
                ScalarOp::Anchor => x.clone(),
                ScalarOp::Const(c) => lanes::constant(c, n),
                op => {
                    let args: Vec<&Data> = s.args.iter().map(|a| &columns[a.index()]).collect();
                    lanes::apply(op, &args, s.ty)?
                }
            });
        }
        let last = columns.pop().ok_or("the formula of exp is empty")?;
        Ok(f32::slice(&last).ok_or("exp is no f32")?.to_vec())
    }
}

/// The larger number; a NaN on the right is left out.
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// What is subtracted for a maximum.
fn finite(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}
