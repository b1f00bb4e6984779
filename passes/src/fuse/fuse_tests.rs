//! Fusion: the steps that remain are those wanted, and evaluate as before.

use crate::lower;
use crate::pass::Pass;
use crate::scheme::Scheme;
use crate::testing::{Net, assert_same, region_count, run_passes, sym};
use rsqc_ir::eval::{self, Tensor};
use rsqc_ir::ops::elementwise::{Add, Gelu, GeluKind, Mul};
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::norm::LayerNorm;
use rsqc_ir::ops::shape::{Reshape, Slice, Transpose};
use rsqc_ir::region::Anchor;
use rsqc_ir::{Dim, Module, Op, Phase, ScalarType, ValueId};

const D: usize = 32;
const HEADS: i64 = 4;

const SHAPES: &[&[(&str, i64)]] = &[
    &[("b", 2), ("s", 5)],
    &[("b", 1), ("s", 1)],
    &[("b", 0), ("s", 4)],
];

/// Values of the symbols.
type Sizes = &'static [(&'static str, i64)];

/// Both models, with the shapes at which they are defined: a class token needs a token.
fn models() -> Vec<(Module, Vec<Sizes>)> {
    let mut with_empty = SHAPES.to_vec();
    with_empty.push(&[("b", 3), ("s", 0)]);
    vec![(encoder(), with_empty), (pre_norm(), SHAPES.to_vec())]
}

fn linear(n: &mut Net, x: ValueId, k: usize, out: usize) -> ValueId {
    let (w, b) = (n.weight(&[k, out]), n.weight(&[out]));
    let y = n.op(MatMul {}, &[x, w]);
    n.op(Add {}, &[y, b])
}

fn norm(n: &mut Net, x: ValueId) -> ValueId {
    let (g, b) = (n.weight(&[D]), n.weight(&[D]));
    n.op(LayerNorm { eps: 1e-5 }, &[x, g, b])
}

fn attend(n: &mut Net, x: ValueId, mask: Option<ValueId>) -> ValueId {
    let head = |n: &mut Net, x: ValueId| {
        let y = linear(n, x, D, D);
        let r = n.op(
            Reshape {
                shape: sym(&["b", "s", "4", "8"]),
            },
            &[y],
        );
        n.op(
            Transpose {
                perm: vec![0, 2, 1, 3],
            },
            &[r],
        )
    };
    let (q, k, v) = (head(n, x), head(n, x), head(n, x));
    let op = Attention {
        scale: 1.0 / (HEADS as f32).sqrt(),
        causal: None,
        empty_row: EmptyRow::Nan,
    };
    let a = match mask {
        Some(m) => n.op(op, &[q, k, v, m]),
        None => n.op(op, &[q, k, v]),
    };
    let t = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[a],
    );
    let r = n.op(
        Reshape {
            shape: sym(&["b", "s", "32"]),
        },
        &[t],
    );
    linear(n, r, D, D)
}

fn mlp(n: &mut Net, x: ValueId) -> ValueId {
    let h = linear(n, x, D, 2 * D);
    let g = n.op(Gelu { kind: GeluKind::Erf }, &[h]);
    linear(n, g, 2 * D, D)
}

/// A post-norm encoder (BERT) of two layers.
fn encoder() -> Module {
    let mut n = Net::new(3);
    let ids = n.input(ScalarType::I64, sym(&["b", "s"]));
    let m = n.f32(&["b", "1", "1", "s"]);
    let (words, kinds) = (n.weight(&[600, D]), n.weight(&[2, D]));
    let positions = n.weight(&[64, D]);
    let w = n.op(Gather { axis: 0 }, &[words, ids]);
    let p = n.op(
        Slice {
            starts: vec![Dim::zero(), Dim::zero()],
            sizes: sym(&["s", "32"]),
            steps: vec![1, 1],
        },
        &[positions],
    );
    let zero = n.constant(&Tensor::new(vec![], vec![0i64]));
    let kind = n.op(Gather { axis: 0 }, &[kinds, zero]);
    let e = n.op(Add {}, &[w, kind]);
    let e = n.op(Add {}, &[e, p]);
    let scale = n.constant(&Tensor::new(vec![], vec![-3.0f32]));
    let mask = n.op(Mul {}, &[m, scale]);
    let mut x = norm(&mut n, e);
    for _ in 0..2 {
        let a = attend(&mut n, x, Some(mask));
        let r = n.op(Add {}, &[a, x]);
        let y = norm(&mut n, r);
        let f = mlp(&mut n, y);
        let r = n.op(Add {}, &[f, y]);
        x = norm(&mut n, r);
    }
    n.finish(&[x])
}

/// A pre-norm encoder (ViT) of two layers.
fn pre_norm() -> Module {
    let mut n = Net::new(4);
    let patches = n.f32(&["b", "s", "12"]);
    let mut x = linear(&mut n, patches, 12, D);
    for _ in 0..2 {
        let y = norm(&mut n, x);
        let a = attend(&mut n, y, None);
        x = n.op(Add {}, &[x, a]);
        let y = norm(&mut n, x);
        let f = mlp(&mut n, y);
        x = n.op(Add {}, &[x, f]);
    }
    let y = norm(&mut n, x);
    let first = n.constant(&Tensor::new(vec![], vec![0i64]));
    let c = n.op(Gather { axis: 1 }, &[y, first]);
    let logits = linear(&mut n, c, D, 10);
    n.finish(&[logits])
}

