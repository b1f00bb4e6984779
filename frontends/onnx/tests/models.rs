//! Imports whole models and compares the reference evaluator's outputs with ONNX Runtime's, where both are there: the
//! models of `examples/`, and of the folder that `RSQC_SHARED` names. `RSQC_PYTHON` chooses the interpreter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rsqc_ir::eval::{self, Tensor};
use rsqc_ir::module::Module;
use rsqc_onnx::source::map_file;
use rsqc_onnx::tensor::read_tensor;
use rsqc_onnx::{ImportOptions, import};

fn histogram(m: &Module) -> BTreeMap<&'static str, usize> {
    let mut out = BTreeMap::new();
    for id in m.graph.node_ids() {
        *out.entry(m.graph.node(id).op.name()).or_default() += 1;
    }
    out
}

fn load(path: &Path) -> Module {
    match import(path, &ImportOptions::default()) {
        Ok(m) => {
            assert_eq!(rsqc_ir::verify::verify(&m), []);
            m
        }
        Err(e) => panic!("{e}"),
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/digits")
        .join(name)
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("RSQC_SHARED")?)
        .join("models")
        .join(name)
        .join("model.onnx");
    if path.exists() { Some(path) } else { None }
}

fn read(path: &Path) -> Tensor {
    let t = read_tensor(&map_file(path).unwrap()).unwrap();
    Tensor::from_bytes(t.ty.storage, t.shape, &t.data).unwrap()
}

/// Inputs and ONNX Runtime's outputs; `None` where Python or ONNX Runtime is missing.
fn reference(path: &Path, dims: &[&str]) -> Option<(Vec<Tensor>, Vec<Tensor>)> {
    let python = std::env::var("RSQC_PYTHON").unwrap_or("python3".into());
    let has_ort = Command::new(&python)
        .args(["-c", "import onnxruntime, onnx"])
        .output();
    if !has_ort.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {python} has no onnxruntime");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ort.py");
    let out = Command::new(&python)
        .arg(script)
        .arg(path)
        .arg(dir.path())
        .args(dims)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let files = |kind: &str| -> Vec<Tensor> {
        let names = (0..).map(|i| dir.path().join(format!("{kind}_{i}.pb")));
        names.take_while(|p| p.exists()).map(|p| read(&p)).collect()
    };
    Some((files("input"), files("output")))
}

fn compare(path: &Path, dims: &[&str], tolerance: f64) {
    let m = load(path);
    let Some((inputs, want)) = reference(path, dims) else {
        return;
    };
    let got = eval::run(&m, &inputs).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert_eq!((g.elem(), &g.shape), (w.elem(), &w.shape), "output {i}");
        let worst = g
            .to_f64()
            .iter()
            .zip(w.to_f64())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(
            worst <= tolerance,
            "{}: output {i} differs by {worst}",
            path.display()
        );
    }
}

#[test]
fn digits() {
    for name in ["vit.onnx", "cnn.onnx", "mlp.onnx"] {
        compare(&example(name), &["batch=3"], 1e-4);
    }
}

#[test]
fn no_shape_arithmetic_is_left() {
    let ops = histogram(&load(&example("vit.onnx")));
    for op in ["dim", "iota", "where", "equal", "gather"] {
        assert_eq!(ops.get(op), None, "{ops:?}");
    }
}

#[test]
fn minilm() {
    let Some(path) = shared("minilm") else { return };
    let ops = histogram(&load(&path));
    assert_eq!(
        (ops.get("matmul"), ops.get("iota"), ops.get("gather")),
        (Some(&48), None, Some(&2)),
        "{ops:?}"
    );
    compare(&path, &["batch=2", "sequence=9"], 1e-4);
}

#[test]
fn story_models() {
    for name in ["tinyllama/stories260k", "tinyllama/tinystories656k"] {
        let Some(path) = shared(name) else { return };
        let ops = histogram(&load(&path));
        assert_eq!(
            (ops.get("iota"), ops.get("dim"), ops.get("gather")),
            (Some(&2), None, Some(&1)),
            "{ops:?}"
        );
        for (batch, seq, past) in [(1, 7, 0), (2, 3, 4)] {
            let dims = [
                format!("batch_size={batch}"),
                format!("sequence_length={seq}"),
                format!("past_sequence_length={past}"),
            ];
            compare(&path, &dims.each_ref().map(String::as_str), 1e-4);
        }
    }
}

#[test]
fn resnet20() {
    if let Some(path) = shared("resnet20_cifar10") {
        compare(&path, &["batch=1"], 1e-3);
    }
}

#[test]
fn larger_models_import() {
    for name in ["squeezenet", "rustdocs"] {
        if let Some(path) = shared(name) {
            assert!(load(&path).graph.node_count() > 20);
        }
    }
}
