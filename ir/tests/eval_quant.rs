//! Quantization ops against hand-made expectations and naive formulas.

mod common;

use common::{Rng, at, f32s, f32t, one, points, run_op, run_typed, type_of};
use rsqc_ir::eval::{Data, EvalCx, Tensor};
use rsqc_ir::ops::OpDef;
use rsqc_ir::ops::quant::{Dequantize, DynamicParams, FakeQuant, Quantize, Rounding};
use rsqc_ir::quant::{CodeMap, Granularity, QuantType};
use rsqc_ir::types::{Dim, ScalarType, TensorType};

fn close(a: &[f32], b: &[f32], tol: f32) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tol * y.abs().max(1.0), "{a:?} is not near {b:?}");
    }
}

fn zero_type() -> QuantType {
    QuantType {
        zero: true,
        ..QuantType::int8(Granularity::Tensor)
    }
}

#[test]
fn quantize_like_onnx() {
    // The fixture of the ONNX operator: s = 1, z = 1.
    let x = f32t(&[8], &[0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -300.0, f32::NAN]);
    let (s, z) = (f32t(&[], &[1.0]), Tensor::new(vec![], vec![1i8]));
    let want = vec![1i8, 3, 3, 1, -1, 127, -128, -128];
    for rounding in [Rounding::Div, Rounding::Mul] {
        let y = one(
            Quantize {
                qtype: zero_type(),
                rounding,
            },
            &[&x, &s, &z],
        );
        assert_eq!(y.data, Data::I8(want.clone()));
    }
    // Division and multiplication by the reciprocal differ: 3.5 * 0.1 rounded vs exact halves.
    let t = QuantType::int8(Granularity::Tensor);
    let x = f32t(&[3], &[127.6, -500.0, 0.0]);
    let y = one(
        Quantize {
            qtype: t.clone(),
            rounding: Rounding::Mul,
        },
        &[&x, &f32t(&[], &[1.0])],
    );
    assert_eq!(y.data, Data::I8(vec![127, -127, 0]));
    let q = Tensor::new(vec![2], vec![-3i8, 5]);
    let ty = TensorType {
        elem: zero_type().into(),
        shape: vec![Dim::from(2i64)],
    };
    let zt = type_of(&z);
    let back = run_typed(
        Dequantize { qtype: zero_type() },
        &[&q, &f32t(&[], &[0.5]), &z],
        &[ty, type_of(&f32t(&[], &[0.5])), zt],
    );
    assert_eq!(back.expect("runs")[0].data, Data::F32(vec![-2.0, 2.0]));
}

#[test]
fn every_granularity_finds_its_scale() {
    let mut r = Rng(14);
    let shape = [3usize, 5, 4];
    let x = r.f32s(&shape);
    type Case = (Granularity, Vec<usize>, fn(&[usize]) -> Vec<usize>);
    let cases: [Case; 6] = [
        (Granularity::Tensor, vec![], |_| vec![]),
        (Granularity::Axis(1), vec![5], |p| vec![p[1]]),
        (Granularity::Token, vec![3, 5, 1], |p| vec![p[0], p[1], 0]),
        (Granularity::Group { axis: 1, size: 2 }, vec![3, 3, 4], |p| {
            vec![p[0], p[1] / 2, p[2]]
        }),
        (Granularity::Block { axis: 2, size: 3 }, vec![3, 5, 2], |p| {
            vec![p[0], p[1], p[2] / 3]
        }),
        (Granularity::Group { axis: 0, size: 8 }, vec![1, 5, 4], |p| {
            vec![0, p[1], p[2]]
        }),
    ];
    for (g, sshape, index) in cases {
        let qtype = QuantType::int8(g);
        let out = run_op(DynamicParams { qtype: qtype.clone() }, &[&x]).expect("runs");
        let (m, s) = (&out[0], &out[1]);
        assert_eq!(m.shape, sshape);
        let mut amax = std::collections::BTreeMap::<Vec<usize>, f32>::new();
        for p in points(&shape) {
            let e = amax.entry(index(&p)).or_insert(0.0);
            *e = e.max(at(&x, &p).abs() as f32);
        }
        for (i, a) in &amax {
            assert_eq!(at(m, i) as f32, 127.0 / a);
            assert_eq!(at(s, i) as f32, a * (1.0 / 127.0));
        }
        let q = one(
            Quantize {
                qtype: qtype.clone(),
                rounding: Rounding::Mul,
            },
            &[&x, m],
        );
        for p in points(&shape) {
            let want = (at(&x, &p) as f32 * at(m, &index(&p)) as f32)
                .round_ties_even()
                .clamp(-127.0, 127.0);
            assert_eq!(at(&q, &p), f64::from(want), "{g} {p:?}");
        }
        let fake = one(FakeQuant { qtype, dynamic: true }, &[&x]);
        for p in points(&shape) {
            assert_eq!(at(&fake, &p) as f32, at(&q, &p) as f32 * at(s, &index(&p)) as f32);
        }
    }
}

