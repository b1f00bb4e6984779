//! Every level: its code holds no instruction above it, and the bits do not depend on it.
//!
//! Only float products may add in an order of their own. So a model is **cut** at them: their results become inputs,
//! and every value that anything else computes becomes an output. Given the same inputs, all outputs of the cut model
//! must have the same bits at every level: the integer products, quantizers, norms, softmax-free arithmetic, gathers.

use rsqc::compiler::{self, Clock, CompileOptions};
use rsqc_artifact::Level;
use rsqc_backend::Backend;
use rsqc_cpu::isa::excess;
use rsqc_cpu::llvm::reachable;
use rsqc_ir::eval::Tensor;
use rsqc_ir::region::{Anchor, Products};
use rsqc_ir::{Module, NodeId, Op, Port, ScalarType, Symbol, ValueId};
use rsqc_passes::manager::{ManagerOptions, PassManager, Report};
use rsqc_passes::pass::Env;
use rsqc_passes::pipeline;
use rsqc_tests::outliers::plant;
use rsqc_tests::run::{compile, levels, load, lower, lower_canonical_on, lower_on, options, run, same_bits};
use rsqc_tests::shared;
use std::collections::BTreeSet;
use std::path::Path;

/// Whether a node's sums may differ between levels.
fn is_float_product(m: &Module, n: NodeId) -> bool {
    match &m.graph.node(n).op {
        Op::Region(r) => match &r.region.anchor {
            Anchor::None => false,
            Anchor::Contract { acc, .. } => *acc == ScalarType::F32,
            Anchor::Attention(a) => a.products == Products::Float,
        },
        _ => false,
    }
}

/// The lowered module cut at its float products, which stay in it as outputs.
struct Cut {
    module: Module,
    /// Inputs that the model itself has.
    inputs: usize,
    /// By output: the input that reads it, for results of float products.
    feeds: Vec<Option<usize>>,
}

fn cut(lowered: &Module) -> Cut {
    let mut m = lowered.clone();
    let order = m.graph.topo_order().expect("acyclic");
    let inputs = m.graph.inputs().len();
    let mut outputs: Vec<Port> = m.graph.outputs().to_vec();
    let mut feeds = vec![None; outputs.len()];
    for n in order {
        let product = is_float_product(&m, n);
        for v in m.graph.node(n).outputs.clone() {
            let place = match outputs.iter().position(|p| p.value == v) {
                Some(place) => place,
                // Codes that are stored with an offset show in the products that read them.
                None if m.graph.value(v).layout.is_some() && !product => continue,
                None => {
                    outputs.push(Port {
                        name: format!("value{}", v.0),
                        value: v,
                    });
                    feeds.push(None);
                    outputs.len() - 1
                }
            };
            if product {
                let ty = m.graph.ty(v).clone();
                feeds[place] = Some(m.graph.inputs().len());
                let input = m.graph.add_input(&format!("cut{}", v.0), ty);
                m.graph.set_layout(input, m.graph.value(v).layout);
                replace_readers(&mut m, v, input);
            }
        }
    }
    m.graph.set_outputs(outputs);
    Cut {
        module: m,
        inputs,
        feeds,
    }
}

fn replace_readers(m: &mut Module, old: ValueId, new: ValueId) {
    let readers: BTreeSet<NodeId> = m.graph.users(old).map(|(n, _)| n).collect();
    for n in readers {
        let mut inputs = m.graph.node(n).inputs.clone();
        for i in inputs.iter_mut().filter(|i| **i == Some(old)) {
            *i = Some(new);
        }
        m.graph.set_inputs(n, inputs);
    }
}

