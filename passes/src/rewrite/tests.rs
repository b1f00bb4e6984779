//! Recognition in the spellings that exporters write, on near misses, and against the reference evaluator.

use super::*;
use crate::canon::{OrderOperands, SimplifyArithmetic};
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::pass::{Env, Pass};
use crate::testing::{Net, assert_same, dims, sym};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::*;
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::ops::shape::{Concat, Reshape, Slice, Transpose};
use rsqc_ir::{Dim, Module, ValueId};

pub(super) fn run_all(passes: Vec<Box<dyn Pass>>, m: &Module) -> (Module, Report) {
    let mut out = m.clone();
    let options = ManagerOptions {
        verify_each: true,
        check_numeric: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(Env::default(), options)
        .run(&mut out, &passes)
        .unwrap_or_else(|d| panic!("{d}"));
    for p in &report.passes {
        assert!(p.notes.is_empty(), "{:?}", p.notes);
    }
    let shapes: [&[(&str, i64)]; 3] = [
        &[("b", 2), ("s", 7), ("p", 3)],
        &[("b", 1), ("s", 1), ("p", 0)],
        &[("b", 2), ("s", 0), ("p", 1)],
    ];
    assert_same(m, &out, &shapes, 1e-4);
    (out, report)
}

fn patterns(m: &Module) -> Module {
    run_all(
        vec![
            Box::new(SimplifyArithmetic),
            Box::new(OrderOperands),
            Box::new(RecognizePatterns::default()),
        ],
        m,
    )
    .0
}

/// Op names in topological order.
pub(super) fn ops(m: &Module) -> Vec<&'static str> {
    let order = m.graph.topo_order().expect("acyclic");
    order.iter().map(|n| m.graph.node(*n).op.name()).collect()
}

pub(super) fn scalar(n: &mut Net, v: f32) -> ValueId {
    n.constant(&Tensor::new(vec![], vec![v]))
}

fn mean(n: &mut Net, x: ValueId, axis: i64) -> ValueId {
    n.op(
        Reduce {
            kind: Reduction::Mean,
            axes: vec![axis],
            keep: true,
        },
        &[x],
    )
}

/// Builds `f(x)` on `[b, s, 8]` and gives what recognition leaves.
fn on_rows(f: impl Fn(&mut Net, ValueId) -> ValueId) -> Vec<&'static str> {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "s", "8"]);
    let y = f(&mut n, x);
    let m = n.finish(&[y]);
    ops(&patterns(&m))
}

/// `mean(x^2) + eps` over `axis`.
fn mean_square(n: &mut Net, x: ValueId, axis: i64) -> ValueId {
    let (two, eps) = (scalar(n, 2.0), scalar(n, 1e-5));
    let sq = n.op(Pow {}, &[x, two]);
    let m = mean(n, sq, axis);
    n.op(Add {}, &[m, eps])
}

#[test]
fn rms_norm_in_all_spellings() {
    let spell = |kind: usize, gain_first: bool| {
        on_rows(|n, x| {
            let ms = mean_square(n, x, 2);
            let gain = n.weight(&[8]);
            let root = n.op(Sqrt {}, &[ms]);
            let y = match kind {
                0 => {
                    let one = scalar(n, 1.0);
                    let inv = n.op(Div {}, &[one, root]);
                    n.op(Mul {}, &[x, inv])
                }
                1 => {
                    let inv = n.op(Reciprocal {}, &[root]);
                    n.op(Mul {}, &[inv, x])
                }
                2 => {
                    let half = scalar(n, -0.5);
                    let inv = n.op(Pow {}, &[ms, half]);
                    n.op(Mul {}, &[x, inv])
                }
                _ => n.op(Div {}, &[x, root]),
            };
            if gain_first {
                n.op(Mul {}, &[gain, y])
            } else {
                n.op(Mul {}, &[y, gain])
            }
        })
    };
    for kind in 0..4 {
        for first in [false, true] {
            assert_eq!(
                spell(kind, first),
                ["rms_norm"],
                "spelling {kind}, gain first {first}"
            );
        }
    }
    // Over another axis it is not the op.
    let other = on_rows(|n, x| {
        let ms = mean_square(n, x, 1);
        let root = n.op(Sqrt {}, &[ms]);
        n.op(Div {}, &[x, root])
    });
    assert!(!other.contains(&"rms_norm"), "{other:?}");
}

#[test]
fn rms_norm_without_gain_and_with_a_gain_of_another_shape() {
    let plain = on_rows(|n, x| {
        let ms = mean_square(n, x, 2);
        let root = n.op(Sqrt {}, &[ms]);
        n.op(Div {}, &[x, root])
    });
    assert_eq!(plain, ["rms_norm"]);
    let outer = on_rows(|n, x| {
        let ms = mean_square(n, x, 2);
        let root = n.op(Sqrt {}, &[ms]);
        let y = n.op(Div {}, &[x, root]);
        let g = n.f32(&["s", "1"]);
        n.op(Mul {}, &[y, g])
    });
    assert_eq!(outer, ["rms_norm", "mul"]);
}

