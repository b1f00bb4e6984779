//! The repository's own models: accuracy of both schemes, at every level, against the evaluator.

use rsqc::compiler::{self, Clock};
use rsqc::evaluate::{Task, evaluate};
use rsqc::inprocess::SessionProgram;
use rsqc::program::ModuleProgram;
use rsqc_ir::eval::ReferenceExecutor;
use rsqc_tests::run::{levels, load, options};
use rsqc_tests::shared::repository;

/// Lowest top-1 and agreement, and lowest logits SNR in dB.
fn check(model: &str, scheme: &str, top1: f64, snr: f64) {
    let path = repository(&format!("examples/digits/{model}.onnx"));
    let data = repository("examples/digits/eval.npz");
    let backend = rsqc_cpu::Cpu::default();
    let o = options(scheme, &levels());
    let compiled = compiler::compile(&path, &o, &backend, &mut Clock::new(&mut |_| {})).expect("compiles");
    let m = compiler::import(&path, &Default::default()).expect("imports");
    for level in levels() {
        let mut code = SessionProgram::new(&load(&compiled, level), 1).expect("a session");
        let reference = Box::new(ModuleProgram::new(&m, &ReferenceExecutor).expect("prepares"));
        let figures = evaluate(Task::Classify, &mut code, Some(reference), &data, 200).expect("evaluates");
        let figure = |name: &str| {
            figures
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| *v)
                .expect("a figure")
        };
        let at = format!("{model} {scheme} {}: {figures:?}", level.name());
        assert!(figure("top1") >= top1, "{at}");
        assert!(figure("agreement") >= 0.98, "{at}");
        assert!(figure("logits_snr_db") >= snr, "{at}");
    }
}

#[test]
fn float_models_give_the_evaluators_logits() {
    for model in ["vit", "cnn", "mlp"] {
        check(model, "none", 0.97, 115.0);
    }
}

#[test]
fn quantized_models_keep_their_accuracy() {
    check("vit", "w8a8", 0.97, 30.0);
    check("cnn", "w8a8", 0.97, 30.0);
    check("mlp", "w8a8", 0.97, 30.0);
}
