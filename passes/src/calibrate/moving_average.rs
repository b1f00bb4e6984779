//! Moving average of the samples' extremes (`ema`): the first sample's are taken as they are, then
//! `m <- (1 - a) m + a x` with momentum `a`. The result depends on the order of the samples, and values may lie outside of
//! it; how a sample is split does not matter, since a sample's extremes are complete before they count.

use super::min_max::Extremes;

/// Averages in f64, and the extremes of the sample that is under way.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct MovingAverage {
    average: Option<(f64, f64)>,
    current: Extremes,
}

impl MovingAverage {
    /// Takes a part of the current sample.
    pub fn add(&mut self, e: &Extremes) {
        self.current.merge(e);
    }

    /// Ends the current sample; one without values does not count.
    pub fn end_sample(&mut self, momentum: f64) {
        let e = std::mem::take(&mut self.current);
        if e.count == 0 {
            return;
        }
        let (lo, hi) = (f64::from(e.min), f64::from(e.max));
        self.average = Some(match self.average {
            None => (lo, hi),
            Some((a, b)) => {
                let mix = |m: f64, x: f64| (1.0 - momentum) * m + momentum * x;
                (mix(a, lo), mix(b, hi))
            }
        });
    }

    /// The averages of the lowest and highest values.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.average
    }
}
