//! `cargo xtask docs`: puts the table of a fresh quickstart run into README.md, so that no figure there is
//! older than the command that prints it.

use crate::document;
use crate::error::Error;
use crate::shell;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Arguments of `docs`.
#[derive(clap::Args)]
pub struct Args {
    /// Prints the table instead of writing it
    #[arg(long)]
    print: bool,
}

/// A cell of a row: the value under `key`, numbers with `digits` after the point.
fn cell(row: &Value, key: &str, digits: usize) -> Result<String, Error> {
    match &row[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(format!("{:.digits$}", number.as_f64().unwrap_or(f64::NAN))),
        _ => Err(Error::Output {
            command: "tools/quickstart.sh".into(),
            reason: format!("no `{key}`"),
        }),
    }
}

/// The rows of the quickstart as a Markdown table.
fn table(rows: &[Value]) -> Result<String, Error> {
    const COLUMNS: &[(&str, &str, usize)] = &[
        ("model", "model", 0),
        ("scheme", "scheme", 0),
        ("top-1", "top1", 4),
        ("agreement with the ONNX model", "agreement", 4),
        ("artifact bytes", "bytes", 0),
        ("ms, batch 1", "ms_1", 4),
        ("ms, batch 32", "ms_32", 4),
    ];
    let mut out = String::new();
    for (title, ..) in COLUMNS {
        let _ = write!(out, "| {title} ");
    }
    out.push_str("|\n");
    for (column, _) in COLUMNS.iter().enumerate() {
        out.push_str(if column < 2 { "| --- " } else { "| ---: " });
    }
    out.push_str("|\n");
    for row in rows {
        for (_, key, digits) in COLUMNS {
            let _ = write!(out, "| {} ", cell(row, key, *digits)?);
        }
        out.push_str("|\n");
    }
    Ok(out)
}

/// Runs the quickstart and rewrites the table.
pub fn run(root: &Path, args: &Args) -> Result<(), Error> {
    let mut quickstart = Command::new(root.join("tools/quickstart.sh"));
    let rows = shell::json_lines(quickstart.current_dir(root).arg("--json"))?;
    let table = table(&rows)?;
    if args.print {
        print!("{table}");
        return Ok(());
    }
    document::fill(&root.join("README.md"), "cargo xtask docs", &table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn makes_a_table() {
        let row = json!({"model": "vit", "scheme": "w8a8", "top1": 0.98, "agreement": 1, "bytes": 123456,
            "ms_1": 0.05, "ms_32": 1.25});
        let text = table(std::slice::from_ref(&row)).expect("complete row");
        assert_eq!(
            text.lines().last(),
            Some("| vit | w8a8 | 0.9800 | 1.0000 | 123456 | 0.0500 | 1.2500 |")
        );
        let mut bad = row;
        bad["agreement"] = Value::Null;
        assert!(matches!(table(&[bad]), Err(Error::Output { reason, .. }) if reason.contains("agreement")));
    }
}
