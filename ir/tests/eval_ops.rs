//! Ops against hand-made expectations.

mod common;

use common::{Rng, at, f32s, f32t, i64v, one, points, run_op};
use rsqc_ir::eval::{Data, Tensor};
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::elementwise::{
    Add, Cast, Div, Exp, FloorMod, Gelu, GeluKind, Max, Min, Pow, Rem, Round, Sign, Where,
};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow, Rope};
use rsqc_ir::ops::norm::{LayerNorm, RmsNorm, Softmax};
use rsqc_ir::ops::quant::{QMatMul, WeightMatMul};
use rsqc_ir::ops::reduce::{ArgReduce, CumSum, Reduce, Reduction};
use rsqc_ir::types::{Dim, ScalarType};

fn close(a: &[f32], b: &[f32], tol: f32) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tol * y.abs().max(1.0), "{a:?} is not near {b:?}");
    }
}

#[test]
fn elementwise_semantics() {
    let nan = f32::NAN;
    let a = f32t(&[4], &[1.0, nan, 3.0, -0.0]);
    let b = f32t(&[4], &[nan, 2.0, -3.0, 0.0]);
    let max = one(Max {}, &[&a, &b]);
    assert!(f32s(&max)[0].is_nan() && f32s(&max)[1].is_nan());
    assert_eq!(f32s(&max)[2], 3.0);
    assert_eq!(f32s(&one(Min {}, &[&a, &b]))[2], -3.0);
    let i = Tensor::new(vec![4], vec![7i32, -7, 7, -7]);
    let d = Tensor::new(vec![4], vec![3i32, 3, 0, -3]);
    assert_eq!(one(Div {}, &[&i, &d]).data, Data::I32(vec![2, -2, 0, 2]));
    assert_eq!(one(Rem {}, &[&i, &d]).data, Data::I32(vec![1, -1, 0, -1]));
    assert_eq!(one(FloorMod {}, &[&i, &d]).data, Data::I32(vec![1, 2, 0, -1]));
    let r = one(Round {}, &[&f32t(&[4], &[0.5, 1.5, 2.5, -0.5])]);
    assert_eq!(f32s(&r), [0.0, 2.0, 2.0, -0.0]);
    assert_eq!(f32s(&one(Sign {}, &[&b]))[1..], [1.0, -1.0, 0.0]);
    let c = Tensor::new(vec![2, 1], vec![true, false]);
    let w = one(Where {}, &[&c, &f32t(&[2], &[1.0, 2.0]), &f32t(&[], &[9.0])]);
    assert_eq!(
        (w.shape.as_slice(), f32s(&w)),
        ([2usize, 2].as_slice(), [1.0, 2.0, 9.0, 9.0].as_slice())
    );
    assert_eq!(
        f32s(&one(Pow {}, &[&f32t(&[2], &[2.0, -2.0]), &f32t(&[], &[3.0])])),
        [8.0, -8.0]
    );
    let g = one(Gelu { kind: GeluKind::Erf }, &[&f32t(&[3], &[-1.0, 0.0, 1.0])]);
    close(f32s(&g), &[-0.158_655, 0.0, 0.841_345], 1e-6);
}

#[test]
fn casts_saturate_wrap_and_round_once() {
    let cast = |t: &Tensor, to| one(Cast { to }, &[t]);
    let f = f32t(&[6], &[1e20, -1e20, f32::NAN, 2.9, -2.9, 300.0]);
    assert_eq!(
        cast(&f, ScalarType::I8).data,
        Data::I8(vec![127, -128, 0, 2, -2, 127])
    );
    assert_eq!(
        cast(&f, ScalarType::U8).data,
        Data::U8(vec![255, 0, 0, 2, 0, 255])
    );
    assert_eq!(i64v(&cast(&f, ScalarType::I64))[..2], [i64::MAX, i64::MIN]);
    let i = Tensor::new(vec![3], vec![300i64, -1, (1 << 60) + 1]);
    assert_eq!(cast(&i, ScalarType::U8).data, Data::U8(vec![44, 255, 1]));
    assert_eq!(
        cast(&i, ScalarType::F32).data,
        Data::F32(vec![300.0, -1.0, ((1i64 << 60) + 1) as f32])
    );
    assert_eq!(cast(&i, ScalarType::Bool).data, Data::Bool(vec![true; 3]));
    let u = Tensor::new(vec![1], vec![u64::MAX]);
    assert_eq!(cast(&u, ScalarType::F32).data, Data::F32(vec![u64::MAX as f32]));
    // 1 + 2^-11 + 2^-30 lies just above the midpoint of two f16; through f32 it would be exactly on it.
    let d = Tensor::new(vec![1], vec![1.0 + 2f64.powi(-11) + 2f64.powi(-30)]);
    assert_eq!(cast(&d, ScalarType::F16).to_f64(), [1.0 + 2f64.powi(-10)]);
}

