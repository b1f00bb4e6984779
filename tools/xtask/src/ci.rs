//! `cargo xtask ci`: every check, in the order of what fails soonest; all of them run even if one fails.

use crate::error::Error;
use crate::{determinism, shell, tidy};
use std::path::Path;
use std::time::Instant;

/// Arguments of `ci`.
#[derive(clap::Args)]
pub struct Args {
    /// Runs only these steps (repeatable)
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Leaves these steps out (repeatable)
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
}

type Step = fn(&Path) -> Result<(), Error>;

/// The steps: name and function.
const STEPS: &[(&str, Step)] = &[
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("clippy", clippy),
    ("doc", doc),
    ("test", test),
    ("doctest", doctest),
    ("determinism", determinism::run),
    ("python", python),
];

fn fmt(root: &Path) -> Result<(), Error> {
    shell::run(shell::cargo(root).args(["fmt", "--all", "--check"]))
}

fn clippy(root: &Path) -> Result<(), Error> {
    shell::run(shell::cargo(root).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn doc(root: &Path) -> Result<(), Error> {
    let mut cargo = shell::cargo(root);
    // Private items link to each other in module docs; a broken link is an error, a private one is not.
    cargo.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    shell::run(cargo.args(["doc", "--workspace", "--no-deps", "--quiet"]))
}

fn test(root: &Path) -> Result<(), Error> {
    if shell::works(shell::cargo(root).args(["nextest", "--version"])) {
        shell::run(shell::cargo(root).args(["nextest", "run", "--workspace", "--no-fail-fast"]))
    } else {
        println!("cargo-nextest is not installed: using cargo test");
        shell::run(shell::cargo(root).args(["test", "--workspace", "--all-targets", "--no-fail-fast"]))
    }
}

fn doctest(root: &Path) -> Result<(), Error> {
    shell::run(shell::cargo(root).args(["test", "--workspace", "--doc", "--quiet"]))
}

/// The Python callers of artifacts. They need numpy; without it they are left out, and that is said.
fn python(root: &Path) -> Result<(), Error> {
    let mut probe = std::process::Command::new(shell::python());
    if !shell::works(probe.args(["-c", "import numpy"])) {
        println!(
            "skipped: {} has no numpy (set RSQC_PYTHON)",
            shell::python().to_string_lossy()
        );
        return Ok(());
    }
    let rsqc = determinism::build(root)?;
    let mut tests = std::process::Command::new(shell::python());
    tests.current_dir(root).env("RSQC_BIN", rsqc);
    shell::run(tests.args([
        "-B",
        "-m",
        "unittest",
        "discover",
        "-s",
        "tests/py",
        "-p",
        "test_*.py",
        "-v",
    ]))
}

/// The steps that the arguments leave.
fn selected(args: &Args) -> Result<Vec<(&'static str, Step)>, Error> {
    for name in args.only.iter().chain(&args.skip) {
        if !STEPS.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = STEPS.iter().map(|(known, _)| *known).collect();
            return Err(Error::Usage(format!(
                "no step `{name}`; there are {}",
                known.join(", ")
            )));
        }
    }
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let kept = STEPS
        .iter()
        .filter(|(name, _)| wanted(name) && !args.skip.iter().any(|skip| skip == name));
    Ok(kept.copied().collect())
}

/// Runs the selected steps.
pub fn run(root: &Path, args: &Args) -> Result<(), Error> {
    let mut failed = Vec::new();
    let mut summary = Vec::new();
    for (name, step) in selected(args)? {
        println!("=== {name}");
        let start = Instant::now();
        let outcome = step(root);
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(()) => summary.push(format!("ok      {name:12} {seconds:5} s")),
            Err(error) => {
                eprintln!("xtask: {name}: {error}");
                summary.push(format!("FAILED  {name:12} {seconds:5} s"));
                failed.push(name);
            }
        }
    }
    println!("=== summary\n{}", summary.join("\n"));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Steps(failed.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], skip: &[&str]) -> Result<Vec<&'static str>, Error> {
        let own = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
        let args = Args {
            only: own(only),
            skip: own(skip),
        };
        Ok(selected(&args)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn selects_steps() {
        assert_eq!(names(&["fmt", "tidy"], &["fmt"]).expect("known names"), ["tidy"]);
        assert_eq!(names(&[], &[]).expect("no names").len(), STEPS.len());
        assert!(matches!(names(&["tydi"], &[]), Err(Error::Usage(text)) if text.contains("tidy")));
    }
}
