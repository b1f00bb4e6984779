//! Static schemes as a user meets them: calibration data that fits, that does not, and what recipes may say.

use rsqc::data::Array;
use rsqc::data::npz::{Npz, write_npz};
use rsqc::executor::CompiledExecutor;
use rsqc_ir::eval::{Executor, ReferenceExecutor, Tensor};
use rsqc_ir::{Op, ScalarType, ValueId};
use rsqc_passes::manager::{ManagerOptions, PassManager};
use rsqc_passes::pass::Env;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn example(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/digits")
        .join(name);
    path.canonicalize().expect("an example file")
}

fn rsqc(folder: &Path, level: Option<&str>, args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_rsqc"));
    if let Some(l) = level {
        c.env("RSQC_CPU_LEVEL", l);
    }
    c.args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

/// Compiles the example for this machine; status, standard output and standard error.
fn compile(folder: &Path, scheme: &str, calib: &[&str]) -> (Option<i32>, String, String) {
    let model = example("mlp.onnx").display().to_string();
    let mut args = vec![
        "compile",
        &model,
        "--scheme",
        scheme,
        "--target",
        "cpu:native",
        "-o",
        "out.so",
        "--json",
    ];
    for c in calib {
        args.extend(["--calib", *c]);
    }
    let out = rsqc(folder, None, &args);
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (out.status.code(), stdout, stderr)
}

fn save(folder: &Path, name: &str, arrays: &[(&str, Array)]) {
    let mut file = std::fs::File::create(folder.join(name)).expect("a file");
    write_npz(&mut file, arrays.iter().map(|(n, a)| (*n, a))).expect("written");
}

/// `n` images of the calibration data, changed by `f`.
fn images(n: usize, f: impl Fn(usize, f32) -> f32) -> Array {
    let all = Npz::open(&example("calib.npz"))
        .and_then(|mut z| z.read("image"))
        .expect("images");
    let cut = all.cut(0, 0..n);
    let data = cut.data.chunks_exact(4).enumerate().flat_map(|(i, b)| {
        let x = f32::from_le_bytes(b.try_into().expect("four bytes"));
        f(i, x).to_le_bytes()
    });
    Array {
        data: data.collect(),
        ..cut.clone()
    }
}

#[test]
fn a_static_model_keeps_its_accuracy_and_shows_its_ranges() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let calib = example("calib.npz").display().to_string();
    for scheme in [
        "w8a8-static",
        "w8a8-static-sym-wtensor+percentile:p=99.99",
        "w8a8-tensor",
    ] {
        let (status, _, stderr) = compile(f, scheme, &[&calib]);
        assert_eq!(status, Some(0), "{scheme}: {stderr}");
        let data = example("eval.npz").display().to_string();
        let out = rsqc(
            f,
            None,
            &["eval", "out.so", "--data", &data, "--task", "classify", "--json"],
        );
        let figures: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one object");
        let top1 = figures["top1"].as_f64().expect("a number");
        assert!(top1 >= 0.98, "{scheme}: {top1}");
    }
    compile(f, "w8a8-static", &[&calib]);
    let first = std::fs::read(f.join("out.so")).expect("an artifact");
    let out = rsqc(f, None, &["inspect", "out.so", "--plan", "--json"]);
    let rows: Vec<serde_json::Value> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).expect("an object a line"))
        .collect();
    let layers: Vec<_> = rows
        .iter()
        .filter(|r| r["kind"] == "layer" && r["scheme"] == "w8a8-static")
        .collect();
    assert_eq!(layers.len(), 3);
    for l in &layers {
        assert!(l["scale"].as_f64().is_some_and(|s| s > 0.0), "{l}");
        assert_eq!((&l["samples"], &l["calibrator"]), (&256.into(), &"minmax".into()));
        assert_eq!(l["clipped"].as_f64(), Some(0.0));
        assert!(l["min"].as_f64() <= l["max"].as_f64());
    }
    // Behind the Relus there is a zero point; the input is symmetric.
    assert!(layers[0].get("zero").is_none());
    assert_eq!(
        (&layers[1]["zero"], &layers[2]["zero"]),
        (&(-128).into(), &(-128).into())
    );
    // One step quantizes the input; the others are the layers themselves.
    assert_eq!(rows.iter().filter(|r| r["kind"] == "step").count(), 4);
    // The same data, samples of which are handed out one by one: the same bytes.
    compile(f, "w8a8-static", &[&calib]);
    assert!(
        first == std::fs::read(f.join("out.so")).expect("an artifact"),
        "bytes differ"
    );
}

