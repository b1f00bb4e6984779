//! The same input and flags give the same bytes: each example is compiled twice, in different folders and
//! with different numbers of compiler threads, and the artifacts are compared byte by byte.

use crate::error::Error;
use crate::shell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the workspace's programs in the dev profile and returns the path of `rsqc`.
pub fn build(root: &Path) -> Result<PathBuf, Error> {
    shell::run(shell::cargo(root).args(["build", "--quiet", "--workspace", "--bins"]))?;
    Ok(shell::target_dir(root)?.join("debug/rsqc"))
}

/// Compiles in `folder` with `threads` compiler threads and returns the artifact's bytes.
fn compile(rsqc: &Path, model: &Path, scheme: &str, folder: &Path, threads: &str) -> Result<Vec<u8>, Error> {
    let fail = |path: &Path, source| Error::File {
        path: path.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(|source| fail(folder, source))?;
    let mut command = Command::new(rsqc);
    command.current_dir(folder).env("RAYON_NUM_THREADS", threads);
    command
        .arg("compile")
        .arg(model)
        .args(["--scheme", scheme, "-o", "artifact.so", "--json"]);
    shell::capture(&mut command)?;
    let path = folder.join("artifact.so");
    std::fs::read(&path).map_err(|source| fail(&path, source))
}

/// Where two byte strings differ first, or `None` if they are equal.
fn difference(a: &[u8], b: &[u8]) -> Option<String> {
    match a.iter().zip(b).position(|(x, y)| x != y) {
        Some(at) => Some(format!("first difference at byte {at:#x}")),
        None if a.len() != b.len() => Some(format!("{} and {} bytes", a.len(), b.len())),
        None => None,
    }
}

/// Compiles each example model twice under two schemes.
pub fn run(root: &Path) -> Result<(), Error> {
    let rsqc = build(root)?;
    let scratch = shell::scratch(root, "determinism")?;
    let mut wrong = Vec::new();
    for model in shell::example_models(root)? {
        let name = model
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for scheme in ["none", "w8a8"] {
            let first = compile(
                &rsqc,
                &model,
                scheme,
                &scratch.join(format!("{name}-{scheme}")),
                "1",
            )?;
            let again = scratch.join(format!("{name}-{scheme}-again/in/a/longer/folder"));
            let second = compile(&rsqc, &model, scheme, &again, "3")?;
            match difference(&first, &second) {
                Some(what) => wrong.push(format!("{name} {scheme}: {what}")),
                None => println!("{name} {scheme}: {} equal bytes", first.len()),
            }
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::Determinism(wrong.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_where_bytes_differ() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(
            difference(b"same", b"sane").as_deref(),
            Some("first difference at byte 0x2")
        );
        assert_eq!(difference(b"same", b"same+").as_deref(), Some("4 and 5 bytes"));
    }
}
