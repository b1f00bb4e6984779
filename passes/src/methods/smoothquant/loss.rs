//! How far quantized results are from float ones, computed so that every machine gets the same number.
//!
//! Codes are small integers. Their products, summed over at most [`EXACT`] of them, are integers below 2^24, which f32 holds
//! exactly: so the order in which a fast matrix product adds, and whether it fuses, cannot matter.

use super::trials::Codes;
use ndarray::{Array2, linalg::general_mat_mul, s};

/// Adding and subtracting 1.5 * 2^23 rounds an f32 below 2^22 to the nearest integer, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// Largest |code - zero| of an activation, largest |code| of a weight, and how many of their products stay below 2^24.
const EXACT: usize = (1 << 24) / (255 * 127);

/// An activation as codes.
pub(super) struct Coded {
    /// Codes without their zero points, `[rows, k]`.
    pub codes: Array2<f32>,
    /// Scale of each row.
    pub scales: Vec<f32>,
}

/// The codes of `x * inverse`, rows of `k` elements.
pub(super) fn coded(x: &[f32], k: usize, inverse: &[f32], how: Codes) -> Coded {
    let rows = x.len() / k.max(1);
    let mut out: Vec<f32> = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k) {
        out.extend(row.iter().zip(inverse).map(|(v, f)| v * f));
    }
    let magnitude = |v: &[f32]| v.iter().fold(0f32, |a, v| a.max(v.abs()));
    let symmetric = |v: &mut [f32], amax: f32| {
        let (mult, scale) = if amax == 0.0 {
            (0.0, 0.0)
        } else {
            ((127.0 / amax).min(f32::MAX), amax * (1.0 / 127.0))
        };
        round(v, mult, 0.0, -127.0, 127.0);
        scale
    };
    let scales = match how {
        Codes::Token => out
            .chunks_exact_mut(k)
            .map(|row| symmetric(row, magnitude(row)))
            .collect(),
        Codes::Tensor => {
            let amax = magnitude(&out);
            vec![symmetric(&mut out, amax); rows]
        }
        Codes::Static(scale, zero, lo, hi) => {
            round(&mut out, 1.0 / scale, zero, lo, hi);
            vec![scale; rows]
        }
    };
    Coded {
        codes: Array2::from_shape_vec((rows, k), out).expect("rows of k elements"),
        scales,
    }
}

/// `clamp(round(v * mult) + zero) - zero`.
fn round(v: &mut [f32], mult: f32, zero: f32, lo: f32, hi: f32) {
    for v in v {
        // Clamped before rounding too: the rounder needs small numbers.
        let t = (*v * mult).clamp(lo - zero - 1.0, hi - zero + 1.0);
        *v = (t + ROUNDER - ROUNDER + zero).clamp(lo, hi) - zero;
    }
}

/// Sums of products of codes, `[rows, n]`.
pub(super) fn product(x: &Array2<f32>, w: &Array2<f32>) -> Array2<f32> {
    let k = x.ncols();
    let mut out = Array2::<f32>::zeros((x.nrows(), w.ncols()));
    let mut sums = out.clone();
    for from in (0..k).step_by(EXACT) {
        let part = from..(from + EXACT).min(k);
        let (x, w) = (x.slice(s![.., part.clone()]), w.slice(s![part, ..]));
        // Into a matrix of its own: what is added to sums that are no longer exact must be a whole part.
        general_mat_mul(1.0, &x, &w, 0.0, &mut sums);
        out += &sums;
    }
    out
}

/// Rows of a result that are normalised together: a batch row's from rank 3 on.
pub(super) fn rows_together(shape: &[usize]) -> usize {
    let rows: usize = shape.iter().rev().skip(1).product();
    if shape.len() > 2 {
        rows / shape[0].max(1)
    } else {
        rows
    }
    .max(1)
}

/// One by the largest magnitude (at least 1e-5) of each part of `part` elements.
pub(super) fn inverse_norms(y: &[f32], part: usize) -> Vec<f32> {
    let norm = |p: &[f32]| 1.0 / p.iter().fold(1e-5f32, |a, v| a.max(v.abs()));
    y.chunks(part.max(1)).map(norm).collect()
}

/// `sum sqrt(|a - b * scale * of_row| * inverse)` over a row, in eight interleaved sums.
pub(super) fn root_differences(a: &[f32], b: &[f32], scales: &[f32], of_row: f32, inverse: f32) -> f64 {
    const LANES: usize = 8;
    let one = |a: f32, b: f32, s: f32| ((a - b * (s * of_row)).abs() * inverse).sqrt();
    let mut sums = [0f32; LANES];
    let whole = a.len() / LANES * LANES;
    let parts = a[..whole]
        .chunks_exact(LANES)
        .zip(b[..whole].chunks_exact(LANES))
        .zip(scales[..whole].chunks_exact(LANES));
    for ((a, b), s) in parts {
        for i in 0..LANES {
            sums[i] += one(a[i], b[i], s[i]);
        }
    }
    let rest: f32 = (whole..a.len()).map(|i| one(a[i], b[i], scales[i])).sum();
    sums.iter().map(|s| f64::from(*s)).sum::<f64>() + f64::from(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the largest magnitudes, with more terms than one part takes.
    #[test]
    fn products_of_codes_are_what_integers_give() {
        let (rows, k, n) = (3, 2 * EXACT + 5, 7);
        let x: Vec<i64> = (0..rows * k)
            .map(|i| if i % 97 == 0 { -3 } else { 255 })
            .collect();
        let w: Vec<i64> = (0..k * n).map(|i| 127 - (i % 5 == 0) as i64).collect();
        let float = |v: &[i64], c: usize| {
            let v: Vec<f32> = v.iter().map(|x| *x as f32).collect();
            Array2::from_shape_vec((v_rows(&v, c), c), v).expect("a matrix")
        };
        let found = product(&float(&x, k), &float(&w, n));
        for r in 0..rows {
            for c in 0..n {
                let part = |from: usize| -> i64 {
                    (from..(from + EXACT).min(k))
                        .map(|i| x[r * k + i] * w[i * n + c])
                        .sum()
                };
                // Each part is exact; their sum is rounded once a part.
                let want = (0..k).step_by(EXACT).fold(0f32, |a, from| {
                    assert!(part(from).abs() < 1 << 24);
                    a + part(from) as f32
                });
                assert_eq!(found[[r, c]].to_bits(), want.to_bits(), "{r} {c}");
            }
        }
    }

    fn v_rows(v: &[f32], columns: usize) -> usize {
        v.len() / columns
    }
}