/// Inputs that fit a model's names: masks of ones, positions that count, small ids, floats around 0.
fn inputs(m: &Module, ports: &[Port], zeros: bool) -> Vec<Tensor> {
    let large = |p: &Port| m.graph.ty(p.value).shape.iter().any(|d| d.as_const() > Some(100));
    let batch = if m.graph.inputs().iter().any(large) { 1 } else { 2 };
    let value = |s: &Symbol| {
        let name = s.name();
        Some(match name {
            // Pictures of 227 x 227 take long at the lowest level.
            _ if name.contains("batch") => batch,
            _ if name.contains("past") => 3,
            _ => 9,
        })
    };
    let mut rng = fastrand::Rng::with_seed(7);
    let mut tensor = |p: &Port| {
        let ty = m.graph.ty(p.value);
        let extents = ty.shape.iter().map(|d| d.eval(&value).expect("bound symbols"));
        let shape: Vec<usize> = extents.map(|d| d as usize).collect();
        let n: usize = shape.iter().product();
        let last = shape.last().copied().unwrap_or(1).max(1);
        match ty.storage() {
            ScalarType::I64 => {
                let of = |i: usize| match &*p.name {
                    name if name.contains("mask") => 1,
                    name if name.contains("position") => (i % last) as i64,
                    name if name.contains("type") => 0,
                    _ => (i * 37 % 97) as i64,
                };
                Tensor::new(shape, (0..n).map(of).collect::<Vec<i64>>())
            }
            ScalarType::F32 if zeros => Tensor::new(shape, vec![0f32; n]),
            // Codes that are stored with an offset, as they are in memory.
            ScalarType::I8 if zeros => Tensor::new(shape, vec![128u8; n]),
            ScalarType::F32 => {
                let values = (0..n).map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 2.0);
                Tensor::new(shape, values.collect::<Vec<f32>>())
            }
            other => panic!("no input of type {other} is known"),
        }
    };
    ports.iter().map(&mut tensor).collect()
}

/// Both proofs for a model under a scheme; `families` must be among the kernels' names.
fn prove(path: &Path, scheme: &str, families: &[&str]) {
    let at = format!("{} {scheme}", path.display());
    let o = options(scheme, &Level::ALL);
    let mut m = compiler::import(path, &Default::default()).unwrap_or_else(|e| panic!("{at}: {}", e.text));
    let sample = inputs(&m, m.graph.inputs(), false);
    lower_on(&mut m, &o, sample).unwrap_or_else(|e| panic!("{at}: {e}"));
    prove_lowered(&m, &o, &at, families);
}

/// The same for a lowered module.
fn prove_lowered(m: &Module, o: &CompileOptions, at: &str, families: &[&str]) {
    let cut = cut(m);
    let compiled = compile(&cut.module, o).unwrap_or_else(|e| panic!("{at}: {e}"));
    let names: Vec<&str> = compiled.manifest.kernels.iter().map(|k| &*k.name).collect();
    for family in families {
        assert!(
            names.iter().any(|n| n.contains(family)),
            "{at}: no {family} in {names:?}"
        );
    }
    for kernel in &compiled.manifest.kernels {
        for entry in &kernel.entries {
            let level = Level::from_name(&entry.level).expect("a level that exists");
            let code = reachable(&compiled.code, entry.offset as usize)
                .unwrap_or_else(|e| panic!("{at}: {} at {level}: {e}", kernel.name));
            if let Some(why) = code.iter().find_map(|i| excess(i, level)) {
                panic!("{at}: kernel {} at {level}: {why}", kernel.name);
            }
        }
    }
    same_at_every_level(&cut, &compiled, at);
}

fn same_at_every_level(cut: &Cut, compiled: &rsqc::compiler::Compiled, at: &str) {
    let ports = cut.module.graph.inputs();
    let mut fed = inputs(&cut.module, &ports[..cut.inputs], false);
    fed.extend(inputs(&cut.module, &ports[cut.inputs..], true));
    let best = load(compiled, rsqc_runtime::cpu::best_level());
    // What the products read becomes right from the first product to the last, one a run.
    loop {
        let out = run(&best, 1, &fed).unwrap_or_else(|e| panic!("{at}: {e}"));
        let mut changed = false;
        for (value, feed) in out.into_iter().zip(&cut.feeds) {
            if let Some(i) = *feed {
                changed |= !same_bits(&fed[i], &value);
                fed[i] = value;
            }
        }
        if !changed {
            break;
        }
    }
    let mut first: Option<Vec<Tensor>> = None;
    let mut compared = 0;
    for level in levels() {
        let got = run(&load(compiled, level), 1, &fed).unwrap_or_else(|e| panic!("{at} {level}: {e}"));
        let Some(want) = &first else {
            first = Some(got);
            continue;
        };
        for (i, (w, g)) in want.iter().zip(&got).enumerate() {
            if cut.feeds[i].is_some() {
                continue;
            }
            compared += 1;
            let port = &cut.module.graph.outputs()[i];
            let node = cut
                .module
                .graph
                .def_node(port.value)
                .map(|(n, _)| &cut.module.graph.node(n).loc);
            assert!(
                same_bits(w, g),
                "{at}: `{}` of {node:?} has other bits at {level}: {:e}",
                port.name,
                rsqc_tests::run::relative_difference(w, g)
            );
        }
    }
    let all_products = cut.feeds.iter().all(Option::is_some);
    assert!(
        levels().len() < 2 || all_products || compared > 0,
        "{at}: nothing was compared"
    );
}

