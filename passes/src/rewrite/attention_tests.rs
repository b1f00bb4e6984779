//! Attention blocks in every spelling, near misses, and causal masks, against the reference evaluator.

use super::tests::{ops, run_all, scalar};
use super::*;
use crate::canon::{OrderOperands, RemoveDead};
use crate::testing::{Net, dims};
use rsqc_ir::ops::elementwise::*;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::norm::Softmax;
use rsqc_ir::ops::shape::{Expand, Iota, Reshape, Transpose};
use rsqc_ir::{Dim, Module, Op, ScalarType, ValueId};

fn attention(m: &Module) -> Module {
    run_all(
        vec![
            Box::new(OrderOperands),
            Box::new(RecognizeAttention),
            Box::new(RecognizeCausalMasks),
            Box::new(RemoveDead),
        ],
        m,
    )
    .0
}

/// How an attention block is spelled.
#[derive(Clone, Copy, Default)]
struct Block {
    /// Heads of k and v; queries have 4.
    groups: i64,
    /// Scale on the product, on both sides, or as a division.
    scale: usize,
    /// 0 none, 1 additive tensor, 2 added where(c, 0, -inf), 3 where(c, scores, -inf), 4 where(c, -inf, scores),
    /// 5 where(c, scores, finfo.min), 6 causal -inf and padding, 7 causal finite, 8 the same by what is hidden
    mask: usize,
    guard: bool,
    /// Whether the keys come as one transpose (0, 2, 3, 1) of `[b, s, h, d]`.
    fused_keys: bool,
    /// Whether probabilities are an output as well.
    read: bool,
}

/// Key positions `[1, 1, 1, p + s]` and query positions `[1, 1, s, 1]`, which start at p.
fn positions(n: &mut Net, total: &Dim) -> (ValueId, ValueId) {
    let one = Dim::one();
    let k = n.op(
        Iota {
            start: Dim::zero(),
            step: one.clone(),
            len: total.clone(),
        },
        &[],
    );
    let q = n.op(
        Iota {
            start: Dim::sym("p"),
            step: one.clone(),
            len: Dim::sym("s"),
        },
        &[],
    );
    let k = n.op(
        Reshape {
            shape: vec![one.clone(), one.clone(), one.clone(), total.clone()],
        },
        &[k],
    );
    let q = n.op(
        Reshape {
            shape: vec![one.clone(), one.clone(), Dim::sym("s"), one],
        },
        &[q],
    );
    (k, q)
}

/// `iota_k <= iota_q + p` as `[1, 1, s, p + s]`.
fn causal(n: &mut Net, total: &Dim) -> ValueId {
    let (k, q) = positions(n, total);
    n.op(LessEqual {}, &[k, q])
}

fn masked(n: &mut Net, s: ValueId, kind: usize, total: &Dim) -> ValueId {
    let (zero, inf, low) = (scalar(n, 0.0), scalar(n, f32::NEG_INFINITY), scalar(n, f32::MIN));
    let keep = |n: &mut Net| {
        n.input(
            ScalarType::Bool,
            vec![Dim::sym("b"), Dim::one(), Dim::one(), total.clone()],
        )
    };
    match kind {
        0 => s,
        1 => {
            let m = n.input(ScalarType::F32, vec![Dim::sym("s"), total.clone()]);
            n.op(Add {}, &[m, s])
        }
        2 => {
            let c = keep(n);
            let m = n.op(Where {}, &[c, zero, inf]);
            n.op(Add {}, &[s, m])
        }
        3 | 5 => {
            let c = keep(n);
            n.op(Where {}, &[c, s, if kind == 3 { inf } else { low }])
        }
        4 => {
            let c = keep(n);
            n.op(Where {}, &[c, inf, s])
        }
        6 => {
            let (c, t) = (keep(n), causal(n, total));
            let c = n.op(And {}, &[c, t]);
            let m = n.op(Where {}, &[c, zero, inf]);
            n.op(Add {}, &[s, m])
        }
        7 => {
            let t = causal(n, total);
            let m = n.op(Where {}, &[t, zero, low]);
            n.op(Add {}, &[s, m])
        }
        _ => {
            let (k, q) = positions(n, total);
            let hidden = n.op(Less {}, &[q, k]);
            let m = n.op(Where {}, &[hidden, low, zero]);
            n.op(Add {}, &[s, m])
        }
    }
}