#[test]
fn dynamic_parameters_at_the_edges() {
    let qtype = QuantType::int8(Granularity::Token);
    let x = f32t(
        &[5, 2],
        &[
            0.0,
            0.0,
            1.0,
            f32::INFINITY,
            f32::NAN,
            1.0,
            1e-45,
            0.0,
            -127.0,
            1.0,
        ],
    );
    let out = run_op(DynamicParams { qtype: qtype.clone() }, &[&x]).expect("runs");
    let (m, s) = (f32s(&out[0]), f32s(&out[1]));
    assert_eq!((m[0], s[0]), (0.0, 0.0));
    assert!(m[1] == 0.0 && s[1].is_nan() && m[2] == 0.0 && s[2].is_nan());
    assert_eq!(m[3], f32::MAX);
    assert_eq!((m[4], s[4]), (1.0, 127.0 * (1.0f32 / 127.0)));
    let y = one(
        FakeQuant {
            qtype: qtype.clone(),
            dynamic: true,
        },
        &[&x],
    );
    assert_eq!(f32s(&y)[..2], [0.0, 0.0]);
    assert!(f32s(&y)[2..6].iter().all(|v| v.is_nan()));
    let pre = f32t(&[2], &[2.0, 0.0]);
    let out = run_op(DynamicParams { qtype }, &[&f32t(&[1, 2], &[3.0, 100.0]), &pre]).expect("runs");
    assert_eq!(f32s(&out[0]), [127.0f32 / 6.0]);
}

/// The operand multiplies first: the same codes as of the product, whatever the scales' source.
#[test]
fn a_pre_scale_is_a_multiplication_in_front() {
    let x = f32t(&[3, 2], &[0.3, -70.0, 1.0, 9.0, 0.0, 0.1]);
    let pre = f32t(&[2], &[2.0, 0.01]);
    let product = f32t(&[3, 2], &[0.6, -70.0 * 0.01, 2.0, 9.0 * 0.01, 0.0, 0.1 * 0.01]);
    let op = FakeQuant {
        qtype: QuantType::int8(Granularity::Token),
        dynamic: true,
    };
    let run = |op: &FakeQuant, ins: &[Option<&Tensor>]| {
        let cx = EvalCx {
            symbols: &Default::default(),
        };
        op.eval(&cx, ins).expect("runs").remove(0)
    };
    let fused = run(&op, &[Some(&x), None, None, Some(&pre)]);
    assert_eq!(fused, run(&op, &[Some(&product)]));
    let op = FakeQuant {
        qtype: QuantType::int8(Granularity::Tensor),
        dynamic: false,
    };
    let s = f32t(&[], &[0.013]);
    let fused = run(&op, &[Some(&x), Some(&s), None, Some(&pre)]);
    assert_eq!(fused, run(&op, &[Some(&product), Some(&s)]));
    assert_ne!(fused, run(&op, &[Some(&x), Some(&s)]));
}

#[test]
fn static_fake_and_nf4() {
    let x = f32t(&[3], &[0.3, -5.0, 1.0]);
    let op = FakeQuant {
        qtype: zero_type(),
        dynamic: false,
    };
    let (s, z) = (f32t(&[], &[0.1]), Tensor::new(vec![], vec![10i8]));
    let y = one(op, &[&x, &s, &z]);
    close(f32s(&y), &[0.3, -5.0, 1.0], 1e-6);
    let nf4 = QuantType {
        bits: 4,
        storage: ScalarType::U8,
        map: CodeMap::Nf4,
        ..QuantType::int8(Granularity::Tensor)
    };
    let x = f32t(&[4], &[-2.0, 0.0, 0.17, 2.0]);
    let q = one(
        Quantize {
            qtype: nf4.clone(),
            rounding: Rounding::Div,
        },
        &[&x, &f32t(&[], &[2.0])],
    );
    assert_eq!(q.data, Data::U8(vec![0, 7, 8, 15]));
    let ty = TensorType {
        elem: nf4.clone().into(),
        shape: vec![Dim::from(4i64)],
    };
    let s = f32t(&[], &[2.0]);
    let back = run_typed(Dequantize { qtype: nf4 }, &[&q, &s], &[ty, type_of(&s)]).expect("runs");
    assert_eq!(f32s(&back[0])[0], -2.0);
    assert_eq!(f32s(&back[0])[2], 0.079_580_3 * 2.0);
}