/// Where a pass stands in a list.
fn place(p: &[Box<dyn crate::pass::Pass>], name: &str) -> usize {
    p.iter()
        .position(|p| p.name() == name)
        .expect("a pass of the list")
}

fn passes(scheme: &str) -> Vec<Box<dyn Pass>> {
    lower::passes(&Scheme::parse(scheme).expect("a scheme"))
}

/// Modules after each pass of the scheme.
fn lowered(m: &Module, scheme: &str) -> Module {
    let out = run_passes(m, &passes(scheme));
    assert_eq!(out.phase, Phase::Lowered);
    out
}

/// The module before regions are formed: what the lowered one must equal.
fn quantized(m: &Module, scheme: &str) -> Module {
    let p = passes(scheme);
    run_passes(m, &p[..place(&p, "form-regions")])
}

/// One letter a region: c contract, a attention, r row reductions, p pointwise; in a topological order.
fn kinds(m: &Module) -> String {
    let order = m.graph.topo_order().expect("acyclic");
    order
        .into_iter()
        .filter_map(|id| match &m.graph.node(id).op {
            Op::Region(o) => Some(match o.region.anchor {
                Anchor::Contract { .. } => 'c',
                Anchor::Attention(_) => 'a',
                Anchor::None if super::inline::reduces(&o.region) => 'r',
                Anchor::None => 'p',
            }),
            _ => None,
        })
        .collect()
}

#[test]
fn a_post_norm_encoder_has_the_wanted_steps() {
    let m = encoder();
    for scheme in ["none", "w8a8"] {
        let out = lowered(&m, scheme);
        let k = kinds(&out);
        // The mask, then embeddings with their norm; a layer is qkv, attention, out, norm, fc1, fc2, norm.
        assert_eq!(k.matches('p').count(), 1, "{scheme}: {k}");
        let k = k.replacen('p', "", 1);
        assert_eq!(k, format!("r{}", "cacrccr".repeat(2)), "{scheme}");
    }
}

#[test]
fn a_pre_norm_encoder_has_the_wanted_steps() {
    let m = pre_norm();
    assert_eq!(kinds(&lowered(&m, "none")), format!("c{}rc", "rcacrcc".repeat(2)));
    // The patches, an input, are quantized by a step of their own, and so is the row of the class token.
    assert_eq!(
        kinds(&lowered(&m, "w8a8")),
        format!("rc{}rrc", "rcacrcc".repeat(2))
    );
}

#[test]
fn fusion_does_not_change_results() {
    for (m, shapes) in models() {
        for (scheme, tolerance) in [("none", 1e-4), ("w8a8", 1e-1)] {
            let (before, after) = (quantized(&m, scheme), lowered(&m, scheme));
            assert!(region_count(&after) < before.graph.node_count());
            assert_same(&before, &after, &shapes, tolerance);
        }
    }
}

#[test]
fn fused_regions_are_exact() {
    // From formed regions on, everything up to the expansion of transcendentals is exact.
    for (m, shapes) in models() {
        for scheme in ["none", "w8a8"] {
            let p = passes(scheme);
            let (form, end) = (place(&p, "form-regions"), place(&p, "expand-transcendentals"));
            let formed = run_passes(&m, &p[..=form]);
            let fused = run_passes(&formed, &p[form + 1..end]);
            assert!(region_count(&fused) < region_count(&formed) / 2);
            assert_same(&formed, &fused, &shapes, 0.0);
        }
    }
}

#[test]
fn quantization_keeps_the_signal() {
    let m = encoder();
    let after = lowered(&m, "w8a8");
    let ins = crate::testing::inputs(&m, SHAPES[0], 600, 9);
    let (x, y) = (
        eval::run(&m, &ins).expect("runs"),
        eval::run(&after, &ins).expect("runs"),
    );
    let (a, b) = (x[0].to_f64(), y[0].to_f64());
    let noise: f64 = a.iter().zip(&b).map(|(x, y)| (x - y) * (x - y)).sum();
    let signal: f64 = a.iter().map(|x| x * x).sum();
    assert!(noise > 0.0 && signal / noise > 300.0, "{}", signal / noise);
}

/// An elementwise op that only tests know fuses wherever an elementwise op can, without any other change.
#[cfg(feature = "test-ops")]
#[test]
fn an_unknown_elementwise_op_fuses_everywhere() {
    use rsqc_ir::ops::reduce::{Reduce, Reduction};
    use rsqc_ir::ops::test_only::TestMish;
    type Host = fn(&mut Net, ValueId) -> ValueId;
    let hosts: [(&str, Host); 4] = [
        ("c", |n, x| linear(n, x, D, 8)),
        ("r", norm),
        ("r", |n, x| {
            let op = Reduce {
                kind: Reduction::Sum,
                axes: vec![2],
                keep: true,
            };
            n.op(op, &[x])
        }),
        ("p", |n, x| n.op(Mul {}, &[x, x])),
    ];
    for (kind, host) in hosts {
        let mut n = Net::new(7);
        let x = n.f32(&["b", "s", "32"]);
        let h = host(&mut n, x);
        let y = n.op(TestMish {}, &[h]);
        let m = n.finish(&[y]);
        let out = lowered(&m, "none");
        assert_eq!(kinds(&out), kind);
        assert_same(&m, &out, SHAPES, 1e-4);
    }
}
