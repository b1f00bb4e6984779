//! `cargo xtask tidy`: the house rules that no compiler checks. Each rule is a function from a file (or from
//! `cargo metadata`) to findings, so that its test can feed it a bad snippet.

mod arrows;
mod exempt;
mod lexed;
mod manifests;
mod safety;
mod source;
mod text;
mod unsafe_files;

use crate::error::Error;
use crate::shell;
use lexed::Lexed;
use std::path::Path;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File, relative to the root of the repository.
    pub path: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl Finding {
    /// A finding in `path` at `line`.
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            what: what.into(),
        }
    }
}

/// Files under version control and new files that git does not ignore, sorted.
fn files(root: &Path) -> Result<Vec<String>, Error> {
    let mut git = std::process::Command::new("git");
    git.current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = shell::capture(&mut git)?;
    let mut files: Vec<String> = listed.split_terminator('\0').map(str::to_owned).collect();
    files.sort();
    files.dedup();
    // A file that is deleted but not yet committed is still listed.
    files.retain(|file| root.join(file).is_file());
    Ok(files)
}

/// All rules over one file.
fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = text::check(path, text);
    if path.ends_with(".rs") {
        findings.extend(source::check_lines(path, text));
        match Lexed::new(path, text) {
            Ok(lexed) => {
                findings.extend(source::check_tokens(&lexed));
                findings.extend(safety::check(&lexed));
            }
            Err(finding) => findings.push(finding),
        }
    }
    if path.ends_with("Cargo.toml") {
        findings.extend(manifests::check(path, text));
    }
    findings
}

/// Runs every rule over the repository and prints what it finds.
pub fn run(root: &Path) -> Result<(), Error> {
    let mut findings = arrows::check(&shell::metadata(root)?)?;
    let files = files(root)?;
    let mut seen = Vec::new();
    for path in &files {
        let full = root.join(path);
        let bytes = std::fs::read(&full).map_err(|source| Error::File { path: full, source })?;
        // Models, data and other binary files have no lines to check.
        if let Ok(text) = String::from_utf8(bytes) {
            findings.extend(check_file(path, &text));
            seen.push((path.clone(), text));
        }
    }
    findings.extend(exempt::check_rows(&seen));
    findings.extend(unsafe_files::check_rows(&seen));
    findings.extend(source::check_crate_attributes(&seen));
    findings.sort();
    for Finding { path, line, what } in &findings {
        println!("{path}:{line}: {what}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to report", files.len());
        Ok(())
    } else {
        Err(Error::Tidy(findings.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_sees_a_bad_file() {
        let text = "fn f() { todo!(); x.unwrap(); unsafe { g() } }\n";
        let found: Vec<String> = check_file("ir/src/bad.rs", text)
            .into_iter()
            .map(|finding| finding.what)
            .collect();
        for part in ["`//!`", "`todo!`", "unwrap()", "UNSAFE_FILES", "SAFETY"] {
            assert!(
                found.iter().any(|what| what.contains(part)),
                "{part} is missing from {found:?}"
            );
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn a_file_that_is_no_rust_is_reported() {
        let found = check_file("ir/src/bad.rs", "//! Doc.\nfn f( {\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("not Rust"));
    }
}
