//! SmoothQuant on small networks: the function stays, outliers go, nothing is added.

use super::{SmoothQuant, block};
use crate::lower::passes;
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::pass::{Env, Pass, Samples};
use crate::scheme::Scheme;
use crate::testing::{Net, Rng, assert_same, difference, inputs, region_count, sym};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{self, ReferenceExecutor, Tensor};
use rsqc_ir::ops::elementwise::{Add, Gelu, GeluKind, Mul, Silu};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::norm::{LayerNorm, RmsNorm};
use rsqc_ir::ops::shape::{Reshape, Transpose};
use rsqc_ir::{Module, Op, ValueId};

pub(super) struct Stored(pub(super) Vec<Vec<Tensor>>);

impl Samples for Stored {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

pub(super) fn scheme(text: &str) -> Scheme {
    Scheme::parse(text).expect("a scheme")
}

/// Samples of a module with symbols b and s.
pub(super) fn samples(m: &Module) -> Stored {
    let one = |i: u64| inputs(m, &[("b", 1 + i as i64 % 2), ("s", 3 + i as i64)], 5, 100 + i);
    Stored((0..4).map(one).collect())
}

fn run(m: &Module, s: Option<&dyn Samples>, list: &[Box<dyn Pass>]) -> Result<(Module, Report), Diag> {
    let mut out = m.clone();
    let env = Env {
        executor: Some(&ReferenceExecutor),
        samples: s,
        ..Env::default()
    };
    let options = ManagerOptions {
        verify_each: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(env, options).run(&mut out, list)?;
    Ok((out, report))
}

fn smooth(m: &Module, sc: Scheme) -> (Module, Report) {
    run(m, Some(&samples(m)), &[Box::new(SmoothQuant { scheme: sc })]).unwrap_or_else(|d| panic!("{d}"))
}

pub(super) fn lowered(m: &Module, sc: &Scheme) -> (Module, Report) {
    run(m, Some(&samples(m)), &passes(sc)).unwrap_or_else(|d| panic!("{d}"))
}

fn count(m: &Module, name: &str) -> usize {
    let named = |n: &rsqc_ir::NodeId| m.graph.node(*n).op.name() == name;
    m.graph.node_ids().filter(named).count()
}

const SHAPES: &[&[(&str, i64)]] = &[
    &[("b", 2), ("s", 5)],
    &[("b", 1), ("s", 1)],
    &[("b", 0), ("s", 3)],
];

/// A decoder block, width 16, four heads of 4 over `kv` heads of v; `c` scales channel 5 of the norms' gains up and the
/// rows behind down: the same function.
pub(super) fn decoder(kv: usize, c: f32) -> Module {
    let mut n = Net::new(11);
    let x = n.f32(&["b", "s", "16"]);
    let gain = |n: &mut Net| {
        let mut g = vec![1f32; 16];
        g[5] = c;
        n.constant(&Tensor::new(vec![16], g))
    };
    let mut seed = 0;
    let mut product = |n: &mut Net, v: ValueId, k: usize, o: usize, behind_norm: bool| {
        seed += 1;
        let mut w = Rng::new(seed).floats(k * o);
        if behind_norm {
            w[5 * o..6 * o].iter_mut().for_each(|w| *w /= c);
        }
        let w = n.constant(&Tensor::new(vec![k, o], w));
        n.op(MatMul {}, &[v, w])
    };
    let heads = |n: &mut Net, v: ValueId, h: usize| {
        let shape = sym(&["b", "s", &h.to_string(), "4"]);
        let v = n.op(Reshape { shape }, &[v]);
        n.op(
            Transpose {
                perm: vec![0, 2, 1, 3],
            },
            &[v],
        )
    };
    let g = gain(&mut n);
    let y = n.op(RmsNorm { eps: 1e-5 }, &[x, g]);
    let q = product(&mut n, y, 16, 16, true);
    let k = product(&mut n, y, 16, 4 * kv, true);
    let v = product(&mut n, y, 16, 4 * kv, true);
    let (q, k, v) = (heads(&mut n, q, 4), heads(&mut n, k, kv), heads(&mut n, v, kv));
    let op = Attention {
        scale: 0.5,
        causal: None,
        empty_row: EmptyRow::Nan,
    };
    let a = n.op(op, &[q, k, v]);
    let a = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[a],
    );
    let shape = sym(&["b", "s", "16"]);
    let a = n.op(Reshape { shape }, &[a]);
    let o = product(&mut n, a, 16, 16, false);
    let x = n.op(Add {}, &[x, o]);
    let g = gain(&mut n);
    let y = n.op(RmsNorm { eps: 1e-5 }, &[x, g]);
    let gate = product(&mut n, y, 16, 24, true);
    let up = product(&mut n, y, 16, 24, true);
    let gate = n.op(Silu {}, &[gate]);
    let h = n.op(Mul {}, &[gate, up]);
    let d = product(&mut n, h, 24, 16, false);
    let x = n.op(Add {}, &[x, d]);
    n.finish(&[x])
}

/// The sums that end the blocks of a network's sites, by the names of the sites' layers.
pub(super) fn ends(m: &Module) -> Vec<(String, Option<String>)> {
    let role = |id| match m.graph.node(id).op {
        Op::MatMul(_) => crate::analysis::sites::Role::Smoothed,
        _ => crate::analysis::sites::Role::Other,
    };
    let order = m.graph.topo_order().expect("acyclic");
    let sites = crate::analysis::sites::sites(m, &role).expect("sites");
    let end = |s: &crate::analysis::sites::Site| {
        let end = block::residual_sum(m, &order, s).map(|id| m.graph.node(id).loc.to_string());
        (super::name(m, s), end)
    };
    sites.iter().map(end).collect()
}

/// Post-norm: the norm's result is read by products and by a sum; a GELU in front of the second product.
pub(super) fn encoder() -> Module {
    let mut n = Net::new(12);
    let x = n.f32(&["b", "s", "16"]);
    let (g, c, w1, b1, w2) = (
        n.weight(&[16]),
        n.weight(&[16]),
        n.weight(&[16, 24]),
        n.weight(&[24]),
        n.weight(&[24, 16]),
    );
    let y = n.op(LayerNorm { eps: 1e-5 }, &[x, g, c]);
    let h = n.op(MatMul {}, &[y, w1]);
    let h = n.op(Add {}, &[h, b1]);
    let h = n.op(Gelu { kind: GeluKind::Erf }, &[h]);
    let h = n.op(MatMul {}, &[h, w2]);
    let z = n.op(Add {}, &[h, y]);
    n.finish(&[z])
}

#[test]
fn the_float_function_stays_and_decoders_get_no_node() {
    for m in [decoder(4, 1.0), decoder(2, 64.0), decoder(1, 1.0)] {
        let (s, report) = smooth(&m, scheme("w8a8+smoothquant"));
        assert_same(&m, &s, SHAPES, 1e-4);
        assert_eq!(s.graph.node_count(), m.graph.node_count());
        assert_eq!(report.counter("sites"), 4);
        let (plain, _) = lowered(&m, &scheme("w8a8"));
        let (smoothed, _) = lowered(&m, &scheme("w8a8+smoothquant"));
        assert_eq!(region_count(&plain), region_count(&smoothed));
    }
}

#[test]
fn what_has_no_home_in_front_becomes_a_pre_scale_without_a_region() {
    let m = encoder();
    let (s, _) = smooth(&m, scheme("w8a8+smoothquant:alpha=0.7:sites=all"));
    assert_same(&m, &s, SHAPES, 1e-4);
    assert_eq!(count(&s, "mul"), 2);
    for base in ["w8a8", "w8a8-static"] {
        let (plain, _) = lowered(&m, &scheme(base));
        let (smoothed, report) = lowered(&m, &scheme(&format!("{base}+smoothquant:sites=all")));
        assert_eq!(region_count(&plain), region_count(&smoothed), "{base}");
        for l in report.layers.iter().filter(|l| l.op == "matmul") {
            assert!(l.extra.contains(&("smooth".into(), "pre_scale".into())), "{l:?}");
            assert!(l.extra.contains(&("smooth_alpha".into(), "0.5".into())), "{l:?}");
        }
        assert_same(&m, &smoothed, SHAPES, 0.2);
    }
}

/// Behind a GELU, a fixed alpha is not used unless it is asked for; a search is.
#[test]
fn functions_that_do_not_commute_stop_a_fixed_alpha() {
    let m = encoder();
    for (text, sites) in [
        ("w8a8+smoothquant", 1),
        ("w8a8+smoothquant:sites=all", 2),
        ("w8a8+smoothquant:alpha=auto", 2),
        ("w8a8+smoothquant:alpha=auto:sites=commuting", 1),
    ] {
        let (_, report) = lowered(&m, &scheme(text));
        assert_eq!(report.counter("sites"), sites, "{text}");
        let left_out = ("smooth".to_string(), "none, behind gelu".to_string());
        let told = report.layers.iter().any(|l| l.extra.contains(&left_out));
        assert_eq!(told, sites == 1, "{text}");
    }
}

#[test]
fn merged_layers_are_told_how_they_were_smoothed() {
    let (_, report) = lowered(&decoder(2, 1.0), &scheme("w8a8+smoothquant"));
    let homes: Vec<String> = report
        .layers
        .iter()
        .map(|l| {
            let home = l.extra.iter().find(|(k, _)| k == "smooth");
            format!("{}: {}", l.node, home.map_or("", |h| &h.1))
        })
        .collect();
    assert_eq!(
        homes,
        [
            "n1 + n2 + n3: norm n0",
            "n13: weights of n3",
            "n16: norm n15",
            "n17: norm n15",
            "n20: weights of n17",
        ]
    );
}

/// Planted outliers leave s W and x / s as they were, for every alpha: so does everything behind.
#[test]
fn outliers_that_weights_make_up_for_vanish() {
    let (base, planted) = (decoder(2, 1.0), decoder(2, 64.0));
    for text in ["w8a8", "w8a8-static"] {
        let error = |m: &Module, sc: &Scheme| {
            let (low, _) = lowered(m, sc);
            let ins = inputs(m, &[("b", 2), ("s", 7)], 5, 9);
            let a = eval::run(m, &ins).expect("float");
            let b = eval::run(&low, &ins).expect("integer");
            (difference(&a[0], &b[0]), b)
        };
        let (naive, _) = error(&planted, &scheme(text));
        let smoothed = scheme(&format!("{text}+smoothquant"));
        let (small, a) = error(&planted, &smoothed);
        let (other, b) = error(&base, &smoothed);
        assert!(small < 0.3 * naive, "{text}: {small} against {naive}");
        // A code may round the other way.
        assert!(difference(&a[0], &b[0]) < 0.5 * small.min(other), "{text}");
    }
}

fn gauss(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| (0..12).map(|_| rng.float()).sum::<f32>() / 2.0)
        .collect()
}