/// Artifacts that were compiled at different levels, with all that calibration and searches compute, are the same file.
#[test]
fn artifacts_do_not_depend_on_the_level_of_the_compiling_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let (own, calib) = (example("vit.onnx"), example("calib.npz"));
    let auto = "w8a8-static+smoothquant:alpha=auto:step=0.25";
    let block = "w8a8-static+smoothquant:alpha=auto:step=0.5:mode=block+entropy";
    let mut cases = vec![
        (own.clone(), "w8a8-static+smoothquant", calib.clone()),
        (own.clone(), auto, calib.clone()),
        (own, block, calib.clone()),
        (example("cnn.onnx"), "w8a8-static", calib),
    ];
    let shared = std::env::var_os("RSQC_SHARED").map(|s| PathBuf::from(s).join("models/minilm"));
    if let Some(folder) = shared.filter(|s| s.join("calib.npz").exists()) {
        let (model, calib) = (folder.join("model.onnx"), folder.join("calib.npz"));
        cases.push((model, "w8a8-static+smoothquant", calib));
    } else {
        println!("minilm is left out, RSQC_SHARED does not name a folder with it");
    }
    for (model, scheme, calib) in cases {
        let (model, calib) = (model.display().to_string(), calib.display().to_string());
        let mut first: Option<(&str, Vec<u8>)> = None;
        for level in ["avx512vnni", "avxvnni", "avx2", "portable"] {
            if !rsqc_runtime::Level::from_name(level).is_some_and(rsqc_runtime::cpu::supports) {
                continue;
            }
            let args = [
                "compile",
                &model,
                "--scheme",
                scheme,
                "--calib",
                &calib,
                "--target",
                "cpu:portable,avx2",
                "-o",
                "o.so",
            ];
            let out = rsqc(f, Some(level), &args);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let bytes = std::fs::read(f.join("o.so")).expect("an artifact");
            match &first {
                None => first = Some((level, bytes)),
                Some((other, b)) => assert!(*b == bytes, "{model} {scheme}: {level} and {other} differ"),
            }
        }
    }
}

#[test]
fn zero_points_and_static_scales_give_the_same_bits_at_every_level() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let (model, calib) = (
        example("mlp.onnx").display().to_string(),
        example("calib.npz").display().to_string(),
    );
    save(
        f,
        "in.npz",
        &[("image", images(7, |i, x| x - 0.3 * (i % 3) as f32))],
    );
    for scheme in ["w8a8-static", "w8a8-static-asym-wtensor", "w8a8-tensor"] {
        let args = [
            "compile", &model, "--scheme", scheme, "--calib", &calib, "-o", "all.so",
        ];
        assert!(rsqc(f, None, &args).status.success());
        let mut outputs = Vec::new();
        for level in ["portable", "avx2", "avxvnni", "avx512vnni"] {
            if rsqc_runtime::Level::from_name(level).is_some_and(rsqc_runtime::cpu::supports) {
                let out = rsqc(
                    f,
                    Some(level),
                    &["run", "all.so", "--inputs", "in.npz", "--outputs", "o.npz"],
                );
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                outputs.push(
                    Npz::open(&f.join("o.npz"))
                        .and_then(|mut z| z.read("logits"))
                        .expect("logits")
                        .data,
                );
            }
        }
        assert!(
            !outputs.is_empty() && outputs.iter().all(|o| *o == outputs[0]),
            "{scheme}"
        );
    }
}

