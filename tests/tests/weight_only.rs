//! Weight-only quantization (`w8a16`): accuracy, size, and that no float copy of a quantized weight exists anywhere.

use rsqc::compiler::{self, Clock, Compiled};
use rsqc::data::Array;
use rsqc::evaluate::{Task, evaluate};
use rsqc::inprocess::SessionProgram;
use rsqc::program::ModuleProgram;
use rsqc_artifact::Level;
use rsqc_artifact::manifest::{ElemType, buffer};
use rsqc_ir::ScalarType;
use rsqc_ir::eval::ReferenceExecutor;
use rsqc_runtime::Session;
use rsqc_tests::run::{levels, load, options};
use rsqc_tests::shared::{self, repository};
use std::collections::BTreeSet;
use std::path::Path;

fn compile(path: &Path, scheme: &str, levels: &[Level]) -> Compiled {
    let backend = rsqc_cpu::Cpu::default();
    compiler::compile(
        path,
        &options(scheme, levels),
        &backend,
        &mut Clock::new(&mut |_| {}),
    )
    .expect("the model compiles")
}

fn figure(figures: &[(String, f64)], name: &str) -> f64 {
    let found = figures.iter().find(|(k, _)| k == name);
    found.map(|(_, v)| *v).expect("a figure")
}

/// Bytes of the smallest weight that became codes, were it float.
///
/// # Panics
/// If the weight segment holds a float tensor by the name of one that became codes, or bytes that are no buffer's, or
/// if codes take more than their share.
fn no_float_copies(c: &Compiled) -> u64 {
    let layers = c.manifest.layers.iter().filter(|l| l.scheme == "w8a16");
    let sizes: Vec<u64> = layers.map(|l| l.weight_bytes_before).collect();
    let smallest = *sizes.iter().min().expect("some layer became codes");
    let weights = c.manifest.buffers.iter().filter_map(|b| match &b.kind {
        Some(buffer::Kind::Weight(range)) => Some((b, range.length)),
        _ => None,
    });
    let base = |name: &str| name.trim_end_matches(".transposed").to_string();
    let (mut floats, mut codes) = (BTreeSet::new(), BTreeSet::new());
    let (mut code_bytes, mut all) = (0, 0);
    for (b, length) in weights {
        all += length;
        let name = base(&b.name);
        if let Some(of) = name.strip_suffix(".codes") {
            assert_eq!(b.elem, ElemType::I8 as i32, "{name}");
            code_bytes += length;
            codes.insert(base(of));
        } else if b.elem == ElemType::F32 as i32 {
            floats.insert(name);
        }
    }
    assert!(codes.len() >= sizes.len(), "{codes:?}");
    let twice: Vec<&String> = codes.intersection(&floats).collect();
    assert!(twice.is_empty(), "also there as floats: {twice:?}");
    // Columns are padded to panels of 64.
    assert!(code_bytes <= c.manifest.layers.iter().map(|l| l.weight_bytes_before).sum());
    assert!(c.weights.len() as u64 <= all + 64 * c.manifest.buffers.len() as u64);
    smallest
}

#[test]
fn digits_keep_their_accuracy_at_every_level() {
    for (model, snr) in [("vit", 38.0), ("mlp", 38.0)] {
        let path = repository(&format!("examples/digits/{model}.onnx"));
        let data = repository("examples/digits/eval.npz");
        let compiled = compile(&path, "w8a16", &levels());
        no_float_copies(&compiled);
        let m = compiler::import(&path, &Default::default()).expect("imports");
        for level in levels() {
            let mut code = SessionProgram::new(&load(&compiled, level), 1).expect("a session");
            let reference = Box::new(ModuleProgram::new(&m, &ReferenceExecutor).expect("prepares"));
            let figures =
                evaluate(Task::Classify, &mut code, Some(reference), &data, 200).expect("evaluates");
            let at = format!("{model} {level}: {figures:?}");
            println!("{at}");
            assert!(figure(&figures, "agreement") >= 0.99, "{at}");
            assert!(figure(&figures, "logits_snr_db") >= snr, "{at}");
        }
    }
}

#[test]
fn minilm_is_small_close_and_never_float() {
    let test = "minilm_is_small_close_and_never_float";
    let Some(path) = shared::find(test, "models/minilm/model.onnx") else {
        return;
    };
    let Some(data) = shared::find(test, "models/minilm/eval.npz") else {
        return;
    };
    let level = rsqc_runtime::cpu::best_level();
    // The file that users get: with the code of all levels.
    let compiled = compile(&path, "w8a16", &Level::ALL);
    let smallest = no_float_copies(&compiled);
    let mut file = Vec::new();
    compiled.write(&mut file).expect("memory");
    assert!(
        file.len() <= 24_500_000,
        "{} bytes, {} of code",
        file.len(),
        compiled.code.len()
    );
    let model = load(&compiled, level);

    // One token: what a session holds would not even fit the smallest weight as floats.
    let mut session = Session::with_threads(&model, 1).expect("a session");
    let one = Array {
        ty: ScalarType::I64,
        shape: vec![1, 1],
        data: 1i64.to_le_bytes().to_vec(),
    };
    let view = || rsqc_runtime::TensorView {
        elem: rsqc::specs::elem_type(one.ty),
        dims: &[1, 1],
        data: &one.data,
    };
    session.run(&[view(), view(), view()]).expect("runs");
    let held = session.memory_bytes() as u64;
    assert!(
        held < smallest,
        "{held} bytes at run time, the smallest weight has {smallest}"
    );

    let mut code = SessionProgram::new(&model, 2).expect("a session");
    let figures = evaluate(Task::Embedding, &mut code, None, &data, usize::MAX).expect("evaluates");
    println!(
        "minilm w8a16: {} bytes, {held} at run time, {figures:?}",
        file.len()
    );
    assert!(figure(&figures, "mean_cosine") >= 0.9994, "{figures:?}");
}
