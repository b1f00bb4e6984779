//! Entropy: the range at which codes say most about the values (`entropy`).
//!
//! Migacz, "8-bit inference with TensorRT" (GTC 2017, s7310), as NVIDIA's pytorch-quantization computes it. Over the
//! histogram of |x| with bin 0 set to bin 1 (exact zeros say nothing), for each `i` from `L` (the number of levels) up:
//! - `P` = bins `0..i`, the last of which also takes all that lies beyond;
//! - `Q` = bins `0..i` cut into `L` equal intervals, in each of which the mass, without what lies beyond, is spread evenly
//!   over the bins that are not empty;
//! - `D(i) = KL(P / sum P || Q / sum Q)`, infinite where `Q` is 0 and `P` is not.
//!
//! The last `i` with the least `D` gives the range, up to the upper edge of bin `i - 1`. Because `P` holds what is cut and
//! `Q` does not, heavy tails count: that is intended. Prefix sums make each `i` cost `L` logarithms: with `N` the total,
//! `D = (sum P ln P - sum_k mass_k ln(mass_k / used_k) - out ln q) / N + ln(sum Q / N)`, `q` the level of the last bin.

/// The chosen number of bins and its divergence; `None` if no range of at least `levels` bins is usable.
pub fn choose(bins: &[u64], levels: usize) -> Option<(usize, f64)> {
    let mut bins = bins.to_vec();
    if let Some(second) = bins.get(1).copied() {
        bins[0] = second;
    }
    let n_ln_n = |n: u64| {
        if n == 0 {
            0.0
        } else {
            n as f64 * libm::log(n as f64)
        }
    };
    let (mut mass, mut used, mut own) = (vec![0u64], vec![0u64], vec![0f64]);
    for n in &bins {
        mass.push(mass[mass.len() - 1] + n);
        used.push(used[used.len() - 1] + u64::from(*n > 0));
        own.push(own[own.len() - 1] + n_ln_n(*n));
    }
    let total = mass[bins.len()];
    // A tensor with few different magnitudes has no distribution to keep.
    if (used[bins.len()] as usize) < levels {
        return None;
    }
    let mut best: Option<(usize, f64)> = None;
    for i in levels..=bins.len() {
        let (last, cut) = (bins[i - 1], total - mass[i]);
        if mass[i] == 0 || (last == 0 && cut > 0) {
            continue;
        }
        let p = own[i] - n_ln_n(last) + n_ln_n(last + cut);
        let (mut spread, mut level) = (0.0, 0.0);
        let mut from = 0;
        for k in 0..levels {
            // Bin j belongs to interval floor(j * levels / i).
            let to = ((k + 1) * i).div_ceil(levels);
            let (m, u) = (mass[to] - mass[from], used[to] - used[from]);
            if m > 0 {
                level = libm::log(m as f64 / u as f64);
                spread += m as f64 * level;
            }
            from = to;
        }
        // The last interval holds the last bin; `level` is its own unless it is empty, and then nothing is cut.
        let cross = spread + cut as f64 * level;
        let n = total as f64;
        let d = (p - cross) / n + libm::log(mass[i] as f64 / n);
        if best.is_none_or(|(_, b)| d <= b) {
            best = Some((i, d));
        }
    }
    best
}
