//! `rsqc compile`.

use super::print_line;
use crate::compiler::{self, CPU_LEVELS, Clock, CompileOptions, Compiled, Stage, parse_dim};
use crate::data::calib::is_text;
use crate::error::Failure;
use crate::{open, output, selftest};
use rsqc_backend::{Backend, TextForm};
use rsqc_onnx::error::escape_path;
use rsqc_passes::manager::ManagerOptions;
use rsqc_passes::pass::LayerReport;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// What `--emit` can write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Emit {
    /// The artifact.
    So,
    /// The lowered module as text.
    Rsq,
    /// LLVM IR of all kernels.
    LlvmIr,
    /// Assembly of all kernels.
    Asm,
    /// PTX of all kernels.
    Ptx,
    /// The quantized model as ONNX with QuantizeLinear and DequantizeLinear.
    QdqOnnx,
}

/// Compile an ONNX model into one self-contained shared library.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  rsqc compile model.onnx --scheme w8a8
  rsqc compile model.onnx --scheme none -o model.so --target cpu:avx512vnni
  rsqc compile model.onnx --dim sequence=128 --dim batch=1..64 -o model.so
  rsqc compile model.onnx --scheme w8a8-static --calib calib.npz
  rsqc compile model.onnx --scheme w8a8-static --calib text.txt --tokenizer tokenizer.json
  rsqc compile model.onnx --scheme w8a8 --emit asm -o model.s")]
pub struct Args {
    /// The ONNX model.
    model: PathBuf,
    /// Quantization scheme, or a recipe file (.toml); `rsqc schemes` lists them.
    #[arg(long, default_value = "none")]
    scheme: String,
    /// Calibration data for static scales: an .npz, a folder of .npz or .npy, or a UTF-8 text (.txt), of which every line
    /// that is not empty is a sample; lines longer than the model's or tokenizer's limit, or 512 tokens, are cut into pieces.
    /// Repeatable.
    #[arg(long, value_name = "PATH")]
    calib: Vec<PathBuf>,
    /// Tokenizer for calibration texts: a Hugging Face tokenizer.json.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Output file; default: the model's name with .so (or the emitted kind's) ending, in the current folder.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// cpu = all levels in one file; cpu:LEVEL,... = these; cpu:native = this machine's only.
    #[arg(long, default_value = "cpu")]
    target: String,
    /// Fixes or bounds a symbolic dimension. Repeatable.
    #[arg(long, value_name = "NAME=N|NAME=LO..HI")]
    dim: Vec<String>,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Emit::So)]
    emit: Emit,
    /// Verify the module after each pass.
    #[arg(long)]
    verify_each: bool,
    /// Evaluate before and after each pass and enforce its declared effect.
    #[arg(long)]
    check_numeric: bool,
    /// Model name recorded in the artifact; default: the file's name.
    #[arg(long, value_name = "NAME")]
    export_name: Option<String>,
    /// One JSON object with the summary.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let options = options(a)?;
    let backend = backend_of(&a.target)?;
    if a.emit == Emit::Ptx || a.emit == Emit::QdqOnnx {
        let name = if a.emit == Emit::Ptx { "ptx" } else { "qdq-onnx" };
        return Err(Failure::unsupported(format!(
            "--emit {name} is not supported by this version for target {}",
            a.target
        )));
    }
    let out = a
        .output
        .clone()
        .unwrap_or_else(|| default_output(&a.model, a.emit));
    check_output(&out, &a.model)?;
    match a.emit {
        Emit::So => artifact(a, &options, backend.as_ref(), &out),
        _ => text(a, &options, backend.as_ref(), &out),
    }
}

fn options(a: &Args) -> Result<CompileOptions, Failure> {
    let scheme = open::parse_scheme(&a.scheme)?;
    let texts = a.calib.iter().any(|p| !p.is_dir() && is_text(p));
    if a.tokenizer.is_some() && !texts {
        eprintln!("note: no calibration text is given; --tokenizer is ignored");
    }
    if !a.calib.is_empty() && scheme.needs_samples().is_none() {
        eprintln!(
            "note: scheme {} needs no calibration data; --calib is ignored",
            scheme.name()
        );
    }
    let mut dims = std::collections::BTreeMap::new();
    for d in &a.dim {
        let (name, value) = parse_dim(d).map_err(|why| Failure::usage(format!("--dim {d}: {why}")))?;
        dims.insert(name, value);
    }
    Ok(CompileOptions {
        scheme,
        dims,
        levels: levels(&a.target)?,
        manager: ManagerOptions {
            verify_each: a.verify_each,
            check_numeric: a.check_numeric,
            ..ManagerOptions::default()
        },
        calib: a.calib.clone(),
        tokenizer: a.tokenizer.clone().filter(|_| texts),
    })
}

