//! Whole models: the examples of this repository, and MiniLM where the folder of larger models is known.

use super::Tools;
use super::limits::Limits;
use super::timing::{Job, Step, Target};
use crate::error::Error;
use crate::shell;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Batch sizes of the examples.
const BATCHES: &[&str] = &["1", "32"];
/// Batch and sequence of MiniLM.
pub const SEQUENCES: &[&str] = &["1x16", "1x128", "1x512", "8x128"];
const SCHEMES: &[&str] = &["none", "w8a8"];

/// MiniLM and its calibration data, where `RSQC_SHARED` has it.
pub fn minilm() -> Option<(PathBuf, PathBuf)> {
    let folder = PathBuf::from(std::env::var_os("RSQC_SHARED")?).join("models/minilm");
    let model = folder.join("model.onnx");
    model.is_file().then(|| (model, folder.join("calib.npz")))
}

/// An artifact for each model and scheme.
pub fn jobs(root: &Path, tools: &Tools, target: &Target<'_>) -> Result<Vec<Job>, Error> {
    let mut models: Vec<(String, PathBuf, &[&str])> = Vec::new();
    for path in shell::example_models(root)? {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        models.push((name, path, BATCHES));
    }
    match minilm() {
        Some((path, _)) => models.push(("minilm".into(), path, SEQUENCES)),
        None => eprintln!("minilm left out: RSQC_SHARED names no folder with models/minilm"),
    }
    let mut jobs = Vec::new();
    for (name, path, shapes) in models {
        for scheme in SCHEMES {
            eprintln!("compiling {name} {scheme}");
            let mut job = Job::compile(&tools.rsqc, &path, (&name, scheme), Path::new(""), target)?;
            job.add_shapes(shapes.iter().copied());
            jobs.push(job);
        }
    }
    Ok(jobs)
}

/// A model at one shape, measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// Model.
    pub model: String,
    /// Scheme.
    pub scheme: String,
    /// Values of the free symbols.
    pub shape: String,
    /// Milliseconds.
    pub ms: f64,
    /// Millions of multiply-adds.
    pub mmacs: f64,
    /// The time of the multiply-adds at the peak of the scheme's kind, on so many threads, as a share of the time
    /// taken; and that kind.
    pub share: Option<(f64, &'static str)>,
}

/// The rows of a measured model.
pub fn rows(job: &Job, limits: &Limits, threads: usize) -> Result<Vec<Row>, Error> {
    let unit = if job.scheme == "none" { "f32" } else { "int8" };
    let mut rows = Vec::new();
    for run in job.timings()?.0 {
        let macs: f64 = run.steps.iter().map(|s: &Step| s.macs).sum();
        let floor_ms = |gmacs: f64| macs / (gmacs * threads as f64) / 1e6;
        rows.push(Row {
            model: job.model.clone(),
            scheme: job.scheme.clone(),
            shape: run.shape,
            ms: run.median_ms,
            mmacs: macs / 1e6,
            share: limits
                .peak(unit)
                .map(|peak| (floor_ms(peak) / run.median_ms, unit)),
        });
    }
    Ok(rows)
}

impl Row {
    /// The row as one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "model": self.model, "scheme": self.scheme, "shape": self.shape, "median_ms": self.ms,
            "mmacs": self.mmacs, "share": self.share.map(|s| s.0), "limit": self.share.map(|s| s.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::tests::limits;
    use super::super::timing::{Run, Timings};
    use super::*;

    #[test]
    fn floor_is_all_products_at_the_peak() {
        let step = |macs| Step {
            node: String::new(),
            ns: 1.0,
            macs,
            bytes: 1.0,
        };
        let run = Run {
            shape: "1".into(),
            median_ms: 1.0,
            steps: vec![step(8e7), step(0.0), step(2e7)],
        };
        let job = |scheme: &str| Job {
            model: "m".into(),
            scheme: scheme.into(),
            artifact: PathBuf::new(),
            shapes: vec![],
            samples: vec![Timings(vec![run.clone()])],
        };
        let row = |scheme, threads| {
            rows(&job(scheme), &limits(), threads)
                .expect("complete")
                .remove(0)
        };
        assert_eq!(row("w8a8", 1).mmacs, 100.0);
        assert_eq!(row("w8a8", 1).share, Some((0.5, "int8")));
        assert_eq!(row("w8a8", 2).share, Some((0.25, "int8")));
        assert_eq!(row("none", 1).share, Some((2.0, "f32")));
    }
}