fn digits(model: &str, scheme: &str, families: &[&str]) {
    let path = shared::repository(&format!("examples/digits/{model}.onnx"));
    prove(&path, scheme, families);
}

/// Both proofs for the outlier variant of a decoder, which exists in canonical form.
fn prove_planted(test: &str, model: &str, scheme: &str) {
    let Some(path) = shared::find(test, &format!("models/tinyllama/{model}/model.onnx")) else {
        return;
    };
    let mut m = compiler::import(&path, &Default::default()).expect("imports");
    PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut m, &pipeline::canonicalize())
        .expect("canonical");
    plant(&mut m);
    let o = options(scheme, &Level::ALL);
    let sample = inputs(&m, m.graph.inputs(), false);
    let at = format!("{model} with outliers, {scheme}");
    lower_canonical_on(&mut m, &o, sample).unwrap_or_else(|e| panic!("{at}: {e}"));
    prove_lowered(&m, &o, &at, &["qc8w_gemm"]);
}

#[test]
fn outlier_variants() {
    prove_planted("outlier_variants", "stories260k", "w8a8-static+smoothquant");
    prove_planted("outlier_variants", "tinystories656k", "w8a8+smoothquant");
    prove_planted("outlier_variants", "tinystories656k", "w8a8-static");
}

/// What calibration runs on: float products in one order, so all outputs have the same bits at all levels, whatever the
/// number of threads.
fn reproducible(path: &Path) {
    let at = path.display();
    let o = options("none", &Level::ALL);
    let mut m = compiler::import(path, &Default::default()).expect("imports");
    let fed = inputs(&m, m.graph.inputs(), false);
    lower(&mut m, &o).unwrap_or_else(|e| panic!("{at}: {e}"));
    let backend = rsqc_cpu::Cpu::default().reproducible();
    let compiled = compiler::assemble(
        &m,
        Report::default(),
        path,
        &o,
        backend.as_ref(),
        &mut Clock::new(&mut |_| {}),
    )
    .unwrap_or_else(|e| panic!("{at}: {}", e.text));
    let mut first: Option<Vec<Tensor>> = None;
    for (level, threads) in levels().into_iter().flat_map(|l| [(l, 1), (l, 2)]) {
        let got = run(&load(&compiled, level), threads, &fed).unwrap_or_else(|e| panic!("{at} {level}: {e}"));
        let want = first.get_or_insert_with(|| got.clone());
        for (w, g) in want.iter().zip(&got) {
            let off = rsqc_tests::run::relative_difference(w, g);
            assert!(
                same_bits(w, g),
                "{at}: other bits at {level} on {threads} threads: {off:e}"
            );
        }
    }
}

#[test]
fn calibration_runs_have_the_same_bits_everywhere() {
    let test = "calibration_runs_have_the_same_bits_everywhere";
    for model in ["vit", "cnn", "mlp"] {
        reproducible(&shared::repository(&format!("examples/digits/{model}.onnx")));
    }
    for model in [
        "minilm",
        "squeezenet",
        "resnet20_cifar10",
        "tinyllama/stories260k",
    ] {
        if let Some(path) = shared::find(test, &format!("models/{model}/model.onnx")) {
            reproducible(&path);
        }
    }
}

#[test]
fn digits_float() {
    digits("vit", "none", &["gemm", "attention", "reduce"]);
    digits("cnn", "none", &["f32"]);
}

