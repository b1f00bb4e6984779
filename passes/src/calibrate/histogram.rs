//! A histogram whose range doubles.
//!
//! Values of each sign fall into [`BINS`] bins of equal width over the magnitudes `[0, 2^e)`, where `2^e` is the smallest
//! power of two above the largest magnitude seen. When a larger one comes, neighbouring bins are added in pairs until it
//! fits. A value's bin is `floor(|x| * BINS / 2^e)`, and halving an integer and rounding down gives the bin at `e + 1`; so
//! counts depend on the values alone, not on their order or on how they were split, and merging histograms is exact,
//! associative and commutative. Memory is fixed.

/// Bins of each sign. At least half of them lie below the largest magnitude.
pub const BINS: usize = 4096;

/// Counts of values by sign and magnitude. See the file documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    /// Magnitudes reach to `2^exponent`; `None` while only zeros were seen.
    exponent: Option<i32>,
    /// Counts of values `>= 0` by magnitude.
    positive: Vec<u64>,
    /// Counts of values `< 0` by magnitude.
    negative: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            exponent: None,
            positive: vec![0; BINS],
            negative: vec![0; BINS],
        }
    }
}

/// The smallest exponent `e`, not below that of the smallest normal number, with `|x| < 2^e`. `x` is finite.
fn exponent(magnitude: f32) -> i32 {
    (magnitude.to_bits() >> 23).max(1) as i32 - 126
}

fn power(e: i32) -> f64 {
    libm::ldexp(1.0, e)
}

impl Histogram {
    /// Counts finite values; `largest` is at least their largest magnitude.
    pub fn add(&mut self, x: &[f32], largest: f32) {
        if largest > 0.0 {
            self.widen(exponent(largest));
        }
        // With zeros alone every value is in bin 0.
        let scale = self.exponent.map_or(0.0, |e| power(-e) * BINS as f64);
        for v in x {
            let bin = (f64::from(v.abs()) * scale) as usize;
            let side = if *v < 0.0 {
                &mut self.negative
            } else {
                &mut self.positive
            };
            side[bin.min(BINS - 1)] += 1;
        }
    }

    /// Makes magnitudes up to `2^e` fit.
    fn widen(&mut self, e: i32) {
        let old = *self.exponent.get_or_insert(e);
        let Ok(steps) = usize::try_from(e - old) else {
            return;
        };
        if steps > 0 {
            for side in [&mut self.positive, &mut self.negative] {
                let mut wide = vec![0; BINS];
                for (i, n) in side.iter().enumerate() {
                    wide[i.checked_shr(steps as u32).unwrap_or(0)] += n;
                }
                *side = wide;
            }
            self.exponent = Some(e);
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        let mut other = other.clone();
        if let Some(e) = other.exponent {
            self.widen(e);
        }
        if let Some(e) = self.exponent {
            other.widen(e);
        }
        let sides = [
            (&mut self.positive, &other.positive),
            (&mut self.negative, &other.negative),
        ];
        for (mine, theirs) in sides {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
    }

    /// Width of a bin; 0 if only zeros were seen.
    pub fn width(&self) -> f64 {
        self.exponent.map_or(0.0, |e| power(e) / BINS as f64)
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.positive.iter().chain(&self.negative).sum()
    }

    /// Counts by magnitude, both signs together, up to the last bin that is not empty.
    pub fn magnitudes(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self
            .positive
            .iter()
            .zip(&self.negative)
            .map(|(a, b)| a + b)
            .collect();
        all.truncate(all.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1));
        all
    }

    /// Counts from the lowest value to the highest, and the value at the lower edge of the first bin: bin `i` covers
    /// `start + i * width ..= start + (i + 1) * width`.
    pub fn values(&self) -> (Vec<u64>, f64) {
        let all = self
            .negative
            .iter()
            .rev()
            .chain(&self.positive)
            .copied()
            .collect();
        (all, -self.width() * BINS as f64)
    }

    /// Values in bins that lie outside of `low..high` as a whole.
    pub fn outside(&self, low: f64, high: f64) -> u64 {
        let w = self.width();
        let beyond = |side: &[u64], limit: f64| -> u64 {
            let bins = side.iter().enumerate();
            bins.filter(|(i, _)| *i as f64 * w >= limit.max(w))
                .map(|(_, n)| n)
                .sum()
        };
        beyond(&self.positive, high) + beyond(&self.negative, -low)
    }
}
