//! Measures the formulas of `scalar::expand` against f64 functions: every f32 bit pattern for functions of one
//! argument, 2^28 pairs for `pow`. Prints the largest error in units of the last place and the argument.
//!
//! `transcendental_ulp [NAME..] [--stride N]`

use rayon::prelude::*;
use rsqc_ir::eval::points::broadcast_eval;
use rsqc_ir::eval::{EvalCx, Tensor};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, ScalarOp, expand};
use rsqc_ir::types::ScalarType;
use std::collections::BTreeMap;

type Exact = fn(f64, f64) -> f64;
const CHUNK: u64 = 1 << 18;

fn functions() -> Vec<(&'static str, ScalarOp, Exact)> {
    vec![
        ("exp", ScalarOp::Exp, |x, _| libm::exp(x)),
        ("log", ScalarOp::Log, |x, _| libm::log(x)),
        ("erf", ScalarOp::Erf, |x, _| libm::erf(x)),
        ("tanh", ScalarOp::Tanh, |x, _| libm::tanh(x)),
        ("sin", ScalarOp::Sin, |x, _| libm::sin(x)),
        ("cos", ScalarOp::Cos, |x, _| libm::cos(x)),
        ("pow", ScalarOp::Pow, libm::pow),
    ]
}

/// The expanded body of one op.
fn body(op: &ScalarOp) -> (Body, BodyId) {
    let mut b = BodyBuilder::new();
    let args: Vec<BodyId> = (0..op.arity() as u32)
        .map(|i| b.operand(i, ScalarType::F32))
        .collect();
    let mut root = [b.push(op.clone(), &args, ScalarType::F32)];
    let body = expand(b.body(), &mut root);
    (body, root[0])
}

/// Distance of `y` from the exact value in units of its last place; infinite if one is NaN and the other is not, or
/// if an infinity is missed.
fn ulps(y: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if rounded.to_bits() == y.to_bits() || rounded.is_nan() && y.is_nan() {
        return 0.0;
    }
    if y.is_nan() || rounded.is_nan() || y.is_infinite() != rounded.is_infinite() {
        return f64::INFINITY;
    }
    let exponent = ((exact.abs().to_bits() >> 52) as i64 - 1023).max(-126);
    let unit = f64::from_bits(((exponent - 23 + 1023) as u64) << 52);
    (f64::from(y) - exact).abs() / unit
}

/// The arguments of pair number `i` of `pow`: bases over all magnitudes, exponents so that results are in range often.
fn pair(i: u64) -> (f32, f32) {
    let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 27;
    let x = f32::from_bits((z as u32) & 0x7fff_ffff);
    let u = ((z >> 40) as f64) / f64::from(1 << 24);
    let limit = 150.0 / f64::from(x).log2().abs().max(1e-6);
    (x, ((2.0 * u - 1.0) * limit) as f32)
}

/// How an error is measured.
type Measure = fn(x: f32, y: f32, exact: f64) -> f64;

/// What is printed: a name and the error of one result (0 outside the range).
const NORMAL: (&str, Measure) = ("ULP, results of at least 2^-126", |_, y, e| {
    if e.abs() < f64::from(f32::MIN_POSITIVE) {
        0.0
    } else {
        ulps(y, e)
    }
});
const TINY: (&str, Measure) = ("absolute in 2^-126, smaller results", |_, y, e| {
    let least = f64::from(f32::MIN_POSITIVE);
    if e.abs() < least {
        (f64::from(y) - e).abs() / least
    } else {
        0.0
    }
});
const NEAR: (&str, Measure) = (
    "ULP, |x| <= 1e4",
    |x, y, e| if x.abs() <= 1e4 { ulps(y, e) } else { 0.0 },
);
const FAR: (&str, Measure) = ("absolute, |x| <= 1e5", |x, y, e| {
    if x.abs() <= 1e5 {
        (f64::from(y) - e).abs()
    } else {
        0.0
    }
});
const REST: (&str, Measure) = ("absolute, all", |_, y, e| {
    if y.is_nan() && e.is_nan() {
        0.0
    } else {
        (f64::from(y) - e).abs()
    }
});

/// An error with its arguments.
type Worst = (f64, f32, f32);

/// The largest errors over one chunk.
fn chunk(
    body: &Body,
    root: BodyId,
    exact: Exact,
    at: &[u64],
    two: bool,
    shown: &[(&str, Measure)],
) -> Vec<Worst> {
    let symbols = BTreeMap::new();
    let (x, y): (Vec<f32>, Vec<f32>) = at
        .iter()
        .map(|i| {
            if two {
                pair(*i)
            } else {
                (f32::from_bits(*i as u32), 0.0)
            }
        })
        .unzip();
    let n = x.len();
    let mut ins = vec![Tensor::new(vec![n], x.clone())];
    if two {
        ins.push(Tensor::new(vec![n], y.clone()));
    }
    let refs: Vec<&Tensor> = ins.iter().collect();
    let out = broadcast_eval(&EvalCx { symbols: &symbols }, body, root, &refs).expect("the body runs");
    let out = out.as_slice::<f32>().expect("f32 results");
    let mut worst = vec![(0.0, 0.0, 0.0); shown.len()];
    for i in 0..n {
        let want = exact(f64::from(x[i]), f64::from(y[i]));
        for (w, (_, measure)) in worst.iter_mut().zip(shown) {
            let e = measure(x[i], out[i], want);
            // A NaN error (inf - inf) is no error only if both are the same infinity.
            let e = match e.is_nan() {
                true if f64::from(out[i]) == want => 0.0,
                true => f64::INFINITY,
                false => e,
            };
            if e > w.0 {
                *w = (e, x[i], y[i]);
            }
        }
    }
    worst
}

fn main() {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let mut stride = 1u64;
    if let Some(p) = names.iter().position(|n| n == "--stride") {
        stride = names
            .get(p + 1)
            .and_then(|s| s.parse().ok())
            .filter(|s| *s > 0)
            .unwrap_or(1);
        names.truncate(p);
    }
    for (name, op, exact) in functions() {
        if !names.is_empty() && !names.iter().any(|n| n == name) {
            continue;
        }
        let (body, root) = body(&op);
        let count = body
            .stmts
            .iter()
            .filter(|s| s.op.arity() > 0 && s.op != ScalarOp::Bitcast)
            .count();
        println!("{name}: {count} operations");
        let two = op.arity() == 2;
        let total = if two { 1u64 << 28 } else { 1u64 << 32 } / stride;
        let shown: &[(&str, Measure)] = match op {
            ScalarOp::Sin | ScalarOp::Cos => &[NEAR, FAR, REST],
            _ => &[NORMAL, TINY],
        };
        let worst = (0..total.div_ceil(CHUNK))
            .into_par_iter()
            .map(|c| {
                let at: Vec<u64> = (c * CHUNK..((c + 1) * CHUNK).min(total))
                    .map(|i| i * stride)
                    .collect();
                chunk(&body, root, exact, &at, two, shown)
            })
            .reduce(
                || vec![(0.0, 0.0, 0.0); shown.len()],
                |a, b| {
                    a.into_iter()
                        .zip(b)
                        .map(|(a, b)| if a.0 >= b.0 { a } else { b })
                        .collect()
                },
            );
        for ((what, _), w) in shown.iter().zip(worst) {
            println!("  {what}: {:.4e} at x = {:e}, y = {:e}", w.0, w.1, w.2);
        }
    }
}