/// Signal to noise of `x W` in dB for 512 held-out rows, K = N = 256, four channels 60 times as large.
fn signal_to_noise(sc: &str) -> f64 {
    const K: usize = 256;
    let rows = |seed: u64| {
        let mut x = gauss(&mut Rng::new(seed), 512 * K);
        for row in x.chunks_exact_mut(K) {
            [3, 77, 130, 255].into_iter().for_each(|c| row[c] *= 60.0);
        }
        vec![Tensor::new(vec![512, K], x)]
    };
    let mut n = Net::new(1);
    let x = n.f32(&["b", "256"]);
    let w: Vec<f32> = gauss(&mut Rng::new(5), K * K).iter().map(|v| v * 0.05).collect();
    let w = n.constant(&Tensor::new(vec![K, K], w));
    let y = n.op(MatMul {}, &[x, w]);
    let m = n.finish(&[y]);
    let until_integer = passes(&scheme(sc))
        .into_iter()
        .take_while(|p| p.name() != "form-regions");
    let list: Vec<Box<dyn Pass>> = until_integer.collect();
    let (q, _) = run(&m, Some(&Stored(vec![rows(1), rows(2)])), &list).unwrap_or_else(|d| panic!("{d}"));
    let ins = rows(3);
    let (a, b) = (
        eval::run(&m, &ins).expect("float")[0].to_f64(),
        eval::run(&q, &ins).expect("integer")[0].to_f64(),
    );
    let signal: f64 = a.iter().map(|v| v * v).sum();
    let noise: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    10.0 * (signal / noise).log10()
}

