//! SmoothQuant on real models, from the folder of extra models: planted outliers vanish, nothing is added to the plan,
//! every vector has a home that costs nothing.

use rsqc::compiler;
use rsqc::executor::CompiledExecutor;
use rsqc::metrics::snr_db;
use rsqc_artifact::manifest::Layer;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{Data, Tensor};
use rsqc_ir::{Module, ScalarType};
use rsqc_passes::pass::{Env, Samples};
use rsqc_passes::scheme::Scheme;
use rsqc_passes::{ManagerOptions, PassManager, lower, pipeline};
use rsqc_tests::outliers::plant;
use rsqc_tests::run::{compile, load, options, run};
use rsqc_tests::shared;

/// Token sequences for a decoder with empty caches.
struct Tokens(Vec<Vec<Tensor>>);

impl Samples for Tokens {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

fn tokens(m: &Module, seed: usize, length: usize) -> Vec<Tensor> {
    let tensor = |p: &rsqc_ir::Port| {
        let ty = m.graph.ty(p.value);
        let extent = |s: &rsqc_ir::types::Symbol| {
            Some(match s.name() {
                n if n.contains("past") => 0,
                n if n.contains("batch") => 1,
                _ => length as i64,
            })
        };
        let shape: Vec<usize> = ty
            .shape
            .iter()
            .map(|d| d.eval(&extent).expect("every symbol is known") as usize)
            .collect();
        let n: usize = shape.iter().product();
        let data = match (ty.storage(), p.name.as_str()) {
            (ScalarType::I64, "input_ids") => {
                let id = |i: usize| ((seed * 7919 + i * i * 31 + i * 104_729) % 511 + 1) as i64;
                Data::I64((0..n).map(id).collect())
            }
            (ScalarType::I64, "position_ids") => Data::I64((0..n as i64).collect()),
            (ScalarType::I64, _) => Data::I64(vec![1; n]),
            _ => Data::F32(vec![0.0; n]),
        };
        Tensor { shape, data }
    };
    m.graph.inputs().iter().map(tensor).collect()
}

/// Logits of a held-out sequence, number of plan steps, and what the passes said of each layer.
fn logits(m: &Module, scheme: &str) -> (Vec<f64>, usize, Vec<(String, Option<String>)>) {
    let backend = rsqc_cpu::Cpu::default();
    let executor = CompiledExecutor {
        backend: &backend,
        threads: 1,
    };
    let samples = Tokens((0..4).map(|i| tokens(m, i, 24 + 8 * i)).collect());
    let mut low = m.clone();
    let env = Env {
        executor: Some(&executor),
        samples: Some(&samples),
        ..Env::default()
    };
    let passes = lower::passes(&Scheme::parse(scheme).expect("a scheme"));
    let report = PassManager::new(env, ManagerOptions::default())
        .run(&mut low, &passes)
        .unwrap_or_else(|d| panic!("{scheme}: {d}"));
    let level = rsqc_runtime::cpu::best_level();
    let compiled = compile(&low, &options(scheme, &[level])).expect("compiles");
    let steps = compiled.manifest.blocks.iter().map(|b| b.steps.len()).sum();
    let out = run(&load(&compiled, level), 1, &tokens(m, 99, 64)).expect("runs");
    let homes = report
        .layers
        .iter()
        .filter(|l| l.op == "matmul")
        .map(|l| {
            let home = l.extra.iter().find(|(k, _)| k == "smooth");
            (l.node.clone(), home.map(|(_, v)| v.clone()))
        })
        .collect();
    (out[0].to_f64(), steps, homes)
}

#[test]
fn planted_outliers_vanish_and_cost_no_step() {
    let Some(path) = shared::find(
        "planted_outliers_vanish_and_cost_no_step",
        "models/tinyllama/stories260k/model.onnx",
    ) else {
        return;
    };
    let mut base = compiler::import(&path, &Default::default()).expect("imports");
    PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut base, &pipeline::canonicalize())
        .expect("canonical");
    let mut planted = base.clone();
    plant(&mut planted);
    let (float, ..) = logits(&base, "none");
    let (same, ..) = logits(&planted, "none");
    assert!(snr_db(&float, &same) > 110.0);
    for scheme in ["w8a8", "w8a8-static"] {
        let (naive, steps, _) = logits(&planted, scheme);
        let smoothed = format!("{scheme}+smoothquant");
        let (a, a_steps, homes) = logits(&planted, &smoothed);
        let (b, b_steps, _) = logits(&base, &smoothed);
        let (naive, a, b) = (snr_db(&float, &naive), snr_db(&float, &a), snr_db(&float, &b));
        println!("stories260k {scheme}: planted {naive:.1} dB, smoothed {a:.1} dB; base, smoothed {b:.1} dB");
        assert!(a >= naive + 15.0, "{scheme}: {a} after {naive}");
        assert!(
            (a - b).abs() < 1.0,
            "{scheme}: {a} on the planted model, {b} on the base"
        );
        assert_eq!(
            (a_steps, b_steps),
            (steps, steps),
            "{scheme}: smoothing adds steps"
        );
        at_home(&homes);
    }
}

/// Every layer is smoothed, from a norm, a producer or a pre-scale.
fn at_home(homes: &[(String, Option<String>)]) {
    assert!(!homes.is_empty());
    for (layer, home) in homes {
        let home = home
            .as_deref()
            .unwrap_or_else(|| panic!("{layer} is not smoothed"));
        let known = ["norm ", "weights of ", "pre_scale", "none, behind gelu"];
        assert!(known.iter().any(|k| home.starts_with(k)), "{layer}: {home}");
    }
}

#[test]
fn a_post_norm_encoder_gets_pre_scales_and_the_same_plan() {
    let test = "a_post_norm_encoder_gets_pre_scales_and_the_same_plan";
    let (Some(path), Some(calib)) = (
        shared::find(test, "models/minilm/model.onnx"),
        shared::find(test, "models/minilm/calib.npz"),
    ) else {
        return;
    };
    let level = rsqc_runtime::cpu::best_level();
    let compiled = |scheme: &str| {
        let mut o = options(scheme, &[level]);
        o.calib = vec![calib.clone()];
        let backend = rsqc_cpu::Cpu::default();
        compiler::compile(&path, &o, &backend, &mut compiler::Clock::new(&mut |_| {})).expect("compiles")
    };
    let (plain, smooth) = (compiled("w8a8"), compiled("w8a8+smoothquant"));
    assert_eq!(
        plain.manifest.blocks[0].steps.len(),
        smooth.manifest.blocks[0].steps.len()
    );
    let home = |l: &Layer| {
        let home = l.extra.iter().find(|kv| kv.key == "smooth");
        (l.name.clone(), home.map(|kv| kv.value.clone()))
    };
    let layers = smooth.manifest.layers.iter().filter(|l| l.op == "matmul");
    at_home(&layers.map(home).collect::<Vec<_>>());
}