#[test]
fn decomposed_layer_norm() {
    let found = on_rows(|n, x| {
        let mu = mean(n, x, 2);
        let d = n.op(Sub {}, &[x, mu]);
        let (two, eps) = (scalar(n, 2.0), scalar(n, 1e-5));
        let sq = n.op(Pow {}, &[d, two]);
        let var = mean(n, sq, 2);
        let var = n.op(Add {}, &[var, eps]);
        let root = n.op(Sqrt {}, &[var]);
        let y = n.op(Div {}, &[d, root]);
        let (g, b) = (n.weight(&[8]), n.weight(&[8]));
        let y = n.op(Mul {}, &[y, g]);
        n.op(Add {}, &[y, b])
    });
    assert_eq!(found, ["layer_norm"]);
}

#[test]
fn gelu_in_all_spellings() {
    let erf = |div: bool, order: usize| {
        on_rows(|n, x| {
            let (half, one) = (scalar(n, 0.5), scalar(n, 1.0));
            let e = if div {
                let c = scalar(n, std::f32::consts::SQRT_2);
                n.op(Div {}, &[x, c])
            } else {
                let c = scalar(n, std::f32::consts::FRAC_1_SQRT_2);
                n.op(Mul {}, &[x, c])
            };
            let e = n.op(Erf {}, &[e]);
            let e = n.op(Add {}, &[one, e]);
            match order {
                0 => {
                    let y = n.op(Mul {}, &[x, e]);
                    n.op(Mul {}, &[y, half])
                }
                1 => {
                    let y = n.op(Mul {}, &[half, x]);
                    n.op(Mul {}, &[y, e])
                }
                _ => {
                    let y = n.op(Mul {}, &[e, half]);
                    n.op(Mul {}, &[y, x])
                }
            }
        })
    };
    for div in [false, true] {
        for order in 0..3 {
            assert_eq!(erf(div, order), ["gelu"], "division {div}, order {order}");
        }
    }
    let tanh = |factored: bool, cube: bool| {
        on_rows(|n, x| {
            let (half, one, a, c) = (
                scalar(n, 0.5),
                scalar(n, 1.0),
                scalar(n, 0.044715),
                scalar(n, 0.797_884_6),
            );
            let inner = if factored {
                let l = n.op(Mul {}, &[x, c]);
                let r = n.op(Mul {}, &[x, a]);
                let r = n.op(Mul {}, &[r, x]);
                let r = n.op(Add {}, &[r, one]);
                n.op(Mul {}, &[l, r])
            } else {
                let three = scalar(n, 3.0);
                let x3 = if cube {
                    n.op(Pow {}, &[x, three])
                } else {
                    let x2 = n.op(Mul {}, &[x, x]);
                    n.op(Mul {}, &[x, x2])
                };
                let t = n.op(Mul {}, &[x3, a]);
                let t = n.op(Add {}, &[x, t]);
                n.op(Mul {}, &[t, c])
            };
            let t = n.op(Tanh {}, &[inner]);
            let t = n.op(Add {}, &[t, one]);
            let y = n.op(Mul {}, &[x, half]);
            n.op(Mul {}, &[y, t])
        })
    };
    assert_eq!(tanh(false, true), ["gelu"]);
    assert_eq!(tanh(false, false), ["gelu"]);
    assert_eq!(tanh(true, false), ["gelu"]);
    let quick = on_rows(|n, x| {
        let c = scalar(n, 1.702);
        let g = n.op(Mul {}, &[c, x]);
        let g = n.op(Sigmoid {}, &[g]);
        n.op(Mul {}, &[g, x])
    });
    assert_eq!(quick, ["gelu"]);
    // A constant that is off by a thousandth is another function.
    let off = on_rows(|n, x| {
        let c = scalar(n, 1.704);
        let g = n.op(Mul {}, &[x, c]);
        let g = n.op(Sigmoid {}, &[g]);
        n.op(Mul {}, &[x, g])
    });
    assert_eq!(off, ["mul", "sigmoid", "mul"]);
}

#[test]
fn silu_and_softmax() {
    let silu = on_rows(|n, x| {
        let s = n.op(Sigmoid {}, &[x]);
        n.op(Mul {}, &[x, s])
    });
    assert_eq!(silu, ["silu"]);
    let soft = on_rows(|n, x| {
        let top = n.op(
            Reduce {
                kind: Reduction::Max,
                axes: vec![1],
                keep: true,
            },
            &[x],
        );
        let e = n.op(Sub {}, &[x, top]);
        let e = n.op(Exp {}, &[e]);
        let sum = n.op(
            Reduce {
                kind: Reduction::Sum,
                axes: vec![1],
                keep: true,
            },
            &[e],
        );
        n.op(Div {}, &[e, sum])
    });
    assert_eq!(soft, ["softmax"]);
}

