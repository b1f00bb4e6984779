//! `rsqc opt`.

use super::print_line;
use crate::error::Failure;
use crate::{compiler, open, output};
use rsqc_ir::Module;
use rsqc_onnx::error::escape_path;
use rsqc_passes::manager::{ManagerOptions, PassManager};
use rsqc_passes::pass::Env;
use std::path::{Path, PathBuf};

/// Run passes over a model and print the result as .rsq text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  rsqc opt model.onnx --passes fold-constants,merge-equal --time
  rsqc opt model.onnx --scheme w8a8 --print-after form-regions
  rsqc opt graph.rsq --passes recognize-norms --diff")]
pub struct Args {
    /// An ONNX model or an .rsq file.
    input: PathBuf,
    /// Passes in order, with options: a,b:x=1:y=2. Default: the pipeline of --scheme.
    #[arg(long)]
    passes: Option<String>,
    /// Scheme whose pipeline runs if --passes is absent.
    #[arg(long, default_value = "none", conflicts_with = "passes")]
    scheme: String,
    /// Print the module after this pass, or after all.
    #[arg(long, value_name = "NAME|all")]
    print_after: Vec<String>,
    /// Print what each pass changed.
    #[arg(long)]
    diff: bool,
    /// Print a table of passes with edits and times.
    #[arg(long)]
    time: bool,
    /// Stop after N edits (to bisect a wrong result).
    #[arg(long, value_name = "N")]
    stop_after_patch: Option<u64>,
    /// Verify the module after each pass.
    #[arg(long)]
    verify_each: bool,
    /// Evaluate before and after each pass and enforce its declared effect.
    #[arg(long)]
    check_numeric: bool,
    /// Write the result here instead of stdout.
    #[arg(short, long, value_name = "FILE.rsq")]
    output: Option<PathBuf>,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let mut m = load(&a.input)?;
    let passes = match &a.passes {
        Some(text) => rsqc_passes::registry::parse(text).map_err(|d| Failure::usage(d.to_string()))?,
        None => rsqc_passes::pipeline::pipeline(&open::parse_scheme(&a.scheme)?),
    };
    let options = ManagerOptions {
        verify_each: a.verify_each,
        check_numeric: a.check_numeric,
        print_after: a.print_after.clone(),
        diff: a.diff,
        stop_after: a.stop_after_patch,
        ..ManagerOptions::default()
    };
    let mut manager = PassManager::new(Env::default(), options).output(|text| eprint!("{text}"));
    let report = manager
        .run(&mut m, &passes)
        .map_err(|d| Failure::from_diag(&a.input, d))?;
    if a.time {
        eprint!("{}", report.table());
    }
    match &a.output {
        None => print_line(rsqc_ir::text::print(&m).trim_end()),
        Some(out) => output::write_text_form(&m, out, &a.input),
    }
}

fn load(path: &Path) -> Result<Module, Failure> {
    if path.extension().is_none_or(|e| e != "rsq") {
        return compiler::import(path, &Default::default());
    }
    let name = escape_path(path);
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::error(format!("{name}: cannot be read: {}", e.kind())))?;
    let data = output::data_file(path);
    let parsed = if data.exists() {
        let bytes = rsqc_onnx::source::map_file(&data)
            .map_err(|e| Failure::error(format!("{}: {e}", escape_path(&data))))?;
        rsqc_ir::text::parse_with_data(&text, std::sync::Arc::new(bytes.to_vec()))
    } else {
        rsqc_ir::text::parse(&text)
    };
    parsed.map_err(|e| Failure::error(format!("{name}: {e}")))
}
