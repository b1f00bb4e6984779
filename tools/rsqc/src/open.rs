//! Opens whatever can run: artifacts, and models compiled in this process or run by the reference evaluator.

use crate::artifact::ArtifactProgram;
use crate::compiler::{self, Clock, CompileOptions};
use crate::error::Failure;
use crate::inprocess::SessionProgram;
use crate::program::{ModuleProgram, Program};
use rsqc_ir::eval::ReferenceExecutor;
use rsqc_passes::manager::Report;
use rsqc_passes::scheme::Scheme;
use std::path::{Path, PathBuf};

/// What runs a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum BackendName {
    /// Compiled code.
    Cpu,
    /// The reference evaluator.
    Reference,
}

/// How to open a model; an artifact knows its scheme and backend.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Scheme.
    pub scheme: String,
    /// What runs it.
    pub backend: BackendName,
    /// Threads; 0 = one a physical core.
    pub threads: usize,
    /// Calibration data for schemes that need it.
    pub calib: Vec<PathBuf>,
}

static REFERENCE: ReferenceExecutor = ReferenceExecutor;

/// Opens an artifact or a model.
pub fn open(path: &Path, o: &OpenOptions) -> Result<Box<dyn Program>, Failure> {
    if crate::cli::is_artifact(path) {
        return Ok(Box::new(ArtifactProgram::open(path, o.threads)?));
    }
    let scheme = parse_scheme(&o.scheme)?;
    let options = CompileOptions {
        calib: o.calib.clone(),
        ..CompileOptions::native(scheme)?
    };
    let backend = crate::backends::find("cpu").expect("the cpu backend is listed");
    match o.backend {
        BackendName::Cpu => {
            let compiled = compiler::compile(path, &options, backend.as_ref(), &mut Clock::new(&mut |_| {}))?;
            print_notes(&compiled.report);
            Ok(Box::new(SessionProgram::new(&compiled.load()?, o.threads)?))
        }
        BackendName::Reference => {
            let mut m = compiler::import(path, &options.dims)?;
            // The float model runs as imported; a quantized one as its lowered regions, which the evaluator executes.
            if !options.scheme.is_float() {
                print_notes(&compiler::lower(&mut m, path, &options, backend.as_ref())?);
            }
            Ok(Box::new(ModuleProgram::new(&m, &REFERENCE)?))
        }
    }
}

/// Prints what passes noted: nothing that they decide is silent.
pub fn print_notes(report: &Report) {
    for p in &report.passes {
        for n in &p.notes {
            eprintln!("note: {}: {n}", p.name);
        }
    }
}

/// Parses `--scheme`: a name, or a recipe file.
pub fn parse_scheme(text: &str) -> Result<Scheme, Failure> {
    let at = Path::new(text);
    let parsed = if text.ends_with(".toml") {
        let recipe = std::fs::read_to_string(at).map_err(|e| {
            Failure::error(format!(
                "{}: cannot be read: {}",
                rsqc_onnx::error::escape_path(at),
                e.kind()
            ))
        })?;
        Scheme::from_recipe(&rsqc_onnx::error::escape_path(at), &recipe)
    } else {
        Scheme::parse(text)
    };
    parsed.map_err(|d| match d.blame {
        rsqc_ir::diag::Blame::Unsupported => Failure::unsupported(d.to_string()),
        // A name is an argument, a recipe is input.
        _ if text.ends_with(".toml") => Failure::error(d.to_string()),
        _ => Failure::usage(d.to_string()),
    })
}
