//! Attention and rotary embedding, computed in f64 and rounded once; attention over codes in its own definition.

use super::attention8::Packed;
use super::norms::softmax_row;
use super::tensor::{Data, Tensor};
use super::{EvalCx, lanes, walk};
use crate::ops::nn::EmptyRow;
use crate::types::ScalarType;
use rayon::prelude::*;

type R = Result<Vec<Tensor>, String>;

/// `x * cos + rotate(x) * sin` on the last axis; see [`crate::ops::nn::Rope`].
pub fn rope(x: &Tensor, c: &Tensor, s: &Tensor, interleaved: bool) -> R {
    let d = *x.shape.last().ok_or("rope needs an axis")?;
    let table = |t: &Tensor| -> Result<Vec<f64>, String> {
        let (strides, v) = (walk::broadcast_strides(&t.shape, &x.shape)?, t.to_f64());
        let mut out = Vec::with_capacity(x.len());
        walk::offsets(&x.shape, &strides, 0, 0..x.len(), &mut |a| {
            out.push(v[a as usize])
        });
        Ok(out)
    };
    let (c, s, v) = (table(c)?, table(s)?, x.to_f64());
    let half = d / 2;
    let turned = |i: usize| {
        let (row, j) = (i - i % d, i % d);
        match (interleaved, if interleaved { j % 2 == 0 } else { j < half }) {
            (true, true) => -v[row + j + 1],
            (true, false) => v[row + j - 1],
            (false, true) => -v[row + j + half],
            (false, false) => v[row + j - half],
        }
    };
    let out = (0..v.len()).map(|i| v[i] * c[i] + turned(i) * s[i]);
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data: lanes::from_f64(out, x.elem()),
    }])
}

/// The softmax of a row of scores; a row that is -inf throughout (or empty) is what `empty` says.
pub(crate) fn weights(row: &mut [f64], empty: EmptyRow) {
    if row.iter().all(|v| *v == f64::NEG_INFINITY) {
        row.fill(match empty {
            EmptyRow::Nan => f64::NAN,
            EmptyRow::Zero => 0.0,
        });
    } else {
        softmax_row(row, false);
    }
}

/// `sum_t p[t] * v[t, ..]` with `v` of `e` columns; without any key it is NaN or 0 as `empty` says.
pub(crate) fn weighted(p: &[f64], v: &[f64], e: usize, empty: EmptyRow) -> Vec<f64> {
    let start = if p.is_empty() && empty == EmptyRow::Nan {
        f64::NAN
    } else {
        0.0
    };
    let mut out = vec![start; e];
    for (p, v) in p.iter().zip(v.chunks_exact(e.max(1))) {
        for (o, v) in out.iter_mut().zip(v) {
            // A key that is masked out contributes nothing, whatever its value is.
            *o += if *p == 0.0 { 0.0 } else { p * v };
        }
    }
    out
}