#[test]
fn data_that_does_not_fit_is_refused_with_the_cause() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let array = |ty: ScalarType, shape: &[usize]| Array {
        ty,
        shape: shape.to_vec(),
        data: vec![0; shape.iter().product::<usize>() * ty.size()],
    };
    save(f, "names.npz", &[("pixels", images(3, |_, x| x))]);
    save(
        f,
        "shape.npz",
        &[("image", array(ScalarType::F32, &[3, 1, 8, 9]))],
    );
    save(f, "type.npz", &[("image", array(ScalarType::F64, &[3, 1, 8, 8]))]);
    save(
        f,
        "nan.npz",
        &[("image", images(3, |i, x| if i == 100 { f32::NAN } else { x }))],
    );
    save(f, "none.npz", &[("image", array(ScalarType::F32, &[0, 1, 8, 8]))]);
    save(f, "huge.npz", &[("image", images(3, |_, _| 3e38))]);
    std::fs::write(f.join("not.npz"), "text").expect("written");
    std::fs::create_dir(f.join("folder")).expect("made");
    for (calib, words) in [
        ("names.npz", vec!["names.npz", "image", "pixels"]),
        ("shape.npz", vec!["shape.npz", "image", "8, 9"]),
        ("type.npz", vec!["type.npz", "f64"]),
        ("nan.npz", vec!["nan.npz", "sample 1", "NaN"]),
        ("none.npz", vec!["none.npz", "no samples"]),
        ("huge.npz", vec!["infinity", "sample 0"]),
        ("not.npz", vec!["not.npz"]),
        ("folder", vec!["folder", "no samples"]),
        ("absent.npz", vec!["absent.npz"]),
    ] {
        let (status, _, stderr) = compile(f, "w8a8-static", &[calib]);
        assert_eq!(status, Some(1), "{calib}: {stderr}");
        for w in words {
            assert!(stderr.contains(w), "{calib} does not say `{w}`: {stderr}");
        }
        assert!(!f.join("out.so").exists(), "{calib} left an artifact behind");
    }
    let (status, _, stderr) = compile(f, "w8a8-static", &[]);
    assert_eq!(status, Some(1));
    assert!(
        stderr.contains("static") && stderr.contains("--calib"),
        "{stderr}"
    );
    // Texts: no tokenizer, no such one, a damaged one, and a model that takes no text.
    std::fs::write(f.join("text.txt"), "some text\n").expect("written");
    std::fs::write(f.join("damaged.json"), "{\"version\": 1").expect("written");
    let good = r#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"text": 0, "?": 1}, "unk_token": "?"}}"#;
    std::fs::write(f.join("good.json"), good).expect("written");
    for (tokenizer, words) in [
        (None, vec!["text.txt", "--tokenizer"]),
        (Some("absent.json"), vec!["absent.json", "no such file"]),
        (Some("damaged.json"), vec!["damaged.json", "no tokenizer.json"]),
        (Some("good.json"), vec!["text.txt", "'image' f32", "input_ids"]),
    ] {
        let mut calib = vec!["text.txt"];
        calib.extend(tokenizer.iter().flat_map(|t| ["--tokenizer", *t]));
        let model = example("mlp.onnx").display().to_string();
        let mut args = vec![
            "compile",
            &model,
            "--scheme",
            "w8a8-static",
            "-o",
            "out.so",
            "--calib",
        ];
        args.extend(calib);
        let out = rsqc(f, None, &args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        for w in words {
            assert!(stderr.contains(w), "`{w}`: {stderr}");
        }
        assert!(
            !stderr.contains("panicked") && !f.join("out.so").exists(),
            "{stderr}"
        );
    }
}

