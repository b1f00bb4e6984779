//! The folder of extra models and conformance data, which the environment variable `RSQC_SHARED` names. Tests that need
//! it say that they were left out where it is absent.

use std::path::PathBuf;

/// `path` inside the folder, if both exist; otherwise says that `test` is left out.
pub fn find(test: &str, path: &str) -> Option<PathBuf> {
    let found = std::env::var_os("RSQC_SHARED")
        .map(|f| PathBuf::from(f).join(path))
        .filter(|p| p.exists());
    if found.is_none() {
        println!("{test}: left out, RSQC_SHARED does not name a folder with {path}");
    }
    found
}

/// A file of the repository, by its path from the root.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