#[test]
fn broadcasting_matches_the_naive_formula() {
    let mut r = Rng(10);
    for _ in 0..40 {
        let rank = r.below(4);
        let full = r.shape(rank, 5);
        let part = |r: &mut Rng| -> Vec<usize> {
            let skip = r.below(full.len() + 1);
            full[skip..]
                .iter()
                .map(|d| if r.below(3) == 0 { 1 } else { *d })
                .collect()
        };
        let (sa, sb) = (part(&mut r), part(&mut r));
        let (a, b) = (r.f32s(&sa), r.f32s(&sb));
        let y = one(Add {}, &[&a, &b]);
        for p in points(&y.shape) {
            let pick = |t: &Tensor| {
                let lead = p.len() - t.shape.len();
                let q: Vec<usize> = t.shape.iter().zip(&p[lead..]).map(|(d, i)| i % d).collect();
                at(t, &q)
            };
            assert_eq!(at(&y, &p), f64::from(pick(&a) as f32 + pick(&b) as f32));
        }
    }
    // More points than one block, not a multiple of it.
    let x = r.f32s(&[3, 4099]);
    let y = one(Exp {}, &[&x]);
    for i in [0, 4095, 4096, 4097, 12296] {
        assert_eq!(f32s(&y)[i], (f64::from(f32s(&x)[i])).exp() as f32);
    }
    assert!(run_op(Add {}, &[&r.f32s(&[2]), &r.f32s(&[3])]).is_err());
}

#[test]
fn matmul_shapes_and_sums() {
    let mut r = Rng(11);
    let cases: [(&[usize], &[usize]); 8] = [
        (&[3, 4], &[4, 5]),
        (&[4], &[4, 5]),
        (&[3, 4], &[4]),
        (&[4], &[4]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 1, 3, 4], &[7, 4, 5]),
        (&[3, 0], &[0, 2]),
        (&[130, 67], &[67, 3]),
    ];
    for (sa, sb) in cases {
        let (a, b) = (r.f32s(sa), r.f32s(sb));
        let y = one(MatMul {}, &[&a, &b]);
        let (a1, b1) = (sa.len() == 1, sb.len() == 1);
        let k = sa[sa.len() - 1];
        for p in points(&y.shape) {
            let mut q = p.clone();
            let n = if b1 { 0 } else { q.pop().expect("a column") };
            let m = if a1 { 0 } else { q.pop().expect("a row") };
            let sum: f64 = (0..k)
                .map(|j| {
                    let full = |t: &Tensor, tail: &[usize]| {
                        let lead = t.shape.len() - tail.len();
                        let skip = q.len() - lead;
                        let mut idx: Vec<usize> = (0..lead).map(|a| q[skip + a] % t.shape[a]).collect();
                        idx.extend(tail);
                        at(t, &idx)
                    };
                    let x = if a1 { full(&a, &[j]) } else { full(&a, &[m, j]) };
                    let y = if b1 { full(&b, &[j]) } else { full(&b, &[j, n]) };
                    x * y
                })
                .sum();
            let got = at(&y, &p);
            assert!(
                (got - sum).abs() <= 1e-6 * sum.abs().max(1.0),
                "{sa:?} x {sb:?} at {p:?}: {got} {sum}"
            );
        }
    }
    let big = Tensor::new(vec![1, 2], vec![i32::MAX, 2]);
    let two = Tensor::new(vec![2, 1], vec![2, 3i32]);
    assert_eq!(
        one(MatMul {}, &[&big, &two]).data,
        Data::I32(vec![i32::MAX.wrapping_mul(2).wrapping_add(6)])
    );
}