#[test]
fn a_shared_sigmoid_is_not_computed_twice() {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "s", "8"]);
    let s = n.op(Sigmoid {}, &[x]);
    let y = n.op(Mul {}, &[x, s]);
    let z = n.op(Tanh {}, &[s]);
    let m = n.finish(&[y, z]);
    let mut found = ops(&patterns(&m));
    found.sort_unstable();
    assert_eq!(found, ["mul", "sigmoid", "tanh"]);
}

#[test]
fn transposes_around_elementwise_ops_cancel() {
    let found = on_rows(|n, x| {
        let y = n.op(Transpose { perm: vec![0, 2, 1] }, &[x]);
        let c = scalar(n, 3.0);
        let y = n.op(Mul {}, &[y, c]);
        let y = n.op(Relu {}, &[y]);
        n.op(Transpose { perm: vec![0, 2, 1] }, &[y])
    });
    assert_eq!(found, ["mul", "relu"]);
}

fn half(n: &mut Net, x: ValueId, start: i64, size: i64, step: i64) -> ValueId {
    let mut sizes = n.ty(x).shape.clone();
    let r = sizes.len();
    sizes[r - 1] = Dim::from(size);
    let mut starts = dims(&vec![0; r]);
    starts[r - 1] = Dim::from(start);
    let mut steps = vec![1; r];
    steps[r - 1] = step;
    n.op(Slice { starts, sizes, steps }, &[x])
}

/// `x cos + rotate(x) sin` where the halves are taken at `cut`.
fn rope(n: &mut Net, x: ValueId, cos: ValueId, sin: ValueId, cut: i64) -> ValueId {
    let (lo, hi) = (half(n, x, 0, 4, 1), half(n, x, cut, 4, 1));
    let neg = n.op(Neg {}, &[hi]);
    let r = n.op(Concat { axis: 3 }, &[neg, lo]);
    let (a, b) = (n.op(Mul {}, &[x, cos]), n.op(Mul {}, &[r, sin]));
    n.op(Add {}, &[a, b])
}

#[test]
fn rotary_embedding_of_halves_and_pairs() {
    let halves = |cut: i64| {
        let mut n = Net::new(3);
        let (cos, sin) = (n.f32(&["s", "8"]), n.f32(&["s", "8"]));
        let x = n.f32(&["b", "4", "s", "8"]);
        let y = rope(&mut n, x, cos, sin, cut);
        let m = n.finish(&[y]);
        ops(&patterns(&m))
    };
    assert_eq!(halves(4), ["rope"]);
    assert!(!halves(3).contains(&"rope"), "the upper half starts at 4");

    let mut n = Net::new(3);
    let (cos, sin) = (n.f32(&["s", "8"]), n.f32(&["s", "8"]));
    let x = n.f32(&["b", "4", "s", "8"]);
    let (even, odd) = (half(&mut n, x, 0, 4, 2), half(&mut n, x, 1, 4, 2));
    let neg = n.op(Neg {}, &[odd]);
    let wide = Reshape {
        shape: sym(&["b", "4", "s", "4", "1"]),
    };
    let (neg, even) = (n.op(wide.clone(), &[neg]), n.op(wide, &[even]));
    let r = n.op(Concat { axis: 4 }, &[neg, even]);
    let r = n.op(
        Reshape {
            shape: sym(&["b", "4", "s", "8"]),
        },
        &[r],
    );
    let (a, b) = (n.op(Mul {}, &[x, cos]), n.op(Mul {}, &[r, sin]));
    let y = n.op(Add {}, &[a, b]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&patterns(&m)), ["rope"]);
}

#[test]
fn windows_stay_small_and_nothing_is_lost_at_a_limit() {
    let mut n = Net::new(3);
    let mut x = n.f32(&["b", "s", "8"]);
    for _ in 0..300 {
        let s = n.op(Sigmoid {}, &[x]);
        x = n.op(Mul {}, &[x, s]);
    }
    let m = n.finish(&[x]);
    let mut out = m.clone();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(RecognizePatterns::default())];
    let report = PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut out, &passes)
        .expect("no error");
    assert!(report.counter("windows") >= 3 && report.counter("window edges cut") >= 2);
    let silu = ops(&out).iter().filter(|o| **o == "silu").count();
    assert!(silu >= 290, "{silu} of 300");

    let mut out = m.clone();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(RecognizePatterns {
        iterations: 10,
        nodes: 20,
    })];
    let report = PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut out, &passes)
        .expect("no error");
    assert!(report.counter("node limit reached") > 0);
}

#[test]
fn recognition_is_deterministic() {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "s", "8"]);
    let ms = mean_square(&mut n, x, 2);
    let root = n.op(Sqrt {}, &[ms]);
    let y = n.op(Div {}, &[x, root]);
    let s = n.op(Sigmoid {}, &[y]);
    let y = n.op(Mul {}, &[y, s]);
    let m = n.finish(&[y]);
    let texts: Vec<String> = (0..3).map(|_| format!("{:?}", patterns(&m).graph)).collect();
    assert!(texts.windows(2).all(|w| w[0] == w[1]));
}
