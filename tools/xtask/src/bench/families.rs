//! THE list of what `bench` times: kernel families, with the model and scheme that hold them, and the shapes.

use super::limits::Limits;
use super::models::Name;
use super::timing::{Step, Timings};
use serde_json::{Value, json};

/// Which steps of a run are the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steps {
    /// Those with multiply-adds whose node has this text in its name.
    Products(&'static str),
    /// Those without multiply-adds whose node has this text in its name.
    Others(&'static str),
}

/// A kernel family.
pub struct Family {
    /// What the kernel does.
    pub title: &'static str,
    /// The model that holds it.
    pub model: Name,
    /// The model's scheme.
    pub scheme: &'static str,
    /// The kernel's steps.
    pub steps: Steps,
    /// What follows the shape: columns and depth of a product, or what a row is.
    pub size: &'static str,
    /// Values of the free symbols.
    pub shapes: &'static [&'static str],
    /// The kind of multiply-add.
    pub unit: &'static str,
}

const UP: Steps = Steps::Products("up");
const DOWN: Steps = Steps::Products("down");
const ALL: Steps = Steps::Products("");
const M: &[&str] = &["1", "4", "8", "16", "128", "512"];
const LARGE: &[&str] = &["16", "128", "512"];

/// All families.
#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    Family { title: "int8 product, requantized with a static scale", model: Name::Chain, scheme: "w8a8-static", steps: UP, size: " x 1536 x 384", shapes: M, unit: "int8" },
    Family { title: "int8 product, requantized by row", model: Name::Chain, scheme: "w8a8", steps: UP, size: " x 1536 x 384", shapes: M, unit: "int8" },
    Family { title: "int8 product, residual, f32 result", model: Name::FeedForward, scheme: "w8a8", steps: DOWN, size: " x 384 x 1536", shapes: M, unit: "int8" },
    Family { title: "int8 product, GELU, static scale", model: Name::FeedForward, scheme: "w8a8-static", steps: UP, size: " x 1536 x 384", shapes: LARGE, unit: "int8" },
    Family { title: "int8 product, GELU, requantized by row", model: Name::FeedForward, scheme: "w8a8", steps: UP, size: " x 1536 x 384", shapes: LARGE, unit: "int8" },
    Family { title: "int8 product, static scale, beyond caches", model: Name::Wide, scheme: "w8a8-static", steps: UP, size: " x 11008 x 4096", shapes: &["512"], unit: "int8" },
    Family { title: "int8 product, by row, beyond caches", model: Name::Wide, scheme: "w8a8", steps: UP, size: " x 11008 x 4096", shapes: &["512"], unit: "int8" },
    Family { title: "int8 product, f32 result, beyond caches", model: Name::Wide, scheme: "w8a8", steps: DOWN, size: " x 4096 x 11008", shapes: &["512"], unit: "int8" },
    Family { title: "f32 rows times int8 weights", model: Name::Chain, scheme: "w8a16", steps: UP, size: " x 1536 x 384", shapes: M, unit: "f32" },
    Family { title: "f32 product", model: Name::Chain, scheme: "none", steps: UP, size: " x 1536 x 384", shapes: M, unit: "f32" },
    Family { title: "f32 attention", model: Name::Attention, scheme: "none", steps: ALL, size: ", 12 heads of 32", shapes: &["1x16", "1x128", "1x512", "8x128"], unit: "f32" },
    Family { title: "norm, quantized by row", model: Name::FeedForward, scheme: "w8a8", steps: Steps::Others("up"), size: " rows of 384", shapes: LARGE, unit: "f32" },
    Family { title: "GELU alone", model: Name::Gelu, scheme: "none", steps: Steps::Others(""), size: " rows of 1536", shapes: LARGE, unit: "f32" },
];

impl Steps {
    fn hold(self, step: &Step) -> bool {
        match self {
            Steps::Products(text) => step.macs > 0.0 && step.node.contains(text),
            Steps::Others(text) => step.macs == 0.0 && step.bytes > 0.0 && step.node.contains(text),
        }
    }
}

