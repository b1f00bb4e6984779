//! Lowering: what the scheme decides, layouts, outputs.

use super::{AssignLayouts, FinishLowering, LowerToInteger, passes};
use crate::calibrate::Calibrate;
use crate::fuse::{ComposeMovement, FormRegions, MergeLinears, MergeRegions};
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::methods::InsertFakeQuant;
use crate::pass::{Env, Pass};
use crate::scheme::Scheme;
use crate::testing::{Net, assert_same, dims, region_count, run_passes, sym};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::{Add, Mul, Relu, Silu};
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::norm::RmsNorm;
use rsqc_ir::ops::shape::{Reshape, Transpose};
use rsqc_ir::target::{CPU_AVX512VNNI, TargetDesc};
use rsqc_ir::{Layout, Module, Op, Phase, ScalarType, ValueId};

const SHAPES: &[&[(&str, i64)]] = &[
    &[("b", 2), ("s", 5)],
    &[("b", 1), ("s", 1)],
    &[("b", 0), ("s", 3)],
];

fn run(m: &Module, env: Env<'_>, passes: &[Box<dyn Pass>]) -> (Module, Report) {
    let mut out = m.clone();
    let report = PassManager::new(env, ManagerOptions::default())
        .run(&mut out, passes)
        .unwrap_or_else(|d| panic!("{d}"));
    (out, report)
}

fn insert(m: &Module, scheme: Scheme) -> (Module, Report) {
    run(m, Env::default(), &[Box::new(InsertFakeQuant { scheme })])
}

fn calibrated(m: &Module, scheme: Scheme) -> Module {
    run(m, Env::default(), &[Box::new(Calibrate { scheme })]).0
}

fn recipe(text: &str) -> Scheme {
    Scheme::from_recipe("r.toml", text).expect("a recipe")
}

fn count(m: &Module, name: &str) -> usize {
    m.graph
        .node_ids()
        .filter(|n| m.graph.node(*n).op.name() == name)
        .count()
}

/// n0 and n1 share an activation, n2 multiplies activations, n3 reads a large table, n4 a small one.
fn layers() -> Module {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "8"]);
    let (w0, w1) = (n.weight(&[8, 6]), n.weight(&[8, 5]));
    let (a, b) = (n.op(MatMul {}, &[x, w0]), n.op(MatMul {}, &[x, w1]));
    let y = n.f32(&["b", "6", "4"]);
    let c = n.op(MatMul {}, &[a, y]);
    let ids = n.input(ScalarType::I64, sym(&["b", "s"]));
    let (big, small) = (n.weight(&[600, 32]), n.weight(&[10, 4]));
    let (d, e) = (
        n.op(Gather { axis: 0 }, &[big, ids]),
        n.op(Gather { axis: 0 }, &[small, ids]),
    );
    n.finish(&[b, c, d, e])
}

#[test]
fn every_layer_is_reported_with_its_reason() {
    let (m, report) = insert(&layers(), Scheme::parse("w8a8").expect("known"));
    let lines: Vec<String> = report
        .layers
        .iter()
        .map(|l| format!("{} {} {}", l.node, l.op, l.scheme))
        .collect();
    assert_eq!(
        lines,
        [
            "n0 matmul w8a8",
            "n1 matmul w8a8",
            "n2 matmul float",
            "n3 gather int8 table",
            "n4 gather float",
        ]
    );
    assert_eq!(report.layers[2].reason, "both factors are computed at run time");
    assert_eq!(
        (report.layers[0].bytes_before, report.layers[0].bytes_after),
        (192, 72)
    );
    // One fake quantization of x for both products.
    assert_eq!(count(&m, "quant.fake"), 4);
    assert_eq!(m.phase, Phase::Canonical);

    let (m, report) = insert(&layers(), Scheme::parse("none").expect("known"));
    assert_eq!(count(&m, "quant.fake"), 0);
    assert!(report.layers.iter().all(|l| l.scheme == "float"));
}

