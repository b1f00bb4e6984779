//! Every op against its region: the same results from the reference evaluator, at odd and empty shapes.

use super::FormRegions;
use crate::testing::{Net, assert_same, dims, run_passes, sym};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::elementwise::{Add, Cast, Gelu, GeluKind, LeakyRelu, Mul, Relu, Where};
use rsqc_ir::ops::gather::{Gather, GatherElements, GatherNd};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow, Rope};
use rsqc_ir::ops::norm::{LayerNorm, RmsNorm, Softmax};
use rsqc_ir::ops::quant::{Dequantize, DynamicParams, QMatMul, Quantize, Rounding};
use rsqc_ir::ops::reduce::{ArgReduce, CumSum, Reduce, Reduction};
use rsqc_ir::ops::shape::{Concat, DimValue, Expand, Iota, Pad, Reshape, Slice, Transpose};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Dim, Module, Phase, ScalarType};

/// Shapes of `[b, s, ...]` models: ordinary, single, empty.
const BS: &[&[(&str, i64)]] = &[
    &[("b", 2), ("s", 5)],
    &[("b", 1), ("s", 1)],
    &[("b", 0), ("s", 3)],
    &[("b", 3), ("s", 17)],
];

fn check(mut m: Module, tolerance: f64) {
    m.phase = Phase::Quantized;
    let after = run_passes(&m, &[Box::new(FormRegions)]);
    assert_same(&m, &after, BS, tolerance);
}

#[test]
fn elementwise_broadcasts() {
    let mut n = Net::new(1);
    let (x, y, z) = (n.f32(&["b", "s", "7"]), n.f32(&["s", "1"]), n.weight(&[7]));
    let a = n.op(Add {}, &[x, y]);
    let a = n.op(Mul {}, &[a, z]);
    let g = n.op(LeakyRelu { alpha: 0.1 }, &[a]);
    let c = n.op(Cast { to: ScalarType::Bool }, &[g]);
    let w = n.op(Where {}, &[c, a, x]);
    check(n.finish(&[a, g, w]), 0.0);
}

#[test]
fn transcendental_elementwise() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s"]);
    let y = n.op(Gelu { kind: GeluKind::Erf }, &[x]);
    check(n.finish(&[y]), 1e-6);
}

#[test]
fn movement() {
    let mut n = Net::new(2);
    let x = n.f32(&["b", "s", "12"]);
    let y = n.f32(&["b", "2", "12"]);
    let r = n.op(
        Reshape {
            shape: sym(&["b", "s", "3", "4"]),
        },
        &[x],
    );
    let t = n.op(
        Transpose {
            perm: vec![0, 2, 3, 1],
        },
        &[r],
    );
    let c = n.op(Concat { axis: 1 }, &[y, x, y]);
    let three = Dim::from(3i64);
    let s = n.op(
        Slice {
            starts: vec![Dim::zero(), Dim::zero(), Dim::from(11i64)],
            sizes: vec![Dim::sym("b"), Dim::sym("s"), Dim::from(4i64)],
            steps: vec![1, 1, -3],
        },
        &[x],
    );
    let e = n.op(
        Expand {
            shape: vec![three.clone(), Dim::sym("b"), Dim::sym("s"), Dim::from(4i64)],
        },
        &[s],
    );
    let v = n.constant(&Tensor::new(vec![], vec![0.5f32]));
    let p = n.op(
        Pad {
            before: vec![Dim::zero(), three.clone(), Dim::one()],
            after: vec![Dim::zero(), Dim::zero(), three],
        },
        &[x, v],
    );
    check(n.finish(&[t, c, e, p]), 0.0);
}

#[test]
fn materialised_shapes() {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "s"]);
    let d = n.op(
        DimValue {
            values: vec![Dim::sym("b"), Dim::sym("s") * Dim::from(2i64), Dim::from(-1i64)],
            shape: dims(&[3]),
        },
        &[],
    );
    let i = n.op(
        Iota {
            start: Dim::sym("b"),
            step: Dim::from(-2i64),
            len: Dim::sym("s"),
        },
        &[],
    );
    check(n.finish(&[x, d, i]), 0.0);
}

