//! Artifacts as programs: checked in full, loaded, and called through their C interface.

use crate::data::Array;
use crate::data::inputs::Spec;
use crate::error::Failure;
use crate::inprocess::from_runtime;
use crate::metrics::percentile;
use crate::program::Program;
use crate::specs::{self, elem_type};
use rsqc_artifact::manifest::{self as pb, step};
use rsqc_artifact::{Level, Manifest};
use rsqc_onnx::error::escape_path;
use rsqc_runtime::dylib::{Artifact, ArtifactSession};
use rsqc_runtime::{RuntimeError, SessionOptions, Tensor, TensorView};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A loaded artifact with a session.
pub struct ArtifactProgram {
    path: PathBuf,
    threads: usize,
    artifact: Arc<Artifact>,
    session: ArtifactSession,
    inputs: Vec<Spec>,
    outputs: Vec<String>,
}

/// A step's median time in a profile.
#[derive(Clone, Debug)]
pub struct StepProfile {
    /// Flattened step number.
    pub index: u32,
    /// Kernel, or the step's kind.
    pub kernel: String,
    /// Source node.
    pub node: String,
    /// Median nanoseconds.
    pub ns: f64,
    /// Multiply-accumulates.
    pub macs: f64,
    /// Bytes moved.
    pub bytes: f64,
}

impl ArtifactProgram {
    /// Checks every byte of the file, then loads it, at the machine's best level or that of `RSQC_CPU_LEVEL`.
    pub fn open(path: &Path, threads: usize) -> Result<Self, Failure> {
        Self::open_at(path, threads, None)
    }

