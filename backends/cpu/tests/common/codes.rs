//! Attention over 8-bit codes in the naive interpreter, written from the definition in `rsqc_ir::eval::attention8`.

use super::naive::{Naive, Value};
use rsqc_ir::ScalarType;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::region::{Anchor, Attention, Products};
use rsqc_ir::scalar::exponential;

const KEYS: i64 = 256;

/// Codes with their scale: of elements that share one, which is computed unless `given`.
fn quantize(x: &[f32], given: Option<f32>) -> (Vec<i32>, f32) {
    let (m, s) = match given {
        Some(s) => (1.0 / s, s),
        None if x.iter().any(|x| !x.is_finite()) => return (vec![0; x.len()], f32::NAN),
        None => match x.iter().fold(0f32, |a, x| a.max(x.abs())) {
            0.0 => (0.0, 0.0),
            amax => (f32::min(127.0 / amax, f32::MAX), amax * (1.0f32 / 127.0)),
        },
    };
    let code = |x: &f32| {
        let v = (x * m).round_ties_even();
        if v.is_nan() {
            -127
        } else {
            v.clamp(-127.0, 127.0) as i32
        }
    };
    (x.iter().map(code).collect(), s)
}

impl Naive<'_> {
    fn coded(&self) -> (&Attention, Option<[u32; 3]>) {
        match &self.spec.region.anchor {
            Anchor::Attention(a) => match a.products {
                Products::Int8 { scales } => (a, scales),
                Products::Float => panic!("products of floats"),
            },
            _ => panic!("no attention"),
        }
    }

    /// Elements of an operand along an axis.
    fn along(&self, operand: u32, axis: u32, range: std::ops::Range<i64>, at: &[i64]) -> Vec<f32> {
        let mut at = at.to_vec();
        range
            .map(|i| {
                at[axis as usize] = i;
                self.operand(operand, &at).float() as f32
            })
            .collect()
    }

    /// Scores of all keys for the row of `at`.
    fn coded_scores(&self, at: &[i64]) -> Vec<f64> {
        let (a, given) = self.coded();
        let given = |n: usize| given.map(|g| self.operand(g[n], at).float() as f32);
        let inner = self.extent(a.inner as usize);
        let (q, q_scale) = quantize(&self.along(a.q, a.inner, 0..inner, at), given(0));
        let mut at = at.to_vec();
        (0..self.extent(a.key as usize))
            .map(|t| {
                at[a.key as usize] = t;
                let (k, k_scale) = quantize(&self.along(a.k, a.inner, 0..inner, &at), given(1));
                let sum: i32 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
                let raw = sum as f32 * q_scale * k_scale;
                let env = self.evaluate(&a.score, &at, Value::of_float(ScalarType::F32, f64::from(raw)));
                env[a.score.stmts.len() - 1].float()
            })
            .collect()
    }

    /// The weights of a row: for each block of keys its factors, of old sums and of its own, behind the codes of all.
    fn coded_weights(&self, at: &[i64]) -> Vec<f64> {
        let scores = self.coded_scores(at);
        let body = exponential();
        let exp = |x: f32| {
            let env = self.evaluate(&body, &[], Value::of_float(ScalarType::F32, f64::from(x)));
            env.last().expect("a formula").float() as f32
        };
        let zero_if_lowest = |m: f32| if m == f32::NEG_INFINITY { 0.0 } else { m };
        let (mut codes, mut factors, mut max) = (Vec::new(), Vec::new(), f32::NEG_INFINITY);
        for block in scores.chunks(KEYS as usize) {
            let block: Vec<f32> = block.iter().map(|s| *s as f32).collect();
            let top = block
                .iter()
                .filter(|s| !s.is_nan())
                .fold(f32::NEG_INFINITY, |m, s| m.max(*s));
            let new = max.max(top);
            let code = |s: &f32| f64::from((exp(s - zero_if_lowest(top)) * 255.0).round_ties_even());
            codes.extend(block.iter().map(code));
            factors.push(f64::from(exp(max - zero_if_lowest(new))));
            factors.push(f64::from(exp(top - zero_if_lowest(new))));
            max = new;
        }
        codes.extend(factors);
        codes
    }

    /// One channel of one row.
    pub(super) fn attention_of_codes(&self, at: &[i64]) -> Value {
        let (a, given) = self.coded();
        let given = given.map(|g| self.operand(g[2], at).float() as f32);
        let channel = self.spec.region.parallel().end as usize - 1;
        let row: Vec<i64> = at[..channel].to_vec();
        if self.weights.borrow().0 != row {
            let weights = self.coded_weights(at);
            *self.weights.borrow_mut() = (row, weights);
        }
        let cache = self.weights.borrow();
        let keys = self.extent(a.key as usize);
        let (codes, factors) = cache.1.split_at(keys as usize);
        let v = self.along(a.v, a.key, 0..keys, at);
        let (mut sum, mut out) = (0f32, 0f32);
        let blocks = codes.chunks(KEYS as usize).zip(v.chunks(KEYS as usize));
        for ((codes, v), factors) in blocks.zip(factors.chunks(2)) {
            let (kept, fresh) = (factors[0] as f32, factors[1] as f32);
            let (v, scale) = quantize(v, given);
            let acc: i32 = codes.iter().zip(&v).map(|(w, v)| *w as i32 * v).sum();
            out = out * kept + acc as f32 * scale * fresh;
            sum = sum * kept + codes.iter().sum::<f64>() as f32 * fresh;
        }
        if sum == 0.0 && a.empty_row == EmptyRow::Zero {
            sum = 1.0;
        }
        Value::of_float(ScalarType::F32, f64::from(out / sum))
    }
}