#[test]
fn gathers() {
    let mut n = Net::new(4);
    let table = n.weight(&[5, 6]);
    let (i, x) = (
        n.input(ScalarType::I64, sym(&["b", "s"])),
        n.f32(&["b", "5", "3"]),
    );
    let a = n.op(Gather { axis: 0 }, &[table, i]);
    let last = n.constant(&Tensor::new(vec![], vec![-1i64]));
    let b = n.op(Gather { axis: 1 }, &[x, last]);
    let one = n.constant(&Tensor::new(vec![1], vec![2i64]));
    let c = n.op(Gather { axis: 1 }, &[x, one]);
    let k = n.input(ScalarType::I64, sym(&["b", "4", "3"]));
    let d = n.op(GatherElements { axis: 1 }, &[x, k]);
    let tuples = n.input(ScalarType::I64, sym(&["s", "2"]));
    let square = n.weight(&[5, 5, 2]);
    let e = n.op(GatherNd { batch_dims: 0 }, &[square, tuples]);
    check(n.finish(&[a, b, c, d, e]), 0.0);
}

#[test]
fn reductions() {
    let mut n = Net::new(5);
    let x = n.f32(&["b", "s", "7"]);
    let mut outs = Vec::new();
    for (kind, axes, keep) in [
        (Reduction::Sum, vec![2], true),
        (Reduction::Mean, vec![2], false),
        (Reduction::Max, vec![2], false),
        (Reduction::Min, vec![2], true),
        (Reduction::Prod, vec![2], false),
        (Reduction::SumSquare, vec![0, 2], false),
        (Reduction::L2, vec![1], true),
        (Reduction::L1, vec![0, 1, 2], false),
        (Reduction::Sum, vec![], false),
    ] {
        outs.push(n.op(Reduce { kind, axes, keep }, &[x]));
    }
    for (max, last) in [(true, false), (false, true)] {
        outs.push(n.op(
            ArgReduce {
                max,
                axis: 2,
                keep: false,
                last,
            },
            &[x],
        ));
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        outs.push(n.op(
            CumSum {
                axis: 1,
                exclusive,
                reverse,
            },
            &[x],
        ));
    }
    check(n.finish(&outs), 1e-5);
}

#[test]
fn norms_and_softmax() {
    let mut n = Net::new(6);
    let x = n.f32(&["b", "s", "33"]);
    let (g, c) = (n.weight(&[33]), n.weight(&[33]));
    let a = n.op(LayerNorm { eps: 1e-5 }, &[x, g, c]);
    let b = n.op(LayerNorm { eps: 1e-5 }, &[x, g]);
    let r = n.op(RmsNorm { eps: 1e-6 }, &[x, g]);
    let s = n.op(Softmax { axis: 1, log: false }, &[x]);
    let l = n.op(Softmax { axis: 2, log: true }, &[x]);
    check(n.finish(&[a, b, r, s, l]), 1e-5);
}

#[test]
fn matrix_products() {
    let mut n = Net::new(7);
    let (x, w) = (n.f32(&["b", "s", "9"]), n.weight(&[9, 11]));
    let a = n.op(MatMul {}, &[x, w]);
    let y = n.f32(&["b", "9", "s"]);
    let b = n.op(MatMul {}, &[x, y]);
    let (v, u) = (n.weight(&[9]), n.f32(&["s"]));
    let c = n.op(MatMul {}, &[x, v]);
    let d = n.op(MatMul {}, &[u, x]);
    let stack = n.weight(&[4, 1, 9, 2]);
    let e = n.op(MatMul {}, &[x, stack]);
    check(n.finish(&[a, b, c, d, e]), 1e-5);
}