#[test]
fn outliers_without_small_weights_need_the_right_alpha() {
    let naive = signal_to_noise("w8a8-static-sym");
    let half = signal_to_noise("w8a8-static-sym+smoothquant");
    let all = signal_to_noise("w8a8-static-sym+smoothquant:alpha=1");
    assert!(half >= naive + 10.0, "{half} against {naive}");
    assert!(all <= half - 5.0, "{all} against {half}");
    let auto = signal_to_noise("w8a8-static-sym+smoothquant:alpha=auto");
    assert!(auto >= half - 0.5, "{auto} against {half}");
    // Per token, per tensor at run time, per tensor from samples; weights per tensor.
    let levels: Vec<f64> = ["w8a8-wtensor", "w8a8-tensor-wtensor", "w8a8-static-wtensor"]
        .iter()
        .map(|t| signal_to_noise(&format!("{t}+smoothquant")))
        .collect();
    assert!(
        levels[0] >= levels[1] - 0.05 && levels[1] >= levels[2] - 0.05,
        "{levels:?}"
    );
}

#[test]
fn wrong_uses_are_user_errors() {
    let m = encoder();
    let pass = |sc: Scheme| -> [Box<dyn Pass>; 1] { [Box::new(SmoothQuant { scheme: sc })] };
    let e = run(&m, None, &pass(scheme("w8a8+smoothquant"))).expect_err("no samples");
    assert_eq!(e.blame, Blame::User);
    assert!(e.message.contains("needs calibration samples"), "{e}");
    // Nothing is asked for: nothing is needed.
    run(&m, None, &pass(scheme("w8a8"))).expect("nothing to do");
    let recipe =
        "scheme = \"w8a8+smoothquant\"\n[[layer]]\nmatch = \"n2\"\nscheme = \"w8a8+smoothquant:alpha=0.9\"\n";
    let sc = Scheme::from_recipe("r.toml", recipe).expect("a recipe");
    let e = run(&decoder(2, 1.0), Some(&samples(&m)), &pass(sc)).expect_err("layers disagree");
    assert!(e.message.contains("asks for alpha 0.9 instead of 0.5"), "{e}");
    let mut bad = samples(&m);
    let n = bad.0[1][0].len();
    let shape = bad.0[1][0].shape.clone();
    bad.0[1][0] = Tensor::new(shape, vec![f32::NAN; n]);
    let e = run(&m, Some(&bad), &pass(scheme("w8a8+smoothquant"))).expect_err("not finite");
    assert!(e.message.contains("sample 1"), "{e}");
}
