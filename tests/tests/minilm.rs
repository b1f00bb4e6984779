//! MiniLM (all-MiniLM-L6-v2), from the folder of extra models: accuracy, shapes, the plan, bytes.

use rsqc::compiler::{self, Clock, Compiled};
use rsqc::data::Array;
use rsqc::evaluate::{Task, evaluate};
use rsqc::inprocess::SessionProgram;
use rsqc::metrics::snr_db;
use rsqc::program::{ModuleProgram, Program};
use rsqc_artifact::Level;
use rsqc_artifact::manifest::step;
use rsqc_ir::ScalarType;
use rsqc_ir::eval::ReferenceExecutor;
use rsqc_tests::run::{levels, load, options};
use rsqc_tests::shared;
use std::path::{Path, PathBuf};

fn model(test: &str) -> Option<PathBuf> {
    shared::find(test, "models/minilm/model.onnx")
}

fn compile(path: &Path, scheme: &str, levels: &[Level]) -> Compiled {
    let backend = rsqc_cpu::Cpu::default();
    compiler::compile(
        path,
        &options(scheme, levels),
        &backend,
        &mut Clock::new(&mut |_| {}),
    )
    .expect("minilm compiles")
}

/// Token ids, a mask whose last quarter is 0 in odd rows, token types.
fn inputs(batch: usize, sequence: usize) -> Vec<Array> {
    let array = |f: &dyn Fn(usize, usize) -> i64| Array {
        ty: ScalarType::I64,
        shape: vec![batch, sequence],
        data: (0..batch * sequence)
            .flat_map(|i| f(i / sequence, i % sequence).to_le_bytes())
            .collect(),
    };
    vec![
        array(&|b, s| ((b * 7919 + s * 104_729 + 1000) % 30_000) as i64),
        array(&|b, s| i64::from(b % 2 == 0 || s < sequence - sequence / 4)),
        array(&|_, _| 0),
    ]
}

fn best() -> Level {
    rsqc_runtime::cpu::best_level()
}

#[test]
fn float_code_agrees_with_the_evaluator_at_every_shape() {
    let Some(path) = model("float_code_agrees_with_the_evaluator_at_every_shape") else {
        return;
    };
    let compiled = compile(&path, "none", &[best()]);
    let mut code = SessionProgram::new(&load(&compiled, best()), 2).expect("a session");
    let m = compiler::import(&path, &Default::default()).expect("minilm imports");
    let mut reference = ModuleProgram::new(&m, &ReferenceExecutor).expect("prepares");
    for (b, s) in [(1, 1), (1, 16), (3, 77), (1, 512), (8, 128), (0, 16)] {
        let x = inputs(b, s);
        let want = reference.run(&x).expect("the evaluator runs").swap_remove(0);
        let got = code.run(&x).expect("compiled code runs").swap_remove(0);
        assert_eq!(got.shape, [b, s, 384]);
        let snr = snr_db(&want.to_f64(), &got.to_f64());
        println!("minilm none {b}x{s}: {snr:.1} dB against the evaluator");
        assert!(snr >= 115.0, "{b}x{s}: {snr} dB");
    }
}

#[test]
fn quantized_embeddings_stay_close() {
    let Some(path) = model("quantized_embeddings_stay_close") else {
        return;
    };
    let Some(data) = shared::find("quantized_embeddings_stay_close", "models/minilm/eval.npz") else {
        return;
    };
    for scheme in ["w8a8", "w8a8+attn8"] {
        let compiled = compile(&path, scheme, &[best()]);
        let mut code = SessionProgram::new(&load(&compiled, best()), 2).expect("a session");
        let figures = evaluate(Task::Embedding, &mut code, None, &data, usize::MAX).expect("evaluates");
        println!("minilm {scheme}: {figures:?}");
        let figure = |name: &str| {
            figures
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| *v)
                .expect("a figure")
        };
        assert!(figure("spearman") >= 0.9990, "{scheme}: {figures:?}");
        assert!(figure("mean_cosine") >= 0.9965, "{scheme}: {figures:?}");
    }
}

