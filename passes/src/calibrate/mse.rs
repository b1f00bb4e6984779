//! Mean squared error: the range at which codes differ least from the values (`mse`).
//!
//! Symmetric codes (and codes of values with one sign): over the histogram of |x|, each bin taken at its centre, the first
//! `i` with the least `sum n (fq(c) - c)^2`, where `fq` has its largest code at the centre of bin `i`. Prefix sums of `n`,
//! `n c`, `n c^2` (exact, in integers, with centres in half bins) make each `i` cost one term a code. Codes with a zero
//! point over both signs: both ends shrink by the same factor `1 - k/100`, `k < 80`, and each bin is rounded as it is.

use super::histogram::Histogram;

/// Steps by which both ends shrink.
const SHRINKS: u32 = 80;

/// The chosen bin: its centre is the largest magnitude. `levels` is the largest code (127, or 255 without a sign); `None`
/// if there are fewer bins than levels.
pub fn choose(bins: &[u64], levels: usize) -> Option<usize> {
    let (mut s0, mut s1, mut s2) = (vec![0u128], vec![0u128], vec![0u128]);
    for (i, n) in bins.iter().enumerate() {
        let (n, c) = (u128::from(*n), 2 * i as u128 + 1);
        s0.push(s0[i] + n);
        s1.push(s1[i] + n * c);
        s2.push(s2[i] + n * c * c);
    }
    let mut best: Option<(usize, f64)> = None;
    for i in levels + 1..bins.len() {
        // Everything in half bins: the largest magnitude is 2i + 1, a step is that by `levels`.
        let step = (2 * i + 1) as f64 / levels as f64;
        let (mut error, mut from) = (0.0, 0);
        for q in 0..=levels {
            // Bins whose centre is nearest to q * step; the last code takes all above.
            let to = if q == levels {
                bins.len()
            } else {
                ((((q as f64 + 0.5) * step - 1.0) / 2.0).ceil() as usize).clamp(from, bins.len())
            };
            let [a, b, c] = [&s0, &s1, &s2].map(|s| (s[to] - s[from]) as f64);
            let v = q as f64 * step;
            error += c - 2.0 * v * b + v * v * a;
            from = to;
        }
        if best.is_none_or(|(_, e)| error < e) {
            best = Some((i, error));
        }
    }
    best.map(|(i, _)| i)
}

/// The range within `low..high` for codes with a zero point.
pub fn two_sided(h: &Histogram, low: f64, high: f64) -> (f64, f64) {
    let (bins, start) = h.values();
    let w = h.width();
    let used: Vec<(f64, f64)> = bins
        .iter()
        .enumerate()
        .filter(|(_, n)| **n > 0)
        .map(|(i, n)| (start + (i as f64 + 0.5) * w, *n as f64))
        .collect();
    let error = |lo: f64, hi: f64| -> f64 {
        let s = (hi - lo) / 255.0;
        let z = (-lo / s).round_ties_even();
        let off = |c: f64| ((c / s).round_ties_even() + z).clamp(0.0, 255.0) - z;
        let squared = |d: f64| d * d;
        used.iter().map(|(c, n)| n * squared(off(*c) * s - c)).sum()
    };
    let mut best = (low, high, f64::INFINITY);
    for k in 0..SHRINKS {
        let p = 1.0 - f64::from(k) / 100.0;
        let e = error(low * p, high * p);
        if e < best.2 {
            best = (low * p, high * p, e);
        }
    }
    (best.0, best.1)
}
