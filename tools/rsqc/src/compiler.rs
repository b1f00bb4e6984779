//! The compiler as a library: import, passes, plan, machine code, artifact.

use crate::error::Failure;
use crate::executor::{CalibSamples, CompiledExecutor};
use crate::template::TEMPLATE;
use rsqc_artifact::manifest as pb;
use rsqc_backend::{Backend, Code, Plan, build_plan};
use rsqc_ir::Module;
use rsqc_onnx::error::escape_path;
use rsqc_onnx::{DimSpec, ImportOptions};
use rsqc_passes::manager::{ManagerOptions, PassManager, Report};
use rsqc_passes::pass::{Env, Samples};
use rsqc_passes::scheme::Scheme;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Levels of `--target cpu`, weakest first.
pub const CPU_LEVELS: [&str; 4] = ["portable", "avx2", "avxvnni", "avx512vnni"];

/// What to compile for and how.
pub struct CompileOptions {
    /// Scheme with its recipe.
    pub scheme: Scheme,
    /// Overrides of symbolic dims by name.
    pub dims: BTreeMap<String, DimSpec>,
    /// Instruction set levels, weakest first.
    pub levels: Vec<String>,
    /// Verification, numeric checks, dumps.
    pub manager: ManagerOptions,
    /// Calibration data: texts, `.npz` files, folders of `.npz` and `.npy`.
    pub calib: Vec<PathBuf>,
    /// The `tokenizer.json` for calibration texts.
    pub tokenizer: Option<PathBuf>,
}

impl CompileOptions {
    /// A scheme for this machine's best level only: what runs in this process.
    pub fn native(scheme: Scheme) -> Result<Self, Failure> {
        let forced = rsqc_runtime::cpu::level_from_env().map_err(|e| Failure::error(e.to_string()))?;
        let level = forced.unwrap_or_else(rsqc_runtime::cpu::best_level);
        Ok(CompileOptions {
            scheme,
            dims: BTreeMap::new(),
            levels: vec![level.name().to_string()],
            manager: ManagerOptions::default(),
            calib: Vec::new(),
            tokenizer: None,
        })
    }
}

/// Phases of a compilation, for progress and timing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Reading the model.
    Import,
    /// Graph rewrites.
    Passes,
    /// Kernel selection, weight packing.
    Plan,
    /// Machine code.
    Codegen,
    /// Self-test vectors.
    Selftest,
    /// The file.
    Write,
}

impl Stage {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Import => "import",
            Stage::Passes => "passes",
            Stage::Plan => "plan",
            Stage::Codegen => "codegen",
            Stage::Selftest => "selftest",
            Stage::Write => "write",
        }
    }
}

/// Times of the stages so far; tells a listener when one begins.
pub struct Clock<'a> {
    listener: &'a mut dyn FnMut(Stage),
    current: Option<(Stage, Instant)>,
    /// Stages in order with their wall times.
    pub times: Vec<(Stage, Duration)>,
}

impl<'a> Clock<'a> {
    /// A clock with a listener.
    pub fn new(listener: &'a mut dyn FnMut(Stage)) -> Self {
        Clock {
            listener,
            current: None,
            times: Vec::new(),
        }
    }
    /// Begins a stage; ends the one before.
    pub fn begin(&mut self, s: Stage) {
        self.end();
        (self.listener)(s);
        self.current = Some((s, Instant::now()));
    }
    /// Ends the current stage.
    pub fn end(&mut self) {
        if let Some((s, t)) = self.current.take() {
            self.times.push((s, t.elapsed()));
        }
    }
}

/// Reads an ONNX model.
pub fn import(path: &Path, dims: &BTreeMap<String, DimSpec>) -> Result<Module, Failure> {
    Ok(rsqc_onnx::import(path, &ImportOptions { dims: dims.clone() })?)
}

/// Runs the scheme's pipeline: from imported to lowered. Calibration data is opened if the scheme needs any.
pub fn lower(
    m: &mut Module,
    file: &Path,
    o: &CompileOptions,
    backend: &dyn Backend,
) -> Result<Report, Failure> {
    let samples = match (o.scheme.needs_samples(), o.calib.is_empty()) {
        (None, _) => None,
        (Some(why), true) => {
            return Err(Failure::error(format!(
                "{}: {why} needs calibration data\n  help: give --calib PATH: an .npz, or a folder of .npz or .npy, with \
                 arrays named as the model's inputs; or a text, with --tokenizer FILE",
                escape_path(file)
            )));
        }
        (Some(_), false) => Some(CalibSamples::open(&o.calib, o.tokenizer.as_deref(), m)?),
    };
    for what in samples.iter().flat_map(CalibSamples::ignored) {
        eprintln!("note: calibration data: {what} is no input of the model and is ignored");
    }
    lower_with(m, file, o, backend, samples.as_ref().map(|s| s as &dyn Samples))
}