fn backend_of(target: &str) -> Result<Box<dyn Backend>, Failure> {
    let name = target.split(':').next().unwrap_or_default();
    if name == "cuda" {
        return Err(Failure::unsupported(
            "target cuda is not supported by this version; use --target cpu",
        ));
    }
    crate::backends::find(name).ok_or_else(|| Failure::usage(format!("unknown target `{name}`: cpu or cuda")))
}

/// The levels of `cpu`, `cpu:native`, `cpu:LEVEL,...`, weakest first.
fn levels(target: &str) -> Result<Vec<String>, Failure> {
    let wanted = match target.split_once(':') {
        None => return Ok(CPU_LEVELS.map(String::from).to_vec()),
        Some((_, list)) => list,
    };
    if wanted == "native" {
        let level = rsqc_runtime::cpu::best_level();
        return Ok(vec![level.name().to_string()]);
    }
    let names: Vec<&str> = wanted.split(',').collect();
    if let Some(bad) = names.iter().find(|n| !CPU_LEVELS.contains(n)) {
        return Err(Failure::usage(format!(
            "unknown CPU level `{bad}`: {}, or native",
            CPU_LEVELS.join(", ")
        )));
    }
    Ok(CPU_LEVELS
        .iter()
        .filter(|l| names.contains(l))
        .map(|l| (*l).to_string())
        .collect())
}

fn default_output(model: &Path, emit: Emit) -> PathBuf {
    let ending = match emit {
        Emit::So => "so",
        Emit::Rsq => "rsq",
        Emit::LlvmIr => "ll",
        Emit::Asm => "s",
        Emit::Ptx => "ptx",
        Emit::QdqOnnx => "qdq.onnx",
    };
    PathBuf::from(model.file_name().unwrap_or_default()).with_extension(ending)
}

/// Complains about an unwritable output before any work is done.
fn check_output(out: &Path, model: &Path) -> Result<(), Failure> {
    let mut seen = false;
    // A dry run of the real thing that stops before the rename.
    let result = output::write_atomically(out, &[model], |_| {
        seen = true;
        Err(String::new())
    });
    if seen { Ok(()) } else { result }
}

fn artifact(a: &Args, o: &CompileOptions, backend: &dyn Backend, out: &Path) -> Result<(), Failure> {
    let bar = progress();
    let mut listener = |s: Stage| bar.set_message(s.name());
    let mut clock = Clock::new(&mut listener);
    let mut compiled = compiler::compile(&a.model, o, backend, &mut clock)?;
    let stem = a
        .model
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    compiled.manifest.model_name = a.export_name.clone().unwrap_or(stem);
    clock.begin(Stage::Selftest);
    let tested = selftest::add_vectors(&mut compiled)?;
    clock.begin(Stage::Write);
    output::write_atomically(out, &[&a.model], |w| compiled.write(w))?;
    clock.end();
    let times = clock.times.clone();
    bar.finish_and_clear();
    summary(a, &compiled, out, tested, &times)
}

fn text(a: &Args, o: &CompileOptions, backend: &dyn Backend, out: &Path) -> Result<(), Failure> {
    let mut m = compiler::import(&a.model, &o.dims)?;
    open::print_notes(&compiler::lower(&mut m, &a.model, o, backend)?);
    if a.emit == Emit::Rsq {
        return output::write_text_form(&m, out, &a.model);
    }
    let plan = rsqc_backend::build_plan(&m, backend).map_err(|d| Failure::from_diags(&a.model, &d))?;
    let form = if a.emit == Emit::Asm {
        TextForm::Asm
    } else {
        TextForm::LlvmIr
    };
    let text = backend
        .text(&plan.kernels, &o.levels, form)
        .map_err(|d| Failure::from_diag(&a.model, d))?;
    output::write_atomically(out, &[&a.model], |w| {
        w.write_all(text.as_bytes()).map_err(|e| e.kind().to_string())
    })
}