fn repeat(n: &mut Net, x: ValueId, groups: i64, total: &Dim) -> ValueId {
    if groups == 4 {
        return x;
    }
    let shape = |g: &[i64]| {
        let mut v = vec![Dim::sym("b")];
        v.extend(dims(g));
        v.extend([total.clone(), Dim::from(8i64)]);
        v
    };
    let x = n.op(
        Reshape {
            shape: shape(&[groups, 1]),
        },
        &[x],
    );
    let x = n.op(
        Expand {
            shape: shape(&[groups, 4 / groups]),
        },
        &[x],
    );
    n.op(Reshape { shape: shape(&[4]) }, &[x])
}

fn block(b: Block) -> Module {
    let mut n = Net::new(5);
    let total = Dim::sym("s") + Dim::sym("p");
    let heads = |h: i64, t: &Dim| vec![Dim::sym("b"), Dim::from(h), t.clone(), Dim::from(8i64)];
    let q = n.input(ScalarType::F32, heads(4, &Dim::sym("s")));
    let v = n.input(ScalarType::F32, heads(b.groups, &total));
    let kt = if b.fused_keys {
        let k = n.input(
            ScalarType::F32,
            vec![Dim::sym("b"), total.clone(), Dim::from(4i64), Dim::from(8i64)],
        );
        n.op(
            Transpose {
                perm: vec![0, 2, 3, 1],
            },
            &[k],
        )
    } else {
        let k = n.input(ScalarType::F32, heads(b.groups, &total));
        let k = repeat(&mut n, k, b.groups, &total);
        n.op(
            Transpose {
                perm: vec![0, 1, 3, 2],
            },
            &[k],
        )
    };
    let v = repeat(&mut n, v, b.groups, &total);
    let quarter = scalar(&mut n, 8f32.powf(-0.25));
    let (q, kt) = match b.scale {
        1 => (n.op(Mul {}, &[q, quarter]), n.op(Mul {}, &[kt, quarter])),
        _ => (q, kt),
    };
    let s = n.op(MatMul {}, &[q, kt]);
    let (up, down) = (scalar(&mut n, 8f32.sqrt()), scalar(&mut n, 1.0 / 8f32.sqrt()));
    let s = match b.scale {
        2 => n.op(Div {}, &[s, up]),
        3 => n.op(Mul {}, &[down, s]),
        _ => s,
    };
    let s = masked(&mut n, s, b.mask, &total);
    let mut p = n.op(Softmax { axis: 3, log: false }, &[s]);
    if b.guard {
        let (nan, zero) = (n.op(IsNan {}, &[p]), scalar(&mut n, 0.0));
        p = n.op(Where {}, &[nan, zero, p]);
    }
    let y = n.op(MatMul {}, &[p, v]);
    n.finish(&if b.read { vec![y, p] } else { vec![y] })
}

fn attention_node(m: &Module) -> rsqc_ir::ops::nn::Attention {
    m.graph
        .node_ids()
        .find_map(|n| match &m.graph.node(n).op {
            Op::Attention(a) => Some(a.clone()),
            _ => None,
        })
        .expect("an attention node")
}

#[test]
fn attention_with_each_scale_and_mask() {
    for scale in 0..4 {
        for mask in 0..9 {
            for guard in [false, true] {
                let m = block(Block {
                    groups: 4,
                    scale,
                    mask,
                    guard,
                    ..Block::default()
                });
                let out = attention(&m);
                let found = ops(&out);
                assert!(
                    found.contains(&"attention") && !found.contains(&"matmul"),
                    "scale {scale}, mask {mask}: {found:?}"
                );
                let a = attention_node(&out);
                let want = if scale == 0 { 1.0 } else { 1.0 / 8f32.sqrt() };
                assert!((a.scale - want).abs() < 1e-6);
                assert_eq!(a.causal, (mask >= 6).then(|| Dim::sym("p")));
            }
        }
    }
}

