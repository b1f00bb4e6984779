//! `rsqc eval`.

use super::print_line;
use crate::error::Failure;
use crate::evaluate::{self, Task};
use crate::open::{self, BackendName, OpenOptions};
use std::path::PathBuf;

/// Measure accuracy on evaluation data, alone or against another model.
#[derive(clap::Args)]
#[command(after_help = "Tasks:
  outputs    arrays named as the inputs, axis 0 counts samples; needs --against: SNR, cosine, largest difference
  embedding  a_* and b_* inputs, ref_emb_a, ref_emb_b, ref_cos: Spearman, mean cosine
  classify   arrays named as the inputs and `labels`: top-1, top-5; with --against, agreement
  lm         `input_ids`: perplexity, next-token accuracy; with --against, KL divergence

Examples:
  rsqc eval model.so --data eval.npz --task classify --against model.onnx
  rsqc eval model.so --data eval.npz --task embedding --json")]
pub struct Args {
    /// An ONNX model, or an artifact made by `rsqc compile`.
    model: PathBuf,
    /// Evaluation data (.npz).
    #[arg(long)]
    data: PathBuf,
    /// What is measured.
    #[arg(long, value_enum)]
    task: Task,
    /// The model to compare with, run in float.
    #[arg(long, value_name = "MODEL.onnx")]
    against: Option<PathBuf>,
    /// What runs the --against model (and MODEL, if it is one).
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Scheme for MODEL if it is an ONNX model.
    #[arg(long, default_value = "none")]
    scheme: String,
    /// Calibration data for a scheme with static scales: an .npz, or a folder of .npz or .npy. Repeatable.
    #[arg(long, value_name = "PATH")]
    calib: Vec<PathBuf>,
    /// Threads; 0 = one a physical core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Look at the first N samples only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let options = OpenOptions {
        scheme: a.scheme.clone(),
        backend: a.backend,
        threads: a.threads,
        calib: a.calib.clone(),
    };
    let mut model = open::open(&a.model, &options)?;
    let against = match &a.against {
        None => None,
        Some(p) => Some(open::open(
            p,
            &OpenOptions {
                scheme: "none".into(),
                calib: Vec::new(),
                ..options
            },
        )?),
    };
    let figures = evaluate::evaluate(
        a.task,
        model.as_mut(),
        against,
        &a.data,
        a.limit.unwrap_or(usize::MAX),
    )?;
    if a.json {
        let map: serde_json::Map<String, serde_json::Value> = figures
            .iter()
            .map(|(k, v)| (k.clone(), json_number(*v)))
            .collect();
        return print_line(&serde_json::Value::Object(map).to_string());
    }
    for (k, v) in &figures {
        print_line(&format!("{k:<28} {v:.6}"))?;
    }
    Ok(())
}

/// JSON has no infinity and no NaN: they become the texts "inf", "-inf" and "nan".
fn json_number(v: f64) -> serde_json::Value {
    match serde_json::Number::from_f64(v) {
        Some(n) => n.into(),
        None if v.is_nan() => "nan".into(),
        None if v > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}
