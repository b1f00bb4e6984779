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
