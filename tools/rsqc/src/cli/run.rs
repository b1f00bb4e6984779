//! `rsqc run`.

use super::is_artifact;
use crate::data::inputs::{self, load_pb};
use crate::error::Failure;
use crate::open::{self, BackendName, OpenOptions};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Run a model or an artifact on given inputs.
#[derive(clap::Args)]
#[command(
    after_help = "Inputs are a folder of input_0.pb, input_1.pb, ... (ONNX TensorProto), or one .npz with arrays \
named as the inputs. Outputs likewise.

Examples:
  rsqc run model.so --inputs in.npz --outputs out.npz
  rsqc run model.onnx --scheme w8a8 --inputs folder --outputs folder_out
  rsqc run model.onnx --backend reference --inputs in.npz --outputs out.npz"
)]
pub struct Args {
    /// An ONNX model, or an artifact made by `rsqc compile`.
    #[arg(required_unless_present = "batch")]
    model: Option<PathBuf>,
    /// Input folder or .npz.
    #[arg(long, required_unless_present = "batch", value_name = "IN")]
    inputs: Option<PathBuf>,
    /// Output folder or .npz.
    #[arg(long, required_unless_present = "batch", value_name = "OUT")]
    outputs: Option<PathBuf>,
    /// What runs a model: compiled code, or the reference evaluator.
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Scheme for a model (an artifact has its own).
    #[arg(long, default_value = "none")]
    scheme: String,
    /// Calibration data for a scheme with static scales: an .npz, or a folder of .npz or .npy. Repeatable.
    #[arg(long, value_name = "PATH")]
    calib: Vec<PathBuf>,
    /// Threads; 0 = one a physical core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Run many cases: one JSON object a line, {"id", "model", "inputs": [..], "outputs", "backend", "scheme"}.
    #[arg(long, value_name = "LIST.jsonl", conflicts_with_all = ["model", "inputs", "outputs"])]
    batch: Option<PathBuf>,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    if let Some(list) = &a.batch {
        return batch(list);
    }
    let (Some(model), Some(input), Some(output)) = (&a.model, &a.inputs, &a.outputs) else {
        return Err(Failure::usage("a model, --inputs and --outputs are needed"));
    };
    if is_artifact(model) && a.backend == BackendName::Reference {
        return Err(Failure::usage(
            "an artifact holds compiled code only: --backend reference takes a model",
        ));
    }
    let options = OpenOptions {
        scheme: a.scheme.clone(),
        backend: a.backend,
        threads: a.threads,
        calib: a.calib.clone(),
    };
    let mut program = open::open(model, &options)?;
    let arrays = inputs::load(input, program.inputs())?;
    let out = program.run(&arrays)?;
    let named: Vec<_> = program.outputs().iter().cloned().zip(out).collect();
    Ok(inputs::save(output, &named)?)
}

#[derive(Deserialize)]
struct Case {
    id: String,
    model: PathBuf,
    inputs: Vec<PathBuf>,
    outputs: PathBuf,
    #[serde(default = "cpu")]
    backend: String,
    #[serde(default = "none")]
    scheme: String,
}

fn cpu() -> String {
    "cpu".into()
}
fn none() -> String {
    "none".into()
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    status: &'a str,
    message: String,
}

fn batch(list: &Path) -> Result<(), Failure> {
    let name = rsqc_onnx::error::escape_path(list);
    let text = std::fs::read_to_string(list)
        .map_err(|e| Failure::error(format!("{name}: cannot be read: {}", e.kind())))?;
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let case: Case =
            serde_json::from_str(line).map_err(|e| Failure::error(format!("{name}: line {}: {e}", n + 1)))?;
        let (status, message) = match one_case(&case) {
            Ok(()) => ("ok", String::new()),
            Err(f) if f.status == 3 => ("unsupported", f.text),
            Err(f) => ("error", f.text),
        };
        let answer = serde_json::to_string(&Answer {
            id: &case.id,
            status,
            message,
        })
        .expect("strings serialize");
        super::print_line(&answer)?;
        let _ = std::io::stdout().flush();
    }
    Ok(())
}

fn one_case(case: &Case) -> Result<(), Failure> {
    let backend = match case.backend.as_str() {
        "cpu" => BackendName::Cpu,
        "reference" => BackendName::Reference,
        other => {
            return Err(Failure::usage(format!(
                "unknown backend `{other}`: cpu or reference"
            )));
        }
    };
    let options = OpenOptions {
        scheme: case.scheme.clone(),
        backend,
        threads: 1,
        calib: Vec::new(),
    };
    let mut program = open::open(&case.model, &options)?;
    let arrays = case
        .inputs
        .iter()
        .map(|p| load_pb(p))
        .collect::<Result<Vec<_>, _>>()?;
    inputs::bind(program.inputs(), &arrays).map_err(Failure::error)?;
    let out = program.run(&arrays)?;
    let named: Vec<_> = program.outputs().iter().cloned().zip(out).collect();
    Ok(inputs::save(&case.outputs, &named)?)
}