/// The same with the given samples.
pub fn lower_with(
    m: &mut Module,
    file: &Path,
    o: &CompileOptions,
    backend: &dyn Backend,
    samples: Option<&dyn Samples>,
) -> Result<Report, Failure> {
    let executor = CompiledExecutor { backend, threads: 0 };
    let env = Env {
        target: backend.target(),
        executor: Some(&executor),
        samples,
        ..Env::default()
    };
    let passes = rsqc_passes::pipeline::pipeline(&o.scheme);
    let mut manager = PassManager::new(env, o.manager.clone()).output(|text| eprintln!("{text}"));
    manager.run(m, &passes).map_err(|d| Failure::from_diag(file, d))
}

/// A compiled model in memory.
pub struct Compiled {
    /// Manifest, complete.
    pub manifest: pb::Manifest,
    /// Machine code.
    pub code: Vec<u8>,
    /// Weight segment.
    pub weights: Arc<Vec<u8>>,
    /// What the passes did.
    pub report: Report,
}

/// Compiles a model file.
pub fn compile(
    path: &Path,
    o: &CompileOptions,
    backend: &dyn Backend,
    clock: &mut Clock<'_>,
) -> Result<Compiled, Failure> {
    clock.begin(Stage::Import);
    let mut m = import(path, &o.dims)?;
    clock.begin(Stage::Passes);
    let report = lower(&mut m, path, o, backend)?;
    assemble(&m, report, path, o, backend, clock)
}

/// From a lowered module to a compiled one; `path` names the model in messages.
pub fn assemble(
    m: &Module,
    report: Report,
    path: &Path,
    o: &CompileOptions,
    backend: &dyn Backend,
    clock: &mut Clock<'_>,
) -> Result<Compiled, Failure> {
    clock.begin(Stage::Plan);
    let mut plan = build_plan(m, backend).map_err(|d| Failure::from_diags(path, &d))?;
    clock.begin(Stage::Codegen);
    let code = backend
        .generate(&plan.kernels, &o.levels)
        .map_err(|d| Failure::from_diag(path, d))?;
    let weights = Arc::new(plan.weight_bytes());
    plan.weights.clear();
    let manifest = manifest(plan, &code, o, &report);
    clock.end();
    Ok(Compiled {
        manifest,
        code: code.blob,
        weights,
        report,
    })
}

fn manifest(plan: Plan, code: &Code, o: &CompileOptions, report: &Report) -> pb::Manifest {
    let mut m = plan.manifest;
    m.producer = format!("rsqc {}", env!("CARGO_PKG_VERSION"));
    m.scheme = o.scheme.name();
    m.recipe = o.scheme.recipe.clone().unwrap_or_default();
    m.levels = o.levels.clone();
    for k in &mut m.kernels {
        let entries = code.entries.get(&k.name).into_iter().flatten();
        k.entries = entries
            .map(|(level, offset)| pb::Entry {
                level: level.clone(),
                offset: *offset,
            })
            .collect();
    }
    m.layers = report
        .layers
        .iter()
        .map(|l| pb::Layer {
            name: l.node.clone(),
            op: l.op.clone(),
            scheme: l.scheme.clone(),
            reason: l.reason.clone(),
            weight_bytes_before: l.bytes_before,
            weight_bytes_after: l.bytes_after,
            extra: l.extra.iter().map(pair).collect(),
            ..Default::default()
        })
        .collect();
    m
}

fn pair((key, value): &(String, String)) -> pb::KeyValue {
    pb::KeyValue {
        key: key.clone(),
        value: value.clone(),
    }
}

impl Compiled {
    /// Loads it into this process.
    pub fn load(self) -> Result<Arc<rsqc_runtime::Model>, Failure> {
        rsqc_runtime::Model::from_parts(self.manifest, &self.code, self.weights)
            .map_err(|e| Failure::error(e.to_string()))
    }

    /// Writes the artifact.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), String> {
        rsqc_artifact::container::write(TEMPLATE, &self.manifest, &self.code, &[&self.weights], out)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }
}

/// Parses one `--dim NAME=N` or `--dim NAME=LO..HI`.
pub fn parse_dim(text: &str) -> Result<(String, DimSpec), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=N or NAME=LO..HI")?;
    let number = |t: &str| -> Result<i64, String> {
        let v: i64 = t
            .trim()
            .parse()
            .map_err(|_| format!("`{}` is not a number", escape_path(Path::new(t))))?;
        if (0..=1 << 40).contains(&v) {
            Ok(v)
        } else {
            Err(format!("{v} is not between 0 and 2^40"))
        }
    };
    let d = match value.split_once("..") {
        None => DimSpec::Fixed(number(value)?),
        Some((lo, hi)) => {
            let (lo, hi) = (number(lo)?, number(hi)?);
            if lo > hi {
                return Err(format!("the range {lo}..{hi} is empty"));
            }
            DimSpec::Range(lo, hi)
        }
    };
    if name.is_empty() {
        return Err("the dimension's name is missing".into());
    }
    Ok((name.into(), d))
}