#[test]
fn integer_products_are_exact_at_the_extremes() {
    for k in [1usize, 3, 64, 4095] {
        for (x, w) in [(127i8, 127i8), (-128, -128), (-127, 127)] {
            let (a, b) = (
                Tensor::new(vec![2, k], vec![x; 2 * k]),
                Tensor::new(vec![k, 3], vec![w; 3 * k]),
            );
            let want = i32::from(x) * i32::from(w) * k as i32;
            assert_eq!(one(QMatMul {}, &[&a, &b]).data, Data::I32(vec![want; 6]));
        }
        let (a, b) = (
            Tensor::new(vec![1, k], vec![255u8; k]),
            Tensor::new(vec![k, 1], vec![-127i8; k]),
        );
        assert_eq!(
            one(QMatMul {}, &[&a, &b]).data,
            Data::I32(vec![-255 * 127 * k as i32])
        );
    }
}

#[test]
fn weight_only_products_multiply_floats_with_codes() {
    // A sum that f32 could not hold on the way: rounded once, at the end.
    let (a, b) = (
        f32t(&[1, 3], &[1e8, 1.0, -1e8]),
        Tensor::new(vec![3, 2], vec![127i8, -128, 3, 0, 127, -128]),
    );
    assert_eq!(f32s(&one(WeightMatMul {}, &[&a, &b])), [3.0, 0.0]);
    let empty = one(
        WeightMatMul {},
        &[&f32t(&[2, 0], &[]), &Tensor::new(vec![0, 2], vec![0i8; 0])],
    );
    assert_eq!(f32s(&empty), [0.0; 4]);
}