    fn open_at(path: &Path, threads: usize, level: Option<Level>) -> Result<Self, Failure> {
        if !crate::cli::is_artifact(path) {
            let why = if path.exists() {
                "is not an artifact made by rsqc"
            } else {
                "there is no such file"
            };
            return Err(Failure::error(format!("{}: {why}", escape_path(path))));
        }
        let fail = |e: RuntimeError| Failure::error(format!("{}: {e}", escape_path(path)));
        let artifact = Artifact::open_at(path, level.map(Level::name)).map_err(fail)?;
        let session = ArtifactSession::with_threads(&artifact, threads).map_err(fail)?;
        let m = artifact.manifest();
        let (inputs, outputs) = (
            specs::inputs(m),
            m.outputs.iter().map(|o| o.name.clone()).collect(),
        );
        Ok(ArtifactProgram {
            path: path.into(),
            threads,
            artifact,
            session,
            inputs,
            outputs,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// Levels of the artifact that this machine runs, weakest first.
    pub fn levels(&self) -> Vec<Level> {
        let named = self.manifest().levels.iter().filter_map(|l| Level::from_name(l));
        named.filter(|l| rsqc_runtime::cpu::supports(*l)).collect()
    }

    /// Loads it again at another level.
    pub fn set_level(&mut self, level: Level) -> Result<(), Failure> {
        *self = Self::open_at(&self.path, self.threads, Some(level))?;
        Ok(())
    }

    fn fail(&self, e: RuntimeError) -> Failure {
        Failure::error(format!("{}: {e}", escape_path(&self.path)))
    }

    /// Runs once and says how long the call took.
    pub fn run_timed(&mut self, inputs: &[Array]) -> Result<Duration, Failure> {
        let dims = dims(inputs);
        let views = views(inputs, &dims);
        let start = Instant::now();
        let result = self.session.run(&views);
        let time = start.elapsed();
        result.map_err(|e| self.fail(e))?;
        Ok(time)
    }

    /// Replays the inputs of a stored vector.
    pub fn run_test(&mut self, t: &pb::SelfTest) -> Result<Vec<Tensor>, Failure> {
        let dims: Vec<Vec<i64>> = t
            .inputs
            .iter()
            .map(|i| i.dims.iter().map(|d| *d as i64).collect())
            .collect();
        let views: Vec<TensorView<'_>> = t
            .inputs
            .iter()
            .zip(&dims)
            .map(|(i, dims)| TensorView {
                elem: i.elem(),
                dims,
                data: &i.data,
            })
            .collect();
        self.session.run(&views).map_err(|e| self.fail(e))
    }

    /// Median step times over `runs` runs (at least one) of a session of its own.
    pub fn profile(&mut self, inputs: &[Array], runs: u32) -> Result<Vec<StepProfile>, Failure> {
        let options = SessionOptions {
            threads: self.threads,
            ..SessionOptions::default()
        };
        let mut session = ArtifactSession::new(&self.artifact, &options, true).map_err(|e| self.fail(e))?;
        let dims = dims(inputs);
        let views = views(inputs, &dims);
        let mut steps: Vec<Vec<f64>> = Vec::new();
        for run in 0..=runs.max(1) {
            session.run(&views).map_err(|e| self.fail(e))?;
            let times = session.step_times().map_err(|e| self.fail(e))?;
            // The first run places buffers and touches memory: it warms up.
            let Some(run) = run.checked_sub(1) else { continue };
            for t in times {
                let step = t.step as usize;
                steps.resize(steps.len().max(step + 1), Vec::new());
                // A step of a loop runs several times in one run.
                steps[step].resize(run as usize + 1, 0.0);
                steps[step][run as usize] += t.ns as f64;
            }
        }
        let median = |ns: &mut Vec<f64>| {
            ns.sort_by(f64::total_cmp);
            if ns.is_empty() { 0.0 } else { percentile(ns, 0.5) }
        };
        let ns: Vec<f64> = steps.iter_mut().map(median).collect();
        Ok(self.describe(inputs, &ns))
    }

    fn describe(&self, inputs: &[Array], ns: &[f64]) -> Vec<StepProfile> {
        let m = self.manifest();
        let env = crate::data::inputs::bind(&self.inputs, inputs).unwrap_or_default();
        let symbols: Vec<Option<i64>> = m
            .symbols
            .iter()
            .map(|s| env.get(&rsqc_ir::Symbol::new(&s.name)).copied())
            .collect();
        let values = rsqc_artifact::expr::evaluate(&m.exprs, &symbols);
        let value = |id: Option<u32>| match id.and_then(|i| values.get(i as usize)) {
            Some(rsqc_artifact::expr::Value::Known(v)) => *v as f64,
            _ => 0.0,
        };
        let steps = m.blocks.iter().flat_map(|b| &b.steps);
        let row = |(i, (s, ns)): (usize, (&pb::Step, &f64))| {
            let (kernel, node, macs, bytes) = match &s.kind {
                Some(step::Kind::Launch(l)) => {
                    (l.name.clone(), l.node.clone(), value(l.macs), value(l.bytes))
                }
                Some(step::Kind::Copy(c)) => ("copy".into(), String::new(), 0.0, 2.0 * value(Some(c.bytes))),
                Some(step::Kind::Check(c)) => ("check".into(), c.node.clone(), 0.0, 0.0),
                _ => ("other".into(), String::new(), 0.0, 0.0),
            };
            StepProfile {
                index: i as u32,
                kernel,
                node,
                ns: *ns,
                macs,
                bytes,
            }
        };
        steps.zip(ns).enumerate().map(row).collect()
    }
}

impl Program for ArtifactProgram {
    fn inputs(&self) -> &[Spec] {
        &self.inputs
    }
    fn outputs(&self) -> &[String] {
        &self.outputs
    }
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>, Failure> {
        let dims = dims(inputs);
        let out = self
            .session
            .run(&views(inputs, &dims))
            .map_err(|e| self.fail(e))?;
        Ok(out.into_iter().map(from_runtime).collect())
    }
}

fn dims(inputs: &[Array]) -> Vec<Vec<i64>> {
    inputs
        .iter()
        .map(|a| a.shape.iter().map(|d| *d as i64).collect())
        .collect()
}

fn views<'a>(inputs: &'a [Array], dims: &'a [Vec<i64>]) -> Vec<TensorView<'a>> {
    inputs
        .iter()
        .zip(dims)
        .map(|(a, dims)| TensorView {
            elem: elem_type(a.ty),
            dims,
            data: &a.data,
        })
        .collect()
}
