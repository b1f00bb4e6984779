//! Figures that say how close two results are.

/// Signal-to-noise ratio in dB: `10 log10(sum ref^2 / sum (out - ref)^2)`. Equal results give infinity; NaNs at the same
/// places count as equal, elsewhere the result is NaN. Empty results are equal.
pub fn snr_db(reference: &[f64], out: &[f64]) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (r, o) in reference.iter().zip(out) {
        if r == o || (r.is_nan() && o.is_nan()) {
            if r.is_finite() {
                signal += r * r;
            }
            continue;
        }
        signal += r * r;
        noise += (o - r) * (o - r);
    }
    if noise == 0.0 {
        f64::INFINITY
    } else {
        10.0 * (signal / noise).log10()
    }
}

/// Cosine of the angle between two vectors; 1 if both are zero.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    let (na, nb): (f64, f64) = (a.iter().map(|x| x * x).sum(), b.iter().map(|x| x * x).sum());
    if na == 0.0 && nb == 0.0 {
        1.0
    } else {
        dot / (na * nb).sqrt()
    }
}

/// Largest absolute difference; NaN if exactly one side is NaN somewhere.
pub fn max_abs_diff(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |m: f64, (x, y)| {
        let d = if x == y || (x.is_nan() && y.is_nan()) {
            0.0
        } else {
            (x - y).abs()
        };
        if d.is_nan() || m.is_nan() {
            f64::NAN
        } else {
            m.max(d)
        }
    })
}

/// Spearman's rank correlation; equal values share their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (ra, rb) = (ranks(a), ranks(b));
    let n = ra.len() as f64;
    let (ma, mb) = (ra.iter().sum::<f64>() / n, rb.iter().sum::<f64>() / n);
    let cov: f64 = ra.iter().zip(&rb).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let var = |r: &[f64], m: f64| r.iter().map(|x| (x - m) * (x - m)).sum::<f64>();
    cov / (var(&ra, ma) * var(&rb, mb)).sqrt()
}

fn ranks(v: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|i, j| v[*i].total_cmp(&v[*j]));
    let mut out = vec![0.0; v.len()];
    let mut i = 0;
    while i < order.len() {
        let mut j = i;
        while j + 1 < order.len() && v[order[j + 1]] == v[order[i]] {
            j += 1;
        }
        for k in i..=j {
            out[order[k]] = (i + j) as f64 / 2.0;
        }
        i = j + 1;
    }
    out
}

/// Indices of the `k` largest values, largest first; the first of equal ones wins.
pub fn top(v: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|i, j| v[*j].total_cmp(&v[*i]).then(i.cmp(j)));
    order.truncate(k);
    order
}

/// Natural logarithm of softmax.
pub fn log_softmax(v: &[f64]) -> Vec<f64> {
    let m = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let s: f64 = v.iter().map(|x| (x - m).exp()).sum();
    v.iter().map(|x| x - m - s.ln()).collect()
}

/// The value below which a share `p` (0 to 1) of the sorted values lies.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * p).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snr_of_a_known_error() {
        assert!((snr_db(&[1.0, 0.0], &[1.0, 0.1]) - 20.0).abs() < 1e-9);
        assert_eq!(snr_db(&[f64::NAN, 2.0], &[f64::NAN, 2.0]), f64::INFINITY);
        assert!(snr_db(&[1.0], &[f64::NAN]).is_nan());
    }

    #[test]
    fn spearman_is_one_for_any_increasing_map_and_handles_ties() {
        let a: [f64; 4] = [0.1, 0.5, 0.2, 9.0];
        assert!((spearman(&a, &a.map(f64::exp)) - 1.0).abs() < 1e-12);
        assert!((spearman(&a, &a.map(|x| -x)) + 1.0).abs() < 1e-12);
        assert_eq!(ranks(&[2.0, 1.0, 2.0]), [1.5, 0.0, 1.5]);
    }

    #[test]
    fn top_and_softmax() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0], 3), [1, 2, 3]);
        let l = log_softmax(&[0.0, 0.0]);
        assert!((l[0] + std::f64::consts::LN_2).abs() < 1e-12);
    }
}