#[test]
fn recipes_decide_layer_by_layer() {
    let text = "scheme = \"w8a8\"\n[[layer]]\nmatch = \"n0\"\nscheme = \"none\"\n[[layer]]\nmatch = \"zz*\"\nscheme = \"none\"\n";
    let (m, report) = insert(&layers(), recipe(text));
    assert_eq!(report.layers[0].scheme, "float");
    assert!(report.layers[0].reason.contains("`n0`"));
    assert_eq!(report.layers[1].scheme, "w8a8");
    assert_eq!(count(&m, "quant.fake"), 3);
    let notes: Vec<&String> = report.passes.iter().flat_map(|p| &p.notes).collect();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("`zz*`"));
}

#[test]
fn integer_layers_follow_the_fake_quantization() {
    let m = layers();
    let (fake, _) = insert(&m, Scheme::parse("w8a8").expect("known"));
    let fake = calibrated(&fake, Scheme::parse("w8a8").expect("known"));
    let (int, _) = run(&fake, Env::default(), &[Box::new(LowerToInteger)]);
    assert_eq!(count(&int, "quant.fake"), 0);
    assert_eq!(count(&int, "quant.matmul"), 2);
    assert_eq!(count(&int, "quant.quantize"), 1);
    assert_eq!(count(&int, "quant.dequantize"), 1);
    // Weights may round the other way at ties of w / s; activations are the same codes.
    assert_same(&fake, &int, SHAPES, 2e-2);
}

/// `x * c` in front of products is no node of its own: x is quantized with c as pre-scale, whether c was there or made.
#[test]
fn a_channel_factor_in_front_of_products_becomes_a_pre_scale() {
    let mut n = Net::new(9);
    let x = n.f32(&["b", "s", "8"]);
    let (g, c, w0, w1) = (
        n.weight(&[8]),
        n.weight(&[8]),
        n.weight(&[8, 6]),
        n.weight(&[8, 5]),
    );
    let y = n.op(RmsNorm { eps: 1e-5 }, &[x, g]);
    let z = n.op(Mul {}, &[y, c]);
    let (a, b) = (n.op(MatMul {}, &[z, w0]), n.op(MatMul {}, &[z, w1]));
    // The value in front of the factor has another reader.
    let r = n.op(Add {}, &[x, y]);
    let m = n.finish(&[a, b, r]);
    let (fake, _) = insert(&m, Scheme::parse("w8a8").expect("known"));
    assert_eq!((count(&fake, "quant.fake"), count(&fake, "mul")), (3, 0));
    let fake = calibrated(&fake, Scheme::parse("w8a8").expect("known"));
    let (int, _) = run(&fake, Env::default(), &[Box::new(LowerToInteger)]);
    assert_eq!(count(&int, "quant.quantize"), 1);
    assert_same(&fake, &int, SHAPES, 2e-2);
    let scheme = Scheme::parse("w8a8").expect("known");
    let (low, _) = run(&m, Env::default(), &passes(&scheme));
    // The norm's sums are taken in another order: a code may round the other way.
    assert_same(&int, &low, SHAPES, 2e-2);
    // One region for the norm with its quantization, one a product, one the sum: as without the factor.
    assert!(region_count(&low) <= 4, "{}", rsqc_ir::text::print(&low));
}

fn attention_block(gated: bool) -> Module {
    let mut n = Net::new(5);
    let x = n.f32(&["b", "s", "8"]);
    let mut heads = Vec::new();
    for _ in 0..3 {
        let (w, c) = (n.weight(&[8, 8]), n.weight(&[8]));
        let y = n.op(MatMul {}, &[x, w]);
        let y = n.op(Add {}, &[c, y]);
        let shape = sym(&["b", "s", "2", "4"]);
        let r = n.op(Reshape { shape }, &[y]);
        let perm = vec![0, 2, 1, 3];
        heads.push(n.op(Transpose { perm }, &[r]));
    }
    let op = Attention {
        scale: 0.5,
        causal: None,
        empty_row: EmptyRow::Nan,
    };
    let a = n.op(op, &heads);
    let mut outs = vec![a];
    if gated {
        let (g, u) = (n.weight(&[8, 6]), n.weight(&[8, 6]));
        let (g, u) = (n.op(MatMul {}, &[x, g]), n.op(MatMul {}, &[x, u]));
        let s = n.op(Silu {}, &[g]);
        outs.push(n.op(Mul {}, &[s, u]));
    }
    n.finish(&outs)
}

