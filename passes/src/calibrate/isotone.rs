//! Isotone: the scale at which most rows keep their largest element (`isotone`), for logits and what feeds an argmax.
//!
//! As in openppl ppq (`observer/order.py`). With `l1 >= l2` the two largest magnitudes of a row and `Q` the largest code, the
//! row keeps its largest element at scales between `l2 / (Q - 0.51)` (above it `l2` does not reach the largest code) and
//! `2 (l1 - l2)` (below it the two differ by half a step). The scale that lies in most rows' intervals is chosen, the
//! smallest of those. Rows run along the last axis.
//!
//! Memory is fixed: ends of intervals are counted on a grid of 128 points an octave, lower ends rounded up and upper ends
//! down, so that an interval never grows; a row whose interval holds no grid point does not count.

/// Grid points: the upper 16 bits of positive floats.
const POINTS: usize = 0x7f80;

/// Ends of intervals by grid point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intervals {
    /// Intervals that begin at a point less those that ended before it.
    change: Vec<i64>,
}

impl Default for Intervals {
    fn default() -> Self {
        Intervals {
            change: vec![0; POINTS + 1],
        }
    }
}

/// The interval of a row as grid points, both inclusive.
fn interval(row: &[f32], largest_code: f64) -> Option<(usize, usize)> {
    let (mut l1, mut l2) = (0f32, 0f32);
    for v in row {
        let a = v.abs();
        if a > l1 {
            (l1, l2) = (a, l1);
        } else if a > l2 {
            l2 = a;
        }
    }
    let low = (f64::from(l2) / (largest_code - 0.51)) as f32;
    let high = (2.0 * (f64::from(l1) - f64::from(l2))) as f32;
    if l1 <= 0.0 || low >= high || !high.is_finite() {
        return None;
    }
    let up = (low.to_bits() as usize).div_ceil(1 << 16);
    // A scale of 0 is none.
    let up = up.max(1);
    let down = (high.to_bits() >> 16) as usize;
    (up <= down).then_some((up, down))
}

impl Intervals {
    /// Counts the rows of `x`.
    pub fn add(&mut self, x: &[f32], row: usize, largest_code: f64) {
        for r in x.chunks(row.max(1)) {
            if let Some((from, to)) = interval(r, largest_code) {
                self.change[from] += 1;
                self.change[to + 1] -= 1;
            }
        }
    }

    /// Adds the counts of others.
    pub fn merge(&mut self, other: &Intervals) {
        self.change
            .iter_mut()
            .zip(&other.change)
            .for_each(|(a, b)| *a += b);
    }

    /// The chosen scale; `None` if no row has an interval.
    pub fn scale(&self) -> Option<f64> {
        let (mut open, mut best) = (0i64, (0i64, 0usize));
        for (i, c) in self.change.iter().enumerate() {
            open += c;
            if open > best.0 {
                best = (open, i);
            }
        }
        (best.0 > 0).then(|| f64::from(f32::from_bits((best.1 as u32) << 16)))
    }
}