#[test]
fn digits_quantized() {
    digits("vit", "w8a8", &["qc8w_gemm", "attention"]);
    digits("cnn", "w8a8", &["f32"]);
    digits("mlp", "w8a8", &["qc8w_gemm"]);
}

#[test]
fn digits_attention_over_codes() {
    digits("vit", "w8a8+attn8", &["attention_qd8"]);
    digits("vit", "w8a8-static+attn8", &["attention_qs8"]);
}

#[test]
fn digits_static() {
    digits("vit", "w8a8-static", &["qc8w_gemm", "attention"]);
    digits("cnn", "w8a8-static", &["f32"]);
    digits("mlp", "w8a8-static-asym", &["qc8w_gemm"]);
    digits("mlp", "w8a8-tensor", &["qc8w_gemm"]);
}

#[test]
fn digits_smoothed() {
    digits("vit", "w8a8+smoothquant:alpha=auto", &["qc8w_gemm", "attention"]);
    digits(
        "vit",
        "w8a8-static+smoothquant:alpha=auto:mode=block:step=0.5",
        &["qc8w_gemm"],
    );
}

#[test]
fn digits_weight_only() {
    digits("vit", "w8a16", &["f32_f32_qc8w_gemm", "attention"]);
    digits("mlp", "w8a16", &["f32_f32_qc8w_gemm"]);
}

/// Models of the folder of extra ones.
macro_rules! extra {
    ($($name:ident $path:literal $scheme:literal $families:expr;)*) => {$(
        #[test]
        fn $name() {
            if let Some(path) = shared::find(stringify!($name), concat!("models/", $path, "/model.onnx")) {
                prove(&path, $scheme, &$families);
            }
        }
    )*};
}

extra! {
    minilm_quantized "minilm" "w8a8" ["qc8w_gemm", "attention", "gemm_rows", "reduce"];
    minilm_attention_over_codes "minilm" "w8a8+attn8" ["attention_qd8"];
    stories260k_attention_over_codes "tinyllama/stories260k" "w8a8+attn8" ["attention_qd8"];
    minilm_weight_only "minilm" "w8a16" ["qc8w_gemm", "attention"];
    minilm_static "minilm" "w8a8-static" ["qc8w_gemm", "attention"];
    minilm_smoothed "minilm" "w8a8+smoothquant" ["qc8w_gemm", "attention"];
    minilm_static_smoothed "minilm" "w8a8-static+smoothquant" ["qc8w_gemm", "attention"];
    stories260k_smoothed "tinyllama/stories260k" "w8a8+smoothquant" ["qc8w_gemm"];
    stories656k_smoothed "tinyllama/tinystories656k" "w8a8+smoothquant" ["qc8w_gemm"];
    stories260k_static_smoothed "tinyllama/stories260k" "w8a8-static+smoothquant:alpha=auto" ["qc8w_gemm"];
    stories656k_static_smoothed "tinyllama/tinystories656k" "w8a8-static+smoothquant" ["qc8w_gemm"];
    resnet_smoothed "resnet20_cifar10" "w8a8+smoothquant:sites=all" [];
    squeezenet_smoothed "squeezenet" "w8a8-static+smoothquant:sites=all" [];
    resnet_weight_only "resnet20_cifar10" "w8a16" [];
    squeezenet_weight_only "squeezenet" "w8a16" [];
    stories260k_weight_only "tinyllama/stories260k" "w8a16" ["qc8w_gemm"];
    stories656k_weight_only "tinyllama/tinystories656k" "w8a16" ["qc8w_gemm"];
    resnet_static "resnet20_cifar10" "w8a8-static" [];
    squeezenet_static "squeezenet" "w8a8-static" [];
    stories260k_static "tinyllama/stories260k" "w8a8-static" ["qc8w_gemm"];
    stories656k_static "tinyllama/tinystories656k" "w8a8-static" ["qc8w_gemm"];
    resnet_quantized "resnet20_cifar10" "w8a8" [];
    squeezenet_quantized "squeezenet" "w8a8" [];
    stories260k_quantized "tinyllama/stories260k" "w8a8" ["qc8w_gemm"];
    stories656k_quantized "tinyllama/tinystories656k" "w8a8" ["qc8w_gemm"];
}