#[test]
fn attention_with_fused_keys_and_grouped_heads() {
    let out = attention(&block(Block {
        groups: 4,
        fused_keys: true,
        scale: 3,
        ..Block::default()
    }));
    assert_eq!(ops(&out), ["transpose", "attention"]);
    for groups in [1, 2] {
        let out = attention(&block(Block {
            groups,
            scale: 3,
            mask: 2,
            guard: true,
            ..Block::default()
        }));
        assert_eq!(ops(&out), ["attention"], "{groups} heads of keys");
    }
}

#[test]
fn one_head_of_keys_that_broadcasts() {
    let mut n = Net::new(5);
    let (q, k, v) = (
        n.f32(&["b", "4", "s", "8"]),
        n.f32(&["b", "1", "s", "8"]),
        n.f32(&["b", "1", "s", "6"]),
    );
    let kt = n.op(
        Transpose {
            perm: vec![0, 1, 3, 2],
        },
        &[k],
    );
    let s = n.op(MatMul {}, &[q, kt]);
    let p = n.op(Softmax { axis: 3, log: false }, &[s]);
    let y = n.op(MatMul {}, &[p, v]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&attention(&m)), ["attention"]);
}

#[test]
fn softmax_over_another_axis_stays() {
    let mut n = Net::new(5);
    let (q, k, v) = (
        n.f32(&["b", "4", "s", "8"]),
        n.f32(&["b", "4", "s", "8"]),
        n.f32(&["b", "4", "s", "8"]),
    );
    let kt = n.op(
        Transpose {
            perm: vec![0, 1, 3, 2],
        },
        &[k],
    );
    let s = n.op(MatMul {}, &[q, kt]);
    let p = n.op(Softmax { axis: 2, log: false }, &[s]);
    let y = n.op(MatMul {}, &[p, v]);
    let m = n.finish(&[y]);
    assert!(!ops(&attention(&m)).contains(&"attention"));
}

#[test]
fn attention_whose_probabilities_are_read_stays() {
    let out = attention(&block(Block {
        groups: 4,
        read: true,
        ..Block::default()
    }));
    assert!(ops(&out).contains(&"softmax"));
}

#[test]
fn attention_without_a_head_axis() {
    for (keys, with_mask) in [("p", false), ("s", true)] {
        let mut n = Net::new(5);
        let (q, k, v) = (
            n.f32(&["b", "s", "8"]),
            n.f32(&["b", keys, "8"]),
            n.f32(&["b", keys, "6"]),
        );
        let kt = n.op(Transpose { perm: vec![0, 2, 1] }, &[k]);
        let mut s = n.op(MatMul {}, &[q, kt]);
        if with_mask {
            let mask = n.f32(&["b", "s", keys]);
            s = n.op(Add {}, &[s, mask]);
        }
        let p = n.op(Softmax { axis: 2, log: false }, &[s]);
        let y = n.op(MatMul {}, &[p, v]);
        let m = n.finish(&[y]);
        let found = ops(&attention(&m));
        assert!(
            found.contains(&"attention") && !found.contains(&"matmul"),
            "{found:?}"
        );
    }
}

#[test]
fn a_soft_cap_between_product_and_softmax_stays() {
    let mut n = Net::new(5);
    let (q, k, v) = (
        n.f32(&["b", "2", "s", "8"]),
        n.f32(&["b", "2", "s", "8"]),
        n.f32(&["b", "2", "s", "8"]),
    );
    let kt = n.op(
        Transpose {
            perm: vec![0, 1, 3, 2],
        },
        &[k],
    );
    let s = n.op(MatMul {}, &[q, kt]);
    let s = n.op(Tanh {}, &[s]);
    let p = n.op(Softmax { axis: 3, log: false }, &[s]);
    let y = n.op(MatMul {}, &[p, v]);
    let m = n.finish(&[y]);
    assert!(!ops(&attention(&m)).contains(&"attention"));
}