#[test]
fn convolution_and_pools() {
    let mut n = Net::new(8);
    let x = n.f32(&["b", "4", "9", "7"]);
    let mut outs = Vec::new();
    for (group, pads, strides, dilations) in [
        (1, vec![1, 1, 1, 1], vec![1, 1], vec![1, 1]),
        (2, vec![0, 2, 1, 0], vec![2, 1], vec![1, 2]),
        (4, vec![0, 0, 0, 0], vec![1, 2], vec![2, 1]),
    ] {
        let (w, bias) = (n.weight(&[8, 4 / group, 3, 2]), n.weight(&[8]));
        outs.push(n.op(
            Conv {
                strides,
                dilations,
                pads,
                group: group as i64,
            },
            &[x, w, bias],
        ));
    }
    for kind in [PoolKind::Max, PoolKind::Average, PoolKind::AverageWithPad] {
        for (pads, ceil) in [(vec![0, 0, 0, 0], false), (vec![1, 0, 1, 1], true)] {
            outs.push(n.op(
                Pool {
                    kind,
                    kernel: vec![3, 2],
                    strides: vec![2, 2],
                    dilations: vec![1, 1],
                    pads,
                    ceil,
                },
                &[x],
            ));
        }
    }
    check(n.finish(&outs), 1e-5);
}

#[test]
fn rotary_embedding() {
    let mut n = Net::new(9);
    let x = n.f32(&["b", "2", "s", "8"]);
    let (c, s) = (n.f32(&["1", "1", "s", "8"]), n.f32(&["s", "8"]));
    let a = n.op(Rope { interleaved: false }, &[x, c, s]);
    let b = n.op(Rope { interleaved: true }, &[x, c, s]);
    check(n.finish(&[a, b]), 1e-6);
}

#[test]
fn attention_forms() {
    for (heads, groups) in [(4, 4), (4, 2), (4, 1), (1, 1)] {
        let mut n = Net::new(10);
        let (h, g) = (heads.to_string(), groups.to_string());
        let q = n.f32(&["b", &h, "s", "6"]);
        let (k, v) = (n.f32(&["b", &g, "7", "6"]), n.f32(&["b", &g, "7", "5"]));
        let plain = n.op(
            Attention {
                scale: 0.3,
                causal: None,
                empty_row: EmptyRow::Nan,
            },
            &[q, k, v],
        );
        let add = n.f32(&["b", "1", "1", "7"]);
        let masked = n.op(
            Attention {
                scale: 0.3,
                causal: Some(Dim::from(2i64)),
                empty_row: EmptyRow::Zero,
            },
            &[q, k, v, add],
        );
        let keep = n.input(ScalarType::Bool, sym(&["b", &h, "s", "7"]));
        let bool_masked = n.op(
            Attention {
                scale: 0.3,
                causal: None,
                empty_row: EmptyRow::Zero,
            },
            &[q, k, v, keep],
        );
        check(n.finish(&[plain, masked, bool_masked]), 1e-5);
    }
}

#[test]
fn quantization_is_exact() {
    let mut n = Net::new(11);
    let x = n.f32(&["b", "s", "21"]);
    let relu = n.op(Relu {}, &[x]);
    let mut outs = Vec::new();
    for g in [Granularity::Token, Granularity::Tensor, Granularity::Axis(1)] {
        let q = QuantType::int8(g);
        let p = n
            .try_op(DynamicParams { qtype: q.clone() }, &[relu])
            .expect("operands fit");
        let codes = n.op(
            Quantize {
                qtype: q.clone(),
                rounding: Rounding::Mul,
            },
            &[x, p[0]],
        );
        outs.extend([p[0], p[1], n.op(Dequantize { qtype: q }, &[codes, p[1]])]);
        if g == Granularity::Token {
            let swapped = n.op(Transpose { perm: vec![0, 2, 1] }, &[codes]);
            outs.push(n.op(QMatMul {}, &[codes, swapped]));
        }
    }
    check(n.finish(&outs), 0.0);
}
