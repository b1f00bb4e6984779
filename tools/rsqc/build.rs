//! Makes the artifact template: rsqc-runtime as a static library (a nested cargo with its own target folder),
//! linked once into a shared library that `src/template.rs` embeds. Compiling a model then needs no linker.
//!
//! `RSQC_TEMPLATE=path` takes a template that was built before instead.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The interface of an artifact: one function. Everything else stays private, so that many artifacts live in one
/// process.
const VERSION_SCRIPT: &str = "{ global: rsqc_model_api; local: *; };\n";

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let root = manifest_dir
        .ancestors()
        .nth(2)
        .ok_or("the crate lies in no workspace")?
        .to_path_buf();
    let template = out.join("template.so");

    println!("cargo::rerun-if-env-changed=RSQC_TEMPLATE");
    println!("cargo::rerun-if-env-changed=CC");
    if let Some(given) = env::var_os("RSQC_TEMPLATE").filter(|path| !path.is_empty()) {
        let given = PathBuf::from(given);
        println!("cargo::rerun-if-changed={}", given.display());
        std::fs::copy(&given, &template).map_err(|e| format!("RSQC_TEMPLATE={}: {e}", given.display()))?;
        return Ok(());
    }
    // Emitting any of these switches off the rule that every file of this package matters.
    println!("cargo::rerun-if-changed=build.rs");
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "backends/runtime/Cargo.toml",
        "backends/runtime/src",
        "backends/artifact/Cargo.toml",
        "backends/artifact/build.rs",
        "backends/artifact/manifest.proto",
        "backends/artifact/include",
        "backends/artifact/src",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let archive = build_archive(&root, &out.join("n"))?;
    link(&archive, &out, &template)
}

/// Builds rsqc-runtime with the profile `artifact`. Its own target folder avoids the outer build's lock.
fn build_archive(root: &Path, target_dir: &Path) -> Result<PathBuf> {
    let triple = env::var("TARGET")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args([
        "rustc",
        "--quiet",
        "-p",
        "rsqc-runtime",
        "--lib",
        "--features",
        "template",
    ]);
    command.args([
        "--crate-type",
        "staticlib",
        "--profile",
        "artifact",
        "--locked",
        "--target",
        &triple,
    ]);
    command.arg("--target-dir").arg(target_dir);
    if env::var_os("CARGO_NET_OFFLINE").is_some_and(|v| v == "true" || v == "1") {
        command.arg("--offline");
    }
    clean_environment(&mut command);
    command.env("CARGO_ENCODED_RUSTFLAGS", remap_flags(root, target_dir));
    run(&mut command, "building the runtime")?;
    Ok(target_dir
        .join(&triple)
        .join("artifact")
        .join("librsqc_runtime.a"))
}

/// What the outer build sets must not leak into every artifact: wrappers (clippy's driver), sanitizer, coverage and
/// `target-cpu` flags, profiles.
fn clean_environment(command: &mut Command) {
    const KEEP: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
    ];
    const DROP: [&str; 12] = [
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "OUT_DIR",
        "MAKEFLAGS",
        "CLIPPY_ARGS",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargo = text.starts_with("CARGO") && !KEEP.iter().any(|keep| text.starts_with(keep));
        if cargo || DROP.contains(&text.as_ref()) || text.starts_with("__CARGO") {
            command.env_remove(&name);
        }
    }
}

/// Panic messages name source files; they must not name the builder's folders.
fn remap_flags(root: &Path, target_dir: &Path) -> OsString {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    // The last match wins: the target folder may lie in the workspace.
    let mut flags = OsString::new();
    let mut remap = |from: &Path, to: &str| {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    if let Some(home) = home {
        remap(&home, "cargo");
    }
    remap(root, "rsqc");
    remap(target_dir, "target");
    flags
}

/// Links the template. Only libc stays dynamic; the exception-handling runtime comes in statically.
fn link(archive: &Path, out: &Path, template: &Path) -> Result<()> {
    let script = out.join("template.map");
    std::fs::write(&script, VERSION_SCRIPT)?;
    let mut version = OsString::from("-Wl,--version-script=");
    version.push(&script);
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command
        .args(["-shared", "-static-libgcc", "-o"])
        .arg(template)
        .arg(version);
    command.args([
        // Nothing else refers to the archive's members.
        "-Wl,-u,rsqc_model_api",
        "-Wl,-u,RSQC_ANCHOR",
        "-Wl,--gc-sections",
        "-Wl,--strip-all",
        "-Wl,--build-id=none",
        "-Wl,--no-undefined",
        "-Wl,-z,relro,-z,now",
        // Threads and thread-local storage keep the library mapped in most cases; make it all of them.
        "-Wl,-z,nodelete",
    ]);
    command.arg(archive);
    // Parts of libc in older releases.
    command.args(["-Wl,--as-needed", "-lpthread", "-ldl", "-lc"]);
    run(&mut command, "linking the template")
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .status()
        .map_err(|e| format!("{what}: cannot start {:?}: {e}", command.get_program()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{what} failed ({status})").into())
    }
}