#[test]
fn products_of_attention_merge_and_others_do_not() {
    let m = attention_block(true);
    let scheme = Scheme::parse("none").expect("known");
    let (merged, _) = run(&m, Env::default(), &[Box::new(MergeLinears { scheme })]);
    assert_eq!(count(&merged, "matmul"), 3);
    assert_eq!(count(&merged, "slice"), 3);
    assert_same(&m, &merged, SHAPES, 0.0);
    let q = merged
        .graph
        .node_ids()
        .map(|n| merged.graph.node(n))
        .find(|n| n.loc.contains(" + "))
        .expect("a merged product");
    assert_eq!(&*q.loc, "n0 + n4 + n8");
}

#[test]
fn layers_of_different_schemes_stay_apart() {
    let m = attention_block(false);
    let scheme = recipe("scheme = \"w8a8\"\n[[layer]]\nmatch = \"n4\"\nscheme = \"none\"\n");
    let (merged, _) = run(
        &m,
        Env::default(),
        &[Box::new(MergeLinears {
            scheme: scheme.clone(),
        })],
    );
    assert_eq!(count(&merged, "matmul"), 2);
    let (_, report) = insert(&merged, scheme);
    let float: Vec<&str> = report
        .layers
        .iter()
        .filter(|l| l.scheme == "float")
        .map(|l| l.node.as_str())
        .collect();
    assert_eq!(float, ["n4"]);
}

/// Attention is the block's 13th node.
#[test]
fn attention_multiplies_codes_where_the_scheme_says_so() {
    let m = attention_block(false);
    let layer = |text: &str| {
        let scheme = if text.contains('\n') {
            recipe(text)
        } else {
            Scheme::parse(text).expect("known")
        };
        let (out, report) = insert(&m, scheme);
        let of = |l: &&crate::pass::LayerReport| l.node == "n12";
        let found = report.layers.iter().find(of);
        let (scheme, reason) = found.map_or_else(Default::default, |l| (l.scheme.clone(), l.reason.clone()));
        (
            count(&out, "quant.attention"),
            scheme,
            reason,
            count(&out, "quant.fake"),
        )
    };
    let (coded, scheme, reason, fakes) = layer("w8a8+attn8");
    assert_eq!((coded, scheme.as_str(), fakes), (1, "w8a8+attn8", 4));
    assert!(reason.contains("dynamic per token and head"), "{reason}");
    let (coded, _, reason, fakes) = layer("w8a8-static+attn8");
    assert_eq!((coded, fakes), (1, 7));
    assert!(reason.contains("static per tensor"), "{reason}");
    // Without the method attention is none of the scheme's business.
    assert_eq!(layer("w8a8"), (0, String::new(), String::new(), 4));
    // Recipes leave one out, or name the only one.
    let (coded, scheme, reason, _) =
        layer("scheme = \"w8a8+attn8\"\n[[layer]]\nmatch = \"n12\"\nscheme = \"w8a8\"\n");
    assert_eq!((coded, scheme.as_str()), (0, "float"));
    assert!(reason.contains("without `attn8`"), "{reason}");
    let (coded, _, reason, _) =
        layer("scheme = \"w8a8+attn8\"\n[[layer]]\nmatch = \"n1?\"\nscheme = \"none\"\n");
    assert_eq!(coded, 0);
    assert!(reason.contains("`n1?`"), "{reason}");
    let (coded, scheme, _, fakes) =
        layer("scheme = \"none\"\n[[layer]]\nmatch = \"n12\"\nscheme = \"w8a8+attn8\"\n");
    assert_eq!((coded, scheme.as_str(), fakes), (1, "w8a8+attn8", 0));
}

/// Attention over codes is defined to the last bit, so nothing behind its introduction may change one.
#[test]
fn lowering_keeps_every_bit_of_attention_over_codes() {
    let m = attention_block(false);
    let scheme = Scheme::parse("w8a8+attn8").expect("known");
    let (coded, _) = insert(&m, scheme.clone());
    let (int, _) = run(
        &calibrated(&coded, scheme.clone()),
        Env::default(),
        &[Box::new(LowerToInteger)],
    );
    let (low, _) = run(&m, Env::default(), &passes(&scheme));
    assert_same(&int, &low, SHAPES, 0.0);
    assert_same(&m, &low, SHAPES, 5e-2);
}

