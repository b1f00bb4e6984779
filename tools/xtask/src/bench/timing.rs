//! Times of artifacts: what `rsqc bench --kernels --json` prints, several times over, and medians of it.

use super::median;
use crate::error::Error;
use crate::shell;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A step of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The node that it comes from.
    pub node: String,
    /// Nanoseconds.
    pub ns: f64,
    /// Multiply-adds.
    pub macs: f64,
    /// Bytes moved.
    pub bytes: f64,
}

/// An artifact at one shape.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    /// Values of the free symbols.
    pub shape: String,
    /// Milliseconds of a run.
    pub median_ms: f64,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// An artifact at several shapes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Timings(pub Vec<Run>);

impl Timings {
    /// The run of a shape.
    pub fn of(&self, shape: &str) -> Option<&Run> {
        self.0.iter().find(|run| run.shape == shape)
    }

    /// Reads the objects that `rsqc bench` prints: a line for each shape, then one for each of its steps.
    pub fn parse(lines: &[Value]) -> Result<Timings, Error> {
        let mut runs: Vec<Run> = Vec::new();
        for line in lines {
            let number = |key: &str| line[key].as_f64().ok_or_else(|| wrong(&format!("no `{key}`")));
            match (line["median_ms"].as_f64(), runs.last_mut()) {
                (Some(median_ms), _) => runs.push(Run {
                    shape: line["shape"].as_str().unwrap_or_default().into(),
                    median_ms,
                    steps: Vec::new(),
                }),
                (None, Some(run)) => run.steps.push(Step {
                    node: line["node"].as_str().unwrap_or_default().into(),
                    ns: 1e3 * number("us")?,
                    macs: number("macs")?,
                    bytes: number("bytes")?,
                }),
                (None, None) => return Err(wrong("a step before the first shape")),
            }
        }
        Ok(Timings(runs))
    }

    /// The medians of several measurements of one artifact.
    pub fn medians(samples: &[Timings]) -> Result<Timings, Error> {
        let Some(first) = samples.first() else {
            return Ok(Timings::default());
        };
        let mut all = first.clone();
        let differ = || wrong("other shapes or steps than before");
        for (r, run) in all.0.iter_mut().enumerate() {
            let same: Option<Vec<&Run>> = samples.iter().map(|s| s.0.get(r)).collect();
            let same = same.ok_or_else(differ)?;
            run.median_ms = median(same.iter().map(|s| s.median_ms).collect()).ok_or_else(differ)?;
            for (i, step) in run.steps.iter_mut().enumerate() {
                let times: Option<Vec<f64>> = same.iter().map(|s| Some(s.steps.get(i)?.ns)).collect();
                step.ns = times.and_then(median).ok_or_else(differ)?;
            }
        }
        Ok(all)
    }
}

fn wrong(reason: &str) -> Error {
    Error::Output {
        command: "rsqc bench --kernels --json".into(),
        reason: reason.into(),
    }
}

/// What artifacts are made for, and where.
pub struct Target<'a> {
    /// Level of the instruction set.
    pub level: &'a str,
    /// The artifacts' folder.
    pub folder: &'a Path,
}

/// An artifact to time.
pub struct Job {
    /// Name of the model.
    pub model: String,
    /// Scheme.
    pub scheme: String,
    /// The artifact.
    pub artifact: PathBuf,
    /// Shapes, in order.
    pub shapes: Vec<String>,
    /// What each round measured.
    pub samples: Vec<Timings>,
}

impl Job {
    /// Compiles a model.
    pub fn compile(
        rsqc: &Path,
        model: &Path,
        (name, scheme): (&str, &str),
        calib: &Path,
        to: &Target<'_>,
    ) -> Result<Job, Error> {
        let artifact = to.folder.join(format!("{name}-{scheme}.so"));
        let mut command = Command::new(rsqc);
        command.arg("compile").arg(model).args(["--scheme", scheme]);
        if scheme.contains("static") {
            command.arg("--calib").arg(calib);
        }
        let target = format!("cpu:{}", to.level);
        command.args(["--target", &target, "--json", "-o"]).arg(&artifact);
        shell::capture(&mut command)?;
        Ok(Job {
            model: name.into(),
            scheme: scheme.into(),
            artifact,
            shapes: Vec::new(),
            samples: Vec::new(),
        })
    }

    /// Adds shapes that are not there yet.
    pub fn add_shapes<'a>(&mut self, shapes: impl IntoIterator<Item = &'a str>) {
        for shape in shapes {
            if !self.shapes.iter().any(|known| known == shape) {
                self.shapes.push(shape.into());
            }
        }
    }

    /// Measures all shapes once more.
    pub fn sample(&mut self, rsqc: &Path, threads: usize, seconds: f64) -> Result<(), Error> {
        let mut command = Command::new(rsqc);
        command.arg("bench").arg(&self.artifact);
        command.args(["--shapes", &self.shapes.join(","), "--kernels", "--json"]);
        command.args([
            "--threads",
            &threads.to_string(),
            "--seconds",
            &seconds.to_string(),
        ]);
        self.samples
            .push(Timings::parse(&shell::json_lines(&mut command)?)?);
        Ok(())
    }

    /// The medians of all rounds.
    pub fn timings(&self) -> Result<Timings, Error> {
        Timings::medians(&self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(ms: f64, us: f64) -> Vec<Value> {
        vec![
            json!({"shape": "1x16", "median_ms": ms}),
            json!({"shape": "1x16", "node": "a", "us": us, "macs": 10.0, "bytes": 4.0}),
            json!({"shape": "1x128", "median_ms": 9.0}),
        ]
    }

    #[test]
    fn reads_shapes_with_their_steps() {
        let timings = Timings::parse(&lines(2.0, 3.0)).expect("complete");
        let run = timings.of("1x16").expect("measured");
        assert_eq!(run.median_ms, 2.0);
        assert_eq!(
            run.steps,
            [Step {
                node: "a".into(),
                ns: 3000.0,
                macs: 10.0,
                bytes: 4.0
            }]
        );
        assert_eq!(timings.of("1x128").expect("measured").steps, []);
        assert!(Timings::parse(&lines(2.0, 3.0)[1..]).is_err());
        let broken = [
            lines(1.0, 1.0)[0].clone(),
            json!({"node": "a", "us": 1.0, "macs": 0.0}),
        ];
        assert!(
            matches!(Timings::parse(&broken), Err(Error::Output { reason, .. }) if reason.contains("bytes"))
        );
    }

    #[test]
    fn medians_are_of_each_figure() {
        let sample = |ms, us| Timings::parse(&lines(ms, us)).expect("complete");
        let all = [sample(1.0, 30.0), sample(3.0, 10.0), sample(2.0, 20.0)];
        let timings = Timings::medians(&all).expect("equal steps");
        assert_eq!(
            (timings.0[0].median_ms, timings.0[0].steps[0].ns),
            (2.0, 20_000.0)
        );
        let other = Timings(vec![timings.0[0].clone()]);
        assert!(Timings::medians(&[sample(1.0, 1.0), other]).is_err());
    }
}
