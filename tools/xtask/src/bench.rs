//! `cargo xtask bench`: latency of the example models, and of other runtimes beside them.
//!
//! Without options: compile each example with `none` and `w8a8` in the release build and print the medians.
//! With `--peers FOLDER` the script `peers.py` in that folder (default: `bench` below `RSQC_SHARED`) times
//! other runtimes in interleaved rounds; it needs onnxruntime in the Python of `RSQC_PYTHON`.

use crate::error::Error;
use crate::shell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Batch sizes, separated by commas
    #[arg(long, default_value = "1,32")]
    shapes: String,
    /// Threads of the artifact
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Times other runtimes too, by the `peers.py` of this folder
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "")]
    peers: Option<OsString>,
}

/// The script that times other runtimes, if its folder is given or known from the environment.
fn peers_script(folder: &OsString) -> Result<PathBuf, Error> {
    let folder = if folder.is_empty() {
        let shared = std::env::var_os("RSQC_SHARED")
            .ok_or_else(|| Error::Usage("--peers needs a folder, or RSQC_SHARED".into()))?;
        PathBuf::from(shared).join("bench")
    } else {
        PathBuf::from(folder)
    };
    let script = folder.join("peers.py");
    if script.is_file() {
        Ok(script)
    } else {
        Err(Error::Usage(format!("no file {}", script.display())))
    }
}

fn own_table(rsqc: &Path, model: &Path, artifacts: &[(&str, PathBuf)], args: &Args) -> Result<(), Error> {
    let name = model.file_stem().unwrap_or_default().to_string_lossy();
    for (scheme, artifact) in artifacts {
        let mut command = Command::new(rsqc);
        command
            .arg("bench")
            .arg(artifact)
            .args(["--shapes", &args.shapes, "--json"]);
        for line in shell::json_lines(command.args(["--threads", &args.threads.to_string()]))? {
            let field = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
            let shape = line["shape"].as_str().unwrap_or("?");
            println!(
                "{name:8} {scheme:8} {shape:>8} {:12.4} {:12.4}",
                field("median_ms"),
                field("p95_ms")
            );
        }
    }
    Ok(())
}

fn peers(rsqc: &Path, script: &Path, model: &Path, artifact: &Path, args: &Args) -> Result<(), Error> {
    let mut command = Command::new(shell::python());
    command
        .arg(script)
        .arg("--model")
        .arg(model)
        .arg("--calib")
        .arg(model.with_file_name("calib.npz"));
    command.args(["--shapes", &args.shapes, "--threads", &args.threads.to_string()]);
    command.args(["--peers", "ort-fp32,ort-dyn,ort-qdq", "--baseline", "ort-fp32"]);
    // Its own folder for each model: it keeps quantized models there.
    command.arg("--work").arg(artifact.with_extension("peers"));
    let own = format!("'{}' bench '{}'", rsqc.display(), artifact.display());
    shell::run(command.args(["--rsqc", &own]))
}

/// Builds, compiles and times.
pub fn run(root: &Path, args: &Args) -> Result<(), Error> {
    let script = args.peers.as_ref().map(peers_script).transpose()?;
    shell::run(shell::cargo(root).args(["build", "--quiet", "--release", "--package", "rsqc"]))?;
    let rsqc = shell::target_dir(root)?.join("release/rsqc");
    let scratch = shell::scratch(root, "bench")?;
    let onnxruntime = shell::works(Command::new(shell::python()).args(["-c", "import onnx, onnxruntime"]));
    println!(
        "{:8} {:8} {:>8} {:>12} {:>12}",
        "model", "scheme", "batch", "median ms", "p95 ms"
    );
    for model in shell::example_models(root)? {
        let mut artifacts = Vec::new();
        for scheme in ["none", "w8a8"] {
            let name = model.file_stem().unwrap_or_default().to_string_lossy();
            let artifact = scratch.join(format!("{name}-{scheme}.so"));
            let mut command = Command::new(&rsqc);
            command
                .arg("compile")
                .arg(&model)
                .args(["--scheme", scheme, "--json", "-o"])
                .arg(&artifact);
            shell::capture(&mut command)?;
            artifacts.push((scheme, artifact));
        }
        own_table(&rsqc, &model, &artifacts, args)?;
        match (&script, artifacts.last()) {
            (Some(script), Some((_, artifact))) if onnxruntime => {
                peers(&rsqc, script, &model, artifact, args)?;
            }
            (Some(_), _) => {
                println!("peers left out: no onnx and onnxruntime for the Python in use (RSQC_PYTHON)")
            }
            (None, _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_folder_without_the_script() {
        let outcome = peers_script(&OsString::from("no/such/folder"));
        assert!(matches!(outcome, Err(Error::Usage(text)) if text.contains("peers.py")));
    }
}