#[test]
fn static_scales_cost_little_and_no_step_of_their_own() {
    let test = "static_scales_cost_little_and_no_step_of_their_own";
    let files =
        ["model.onnx", "calib.npz", "eval.npz"].map(|f| shared::find(test, &format!("models/minilm/{f}")));
    let [Some(path), Some(calib), Some(data)] = files else {
        return;
    };
    let backend = rsqc_cpu::Cpu::default();
    let o = compiler::CompileOptions {
        calib: vec![calib],
        ..options("w8a8-static", &[best()])
    };
    let compiled =
        compiler::compile(&path, &o, &backend, &mut Clock::new(&mut |_| {})).expect("minilm compiles");
    // As many steps as with scales computed at run time, which no step computes or applies alone.
    let block = &compiled.manifest.blocks[0];
    assert_eq!(block.steps.len(), 2 + 6 * 7);
    let layers = compiled
        .manifest
        .layers
        .iter()
        .filter(|l| l.scheme == "w8a8-static");
    assert_eq!(
        layers
            .filter(|l| l.extra.iter().any(|e| e.key == "scale"))
            .count(),
        24
    );
    let mut code = SessionProgram::new(&load(&compiled, best()), 2).expect("a session");
    let figures = evaluate(Task::Embedding, &mut code, None, &data, usize::MAX).expect("evaluates");
    println!("minilm w8a8-static: {figures:?}");
    let figure = |name: &str| {
        figures
            .iter()
            .find(|(k, _)| k == name)
            .map_or(f64::NAN, |(_, v)| *v)
    };
    assert!(figure("spearman") >= 0.9963, "{figures:?}");
    assert!(figure("mean_cosine") >= 0.9880, "{figures:?}");
}

#[test]
fn one_quantized_program_serves_every_shape_and_thread_count() {
    let Some(path) = model("one_quantized_program_serves_every_shape_and_thread_count") else {
        return;
    };
    let compiled = compile(&path, "w8a8", &levels());
    for level in levels() {
        let model = load(&compiled, level);
        let mut one = SessionProgram::new(&model, 1).expect("a session");
        let mut two = SessionProgram::new(&model, 2).expect("a session");
        for (b, s) in [(1, 1), (1, 16), (3, 77), (0, 16)] {
            let x = inputs(b, s);
            let (p, q) = (one.run(&x).expect("runs"), two.run(&x).expect("runs"));
            assert_eq!(p, q, "{} {b}x{s}: two threads give other bits", level.name());
            assert_eq!(p[0].shape, [b, s, 384]);
            assert!(
                p[0].to_f64().iter().all(|v| v.is_finite()),
                "{} {b}x{s}",
                level.name()
            );
        }
    }
}

#[test]
fn the_quantized_plan_is_fused() {
    let Some(path) = model("the_quantized_plan_is_fused") else {
        return;
    };
    let compiled = compile(&path, "w8a8", &[best()]);
    let launches: Vec<String> = compiled.manifest.blocks[0]
        .steps
        .iter()
        .filter_map(|s| match &s.kind {
            Some(step::Kind::Launch(l)) => Some(l.name.clone()),
            _ => None,
        })
        .collect();
    let count = |part: &str| launches.iter().filter(|n| n.contains(part)).count();
    // Each layer: q, k and v as one product, attention, out-projection, norm, fc1 with GELU, fc2, norm; before them one
    // step for the mask and one for the embeddings.
    assert_eq!(launches.len(), 2 + 6 * 7, "{launches:#?}");
    assert_eq!(count("qc8w_gemm"), 24, "{launches:#?}");
    assert_eq!(count("attention"), 6, "{launches:#?}");
    assert_eq!(
        compiled.manifest.blocks[0].steps.len(),
        launches.len(),
        "no copies, no aliases"
    );
}
