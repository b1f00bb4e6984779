//! SmoothQuant on small networks: the function stays, outliers go, nothing is added.

use super::loss::coded;
use super::trials::Codes;
use super::{SmoothQuant, block, scales};
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

struct Stored(Vec<Vec<Tensor>>);

impl Samples for Stored {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

fn scheme(text: &str) -> Scheme {
    Scheme::parse(text).expect("a scheme")
}

/// Samples of a module with symbols b and s.
fn samples(m: &Module) -> Stored {
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

fn lowered(m: &Module, sc: &Scheme) -> (Module, Report) {
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
fn decoder(kv: usize, c: f32) -> Module {
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
fn ends(m: &Module) -> Vec<(String, Option<String>)> {
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
fn encoder() -> Module {
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

/// The loss of one alpha of the first site of `encoder`, written down as its definition says.
fn plain_loss(m: &Module, alpha: f64, token: bool, share: f64) -> f64 {
    let site = &crate::analysis::sites::sites(m, &|id| match m.graph.node(id).op {
        Op::MatMul(_) => crate::analysis::sites::Role::Smoothed,
        _ => crate::analysis::sites::Role::Other,
    })
    .expect("sites")[0];
    let mut xs: Vec<Tensor> = Vec::new();
    for s in samples(m).0 {
        let mut sink = |_: ValueId, t: &Tensor| xs.push(t.clone());
        let mut p = eval::Executor::prepare(&ReferenceExecutor, m, &[site.x]).expect("prepares");
        p.run(&s, &mut sink).expect("runs");
    }
    let k = site.channels;
    let mut top = vec![0f32; k];
    for x in &xs {
        let x: &[f32] = x.as_slice().expect("f32");
        for (i, v) in x.iter().enumerate() {
            top[i % k] = top[i % k].max(v.abs());
        }
    }
    let wmax = scales::weight_maxima(m, site);
    let s = scales::factors(&top, &wmax, &site.groups, alpha);
    let (w, _) = scales::weights(m, site.layers[0]).expect("weights");
    let n = w.len() / k;
    let sw: Vec<f64> = w
        .iter()
        .enumerate()
        .map(|(i, w)| f64::from(*w) * s[i / n])
        .collect();
    let ws: Vec<f64> = (0..n)
        .map(|j| (0..k).fold(0f64, |a, i| a.max(sw[i * n + j].abs())) / 127.0)
        .collect();
    let scaled = |x: &Tensor| -> Vec<f64> {
        let x: &[f32] = x.as_slice().expect("f32");
        x.iter()
            .enumerate()
            .map(|(i, v)| (f64::from(*v) / s[i % k]).abs())
            .collect()
    };
    let mut magnitudes: Vec<f64> = xs.iter().flat_map(scaled).collect();
    magnitudes.sort_by(f64::total_cmp);
    // The largest magnitude that is kept.
    let kept = (magnitudes.len() as f64 * share).ceil() as usize;
    let largest = magnitudes[kept.clamp(1, magnitudes.len()) - 1];
    let mut loss = 0.0;
    for x in &xs {
        let per_row = x.shape[1];
        let x: &[f32] = x.as_slice().expect("f32");
        let rows: Vec<&[f32]> = x.chunks_exact(k).collect();
        for sequence in rows.chunks(per_row) {
            let y = |row: &[f32], j: usize| -> f64 {
                (0..k).map(|c| f64::from(row[c]) * f64::from(w[c * n + j])).sum()
            };
            let norm = sequence
                .iter()
                .flat_map(|r| (0..n).map(|j| y(r, j).abs()))
                .fold(1e-5, f64::max);
            for r in sequence {
                let xs: Vec<f64> = (0..k).map(|c| f64::from(r[c]) / s[c]).collect();
                let amax = if token {
                    xs.iter().fold(0f64, |a, v| a.max(v.abs()))
                } else {
                    largest
                };
                let xq: Vec<f64> = xs
                    .iter()
                    .map(|v| (v * 127.0 / amax).round_ties_even().clamp(-127.0, 127.0) * amax / 127.0)
                    .collect();
                for j in 0..n {
                    let wq = |c: usize| (sw[c * n + j] / ws[j]).round_ties_even() * ws[j];
                    let yq: f64 = (0..k).map(|c| xq[c] * wq(c)).sum();
                    loss += ((y(r, j) - yq).abs() / norm).sqrt();
                }
            }
        }
    }
    loss
}

#[test]
fn auto_alpha_sums_over_all_samples_and_takes_the_least() {
    let m = encoder();
    for (text, token, share) in [
        ("w8a8", true, 1.0),
        ("w8a8-static-sym", false, 1.0),
        ("w8a8-static-sym+percentile:p=90", false, 0.9),
    ] {
        let (_, report) = lowered(&m, &scheme(&format!("{text}+smoothquant:alpha=auto")));
        let mut seen = 0;
        for l in report.layers.iter().filter(|l| l.op == "matmul") {
            let get = |key: &str| &l.extra.iter().find(|(k, _)| k == key).expect(key).1;
            let losses: Vec<(f64, f64)> = get("smooth_losses")
                .split(' ')
                .map(|t| {
                    let (a, b) = t.split_once(':').expect("alpha:loss");
                    (a.parse().expect("a number"), b.parse().expect("a number"))
                })
                .collect();
            assert_eq!(losses.len(), 11);
            let alpha: f64 = get("smooth_alpha").parse().expect("a number");
            let own = losses.iter().find(|(a, _)| *a == alpha).expect("of the grid").1;
            assert!(
                losses.iter().all(|(_, l)| own <= *l),
                "{text} {alpha}: {losses:?}"
            );
            if seen == 0 {
                for (a, l) in losses.iter().step_by(3) {
                    let want = plain_loss(&m, *a, token, share);
                    assert!(
                        (l - want).abs() < 2e-2 * want,
                        "{text}, alpha {a}: {l} instead of {want}"
                    );
                }
            }
            seen += 1;
        }
        assert_eq!(seen, 2);
    }
}

#[test]
fn blocks_end_at_residual_sums() {
    let found = ends(&decoder(2, 1.0));
    let of = |layers: &str| {
        let site = found.iter().find(|(n, _)| n == layers);
        site.unwrap_or_else(|| panic!("{layers}: {found:?}")).1.clone()
    };
    assert_eq!(found.len(), 4);
    assert_eq!(
        (of("n1 + n2 + n3"), of("n13")),
        (Some("n14".into()), Some("n14".into()))
    );
    assert_eq!(
        (of("n16 + n17"), of("n20")),
        (Some("n21".into()), Some("n21".into()))
    );
    // A bias is no residual sum, a sum with the block's input is.
    assert!(
        ends(&encoder())
            .iter()
            .all(|(_, end)| end.as_deref() == Some("n5"))
    );
    // Nothing behind it: no block.
    let mut n = Net::new(1);
    let (x, w) = (n.f32(&["b", "4"]), n.weight(&[4, 3]));
    let y = n.op(MatMul {}, &[x, w]);
    assert!(ends(&n.finish(&[y])).iter().all(|(_, end)| end.is_none()));
}

/// What a search says of a layer: alpha, loss there, losses of the grid.
fn searched(l: &crate::pass::LayerReport) -> (f64, f64, Vec<(f64, f64)>) {
    let get = |key: &str| &l.extra.iter().find(|(k, _)| k == key).expect(key).1;
    let number = |t: &str| t.parse::<f64>().expect("a number");
    let losses = get("smooth_losses").split(' ').map(|t| {
        let (a, b) = t.split_once(':').expect("alpha:loss");
        (number(a), number(b))
    });
    (
        number(get("smooth_alpha")),
        number(get("smooth_loss")),
        losses.collect(),
    )
}

/// Sites of a block share an alpha, whose loss is that of the block's result: what the evaluator finds if it quantizes
/// the block with that alpha alone.
#[test]
fn a_block_takes_the_alpha_with_the_least_loss_of_its_result() {
    let m = decoder(2, 8.0);
    for text in ["w8a8", "w8a8-static", "w8a8-static+mse"] {
        let (_, report) = lowered(
            &m,
            &scheme(&format!("{text}+smoothquant:alpha=auto:mode=block:step=0.25")),
        );
        let of = |node: &str| {
            let l = report
                .layers
                .iter()
                .find(|l| l.node.split(" + ").any(|n| n == node));
            searched(l.unwrap_or_else(|| panic!("{node}: {:?}", report.layers)))
        };
        for (a, b) in [("n1", "n13"), ("n16", "n20")] {
            assert_eq!(of(a), of(b), "{text}");
            let (_, loss, losses) = of(a);
            assert_eq!(losses.len(), 5);
            assert!(
                losses.iter().all(|(_, l)| loss <= *l && *l > 0.0),
                "{text}: {losses:?}"
            );
        }
        // Not all blocks say the same.
        assert_ne!(of("n1").2, of("n16").2);
    }
    // The first block, quantized by the passes with a fixed alpha, differs from the float one by just that loss.
    let recipe = |alpha: &str| {
        let rule = |layer: &str| format!("[[layer]]\nmatch = \"{layer}\"\nscheme = \"none\"\n");
        let rest: String = ["n16", "n17", "n20"].map(rule).concat();
        Scheme::from_recipe(
            "r.toml",
            &format!("scheme = \"w8a8+smoothquant:alpha={alpha}\"\n{rest}"),
        )
        .expect("a recipe")
    };
    let (_, report) = lowered(&m, &scheme("w8a8+smoothquant:alpha=auto:mode=block:step=0.5"));
    let losses = searched(
        report
            .layers
            .iter()
            .find(|l| l.node.starts_with("n1 "))
            .expect("a layer"),
    )
    .2;
    let order = m.graph.topo_order().expect("acyclic");
    let end = order
        .iter()
        .find(|id| &*m.graph.node(**id).loc == "n14")
        .expect("the sum");
    let mut first = m.clone();
    let port = rsqc_ir::Port {
        name: "end".into(),
        value: m.graph.node(*end).output(),
    };
    first.graph.set_outputs(vec![port]);
    first.graph.remove_dead();
    for (alpha, loss) in losses {
        let (low, _) = lowered(&first, &recipe(&alpha.to_string()));
        let mut want = 0.0;
        for s in samples(&m).0 {
            let (a, b) = (
                eval::run(&first, &s).expect("float"),
                eval::run(&low, &s).expect("integer"),
            );
            let part: usize = a[0].shape[1..].iter().product();
            for (a, b) in a[0].to_f64().chunks(part).zip(b[0].to_f64().chunks(part)) {
                let norm = a.iter().fold(1e-5, |m: f64, v| m.max(v.abs()));
                want += a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| ((a - b).abs() / norm).sqrt())
                    .sum::<f64>();
            }
        }
        assert!(
            (loss - want).abs() < 2e-2 * want,
            "alpha {alpha}: {loss} instead of {want}"
        );
    }
}

/// At every site, what the search takes is as good as the best alpha that all sites share, which reports name.
#[test]
fn a_search_is_never_worse_than_one_alpha_for_all() {
    let m = decoder(2, 8.0);
    for text in ["w8a8", "w8a8-static", "w8a8-static+percentile:p=99"] {
        for mode in ["layer", "block"] {
            let (_, report) = lowered(&m, &scheme(&format!("{text}+smoothquant:alpha=auto:mode={mode}")));
            let mut fixed = Vec::new();
            for l in report.layers.iter().filter(|l| l.op == "matmul") {
                let (alpha, loss, losses) = searched(l);
                let get = |key: &str| {
                    l.extra
                        .iter()
                        .find(|(k, _)| k == key)
                        .expect(key)
                        .1
                        .parse::<f64>()
                };
                let (a, at) = (
                    get("smooth_fixed_alpha").expect("a number"),
                    get("smooth_fixed_loss").expect("a number"),
                );
                assert!(
                    losses.contains(&(a, at)) && losses.contains(&(alpha, loss)),
                    "{text} {mode}"
                );
                assert!(loss <= at, "{text} {mode}: {loss} at {alpha}, {at} at {a}");
                fixed.push(a);
            }
            assert!(
                fixed.len() == 5 && fixed.iter().all(|a| *a == fixed[0]),
                "{fixed:?}"
            );
        }
    }
}

#[test]
fn activations_are_fake_quantized_as_the_evaluator_does() {
    use rsqc_ir::ops::OpDef;
    use rsqc_ir::ops::quant::FakeQuant;
    use rsqc_ir::quant::{Granularity, QuantType};
    let x: Vec<f32> = Rng::new(3).floats(6 * 5).iter().map(|v| v * 9.0).collect();
    let pre = [0.5f32, 2.0, 1.0, 0.1, 3.0];
    let (t, p) = (
        Tensor::new(vec![6, 5], x.clone()),
        Tensor::new(vec![5], pre.to_vec()),
    );
    let cx = eval::EvalCx {
        symbols: &Default::default(),
    };
    let (s, z) = (
        Tensor::new(vec![], vec![0.03f32]),
        Tensor::new(vec![], vec![-20i8]),
    );
    let cases = [
        (Codes::Token, QuantType::int8(Granularity::Token), None),
        (Codes::Tensor, QuantType::int8(Granularity::Tensor), None),
        (
            Codes::Static(0.03, 0.0, -127.0, 127.0),
            QuantType::int8(Granularity::Tensor),
            Some((&s, None)),
        ),
        (
            Codes::Static(0.03, -20.0, -128.0, 127.0),
            QuantType {
                zero: true,
                ..QuantType::int8(Granularity::Tensor)
            },
            Some((&s, Some(&z))),
        ),
    ];
    for (codes, qtype, fixed) in cases {
        let op = FakeQuant {
            qtype,
            dynamic: fixed.is_none(),
        };
        let (s, z) = fixed.map_or((None, None), |(s, z)| (Some(s), z));
        let want = op.eval(&cx, &[Some(&t), s, z, Some(&p)]).expect("runs");
        let found = coded(&x, 5, &pre, codes);
        let values = found
            .codes
            .rows()
            .into_iter()
            .zip(&found.scales)
            .flat_map(|(row, s)| row.iter().map(|c| c * s).collect::<Vec<f32>>());
        for (a, b) in values.zip(want[0].to_f64()) {
            assert!(
                (f64::from(a) - b).abs() <= 1e-6 * b.abs().max(0.1),
                "{codes:?}: {a} {b}"
            );
        }
    }
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
