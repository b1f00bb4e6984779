//! Attention and rotary embedding, computed in f64 and rounded once.

use super::norms::softmax_row;
use super::tensor::{Data, Tensor};
use super::{EvalCx, lanes, walk};
use crate::ops::nn::EmptyRow;
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

/// See [`crate::ops::nn::Attention`].
pub fn attention(
    op: &crate::ops::nn::Attention,
    cx: &EvalCx<'_>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    m: Option<&Tensor>,
) -> R {
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
    let mask_strides = m
        .map(|m| walk::broadcast_strides(&m.shape, &[b, h, s, t]))
        .transpose()?;
    let added: Option<Vec<f64>> = m.map(|m| match &m.data {
        Data::Bool(keep) => keep
            .iter()
            .map(|k| if *k { 0.0 } else { f64::NEG_INFINITY })
            .collect(),
        _ => m.to_f64(),
    });
    let causal = op.causal.as_ref().map(|c| cx.dim(c)).transpose()?;
    let (fq, fk, fv) = (q.to_f64(), k.to_f64(), v.to_f64());
    let row = |r: usize| {
        let (bi, hi, si) = (r / (h * s), r / s % h, r % s);
        let kv = bi * g + hi / (h / g);
        let keys = &fk[kv * t * d..(kv + 1) * t * d];
        let query = &fq[r * d..(r + 1) * d];
        let mut p: Vec<f64> = (0..t)
            .map(|ti| {
                let dot: f64 = query.iter().zip(&keys[ti * d..]).map(|(a, b)| a * b).sum();
                let mut score = dot * f64::from(op.scale);
                if let (Some(a), Some(st)) = (&added, &mask_strides) {
                    let at: i64 = [bi, hi, si, ti].iter().zip(st).map(|(i, s)| *i as i64 * s).sum();
                    score += a[at as usize];
                }
                match causal {
                    Some(c) if ti as i64 > (si as i64).saturating_add(c) => f64::NEG_INFINITY,
                    _ => score,
                }
            })
            .collect();
        weights(&mut p, op.empty_row);
        weighted(&p, &fv[kv * t * e..(kv + 1) * t * e], e, op.empty_row)
    };
    let rows: Vec<Vec<f64>> = (0..b * h * s).into_par_iter().map(row).collect();
    Ok(vec![Tensor {
        shape: vec![b, h, s, e],
        data: lanes::from_f64(rows.into_iter().flatten(), q.elem()),
    }])
}
