//! Output files that appear whole or not at all, also when the user interrupts.

use crate::error::Failure;
use rsqc_onnx::error::escape_path;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Temporary files that exist right now; an interrupt removes them.
static PENDING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// On SIGINT, SIGTERM and SIGHUP: remove temporary files, say so, exit with status 1. Called once by `main`.
pub fn handle_interrupts() {
    // Failing to install the handler only costs the clean message.
    let _ = ctrlc::set_handler(|| {
        let pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for p in pending.iter() {
            let _ = std::fs::remove_file(p);
        }
        // The lock is kept, so that no new file appears and none is renamed into place.
        eprintln!("error: interrupted; nothing was written");
        std::process::exit(1);
    });
}

/// Writes `path` through `fill`: into a temporary file beside it, which is renamed into place once everything is
/// written. `path` must not be one of `inputs`.
pub fn write_atomically(
    path: &Path,
    inputs: &[&Path],
    fill: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<(), Failure> {
    let fail = |what: String| Failure::error(format!("{}: {what}", escape_path(path)));
    if inputs.iter().any(|i| same_file(i, path)) {
        return Err(fail("the output would overwrite the input".into()));
    }
    if path.is_dir() {
        return Err(fail("cannot be written: it is a folder".into()));
    }
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let file = {
        let mut pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = tempfile::Builder::new()
            .prefix(".rsqc-")
            .tempfile_in(folder)
            .map_err(|e| fail(format!("cannot be written: {}", plain(&e))))?;
        pending.push(file.path().to_path_buf());
        file
    };
    let result = fill_and_persist(file, path, fill);
    PENDING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .pop();
    result.map_err(fail)
}

/// The data file beside an `.rsq` file: its large constants.
pub fn data_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bin");
    name.into()
}

/// Writes a module as `.rsq` text, its large constants into the data file beside it.
pub fn write_text_form(m: &rsqc_ir::Module, out: &Path, input: &Path) -> Result<(), Failure> {
    let (text, data) = rsqc_ir::text::print_with_data(m);
    let write = |path: &Path, bytes: &[u8]| {
        write_atomically(path, &[input], |w| w.write_all(bytes).map_err(|e| plain(&e)))
    };
    if !data.is_empty() {
        write(&data_file(out), &data)?;
    }
    write(out, text.as_bytes())
}

fn fill_and_persist(
    mut file: tempfile::NamedTempFile,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    fill(&mut writer)?;
    writer.flush().map_err(|e| plain(&e))?;
    drop(writer);
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o755))
        .map_err(|e| plain(&e))?;
    let _pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.persist(path).map_err(|e| plain(&e.error))?;
    Ok(())
}

/// An I/O error without the path that the standard library may append.
fn plain(e: &std::io::Error) -> String {
    e.kind().to_string()
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(x), Ok(y)) => (x.dev(), x.ino()) == (y.dev(), y.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let out = dir.path().join("x.so");
        write_atomically(&out, &[], |w| w.write_all(b"old").map_err(|e| e.to_string())).expect("first write");
        let e = write_atomically(&out, &[], |w| {
            w.write_all(b"half").map_err(|e| e.to_string())?;
            Err("no more".into())
        });
        assert!(e.is_err_and(|e| e.text.ends_with("no more") && e.status == 1));
        assert_eq!(std::fs::read(&out).expect("still there"), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1);
    }

    #[test]
    fn the_input_is_never_the_output() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = dir.path().join("m.onnx");
        std::fs::write(&model, b"model").expect("write");
        let link = dir.path().join("link");
        std::fs::hard_link(&model, &link).expect("link");
        let e = write_atomically(&link, &[&model], |_| Ok(())).expect_err("refused");
        assert!(e.text.contains("overwrite"), "{e}");
    }
}
