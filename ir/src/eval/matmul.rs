//! Matrix products: floats and small integers through f64, where every product is exact, rounded once at the end.

use super::tensor::{Data, Tensor};
use super::{lanes, walk};
use crate::types::ScalarType;
use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};
use rayon::prelude::*;

/// Rows that one task computes.
const ROWS: usize = 64;

/// `a [m, k] * b [k, n]` in f64.
pub(crate) fn product(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    if out.is_empty() || k == 0 {
        return out;
    }
    let b = ArrayView2::from_shape((k, n), b).expect("k * n elements");
    out.par_chunks_mut(ROWS * n)
        .zip(a.par_chunks(ROWS * k))
        .for_each(|(out, a)| {
            let m = a.len() / k;
            let a = ArrayView2::from_shape((m, k), a).expect("m * k elements");
            let mut out = ArrayViewMut2::from_shape((m, n), out).expect("m * n elements");
            general_mat_mul(1.0, &a, &b, 0.0, &mut out);
        });
    out
}

/// `a [m, k] * b [k, n]` in i64, wrapping.
pub(crate) fn product_i64(a: &[i64], b: &[i64], m: usize, k: usize, n: usize) -> Vec<i64> {
    let mut out = vec![0i64; m * n];
    for i in 0..m {
        let row = &mut out[i * n..(i + 1) * n];
        for j in 0..k {
            let x = a[i * k + j];
            for (o, y) in row.iter_mut().zip(&b[j * n..(j + 1) * n]) {
                *o = o.wrapping_add(x.wrapping_mul(*y));
            }
        }
    }
    out
}

/// Whether sums of products of two such types are exact in f64 (fewer than 2^21 summands).
pub(crate) fn exact_in_f64(t: ScalarType) -> bool {
    t.size() <= 2
}

/// NumPy product of floats or integers of one type.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>, String> {
    batched(a, b, a.elem())
}

/// NumPy product with results of type `ty`: integers wrap, floats are rounded once.
pub(crate) fn batched(a: &Tensor, b: &Tensor, ty: ScalarType) -> Result<Vec<Tensor>, String> {
    let (ra, rb) = (a.shape.len(), b.shape.len());
    if ra == 0 || rb == 0 {
        return Err("a matrix product needs operands of rank 1 or more".into());
    }
    let (m, k) = (if ra > 1 { a.shape[ra - 2] } else { 1 }, a.shape[ra - 1]);
    let (kb, n) = if rb > 1 {
        (b.shape[rb - 2], b.shape[rb - 1])
    } else {
        (b.shape[0], 1)
    };
    if k != kb {
        return Err(format!("inner extents differ: {:?} times {:?}", a.shape, b.shape));
    }
    let (ba, bb) = (&a.shape[..ra.saturating_sub(2)], &b.shape[..rb.saturating_sub(2)]);
    let lead = walk::broadcast_shape(ba, bb)?;
    let batches = walk::count(&lead)?;
    let picks = |s: &[usize]| -> Result<Vec<usize>, String> {
        let mut out = Vec::new();
        let strides = walk::broadcast_strides(s, &lead)?;
        walk::offsets(&lead, &strides, 0, 0..batches, &mut |i| out.push(i as usize));
        Ok(out)
    };
    let (ia, ib) = (picks(ba)?, picks(bb)?);
    let mut shape = lead;
    shape.extend((ra > 1).then_some(m));
    shape.extend((rb > 1).then_some(n));
    let total = walk::count(&shape)?;
    let data = if a.elem().is_float() || exact_in_f64(a.elem()) && exact_in_f64(b.elem()) {
        // One copy of an operand that all batches share.
        let (fa, fb) = (a.to_f64(), b.to_f64());
        let mut out = Vec::with_capacity(total);
        if ib.iter().all(|i| *i == 0) && ia.iter().copied().eq(0..batches) {
            out = product(&fa, &fb, batches * m, k, n);
        } else {
            for (i, j) in ia.iter().zip(&ib) {
                let (a, b) = (&fa[i * m * k..(i + 1) * m * k], &fb[j * k * n..(j + 1) * k * n]);
                out.extend(product(a, b, m, k, n));
            }
        }
        round(out, ty)
    } else {
        let (fa, fb) = (lanes::to_i64(&a.data), lanes::to_i64(&b.data));
        let mut out = Vec::with_capacity(total);
        for (i, j) in ia.iter().zip(&ib) {
            let (a, b) = (&fa[i * m * k..(i + 1) * m * k], &fb[j * k * n..(j + 1) * k * n]);
            out.extend(product_i64(a, b, m, k, n));
        }
        lanes::from_i64(out.into_iter(), ty)
    };
    Ok(vec![Tensor { shape, data }])
}

/// f64 sums as `ty`: floats rounded once, integers (exact in f64) wrapped.
pub(crate) fn round(v: Vec<f64>, ty: ScalarType) -> Data {
    match ty {
        ScalarType::F64 => Data::F64(v),
        ty if ty.is_float() => lanes::from_f64(v.into_iter(), ty),
        ty => lanes::from_i64(v.into_iter().map(|v| v as i64), ty),
    }
}
