//! Every importer against ONNX Runtime on single-operator models (skipped where Python has no ONNX Runtime), first with
//! the extents as they are, then with all input extents symbolic.

use std::path::{Path, PathBuf};
use std::process::Command;

use onnx_protobuf::{Message, ModelProto, tensor_shape_proto::dimension, type_proto};
use rsqc_ir::eval::{self, Tensor};
use rsqc_onnx::source::map_file;
use rsqc_onnx::tensor::read_tensor;
use rsqc_onnx::{ErrorKind, ImportOptions, import_bytes};

fn read(path: &Path) -> Tensor {
    let t = read_tensor(&map_file(path).unwrap()).unwrap();
    Tensor::from_bytes(t.ty.storage, t.shape, &t.data).unwrap()
}

fn files(folder: &Path, kind: &str) -> Vec<Tensor> {
    let names = (0..).map(|i| folder.join(format!("{kind}_{i}.pb")));
    names.take_while(|p| p.exists()).map(|p| read(&p)).collect()
}

fn cases(dir: &Path) -> Option<Vec<PathBuf>> {
    let python = std::env::var("RSQC_PYTHON").unwrap_or("python3".into());
    let has_ort = Command::new(&python)
        .args(["-c", "import onnxruntime, onnx"])
        .output();
    if !has_ort.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {python} has no onnxruntime");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ort_ops.py");
    let out = Command::new(&python).arg(script).arg(dir).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    Some(folders)
}

/// The first difference between results and what they should be.
fn difference(got: &[Tensor], want: &[Tensor]) -> Option<String> {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if (g.elem(), &g.shape) != (w.elem(), &w.shape) {
            return Some(format!(
                "output {i}: {} {:?}, expected {} {:?}",
                g.elem(),
                g.shape,
                w.elem(),
                w.shape
            ));
        }
        for (a, b) in g.to_f64().into_iter().zip(w.to_f64()) {
            let same = (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 2e-5 + 2e-5 * b.abs();
            if !same {
                return Some(format!("output {i}: {a}, expected {b}"));
            }
        }
    }
    None
}

/// The model with every input extent replaced by a name of its own.
fn symbolic(bytes: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::parse_from_bytes(bytes).unwrap();
    for (n, input) in model.graph.as_mut().unwrap().input.iter_mut().enumerate() {
        let ty = input.type_.as_mut().unwrap().value.as_mut().unwrap();
        if let type_proto::Value::TensorType(t) = ty {
            for (axis, d) in t.shape.as_mut().unwrap().dim.iter_mut().enumerate() {
                d.value = Some(dimension::Value::DimParam(format!("d{n}_{axis}")));
            }
        }
    }
    model.write_to_bytes().unwrap()
}

#[test]
fn importers_agree_with_onnx_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let Some(folders) = cases(dir.path()) else { return };
    let (mut wrong, mut dynamic) = (Vec::new(), 0);
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (inputs, want) = (files(folder, "input"), files(folder, "output"));
        let bytes = std::fs::read(folder.join("model.onnx")).unwrap();
        let run = |bytes: Vec<u8>| -> Result<Option<String>, ErrorKind> {
            let m = import_bytes(&bytes.into(), "t", &ImportOptions::default())?;
            assert_eq!(rsqc_ir::verify::verify(&m), [], "{name}");
            Ok(match eval::run(&m, &inputs) {
                Ok(got) => difference(&got, &want),
                Err(e) => Some(e.to_string()),
            })
        };
        match run(bytes.clone()) {
            Ok(None) => {}
            Ok(Some(what)) => wrong.push(format!("{name}: {what}")),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
        // With symbols a case may be unsupported, or refused because an extent it needs is not known; never wrong.
        match run(symbolic(&bytes)) {
            Ok(None) => dynamic += 1,
            Ok(Some(what))
                if what.contains("outside") || what.contains("must equal") || what.contains("should be") => {}
            Ok(Some(what)) => wrong.push(format!("{name} with symbols: {what}")),
            Err(_) => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        folders.len(),
        wrong.join("\n")
    );
    assert!(
        dynamic * 3 > folders.len() * 2,
        "only {dynamic} of {} work with symbolic extents",
        folders.len()
    );
}

/// Replaces one integer of the model, an attribute's or a small constant's, by an extreme value. `None` past the last one.
fn with_extreme(bytes: &[u8], which: usize, value: i64) -> Option<Vec<u8>> {
    let mut model = ModelProto::parse_from_bytes(bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let mut slots: Vec<&mut i64> = Vec::new();
    for node in &mut graph.node {
        for a in &mut node.attribute {
            slots.push(&mut a.i);
            slots.extend(a.ints.iter_mut());
        }
    }
    let mut raw = Vec::new();
    for t in &mut graph.initializer {
        slots.extend(t.dims.iter_mut());
        if t.data_type == 7 {
            raw.extend(t.raw_data.chunks_exact_mut(8));
        }
    }
    let attributes = slots.len();
    match (slots.into_iter().nth(which), which.checked_sub(attributes)) {
        (Some(slot), _) => *slot = value,
        (None, Some(n)) => raw.into_iter().nth(n)?.copy_from_slice(&value.to_le_bytes()),
        (None, None) => return None,
    }
    Some(model.write_to_bytes().unwrap())
}

#[test]
fn extreme_numbers_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let Some(folders) = cases(dir.path()) else { return };
    let extremes = [
        i64::MIN,
        i64::MIN + 1,
        -2,
        -1,
        0,
        2,
        7,
        1 << 31,
        1 << 40,
        i64::MAX / 2,
        i64::MAX - 1,
        i64::MAX,
    ];
    let mut panics = std::collections::BTreeSet::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(folder.join("model.onnx")).unwrap();
        for base in [bytes.clone(), symbolic(&bytes)] {
            for value in extremes {
                for model in (0..).map_while(|n| with_extreme(&base, n, value)) {
                    let import = || import_bytes(&model.into(), "t", &ImportOptions::default()).map(|_| ());
                    if std::panic::catch_unwind(import).is_err() {
                        panics.insert(name.clone());
                    }
                }
            }
        }
    }
    assert!(panics.is_empty(), "{panics:?}");
}