#[test]
fn reductions() {
    let x = f32t(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let red = |kind, axes: &[i64], keep| {
        one(
            Reduce {
                kind,
                axes: axes.to_vec(),
                keep,
            },
            &[&x],
        )
    };
    assert_eq!(f32s(&red(Reduction::Sum, &[1], false)), [6.0, 15.0]);
    assert_eq!(red(Reduction::Mean, &[0], true).shape, [1, 3]);
    assert_eq!(f32s(&red(Reduction::Mean, &[0], true)), [2.5, 3.5, 4.5]);
    assert_eq!(f32s(&red(Reduction::Max, &[0, 1], false)), [6.0]);
    assert_eq!(f32s(&red(Reduction::Min, &[0, 1], false)), [1.0]);
    assert_eq!(f32s(&red(Reduction::Prod, &[1], false)), [6.0, 120.0]);
    assert_eq!(f32s(&red(Reduction::SumSquare, &[1], false)), [14.0, 77.0]);
    assert_eq!(
        f32s(&red(Reduction::L2, &[1], false)),
        [14f32.sqrt(), 77f32.sqrt()]
    );
    assert_eq!(f32s(&red(Reduction::L1, &[], false)), f32s(&x));
    // 2^24 + 1 + 1: a sum in f32 would lose the ones.
    let big = f32t(&[3], &[16_777_216.0, 1.0, 1.0]);
    let sum = one(
        Reduce {
            kind: Reduction::Sum,
            axes: vec![0],
            keep: false,
        },
        &[&big],
    );
    assert_eq!(f32s(&sum), [16_777_218.0]);
    let none = Tensor::new(vec![0], Vec::<f32>::new());
    let max = one(
        Reduce {
            kind: Reduction::Max,
            axes: vec![0],
            keep: false,
        },
        &[&none],
    );
    assert_eq!(f32s(&max), [f32::NEG_INFINITY]);
    let ints = Tensor::new(vec![3], vec![-7i32, 2, 3]);
    let r = |kind| {
        one(
            Reduce {
                kind,
                axes: vec![0],
                keep: false,
            },
            &[&ints],
        )
        .to_f64()[0]
    };
    assert_eq!(
        [
            r(Reduction::Sum),
            r(Reduction::Max),
            r(Reduction::Min),
            r(Reduction::L1)
        ],
        [-2.0, 3.0, -7.0, 12.0]
    );
    let arg = |max, last| {
        i64v(&one(
            ArgReduce {
                max,
                axis: 0,
                keep: false,
                last,
            },
            &[&f32t(&[4], &[1.0, 5.0, 5.0, 1.0])],
        ))[0]
    };
    assert_eq!(
        [
            arg(true, false),
            arg(true, true),
            arg(false, false),
            arg(false, true)
        ],
        [1, 2, 0, 3]
    );
    let cum = |exclusive, reverse| {
        f32s(&one(
            CumSum {
                axis: 1,
                exclusive,
                reverse,
            },
            &[&x],
        ))
        .to_vec()
    };
    assert_eq!(cum(false, false), [1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    assert_eq!(cum(true, false), [0.0, 1.0, 3.0, 0.0, 4.0, 9.0]);
    assert_eq!(cum(false, true), [6.0, 5.0, 3.0, 15.0, 11.0, 6.0]);
}

#[test]
fn norms() {
    let x = f32t(&[2, 2], &[1.0, 3.0, -2.0, -2.0]);
    let g = f32t(&[2], &[2.0, 1.0]);
    let b = f32t(&[2], &[0.5, 0.0]);
    close(
        f32s(&one(
            LayerNorm { eps: 0.0 },
            &[&f32t(&[1, 2], &[1.0, 3.0]), &g, &b],
        )),
        &[-1.5, 1.0],
        1e-6,
    );
    close(
        f32s(&one(LayerNorm { eps: 1e-5 }, &[&x, &g, &b]))[2..].as_ref(),
        &[0.5, 0.0],
        1e-6,
    );
    close(
        f32s(&one(RmsNorm { eps: 0.0 }, &[&x, &g])),
        &[2.0 / 5f32.sqrt(), 3.0 / 5f32.sqrt(), -2.0, -1.0],
        1e-6,
    );
    for axis in 0..2 {
        let s = one(Softmax { axis, log: false }, &[&x]);
        let l = one(Softmax { axis, log: true }, &[&x]);
        for p in points(&[2, 2]) {
            let mut o = p.clone();
            o[axis] ^= 1;
            let want = 1.0 / (1.0 + (at(&x, &o) - at(&x, &p)).exp());
            assert!((at(&s, &p) - want).abs() < 1e-6 && (at(&l, &p) - want.ln()).abs() < 1e-6);
        }
    }
    let masked = one(
        Softmax { axis: 0, log: false },
        &[&f32t(&[2], &[f32::NEG_INFINITY; 2])],
    );
    assert!(f32s(&masked).iter().all(|v| v.is_nan()));
}

#[test]
fn convolution_against_the_definition() {
    let mut r = Rng(12);
    for (group, stride, dil, pads) in [
        (1i64, 1i64, 1i64, [0i64, 0]),
        (2, 2, 1, [1, 0]),
        (4, 1, 2, [2, 1]),
        (1, 3, 2, [0, 2]),
    ] {
        let (n, c, o, h, w, k) = (2usize, 4usize, 8usize, 9usize, 8usize, 3usize);
        let x = r.f32s(&[n, c, h, w]);
        let wt = r.f32s(&[o, c / group as usize, k, k]);
        let b = r.f32s(&[o]);
        let op = Conv {
            strides: vec![stride, 1],
            dilations: vec![dil, dil],
            pads: vec![pads[0], pads[1], pads[1], pads[0]],
            group,
        };
        let y = one(op, &[&x, &wt, &b]);
        for p in points(&y.shape) {
            let (cg, og) = (c / group as usize, o / group as usize);
            let mut sum = at(&b, &[p[1]]);
            for q in points(&[cg, k, k]) {
                let i = p[2] as i64 * stride + q[1] as i64 * dil - pads[0];
                let j = p[3] as i64 + q[2] as i64 * dil - pads[1];
                if i >= 0 && j >= 0 && i < h as i64 && j < w as i64 {
                    let ch = p[1] / og * cg + q[0];
                    sum += at(&x, &[p[0], ch, i as usize, j as usize]) * at(&wt, &[p[1], q[0], q[1], q[2]]);
                }
            }
            assert!((at(&y, &p) - sum).abs() < 1e-5, "{p:?}");
        }
    }
    // One spatial axis, no bias.
    let op = Conv {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![1, 1],
        group: 1,
    };
    let y = one(
        op,
        &[
            &f32t(&[1, 1, 3], &[1.0, 2.0, 3.0]),
            &f32t(&[1, 1, 3], &[1.0, 0.0, -1.0]),
        ],
    );
    assert_eq!(f32s(&y), [-2.0, -2.0, 2.0]);
}

#[test]
fn pools() {
    let x = f32t(&[1, 1, 5], &[-1.0, -2.0, -3.0, -4.0, -5.0]);
    let pool = |kind, ceil| {
        let op = Pool {
            kind,
            kernel: vec![3],
            strides: vec![2],
            dilations: vec![1],
            pads: vec![1, 1],
            ceil,
        };
        f32s(&one(op, &[&x])).to_vec()
    };
    assert_eq!(pool(PoolKind::Max, false), [-1.0, -2.0, -4.0]);
    assert_eq!(pool(PoolKind::Average, false), [-1.5, -3.0, -4.5]);
    assert_eq!(pool(PoolKind::AverageWithPad, false), [-1.0, -3.0, -3.0]);
    // Rounded up, the last window reaches beyond the padding; what is there does not count.
    let op = Pool {
        kind: PoolKind::AverageWithPad,
        kernel: vec![2],
        strides: vec![2],
        dilations: vec![1],
        pads: vec![0, 0],
        ceil: true,
    };
    assert_eq!(f32s(&one(op, &[&x])), [-1.5, -3.5, -5.0]);
}

#[test]
fn rope_turns_pairs() {
    let x = f32t(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let (c, s) = (f32t(&[4], &[0.5; 4]), f32t(&[4], &[2.0; 4]));
    assert_eq!(
        f32s(&one(Rope { interleaved: false }, &[&x, &c, &s])),
        [-5.5, -7.0, 3.5, 6.0]
    );
    assert_eq!(
        f32s(&one(Rope { interleaved: true }, &[&x, &c, &s])),
        [-3.5, 3.0, -6.5, 8.0]
    );
}

#[test]
fn attention_against_its_parts() {
    let mut r = Rng(13);
    let (b, h, g, s, t, d, e) = (2usize, 4usize, 2usize, 3usize, 5usize, 6usize, 7usize);
    let (q, k, v) = (
        r.f32s(&[b, h, s, d]),
        r.f32s(&[b, g, t, d]),
        r.f32s(&[b, g, t, e]),
    );
    let mask = r.f32s(&[b, 1, 1, t]);
    let keep = Tensor::new(
        vec![s, t],
        (0..s * t).map(|i| i >= t && i % 3 != 0).collect::<Vec<bool>>(),
    );
    for (m, causal) in [(None, None), (Some(&mask), Some(2)), (Some(&keep), None)] {
        let op = Attention {
            scale: 0.4,
            causal: causal.map(|c: i64| Dim::from(c)),
            empty_row: EmptyRow::Zero,
        };
        let mut ins = vec![&q, &k, &v];
        ins.extend(m);
        let y = one(op, &ins);
        for p in points(&[b, h, s]) {
            let kv = [p[0], p[1] / 2];
            let score = |ti: usize| {
                let dot: f64 = (0..d)
                    .map(|i| at(&q, &[p[0], p[1], p[2], i]) * at(&k, &[kv[0], kv[1], ti, i]))
                    .sum();
                let bias = match m {
                    None => 0.0,
                    Some(m) if m.elem() == ScalarType::Bool => {
                        if at(m, &[p[2], ti]) == 1.0 {
                            0.0
                        } else {
                            f64::NEG_INFINITY
                        }
                    }
                    Some(m) => at(m, &[p[0], 0, 0, ti]),
                };
                let out = causal.is_some_and(|c| ti as i64 > p[2] as i64 + c);
                if out {
                    f64::NEG_INFINITY
                } else {
                    dot * f64::from(0.4f32) + bias
                }
            };
            let w: Vec<f64> = (0..t).map(|ti| score(ti).exp()).collect();
            let sum: f64 = w.iter().sum();
            for ei in 0..e {
                let want: f64 = (0..t).map(|ti| w[ti] * at(&v, &[kv[0], kv[1], ti, ei])).sum();
                let want = if sum == 0.0 { 0.0 } else { want / sum };
                assert!((at(&y, &[p[0], p[1], p[2], ei]) - want).abs() < 1e-5);
            }
        }
    }
    let none = Tensor::new(vec![1, 1, 0, 2], Vec::<f32>::new());
    let q = r.f32s(&[1, 1, 1, 2]);
    let op = |empty_row| Attention {
        scale: 1.0,
        causal: None,
        empty_row,
    };
    assert_eq!(f32s(&one(op(EmptyRow::Zero), &[&q, &none, &none])), [0.0, 0.0]);
    assert!(f32s(&one(op(EmptyRow::Nan), &[&q, &none, &none]))[0].is_nan());
}
