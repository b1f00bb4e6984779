//! The expanded formulas against f64 functions, on 2^22 bit patterns spread over all f32 (the example
//! `transcendental_ulp` measures all of them), and on special values.

mod common;

use common::Rng;
use rayon::prelude::*;
use rsqc_ir::eval::points::broadcast_eval;
use rsqc_ir::eval::{EvalCx, Tensor};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, ScalarOp, check_body, expand};
use rsqc_ir::types::ScalarType;
use std::collections::BTreeMap;

fn body(op: &ScalarOp, ty: ScalarType) -> (Body, BodyId) {
    let mut b = BodyBuilder::new();
    let args: Vec<BodyId> = (0..op.arity() as u32).map(|i| b.operand(i, ty)).collect();
    let mut root = [b.push(op.clone(), &args, ty)];
    let body = expand(b.body(), &mut root);
    check_body(&body).expect("the formula is well typed");
    (body, root[0])
}

fn eval(op: &ScalarOp, x: Vec<f32>, y: Vec<f32>) -> Vec<f32> {
    let (body, root) = body(op, ScalarType::F32);
    assert!(body.stmts.iter().all(|s| !s.op.is_transcendental()));
    let symbols = BTreeMap::new();
    let (a, b) = (Tensor::new(vec![x.len()], x), Tensor::new(vec![y.len()], y));
    let ins = [&a, &b];
    let out = broadcast_eval(&EvalCx { symbols: &symbols }, &body, root, &ins[..op.arity()]);
    out.expect("runs").as_slice::<f32>().expect("f32").to_vec()
}

/// Distance from the exact value in units of its last place; results below 2^-126 may be flushed to zero.
fn ulps(y: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if rounded.to_bits() == y.to_bits() || rounded.is_nan() && y.is_nan() {
        return 0.0;
    }
    let least = f64::from(f32::MIN_POSITIVE);
    if exact.abs() < least && f64::from(y).abs() <= least && exact.is_sign_negative() == y.is_sign_negative()
    {
        return 0.0;
    }
    if y.is_nan() || rounded.is_nan() || y.is_infinite() != rounded.is_infinite() {
        return f64::INFINITY;
    }
    let exponent = exact.abs().log2().floor().max(-126.0);
    (f64::from(y) - exact).abs() / (exponent - 23.0).exp2()
}

fn check(op: &ScalarOp, exact: fn(f64) -> f64, limit: f64, keep: fn(f32) -> bool) {
    // An odd factor visits every residue; the patterns differ from run to run of the loop only by their place.
    let x: Vec<f32> = (0..1u32 << 22)
        .map(|i| f32::from_bits((i << 10) ^ (i.wrapping_mul(2_654_435_761) >> 22)))
        .filter(|x| keep(*x))
        .collect();
    let y = eval(op, x.clone(), vec![0.0]);
    let worst = x
        .par_iter()
        .zip(&y)
        .map(|(x, y)| (ulps(*y, exact(f64::from(*x))), *x, *y))
        .reduce(|| (0.0, 0.0, 0.0), |a, b| if a.0 >= b.0 { a } else { b });
    assert!(
        worst.0 <= limit,
        "{}({:e}) = {:e}: {} ulp",
        op.name(),
        worst.1,
        worst.2,
        worst.0
    );
}

#[test]
fn exp_log() {
    check(&ScalarOp::Exp, libm::exp, 1.0, |_| true);
    check(&ScalarOp::Log, libm::log, 1.0, |_| true);
}

#[test]
fn erf_tanh() {
    check(&ScalarOp::Erf, libm::erf, 2.0, |_| true);
    check(&ScalarOp::Tanh, libm::tanh, 3.0, |_| true);
}

#[test]
fn sin_cos() {
    check(&ScalarOp::Sin, libm::sin, 3.0, |x| x.abs() <= 1e4);
    check(&ScalarOp::Cos, libm::cos, 3.0, |x| x.abs() <= 1e4);
    let far: Vec<f32> = (0..1000)
        .map(|i| f32::from_bits(0x4640_0000 + i * 0x0010_1357))
        .collect();
    for op in [ScalarOp::Sin, ScalarOp::Cos] {
        for (x, y) in far.iter().zip(eval(&op, far.clone(), vec![0.0])) {
            assert!(y.abs() <= 1.0 || !x.is_finite(), "{}({x:e}) = {y}", op.name());
        }
        let ends = eval(&op, vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN], vec![0.0]);
        assert!(ends.iter().all(|v| v.is_nan()));
    }
}

