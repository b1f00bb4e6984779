//! Percentile: the range that keeps a share of the values (`percentile`).
//!
//! Symmetric codes: the lower edge of the first bin of |x| at which the cumulated share reaches `p / 100`, as in NVIDIA's
//! pytorch-quantization. Codes with a zero point: half of what may be cut is cut at each end, and the range stays inside of
//! the observed one. Exact to one bin.

use super::histogram::Histogram;

/// Index of the first bin at which the cumulated share reaches `share`.
pub fn edge(bins: &[u64], share: f64) -> usize {
    let total: u64 = bins.iter().sum();
    let mut sum = 0u64;
    bins.iter()
        .position(|n| {
            sum += n;
            sum as f64 / total as f64 >= share
        })
        .unwrap_or(bins.len())
}

/// Largest magnitude for symmetric codes; `p` in per cent.
pub fn magnitude(h: &Histogram, p: f64) -> f64 {
    let bins = h.magnitudes();
    if p >= 100.0 {
        return bins.len() as f64 * h.width();
    }
    edge(&bins, p / 100.0).max(1) as f64 * h.width()
}

/// Lowest and highest value for codes with a zero point; `p` in per cent.
pub fn two_sided(h: &Histogram, p: f64) -> (f64, f64) {
    let (bins, start) = h.values();
    let tail = (100.0 - p) / 200.0;
    let low = edge(&bins, tail.max(f64::MIN_POSITIVE));
    let high = edge(&bins, 1.0 - tail);
    // At a share of all values the upper edge counts: nothing is cut.
    let high = if tail == 0.0 { high + 1 } else { high };
    (start + low as f64 * h.width(), start + high as f64 * h.width())
}
