//! What is kept of one activation while samples stream by, and the range that a calibrator makes of it.

use super::histogram::Histogram;
use super::isotone::Intervals;
use super::min_max::Extremes;
use super::moving_average::MovingAverage;
use super::{entropy, mse, percentile};
use crate::scheme::Calibrator;
use rsqc_ir::quant::QuantType;

/// A value that is NaN or infinite was observed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotFinite;

/// A chosen range and what it cuts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Range {
    /// Lowest value that has a code of its own.
    pub low: f64,
    /// Highest.
    pub high: f64,
    /// Share of the observed values that lie outside, in whole bins.
    pub clipped: f64,
}

/// Statistics of one activation; their memory does not depend on how much is observed.
#[derive(Clone, Debug)]
pub struct Observer {
    calibrator: Calibrator,
    /// Extremes of all values.
    pub extremes: Extremes,
    histogram: Option<Histogram>,
    average: MovingAverage,
    intervals: Option<Intervals>,
}

impl Observer {
    /// An observer for a calibrator.
    pub fn new(calibrator: Calibrator) -> Self {
        Observer {
            calibrator,
            extremes: Extremes::default(),
            // The extremes cut nothing; everyone else needs the distribution, if only to say what is cut.
            histogram: (calibrator != Calibrator::MinMax).then(Histogram::default),
            average: MovingAverage::default(),
            intervals: (calibrator == Calibrator::Isotone).then(Intervals::default),
        }
    }

    /// Takes whole rows of `row` elements (the last axis) of the current sample.
    pub fn observe(&mut self, x: &[f32], row: usize) -> Result<(), NotFinite> {
        let e = Extremes::of(x).ok_or(NotFinite)?;
        self.extremes.merge(&e);
        self.average.add(&e);
        if let Some(h) = &mut self.histogram {
            h.add(x, e.magnitude());
        }
        if let Some(i) = &mut self.intervals {
            i.add(x, row, 127.0);
        }
        Ok(())
    }

    /// Ends the current sample.
    pub fn end_sample(&mut self) {
        if let Calibrator::Ema { momentum } = self.calibrator {
            self.average.end_sample(momentum);
        }
    }

    /// The range for codes of this type. Where a calibrator has nothing to go by (too few different values), the extremes.
    pub fn range(&self, codes: &QuantType) -> Range {
        let (min, max) = match self.extremes.count {
            0 => (0.0, 0.0),
            _ => (f64::from(self.extremes.min), f64::from(self.extremes.max)),
        };
        let (low, high) = match (&self.histogram, codes.zero) {
            (None, true) => (min, max),
            (None, false) => both(min, max),
            (Some(h), true) => self.with_zero(h, (min, max)),
            (Some(h), false) => both_signs(self.magnitude(h, 127, (min, max))),
        };
        // A code for 0 always exists: padding and masks rely on it.
        let (low, high) = (low.min(0.0), high.max(0.0));
        let outside = self.histogram.as_ref().map_or(0, |h| h.outside(low, high));
        Range {
            low,
            high,
            clipped: outside as f64 / self.extremes.count.max(1) as f64,
        }
    }

    /// Range for codes with a zero point.
    fn with_zero(&self, h: &Histogram, (min, max): (f64, f64)) -> (f64, f64) {
        let inside = |(lo, hi): (f64, f64)| (lo.max(min), hi.min(max));
        let one_sign = min >= 0.0 || max <= 0.0;
        match self.calibrator {
            Calibrator::Ema { .. } => self.average.range().unwrap_or((min, max)),
            Calibrator::Percentile { p } if !one_sign => inside(percentile::two_sided(h, p)),
            Calibrator::Mse if !one_sign => mse::two_sided(h, min, max),
            _ => {
                let a = self.magnitude(h, 255, (min, max));
                inside((-a, a))
            }
        }
    }

    /// The largest magnitude that the calibrator keeps, never above the largest observed; `levels` is the largest code.
    fn magnitude(&self, h: &Histogram, levels: usize, (min, max): (f64, f64)) -> f64 {
        let largest = max.max(-min);
        let chosen = match self.calibrator {
            Calibrator::MinMax => None,
            Calibrator::Ema { .. } => self.average.range().map(|(lo, hi)| hi.max(-lo)),
            Calibrator::Percentile { p } => Some(percentile::magnitude(h, p)),
            Calibrator::Entropy => {
                let bins = h.magnitudes();
                entropy::choose(&bins, levels + 1).map(|(i, _)| i as f64 * h.width())
            }
            Calibrator::Mse => {
                let bins = h.magnitudes();
                mse::choose(&bins, levels).map(|i| (i as f64 + 0.5) * h.width())
            }
            Calibrator::Isotone => {
                let scale = self.intervals.as_ref().and_then(Intervals::scale);
                // Such a scale may well reach beyond the largest value.
                return scale.map_or(largest, |s| s * levels as f64);
            }
        };
        chosen.unwrap_or(largest).min(largest)
    }

    /// Adds the values of another observer of the same calibrator. A moving average has an order and cannot be merged:
    /// `false`, and nothing happens.
    pub fn merge(&mut self, other: &Observer) -> bool {
        if self.calibrator != other.calibrator || matches!(self.calibrator, Calibrator::Ema { .. }) {
            return false;
        }
        self.extremes.merge(&other.extremes);
        if let (Some(a), Some(b)) = (&mut self.histogram, &other.histogram) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.intervals, &other.intervals) {
            a.merge(b);
        }
        true
    }
}

fn both_signs(a: f64) -> (f64, f64) {
    (-a, a)
}

fn both(min: f64, max: f64) -> (f64, f64) {
    both_signs(max.max(-min).max(0.0))
}

/// Scale and zero point of a range, in f32: symmetric codes `max / Q`, others `(high - low) / 255`; 1 for an empty range.
pub fn parameters(r: &Range, codes: &QuantType) -> (f32, i8) {
    let (lowest, highest) = codes.code_range();
    // 1/s must stay finite.
    let usable = |s: f64| {
        if s == 0.0 {
            1.0
        } else {
            (s as f32).max(f32::MIN_POSITIVE)
        }
    };
    if !codes.zero {
        return (usable(r.high.max(-r.low) / f64::from(highest)), 0);
    }
    let s = usable((r.high - r.low) / f64::from(highest - lowest));
    let z = f64::from(lowest) - r.low / f64::from(s);
    (
        s,
        z.round_ties_even().clamp(f64::from(lowest), f64::from(highest)) as i8,
    )
}
