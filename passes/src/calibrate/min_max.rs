//! Min-max: the smallest and the largest value (`minmax`).

/// Smallest and largest of the values seen, with their number.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Extremes {
    /// Smallest value; +infinity before the first.
    pub min: f32,
    /// Largest value; -infinity before the first.
    pub max: f32,
    /// Number of values.
    pub count: u64,
}

impl Default for Extremes {
    fn default() -> Self {
        Extremes {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            count: 0,
        }
    }
}

impl Extremes {
    /// Those of `x`; `None` if a value is NaN or infinite.
    pub fn of(x: &[f32]) -> Option<Extremes> {
        let mut e = Extremes {
            count: x.len() as u64,
            ..Extremes::default()
        };
        let mut finite = true;
        for v in x {
            e.min = if *v < e.min { *v } else { e.min };
            e.max = if *v > e.max { *v } else { e.max };
            finite &= v.abs() < f32::INFINITY;
        }
        finite.then_some(e)
    }

    /// Those of both.
    pub fn merge(&mut self, other: &Extremes) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
    }

    /// The largest magnitude; 0 if there is no value.
    pub fn magnitude(&self) -> f32 {
        if self.count == 0 {
            0.0
        } else {
            self.max.max(-self.min)
        }
    }
}
