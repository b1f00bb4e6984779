//! Other runtimes beside rsqc, by the script `peers.py`: one process each, in interleaved rounds.
//!
//! Each scheme of rsqc takes part as a program of its own (`rsqc bench --on-request`), so that its times lie among those of
//! the others.

use super::timing::{Job, Target};
use super::{Args, Tools, report, whole};
use crate::error::Error;
use crate::shell;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The runtimes; what is not installed is left out by the script, which says so.
const PEERS: &str = "ort-fp32,ort-dyn,ov-f32,ov-int8";
/// Schemes of rsqc; the first is what all others are compared with.
const SCHEMES: &[&str] = &["w8a8", "w8a8+attn8", "w8a8-static", "none"];

/// The script that times other runtimes, if its folder is given or known from the environment.
pub fn script(folder: &OsString) -> Result<PathBuf, Error> {
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

/// What the script's `--ext` calls for a scheme of rsqc: its name, and the command with places for shape and threads.
fn program(rsqc: &Path, job: &Job) -> String {
    format!(
        "{}='{}' bench '{}' --shapes {{b}}x{{s}} --threads {{threads}} --on-request",
        own(&job.scheme),
        rsqc.display(),
        job.artifact.display()
    )
}

/// The name of a scheme of rsqc in the table.
fn own(scheme: &str) -> String {
    format!("rsqc-{scheme}")
}

/// Compiles MiniLM, runs the script, and returns what it measured; its own table goes to standard error.
pub fn run(root: &Path, tools: &Tools, script: &Path, level: &str, args: &Args) -> Result<Value, Error> {
    let (model, calib) = whole::minilm().ok_or_else(|| {
        Error::Usage("--peers compares models/minilm of RSQC_SHARED, which is not there".into())
    })?;
    // Kept between runs: making the peers' quantized models takes minutes.
    let work = shell::target_dir(root)?.join("xtask/peers");
    let result = tools.scratch.join("peers.json");
    let target = Target {
        level,
        folder: &tools.scratch,
    };
    let mut command = Command::new(shell::python());
    command
        .arg(script)
        .arg("--model")
        .arg(&model)
        .arg("--calib")
        .arg(&calib);
    command.arg("--work").arg(&work).arg("--json").arg(&result);
    command.args(["--shapes", &whole::SEQUENCES.join(","), "--peers", PEERS]);
    command.args([
        "--threads",
        &args.threads.to_string(),
        "--rounds",
        &args.rounds.to_string(),
    ]);
    command.args(["--baseline", &own(SCHEMES[0])]);
    for scheme in SCHEMES {
        eprintln!("compiling minilm {scheme}");
        let job = Job::compile(&tools.rsqc, &model, ("minilm-peers", scheme), &calib, &target)?;
        command.arg("--ext").arg(program(&tools.rsqc, &job));
    }
    eprintln!("{}", shell::capture(command.args(&args.peers_arguments))?);
    let text = std::fs::read_to_string(&result).map_err(|source| Error::File {
        path: result.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))
}

/// The table of what the script measured, compared with rsqc's first scheme.
pub fn markdown(value: &Value) -> Result<String, Error> {
    table(value, &own(SCHEMES[0]))
}

fn wrong(reason: &str) -> Error {
    Error::Output {
        command: "peers.py".into(),
        reason: reason.into(),
    }
}

/// The table of what the script measured: milliseconds, and how many times as long as `reference` that is.
fn table(value: &Value, reference: &str) -> Result<String, Error> {
    let rows = value["rows"].as_array().ok_or_else(|| wrong("no `rows`"))?;
    let (mut peers, mut shapes): (Vec<(&str, u64)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut times = BTreeMap::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().ok_or_else(|| wrong(&format!("no `{key}`")));
        let threads = row["threads"].as_u64().ok_or_else(|| wrong("no `threads`"))?;
        let (peer, shape) = ((text("peer")?, threads), text("shape")?);
        let ms = row["median_ms"].as_f64().ok_or_else(|| wrong("no `median_ms`"))?;
        if !peers.contains(&peer) {
            peers.push(peer);
        }
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
        times.insert((peer, shape), ms);
    }
    let cell = |peer: (&str, u64), shape: &str| match times.get(&(peer, shape)) {
        None => "-".into(),
        Some(ms) => match times.get(&((reference, peer.1), shape)) {
            Some(own) => format!("{} ({:.2}x)", report::number(*ms), ms / own),
            None => report::number(*ms),
        },
    };
    let cells = |peer: &(&str, u64)| {
        let info = &value["info"][format!("{}@{}", peer.0, peer.1)];
        let figure = |key: &str| info[key].as_f64().map_or("-".into(), report::number);
        let version = info["version"].as_str().unwrap_or_default();
        let mut cells = vec![format!("{} {version}", peer.0).trim().into(), peer.1.to_string()];
        cells.extend([figure("load_ms"), figure("peak_mb")]);
        cells.extend(shapes.iter().map(|shape| cell(*peer, shape)));
        cells
    };
    let titles = shapes.iter().map(|shape| format!("{shape} ms"));
    let mut heads = vec![
        "runtime".into(),
        "threads".into(),
        "load ms".into(),
        "peak RSS MB".into(),
    ];
    heads.extend(titles);
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    Ok(report::table(
        &heads,
        1,
        &peers.iter().map(cells).collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refuses_a_folder_without_the_script() {
        let outcome = script(&OsString::from("no/such/folder"));
        assert!(matches!(outcome, Err(Error::Usage(text)) if text.contains("peers.py")));
    }

    #[test]
    fn compares_with_the_reference() {
        let row = |peer: &str, shape: &str, ms: f64| json!({"peer": peer, "shape": shape, "threads": 1, "median_ms": ms});
        let value = json!({
            "rows": [row("ort-fp32", "1x16", 5.0), row("ort-fp32", "1x128", 30.0), row("rsqc-w8a8", "1x16", 2.0)],
            "info": {"ort-fp32@1": {"version": "1.2", "load_ms": 178.26, "peak_mb": 212.0}, "rsqc-w8a8@1": {"version": ""}},
        });
        let text = table(&value, "rsqc-w8a8").expect("complete");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| runtime | threads | load ms | peak RSS MB | 1x16 ms | 1x128 ms |"
        );
        assert_eq!(
            lines[2],
            "| ort-fp32 1.2 | 1 | 178.3 | 212.0 | 5.000 (2.50x) | 30.00 |"
        );
        assert_eq!(lines[3], "| rsqc-w8a8 | 1 | - | - | 2.000 (1.00x) | - |");
        let broken = json!({"rows": [{"peer": "a", "shape": "1", "threads": 1}]});
        assert!(
            matches!(table(&broken, "a"), Err(Error::Output { reason, .. }) if reason.contains("median_ms"))
        );
    }
}