fn layouts(m: &Module) -> Vec<(ValueId, Layout)> {
    m.graph
        .value_ids()
        .filter_map(|v| Some((v, m.graph.value(v).layout?)))
        .filter(|(v, _)| m.graph.is_used(*v))
        .collect()
}

#[test]
fn weights_are_packed_and_codes_offset_where_the_target_wants_it() {
    let mut n = Net::new(2);
    let x = n.f32(&["b", "s", "8"]);
    let w = n.weight(&[8, 6]);
    let y = n.op(MatMul {}, &[x, w]);
    let m = n.finish(&[y]);
    let scheme = Scheme::parse("w8a8").expect("known");
    let signed = TargetDesc {
        offset_binary: false,
        ..CPU_AVX512VNNI
    };
    for (target, offset) in [(&CPU_AVX512VNNI, true), (&signed, false)] {
        let env = Env {
            target,
            ..Env::default()
        };
        let (out, _) = run(&m, env, &passes(&scheme));
        let all: Vec<Layout> = layouts(&out).into_iter().map(|(_, l)| l).collect();
        assert!(all.contains(&Layout::PackedWeight));
        assert_eq!(all.contains(&Layout::OffsetBinary), offset);
    }
}

#[test]
fn transposed_weights_are_turned() {
    for (k, rows) in [(8, 6), (1, 6), (8, 1)] {
        let mut n = Net::new(3);
        let x = n.f32(&["b", "s", &k.to_string()]);
        let w = n.weight(&[rows, k]);
        let t = n.op(Transpose { perm: vec![1, 0] }, &[w]);
        let y = n.op(MatMul {}, &[x, t]);
        let y = n.op(Relu {}, &[y]);
        let mut m = n.finish(&[y]);
        m.phase = Phase::Quantized;
        let regions = run_passes(
            &m,
            &[
                Box::new(FormRegions),
                Box::new(ComposeMovement),
                Box::new(MergeRegions),
            ],
        );
        assert_eq!(region_count(&regions), 1);
        let out = run_passes(&regions, &[Box::new(AssignLayouts)]);
        let (v, l) = layouts(&out)[0];
        assert_eq!(l, Layout::PackedWeight);
        assert_eq!(out.graph.ty(v).shape, dims(&[k as i64, rows as i64]));
        assert_same(&m, &out, SHAPES, 1e-5);
    }
}

#[test]
fn outputs_get_writers_of_their_own() {
    let mut n = Net::new(4);
    let x = n.f32(&["b", "s"]);
    let c = n.constant(&Tensor::new(vec![2], vec![3i64, 4]));
    let r = n.op(
        Reshape {
            shape: vec![rsqc_ir::Dim::sym("b") * rsqc_ir::Dim::sym("s")],
        },
        &[x],
    );
    let mut m = n.finish(&[x, c, r, r]);
    m.phase = Phase::Quantized;
    let out = run_passes(
        &m,
        &[
            Box::new(FormRegions),
            Box::new(ComposeMovement),
            Box::new(MergeRegions),
            Box::new(FinishLowering),
        ],
    );
    let mut values: Vec<ValueId> = out.graph.outputs().iter().map(|p| p.value).collect();
    assert!(values.iter().all(|v| out.graph.def_node(*v).is_some()));
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 4);
    assert_same(&m, &out, SHAPES, 0.0);
}

#[test]
fn what_has_no_region_form_is_refused_in_full() {
    let mut n = Net::new(4);
    let x = n.input(ScalarType::I64, sym(&["b", "4"]));
    let w = n.constant(&Tensor::new(vec![4, 4], (0..16i64).collect()));
    let a = n.op(MatMul {}, &[x, w]);
    let b = n.op(MatMul {}, &[a, w]);
    let mut m = n.finish(&[b]);
    m.phase = Phase::Quantized;
    let e = PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut m, &[Box::new(FormRegions)])
        .expect_err("i64 products have no kernels");
    assert_eq!(e.blame, rsqc_ir::diag::Blame::Unsupported);
    assert_eq!(e.message.matches("matrix products of i64").count(), 2, "{e}");
    assert!(
        m.graph
            .node_ids()
            .all(|n| !matches!(m.graph.node(n).op, Op::Region(_)))
    );
}
