//! The search over alpha on small networks: losses follow their definition, the least one decides.

use super::loss::coded;
use super::scales;
use super::tests::{decoder, encoder, ends, lowered, samples, scheme};
use super::trials::Codes;
use crate::scheme::Scheme;
use crate::testing::{Net, Rng};
use rsqc_ir::eval::{self, ReferenceExecutor, Tensor};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::{Module, Op, ValueId};

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
