//! The command line as a user meets it: what goes wrong ends with status 1, 2 or 3, one clear paragraph, and nothing left
//! behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn rsqc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rsqc"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

fn example(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/digits")
        .join(name);
    path.canonicalize()
        .expect("an example file")
        .display()
        .to_string()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

/// Runs a command that must fail with `status`, say all of `words`, and leave the folder as it was.
fn fails(folder: &Path, args: &[&str], status: i32, words: &[&str]) {
    let before = names(folder);
    let out = rsqc(folder, args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(status), "{args:?}: {text}");
    for w in words {
        assert!(text.contains(w), "{args:?} does not say `{w}`: {text}");
    }
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    assert!(
        text.len() <= 2000 && text.lines().count() <= 20,
        "{args:?}: {text}"
    );
    assert_eq!(names(folder), before, "{args:?} left something behind");
}

fn compiled(folder: &Path) -> String {
    let out = rsqc(
        folder,
        &[
            "compile",
            &example("mlp.onnx"),
            "--scheme",
            "w8a8",
            "-o",
            "mlp.so",
        ],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    "mlp.so".into()
}

#[test]
fn damaged_models_are_refused() {
    let f = folder();
    let model = std::fs::read(example("mlp.onnx")).expect("a readable file");
    for (name, bytes) in [
        ("empty.onnx", &model[..0]),
        ("cut.onnx", &model[..model.len() / 2]),
        ("tiny.onnx", &model[..7]),
    ] {
        std::fs::write(f.path().join(name), bytes).expect("written");
    }
    for name in ["empty.onnx", "cut.onnx", "tiny.onnx"] {
        fails(f.path(), &["compile", name, "-o", "out.so"], 1, &[name]);
        fails(f.path(), &["inspect", name], 1, &[name]);
    }
    fails(f.path(), &["compile", "absent.onnx"], 1, &["absent.onnx"]);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let f = folder();
    let mlp = example("mlp.onnx");
    fails(f.path(), &["compile", &mlp, "--scheme", "w8b8"], 2, &["w8b8"]);
    fails(f.path(), &["compile", &mlp, "--scheme", "w4a16"], 3, &["w4a16"]);
    fails(f.path(), &["compile", &mlp, "--sheme", "w8a8"], 2, &["--scheme"]);
    fails(f.path(), &["compile", &mlp, "--dim", "batch"], 2, &["NAME=N"]);
    fails(f.path(), &["compile", &mlp, "--dim", "batch=9..3"], 2, &["empty"]);
    fails(
        f.path(),
        &["compile", &mlp, "--target", "cpu:sse9"],
        2,
        &["sse9", "avx2"],
    );
    fails(f.path(), &["compile", &mlp, "--target", "cuda"], 3, &["cuda"]);
    fails(f.path(), &["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn unwritable_outputs_are_reported_before_the_work() {
    let f = folder();
    let mlp = example("mlp.onnx");
    fails(
        f.path(),
        &["compile", &mlp, "-o", "no/such/folder/out.so"],
        1,
        &["out.so"],
    );
    fails(f.path(), &["compile", &mlp, "-o", "."], 1, &["folder"]);
    let copy = f.path().join("copy.onnx");
    std::fs::copy(&mlp, &copy).expect("copied");
    fails(
        f.path(),
        &["compile", "copy.onnx", "-o", "copy.onnx"],
        1,
        &["overwrite"],
    );
    assert_eq!(
        std::fs::read(copy).expect("still there"),
        std::fs::read(mlp).expect("readable")
    );
}

#[test]
fn wrong_inputs_at_run_time_are_named() {
    let f = folder();
    let so = compiled(f.path());
    fails(
        f.path(),
        &["run", &so, "--inputs", "absent.npz", "--outputs", "o.npz"],
        1,
        &["absent.npz"],
    );
    // The evaluation data of the digits: 500 images of shape [1, 8, 8]; a good run, then the same under a wrong name.
    let good = rsqc(
        f.path(),
        &["run", &so, "--inputs", &example("eval.npz"), "--outputs", "o.npz"],
    );
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    fails(
        f.path(),
        &["run", &so, "--inputs", "o.npz", "--outputs", "p.npz"],
        1,
        &["image"],
    );
    fails(f.path(), &["bench", &so, "--shapes", "1x2"], 2, &["1x2"]);
    fails(
        f.path(),
        &["eval", &so, "--data", "o.npz", "--task", "classify"],
        1,
        &["image"],
    );
}

#[test]
fn a_damaged_artifact_is_refused() {
    let f = folder();
    let so = compiled(f.path());
    let bytes = std::fs::read(f.path().join(&so)).expect("readable");
    for k in 0..24 {
        let mut bad = bytes.clone();
        let at = (bytes.len() - 1) * k / 23;
        bad[at] ^= 1 << (k % 8);
        std::fs::write(f.path().join("bad.so"), &bad).expect("written");
        fails(f.path(), &["inspect", "bad.so"], 1, &["bad.so"]);
        fails(f.path(), &["selftest", "bad.so"], 1, &["bad.so"]);
    }
    std::fs::write(f.path().join("bad.so"), &bytes[..bytes.len() - 100]).expect("written");
    fails(f.path(), &["selftest", "bad.so"], 1, &["bad.so"]);
    let good = rsqc(f.path(), &["selftest", &so]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
}

#[test]
fn an_interrupt_ends_cleanly() {
    let f = folder();
    for wait_ms in [5u64, 60, 200, 500] {
        let before = names(f.path());
        let child = Command::new(env!("CARGO_BIN_EXE_rsqc"))
            .args([
                "compile",
                &example("vit.onnx"),
                "--scheme",
                "w8a8",
                "-o",
                "vit.so",
            ])
            .current_dir(f.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        let _ = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        let out = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.code() {
            // It was done before the signal came.
            Some(0) => std::fs::remove_file(f.path().join("vit.so")).expect("a whole file"),
            Some(1) => assert!(text.contains("interrupted"), "{text}"),
            // The signal came before the handler was installed.
            None => {}
            other => panic!("status {other:?}: {text}"),
        }
        assert_eq!(names(f.path()), before, "after {wait_ms} ms: {text}");
    }
}

#[test]
fn equal_compilations_give_equal_bytes_in_different_folders() {
    let (f, g) = (folder(), folder());
    compiled(f.path());
    compiled(g.path());
    assert_eq!(
        std::fs::read(f.path().join("mlp.so")).expect("readable"),
        std::fs::read(g.path().join("mlp.so")).expect("readable")
    );
}

#[test]
fn intermediate_forms_can_be_read_again() {
    let f = folder();
    let mlp = example("mlp.onnx");
    for (kind, ending) in [("rsq", "rsq"), ("llvm-ir", "ll"), ("asm", "s")] {
        let out = rsqc(
            f.path(),
            &[
                "compile",
                &mlp,
                "--scheme",
                "w8a8",
                "--target",
                "cpu:portable",
                "--emit",
                kind,
            ],
        );
        assert!(
            out.status.success(),
            "{kind}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(f.path().join(format!("mlp.{ending}")).exists(), "{kind}");
    }
    let out = rsqc(
        f.path(),
        &["opt", "mlp.rsq", "--passes", "simplify-bodies", "--verify-each"],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
