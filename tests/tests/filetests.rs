//! Golden files: `tests/filetests/<pass>/*.rsq`.
//!
//! A file starts with `# run: PASS[,PASS...]`, then a module, then a line `# ---`, then the module that the passes make
//! of it. Both parts must be canonical text: printing what was parsed gives the same text again. With `RSQC_BLESS=1` the
//! expected part is rewritten. The folder is named after a pass of the registry.

use rsqc_ir::text;
use rsqc_ir::verify::verify;
use rsqc_passes::manager::{ManagerOptions, PassManager};
use rsqc_passes::pass::Env;
use rsqc_passes::registry;
use rsqc_tests::shared::repository;
use std::path::{Path, PathBuf};

const SEPARATOR: &str = "# ---\n";

fn files() -> Vec<PathBuf> {
    let root = repository("tests/filetests");
    let list = |p: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(p).expect("a folder of golden files").map(|e| e.expect("an entry").path()).collect();
        all.sort();
        all
    };
    list(&root).iter().filter(|p| p.is_dir()).flat_map(|p| list(p)).filter(|p| p.extension().is_some_and(|e| e == "rsq")).collect()
}

/// Runs the passes that the first line names; gives the input part and the result.
fn rewrite(content: &str) -> Result<(String, String), String> {
    let (head, rest) = content.split_once('\n').ok_or("the file is empty")?;
    let passes = head.strip_prefix("# run: ").ok_or("the first line must be `# run: PASS,...`")?;
    let input = rest.split(SEPARATOR).next().unwrap_or_default();
    let mut m = text::parse(input).map_err(|e| e.to_string())?;
    let again = text::print(&m);
    if again != input {
        return Err(format!("the input is not canonical; it prints as\n{again}"));
    }
    let options = ManagerOptions { verify_each: true, check_numeric: true, ..ManagerOptions::default() };
    let list = registry::parse(passes).map_err(|d| d.to_string())?;
    PassManager::new(Env::default(), options).run(&mut m, &list).map_err(|d| d.to_string())?;
    let problems = verify(&m);
    if let Some(d) = problems.first() {
        return Err(d.to_string());
    }
    let out = text::print(&m);
    let parsed = text::parse(&out).map_err(|e| format!("the result does not parse: {e}"))?;
    if text::print(&parsed) != out {
        return Err("the result does not print as it was parsed".into());
    }
    Ok((format!("{head}\n{input}"), out))
}

#[test]
fn golden_files_hold() {
    let bless = std::env::var("RSQC_BLESS").is_ok_and(|v| v == "1");
    let mut failures = Vec::new();
    for f in files() {
        let content = std::fs::read_to_string(&f).expect("a readable file");
        match rewrite(&content) {
            Err(e) => failures.push(format!("{}: {e}", f.display())),
            Ok((input, out)) => {
                let want = format!("{input}{SEPARATOR}{out}");
                if want != content && bless {
                    std::fs::write(&f, want).expect("a writable file");
                } else if want != content {
                    failures.push(format!("{}: the result differs; it is now\n{out}", f.display()));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_pass_has_a_golden_file() {
    let have: Vec<PathBuf> = files();
    let missing: Vec<&str> = registry::PASSES
        .iter()
        .map(|p| p.name)
        .filter(|n| !have.iter().any(|f| f.parent().and_then(Path::file_name).is_some_and(|d| d == *n)))
        .collect();
    assert!(missing.is_empty(), "passes without a golden file: {missing:?}");
}
