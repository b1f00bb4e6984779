//! Running programs and finding places in the repository.

use crate::error::Error;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the working copy: two folders above this package.
pub fn root() -> Result<PathBuf, Error> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.join("../..");
    root.canonicalize()
        .map_err(|source| Error::File { path: root, source })
}

/// The cargo that runs this task, so that a toolchain override stays in force.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Program and arguments as a reader would type them.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command with its output passed through.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| Error::Start {
        program: command.get_program().to_string_lossy().into(),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Failed {
            command: shown(command),
            status,
        })
    }
}

/// Runs a command and returns what it wrote to standard output.
pub fn capture(command: &mut Command) -> Result<String, Error> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::Start {
            program: command.get_program().to_string_lossy().into(),
            source,
        })?;
    if !output.status.success() {
        return Err(Error::Failed {
            command: shown(command),
            status: output.status,
        });
    }
    String::from_utf8(output.stdout).map_err(|_| Error::Output {
        command: shown(command),
        reason: "not UTF-8".into(),
    })
}

/// Runs a command that prints one JSON object a line, and returns the objects.
pub fn json_lines(command: &mut Command) -> Result<Vec<Value>, Error> {
    let text = capture(command)?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Error::Output {
                command: shown(command),
                reason: error.to_string(),
            })
        })
        .collect()
}

/// True if the command starts and succeeds; its output is dropped.
pub fn works(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `cargo metadata` of the workspace, without its dependencies.
pub fn metadata(root: &Path) -> Result<Value, Error> {
    let mut command = cargo(root);
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = capture(&mut command)?;
    serde_json::from_str(&text).map_err(|error| Error::Output {
        command: shown(&command),
        reason: error.to_string(),
    })
}

/// The folder that cargo builds into.
pub fn target_dir(root: &Path) -> Result<PathBuf, Error> {
    let metadata = metadata(root)?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Error::Output {
            command: "cargo metadata".into(),
            reason: "no target_directory".into(),
        })
}

/// An empty folder below the target folder for the files of one task.
pub fn scratch(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = target_dir(root)?.join("xtask").join(name);
    let fail = |source| Error::File {
        path: path.clone(),
        source,
    };
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(fail)?;
    }
    std::fs::create_dir_all(&path).map_err(fail)?;
    Ok(path)
}

/// The Python to run callers and comparisons with: `RSQC_PYTHON`, or `python3`.
pub fn python() -> std::ffi::OsString {
    std::env::var_os("RSQC_PYTHON").unwrap_or_else(|| "python3".into())
}

/// The models of `examples/digits`, sorted by name.
pub fn example_models(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = root.join("examples/digits");
    let entries = std::fs::read_dir(&folder).map_err(|source| Error::File { path: folder, source })?;
    let mut models: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    models.sort();
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_failure_and_absence() {
        assert!(matches!(
            run(&mut Command::new("false")),
            Err(Error::Failed { .. })
        ));
        assert!(matches!(
            run(&mut Command::new("no-such-program-at-all")),
            Err(Error::Start { .. })
        ));
        assert!(works(&mut Command::new("true")) && !works(&mut Command::new("false")));
    }

    #[test]
    fn reads_json_lines() {
        let lines =
            json_lines(Command::new("printf").arg("{\"a\":1}\\n\\n{\"a\":2}\\n")).expect("two objects");
        assert_eq!(
            lines.iter().map(|line| line["a"].as_i64()).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
        assert!(matches!(
            json_lines(Command::new("echo").arg("{")),
            Err(Error::Output { .. })
        ));
    }

    #[test]
    fn finds_the_examples() {
        let models = example_models(&root().expect("repository")).expect("readable");
        let names: Vec<_> = models
            .iter()
            .filter_map(|path| path.file_stem()?.to_str())
            .collect();
        assert_eq!(names, ["cnn", "mlp", "vit"]);
    }
}