#[test]
fn signed_zeros_and_ends() {
    let x = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-45];
    let bits = |op, x: &[f32]| {
        eval(&op, x.to_vec(), vec![0.0])
            .iter()
            .map(|v| v.to_bits())
            .collect::<Vec<_>>()
    };
    let want = |v: [f32; 6]| v.map(f32::to_bits).to_vec();
    assert_eq!(
        bits(ScalarOp::Tanh, &x),
        want([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45])
    );
    assert_eq!(
        bits(ScalarOp::Erf, &x),
        want([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45])
    );
    assert_eq!(
        bits(ScalarOp::Exp, &x),
        want([1.0, 1.0, f32::INFINITY, 0.0, 1.0, 1.0])
    );
    assert_eq!(bits(ScalarOp::Sin, &x[..2]), [0.0f32, -0.0].map(f32::to_bits));
    // A NaN with a payload stays one.
    let nan = f32::from_bits(0xff80_0123);
    for op in [
        ScalarOp::Exp,
        ScalarOp::Log,
        ScalarOp::Erf,
        ScalarOp::Tanh,
        ScalarOp::Sin,
        ScalarOp::Cos,
    ] {
        assert!(eval(&op, vec![nan], vec![0.0])[0].is_nan(), "{}", op.name());
    }
}

#[test]
fn pow_values_and_special_cases() {
    let mut r = Rng(21);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for _ in 0..1 << 20 {
        let base = f32::from_bits(r.bits() as u32 & 0x7fff_ffff);
        let limit = 150.0 / f64::from(base).log2().abs().max(1e-6);
        x.push(base);
        y.push((f64::from(r.unit()) * limit) as f32);
    }
    for (i, p) in eval(&ScalarOp::Pow, x.clone(), y.clone()).iter().enumerate() {
        let e = ulps(*p, libm::pow(f64::from(x[i]), f64::from(y[i])));
        assert!(e <= 2.0, "{:e}^{:e} = {p:e}: {e} ulp", x[i], y[i]);
    }
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        2.5,
        -2.5,
        1e-45,
        -1e-45,
        1e38,
        -1e38,
        16_777_215.0,
        -16_777_215.0,
        16_777_216.0,
        1e10,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.999_999_94,
        1.000_000_1,
    ];
    let pairs: Vec<(f32, f32)> = special
        .iter()
        .flat_map(|a| special.iter().map(|b| (*a, *b)))
        .collect();
    let (x, y): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    for ((a, b), p) in pairs.iter().zip(eval(&ScalarOp::Pow, x, y)) {
        let want = libm::pow(f64::from(*a), f64::from(*b));
        let e = ulps(p, want);
        assert!(e <= 2.0, "{a:e}^{b:e} = {p:e}, expected {want:e}");
    }
}

#[test]
fn narrow_floats_go_through_f32_and_f64_stays() {
    let (b, root) = body(&ScalarOp::Exp, ScalarType::F16);
    assert_eq!(b.stmt(root).ty, ScalarType::F16);
    let symbols = BTreeMap::new();
    let x = Tensor::new(
        vec![2],
        vec![half::f16::from_f32(1.0), half::f16::from_f32(-20.0)],
    );
    let y = broadcast_eval(&EvalCx { symbols: &symbols }, &b, root, &[&x]).expect("runs");
    assert_eq!(
        y.to_f64(),
        [
            half::f16::from_f64(1f64.exp()).to_f64(),
            half::f16::from_f64((-20f64).exp()).to_f64()
        ]
    );
    let (b, _) = body(&ScalarOp::Exp, ScalarType::F64);
    assert!(b.stmts.iter().any(|s| s.op == ScalarOp::Exp));
}

#[test]
fn roots_and_other_statements_survive() {
    let mut b = BodyBuilder::new();
    let x = b.operand(0, ScalarType::F32);
    let e = b.exp(x);
    let s = b.add(e, x);
    let t = b.tanh(s);
    let mut roots = [t, x, s];
    let out = expand(b.body(), &mut roots);
    assert_eq!(out.stmt(roots[1]).op, ScalarOp::Operand(0));
    assert_eq!(out.stmt(roots[2]).op, ScalarOp::Add);
    assert_eq!(roots[0].index(), out.stmts.len() - 1);
    // The second formula reuses the first one's constants.
    let consts = out.stmts.iter().filter(|s| matches!(s.op, ScalarOp::Const(_)));
    let mut seen = std::collections::BTreeSet::new();
    for c in consts {
        assert!(seen.insert(format!("{:?}", c.op)), "{:?} twice", c.op);
    }
}