/// A family at one shape, measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the kernel does.
    pub title: &'static str,
    /// Shape and size.
    pub shape: String,
    /// How many steps of a run it is; the figures are of one, on average.
    pub steps: usize,
    /// Microseconds.
    pub us: f64,
    /// Billions of multiply-adds a second; 0 for none.
    pub gmacs: f64,
    /// Billions of bytes moved a second.
    pub gb_per_s: f64,
    /// The least time by the machine's limits, as a share of the time taken, and which limit that is.
    pub share: Option<(f64, String)>,
}

impl Family {
    /// The measured rows of this family. A family whose steps do not occur has none.
    pub fn rows(&self, timings: &Timings, limits: &Limits) -> Vec<Row> {
        let row = |shape: &&str| self.row(shape, timings, limits);
        self.shapes.iter().filter_map(row).collect()
    }

    fn row(&self, shape: &str, timings: &Timings, limits: &Limits) -> Option<Row> {
        let all = &timings.of(shape)?.steps;
        let steps: Vec<&Step> = all.iter().filter(|s| self.steps.hold(s)).collect();
        let sum = |f: &dyn Fn(&Step) -> f64| steps.iter().map(|s| f(s)).sum::<f64>();
        let (ns, macs, bytes) = (sum(&|s| s.ns), sum(&|s| s.macs), sum(&|s| s.bytes));
        if ns <= 0.0 {
            return None;
        }
        let working_set = all.iter().map(|s| s.bytes).sum();
        let bound = limits.bound(self.unit, macs, bytes, working_set);
        Some(Row {
            title: self.title,
            shape: format!("{shape}{}", self.size),
            steps: steps.len(),
            us: ns / 1e3 / steps.len() as f64,
            gmacs: macs / ns,
            gb_per_s: bytes / ns,
            share: bound.map(|b| (b.ns / ns, b.by)),
        })
    }
}

impl Row {
    /// The row as one JSON object.
    pub fn json(&self) -> Value {
        let share = self.share.as_ref();
        json!({
            "kernel": self.title, "shape": self.shape, "steps": self.steps, "us": self.us, "gmac_per_s": self.gmacs,
            "gb_per_s": self.gb_per_s, "share": share.map(|s| s.0), "limit": share.map(|s| s.1.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::tests::limits;
    use super::super::timing::Run;
    use super::*;

    fn step(node: &str, macs: f64, ns: f64) -> Step {
        Step {
            node: node.into(),
            ns,
            macs,
            bytes: 1000.0,
        }
    }

    fn timings(steps: Vec<Step>) -> Timings {
        let run = Run {
            shape: "128".into(),
            median_ms: 1.0,
            steps,
        };
        Timings(vec![run])
    }

    #[test]
    fn takes_the_steps_of_the_family() {
        let steps = vec![
            step("up0.product", 0.0, 5.0),
            step("up0.product", 20_000.0, 150.0),
            step("down0.product", 20_000.0, 900.0),
            step("up1.product", 20_000.0, 250.0),
        ];
        let rows = FAMILIES[0].rows(&timings(steps), &limits());
        let [row] = rows.as_slice() else {
            panic!("one shape is measured: {rows:?}")
        };
        assert_eq!((row.steps, row.us, row.gmacs, row.gb_per_s), (2, 0.2, 100.0, 5.0));
        assert_eq!(row.share, Some((0.5, "int8 peak".into())));
        assert_eq!(row.shape, "128 x 1536 x 384");
    }

    #[test]
    fn has_no_row_without_its_steps() {
        let rows = FAMILIES[0].rows(&timings(vec![step("gelu", 0.0, 5.0)]), &limits());
        assert!(rows.is_empty(), "{rows:?}");
    }

    #[test]
    fn norms_are_bound_by_reading() {
        let family = FAMILIES
            .iter()
            .find(|f| f.title.starts_with("norm"))
            .expect("listed");
        let rows = family.rows(&timings(vec![step("up0.product", 0.0, 40.0)]), &limits());
        let share = rows[0].share.clone().expect("a limit");
        assert_eq!(share, (0.25, "L1 reading".into()));
    }
}