#[test]
fn where_work_goes_on_there_is_a_note() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let note = |calib: &str, scheme: &str, words: &[&str]| {
        let (status, stdout, stderr) = compile(f, scheme, &[calib]);
        assert_eq!(status, Some(0), "{stderr}");
        assert_eq!(stdout.lines().count(), 1);
        let has = |l: &str| l.starts_with("note:") && words.iter().all(|w| l.contains(w));
        assert!(stderr.lines().any(has), "{words:?}: {stderr}");
    };
    save(
        f,
        "one.npz",
        &[("image", images(1, |_, x| x)), ("labels", images(1, |_, x| x))],
    );
    note("one.npz", "w8a8-static", &["single sample"]);
    note("one.npz", "w8a8-static", &["labels", "ignored"]);
    note("one.npz", "w8a8", &["no calibration data", "ignored"]);
    save(f, "zero.npz", &[("image", images(4, |_, _| 0.0))]);
    note("zero.npz", "w8a8-static", &["is 0 in all calibration samples"]);
    let recipe = "scheme = \"w8a8-static\"\n[[layer]]\nmatch = \"*/nothing/*\"\nscheme = \"none\"\n";
    std::fs::write(f.join("r.toml"), recipe).expect("written");
    note("one.npz", "r.toml", &["*/nothing/*", "no layer"]);
}

#[test]
fn recipes_are_checked_before_any_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = dir.path();
    let layer =
        |scheme: &str| format!("scheme = \"w8a8\"\n[[layer]]\nmatch = \"*\"\nscheme = \"{scheme}\"\n");
    for (text, words) in [
        (
            "scheme = \"w8a8\"\ncalibrator = \"mse\"\n".to_string(),
            vec!["r.toml:2", "calibrator"],
        ),
        (layer("w8a8-static-token"), vec!["r.toml", "exclude each other"]),
        (layer("w8a8+entropy"), vec!["run time", "static"]),
        (layer("w8a8-static+percentile:q=9"), vec!["no parameter `q`", "p"]),
        (layer("w8a8-statik"), vec!["did you mean `static`"]),
    ] {
        std::fs::write(f.join("r.toml"), &text).expect("written");
        let (status, _, stderr) = compile(f, "r.toml", &[]);
        assert_eq!(status, Some(1), "{stderr}");
        for w in words {
            assert!(stderr.contains(w), "`{w}`: {stderr}");
        }
    }
}

#[test]
fn compiled_taps_agree_with_the_evaluator() {
    let mut m = rsqc::compiler::import(&example("vit.onnx"), &BTreeMap::new()).expect("imports");
    PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut m, &rsqc_passes::pipeline::canonicalize())
        .expect("canonical");
    let g = &m.graph;
    let mut taps: Vec<ValueId> = g
        .node_ids()
        .filter(|n| matches!(g.node(*n).op, Op::MatMul(_)))
        .filter_map(|n| g.node(n).input(0))
        .collect();
    taps.sort();
    taps.dedup();
    assert!(taps.len() > 6);
    let backend = rsqc::backends::find("cpu").expect("a backend");
    let compiled = CompiledExecutor {
        backend: backend.as_ref(),
        threads: 1,
    };
    let values: Vec<f32> = (0..3 * 64).map(|i| (i * 7 % 17) as f32 / 16.0).collect();
    let input = [Tensor::new(vec![3, 1, 8, 8], values)];
    let executors: [&dyn Executor; 2] = [&compiled, &ReferenceExecutor];
    let found = executors.map(|e| {
        let mut seen: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let mut prepared = e.prepare(&m, &taps).expect("prepared");
        let out = prepared
            .run(&input, &mut |v, t| drop(seen.insert(v, t.clone())))
            .expect("runs");
        (seen, out)
    });
    let pairs = found[0].0.values().zip(found[1].0.values());
    for (a, b) in pairs.chain(found[0].1.iter().zip(&found[1].1)) {
        assert_eq!(a.shape, b.shape);
        let (x, y) = (a.to_f64(), b.to_f64());
        let top = y.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(
            x.iter()
                .zip(&y)
                .all(|(x, y)| (x - y).abs() <= 1e-4 * top.max(1e-6))
        );
    }
    assert_eq!(
        found[0].0.keys().collect::<Vec<_>>(),
        taps.iter().collect::<Vec<_>>()
    );
}
