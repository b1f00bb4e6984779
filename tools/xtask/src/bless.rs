//! `cargo xtask bless [FILTER]`: golden tests write what they find instead of comparing (`RSQC_BLESS=1`).
//! Read the resulting diff before committing it: a blessed file is a claim that the new output is right.

use crate::error::Error;
use crate::shell;
use std::path::Path;

/// Arguments of `bless`.
#[derive(clap::Args)]
pub struct Args {
    /// Part of the names of the tests to bless; without it, every test of the workspace runs
    filter: Option<String>,
    /// Only the tests of this package
    #[arg(long, short, value_name = "PACKAGE")]
    package: Option<String>,
}

/// The cargo arguments of a blessing run.
fn arguments(args: &Args, nextest: bool) -> Vec<String> {
    let mut words: Vec<String> = if nextest {
        vec!["nextest".into(), "run".into()]
    } else {
        vec!["test".into()]
    };
    match &args.package {
        Some(package) => words.extend(["--package".into(), package.clone()]),
        None => words.push("--workspace".into()),
    }
    words.push("--no-fail-fast".into());
    words.extend(args.filter.clone());
    words
}

/// Runs the tests with `RSQC_BLESS=1`, then shows which files changed.
pub fn run(root: &Path, args: &Args) -> Result<(), Error> {
    let nextest = shell::works(shell::cargo(root).args(["nextest", "--version"]));
    shell::run(
        shell::cargo(root)
            .env("RSQC_BLESS", "1")
            .args(arguments(args, nextest)),
    )?;
    shell::run(
        std::process::Command::new("git")
            .current_dir(root)
            .args(["status", "--short"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_filter_and_package_on() {
        let args = Args {
            filter: Some("canon".into()),
            package: Some("rsqc-tests".into()),
        };
        let words = arguments(&args, false);
        assert_eq!(
            words,
            ["test", "--package", "rsqc-tests", "--no-fail-fast", "canon"]
        );
        let all = arguments(
            &Args {
                filter: None,
                package: None,
            },
            true,
        );
        assert_eq!(all, ["nextest", "run", "--workspace", "--no-fail-fast"]);
    }
}