/// See [`crate::ops::nn::Attention`]. Operands: q, k, v and an optional mask. With `codes` the products multiply 8-bit codes
/// as in [`super::attention8`], with these static scales if there are any.
pub fn attention(
    op: &crate::ops::nn::Attention,
    cx: &EvalCx<'_>,
    ins: &[Option<&Tensor>],
    codes: Option<Option<[f32; 3]>>,
) -> R {
    let operand = |i: usize| ins.get(i).copied().flatten().ok_or("an operand is missing");
    let (q, k, v) = (operand(0)?, operand(1)?, operand(2)?);
    let rank4 = [q, k, v].iter().all(|t| t.shape.len() == 4);
    if !rank4 {
        return Err("attention operands must have rank 4".into());
    }
    let (b, h, s, d) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3]);
    let (g, t, e) = (k.shape[1], k.shape[2], v.shape[3]);
    let fits = k.shape == [b, g, t, d] && v.shape[..3] == [b, g, t] && (h == 0 || g > 0 && h % g == 0);
    if !fits {
        return Err(format!(
            "attention of {:?}, {:?}, {:?}",
            q.shape, k.shape, v.shape
        ));
    }
    let bias = Bias::new(op, cx, ins.get(3).copied().flatten(), [b, h, s, t])?;
    let place = |r: usize| [r / (h * s), r / s % h, r % s];
    let shared = |r: usize| {
        let [bi, hi, _] = place(r);
        bi * g + hi / (h / g)
    };
    let (fq, fk, fv) = (q.to_f64(), k.to_f64(), v.to_f64());
    let rows: Vec<Vec<f64>> = if let Some(given) = codes {
        let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let (fq, fk, fv) = (narrow(&fq), narrow(&fk), narrow(&fv));
        let packed: Vec<Packed> = (0..b * g)
            .map(|i| {
                let (keys, values) = (&fk[i * t * d..(i + 1) * t * d], &fv[i * t * e..(i + 1) * t * e]);
                Packed::new(keys, values, (t, d, e), given)
            })
            .collect();
        let row = |r: usize| -> Result<Vec<f64>, String> {
            let packed = &packed[shared(r)];
            let dots = packed.dots(&fq[r * d..(r + 1) * d]);
            let scores = (0..t).map(|ti| bias.rounded(dots[ti], place(r), ti));
            let out = packed.weigh(&scores.collect::<Vec<f32>>(), op.empty_row)?;
            Ok(out.into_iter().map(f64::from).collect())
        };
        (0..b * h * s)
            .into_par_iter()
            .map(row)
            .collect::<Result<_, _>>()?
    } else {
        let row = |r: usize| {
            let kv = shared(r);
            let keys = &fk[kv * t * d..(kv + 1) * t * d];
            let query = &fq[r * d..(r + 1) * d];
            let dot = |ti: usize| -> f64 { query.iter().zip(&keys[ti * d..]).map(|(a, b)| a * b).sum() };
            let mut p: Vec<f64> = (0..t).map(|ti| bias.exact(dot(ti), place(r), ti)).collect();
            weights(&mut p, op.empty_row);
            weighted(&p, &fv[kv * t * e..(kv + 1) * t * e], e, op.empty_row)
        };
        (0..b * h * s).into_par_iter().map(row).collect()
    };
    Ok(vec![Tensor {
        shape: vec![b, h, s, e],
        data: lanes::from_f64(rows.into_iter().flatten(), q.elem()),
    }])
}

/// From products to scores: scale, mask, causal bound.
struct Bias<'a> {
    scale: f32,
    /// Mask, its strides over (batch, head, query, key), and its elements as numbers.
    mask: Option<(&'a Tensor, Vec<i64>, Vec<f64>)>,
    causal: Option<i64>,
}

impl<'a> Bias<'a> {
    fn new(
        op: &crate::ops::nn::Attention,
        cx: &EvalCx<'_>,
        mask: Option<&'a Tensor>,
        scores: [usize; 4],
    ) -> Result<Self, String> {
        let mask =
            mask.map(|m| Ok::<_, String>((m, walk::broadcast_strides(&m.shape, &scores)?, m.to_f64())));
        Ok(Bias {
            scale: op.scale,
            mask: mask.transpose()?,
            causal: op.causal.as_ref().map(|c| cx.dim(c)).transpose()?,
        })
    }

    /// What the mask adds; `Err` where it hides the key.
    fn mask(&self, [b, h, s]: [usize; 3], t: usize) -> Result<f64, ()> {
        let Some((m, strides, values)) = &self.mask else {
            return Ok(0.0);
        };
        let at: i64 = [b, h, s, t]
            .iter()
            .zip(strides)
            .map(|(i, stride)| *i as i64 * stride)
            .sum();
        let value = values[at as usize];
        match &m.data {
            Data::Bool(_) if value == 0.0 => Err(()),
            Data::Bool(_) => Ok(0.0),
            _ => Ok(value),
        }
    }

    fn is_later(&self, s: usize, t: usize) -> bool {
        self.causal
            .is_some_and(|c| t as i64 > (s as i64).saturating_add(c))
    }

    fn exact(&self, dot: f64, at: [usize; 3], t: usize) -> f64 {
        match self.mask(at, t) {
            Ok(m) if !self.is_later(at[2], t) => dot * f64::from(self.scale) + m,
            _ => f64::NEG_INFINITY,
        }
    }

    /// As the score body of a region computes it.
    fn rounded(&self, dot: f32, at: [usize; 3], t: usize) -> f32 {
        match self.mask(at, t) {
            Ok(_) if self.is_later(at[2], t) => f32::NEG_INFINITY,
            Ok(m)
                if self
                    .mask
                    .as_ref()
                    .is_some_and(|(m, ..)| m.elem() != ScalarType::Bool) =>
            {
                dot * self.scale + m as f32
            }
            Ok(_) => dot * self.scale,
            Err(()) => f32::NEG_INFINITY,
        }
    }
}