/// A spinner on a terminal, nothing elsewhere.
fn progress() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

fn summary(
    a: &Args,
    c: &Compiled,
    out: &Path,
    tested: selftest::Tested,
    times: &[(Stage, std::time::Duration)],
) -> Result<(), Failure> {
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let (before, after) = (size(&a.model), size(out));
    let float: Vec<_> = c.report.layers.iter().filter(|l| l.scheme == "float").collect();
    let quantized = c.report.layers.len() - float.len();
    let steps = c.manifest.blocks.iter().map(|b| b.steps.len()).sum::<usize>();
    let total: f64 = times.iter().map(|t| t.1.as_secs_f64()).sum();
    if a.json {
        let stages: serde_json::Map<String, serde_json::Value> = times
            .iter()
            .map(|(s, t)| (format!("{}_s", s.name()), t.as_secs_f64().into()))
            .collect();
        let line = serde_json::json!({
            "output": out.display().to_string(), "scheme": c.manifest.scheme, "bytes_before": before, "bytes_after": after,
            "layers": c.report.layers.len(), "layers_quantized": quantized,
            "layers_float": float.iter().map(|l| serde_json::json!({"node": l.node, "reason": l.reason})).collect::<Vec<_>>(),
            "steps": steps, "kernels": c.manifest.kernels.len(), "selftest": tested.to_string(),
            "seconds": total, "stages": stages,
        });
        open::print_notes(&c.report);
        return print_line(&line.to_string());
    }
    eprintln!("{} -> {}", escape_path(&a.model), escape_path(out));
    eprintln!(
        "  bytes      {before} -> {after} ({:.2}x smaller)",
        before as f64 / after.max(1) as f64
    );
    eprintln!(
        "  scheme     {}: {quantized} of {} layers quantized",
        c.manifest.scheme,
        c.report.layers.len()
    );
    if let Some(line) = calibration_line(&c.report.layers) {
        eprintln!("  static     {line}");
    }
    for l in float.iter().take(20) {
        eprintln!("  float      {}: {}", l.node, l.reason);
    }
    if float.len() > 20 {
        eprintln!(
            "  float      and {} more (rsqc inspect lists them)",
            float.len() - 20
        );
    }
    eprintln!(
        "  kernels    {} kernels in {steps} steps, levels {}",
        c.manifest.kernels.len(),
        c.manifest.levels.join(" ")
    );
    eprintln!("  self-test  {tested}");
    let parts: Vec<String> = times
        .iter()
        .map(|(s, t)| format!("{} {:.2}", s.name(), t.as_secs_f64()))
        .collect();
    eprintln!("  time       {total:.2} s: {}", parts.join(", "));
    open::print_notes(&c.report);
    Ok(())
}

/// How many layers have static scales, from how many samples, and which one clips most.
fn calibration_line(layers: &[LayerReport]) -> Option<String> {
    // Attention says it of queries, keys and values apart: `q.clipped`.
    let values = |l: &LayerReport, key: &str| -> Vec<String> {
        let named = l.extra.iter().filter(|(k, _)| k.rsplit('.').next() == Some(key));
        named.map(|(_, v)| v.clone()).collect()
    };
    let clipped = |l: &LayerReport| -> Option<f64> {
        let shares = values(l, "clipped").into_iter().filter_map(|v| v.parse().ok());
        shares.reduce(f64::max)
    };
    let all: Vec<(&LayerReport, f64)> = layers.iter().filter_map(|l| Some((l, clipped(l)?))).collect();
    let samples = values(all.first()?.0, "samples").into_iter().next()?;
    let most = all.iter().fold(all[0], |m, x| if x.1 > m.1 { *x } else { m });
    let clipped = if most.1 > 0.0 {
        format!("{} clips most: {:.3e} of its values", most.0.node, most.1)
    } else {
        "no value is clipped".into()
    };
    Some(format!(
        "{} layers calibrated with {samples} samples; {clipped}",
        all.len()
    ))
}
