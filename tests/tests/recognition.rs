//! What recognition finds in whole models: every exported block becomes its op, verified and numerically checked after
//! each pass.

use rsqc_ir::Module;
use rsqc_onnx::{ImportOptions, import};
use rsqc_passes::pipeline::canonicalize;
use rsqc_passes::{Env, ManagerOptions, PassManager};
use rsqc_tests::shared::{find, repository};
use std::collections::BTreeMap;
use std::path::Path;

/// Canonical form of a model, and how often each op occurs in it.
fn canonical(path: &Path) -> (Module, BTreeMap<&'static str, usize>) {
    let mut m = import(path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let options = ManagerOptions {
        verify_each: true,
        check_numeric: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(Env::default(), options)
        .run(&mut m, &canonicalize())
        .unwrap_or_else(|d| panic!("{}: {d}", path.display()));
    for p in &report.passes {
        assert!(p.notes.is_empty(), "{}: {:?}", p.name, p.notes);
    }
    assert_eq!(
        report.counter("node limit reached") + report.counter("iteration limit reached"),
        0
    );
    let mut counts = BTreeMap::new();
    for id in m.graph.node_ids() {
        *counts.entry(m.graph.node(id).op.name()).or_default() += 1;
    }
    (m, counts)
}

fn check(path: &Path, want: &[(&str, usize)]) {
    let (_, counts) = canonical(path);
    for (op, n) in want {
        assert_eq!(
            counts.get(op).copied().unwrap_or(0),
            *n,
            "{op} in {}: {counts:?}",
            path.display()
        );
    }
}

#[test]
fn vit_and_cnn_of_the_examples() {
    let vit = [
        ("attention", 3),
        ("gelu", 3),
        ("layer_norm", 7),
        ("conv", 0),
        ("softmax", 0),
        ("matmul", 14),
    ];
    check(&repository("examples/digits/vit.onnx"), &vit);
    check(
        &repository("examples/digits/cnn.onnx"),
        &[("conv", 4), ("mul", 0), ("relu", 4)],
    );
}

#[test]
fn minilm() {
    let Some(path) = find("minilm", "models/minilm/model.onnx") else {
        return;
    };
    let (m, counts) = canonical(&path);
    let constant = |id: &rsqc_ir::NodeId| {
        m.graph
            .node(*id)
            .input(1)
            .is_some_and(|w| m.const_of(w).is_some())
    };
    let linears = m
        .graph
        .node_ids()
        .filter(|n| m.graph.node(*n).op.name() == "matmul")
        .filter(constant)
        .count();
    assert_eq!(linears, 36);
    for (op, n) in [
        ("attention", 6),
        ("gelu", 6),
        ("layer_norm", 13),
        ("matmul", 36),
        ("softmax", 0),
        ("erf", 0),
    ] {
        assert_eq!(counts.get(op).copied().unwrap_or(0), n, "{op}: {counts:?}");
    }
}

#[test]
fn stories() {
    let llama = |layers: usize| {
        [
            ("rms_norm", 2 * layers + 1),
            ("rope", 2 * layers),
            ("attention", layers),
            ("silu", layers),
            ("softmax", 0),
            ("expand", 0),
            ("iota", 0),
            ("where", 0),
        ]
    };
    for (model, layers) in [
        ("tinyllama/stories260k", 5),
        ("tinyllama/tinystories656k", 2),
        ("rustdocs", 4),
    ] {
        let Some(path) = find("stories", &format!("models/{model}/model.onnx")) else {
            return;
        };
        check(&path, &llama(layers));
    }
}

#[test]
fn resnet_has_no_normalization_left() {
    let Some(path) = find(
        "resnet_has_no_normalization_left",
        "models/resnet20_cifar10/model.onnx",
    ) else {
        return;
    };
    check(&path, &[("conv", 19), ("mul", 0), ("add", 10), ("relu", 19)]);
}
