//! LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019), base forms first, then gain and offset.

use super::super::rule::{Rule, View, always};
use super::rules;

/// Whether the reduced axis is the last one and eps is positive.
fn last_positive(v: &View<'_>) -> bool {
    last(v) && v.number("eps").is_some_and(|e| e > 0.0)
}

fn last(v: &View<'_>) -> bool {
    v.last_axis("axes", "x")
}

/// Whether `?n` is the number of elements that a sum over `?axes` of `?x` adds (or its reciprocal).
fn counts(v: &View<'_>, reciprocal: bool) -> bool {
    let (Some(t), Some(axes), Some(n)) = (v.ty("x"), v.ints("axes"), v.number("n")) else {
        return false;
    };
    let extents: Option<Vec<i64>> = axes
        .iter()
        .map(|a| t.shape.get(usize::try_from(*a).ok()?)?.as_const())
        .collect();
    let count = extents.map_or(0.0, |e| e.iter().map(|v| *v as f64).product::<f64>());
    let want = if reciprocal { 1.0 / count } else { count };
    count > 0.0 && (n - want).abs() <= 1e-6 * want
}

fn divides(v: &View<'_>) -> bool {
    counts(v, false)
}

fn averages(v: &View<'_>) -> bool {
    counts(v, true)
}

rules! {
    // 1 / y = reciprocal(y)
    "reciprocal": "(div ?1 ?y)" => "(reciprocal ?y)", sample "y=3,5";
    // x (1 / y) = x / y
    "mul-reciprocal": "(mul ?x (reciprocal ?y))" => "(div ?x ?y)", sample "x=3,5 y=3,5";
    // (x / y) g = (x g) / y is not here: the gain stays outside the quotient.
    // m^(-1/2) = 1 / sqrt(m), for the mean square of a norm only (it is positive)
    "rsqrt": "(pow (add (reduce (mul ?x ?x) mean ?axes true) ?eps) ?-0.5)"
        => "(reciprocal (sqrt (add (reduce (mul ?x ?x) mean ?axes true) ?eps)))" if last_positive, sample "x=3,8 axes=[1] eps=1e-5";
    // m^(1/2) = sqrt(m), likewise
    "root": "(pow (add (reduce (mul ?x ?x) mean ?axes true) ?eps) ?0.5)"
        => "(sqrt (add (reduce (mul ?x ?x) mean ?axes true) ?eps))" if last_positive, sample "x=3,8 axes=[1] eps=1e-5";
    // (sum x) / n = mean x
    "mean-div": "(div (reduce ?x sum ?axes true) ?n)" => "(reduce ?x mean ?axes true)" if divides, sample "x=3,8 axes=[1] n=8.0";
    // (sum x) (1/n) = mean x
    "mean-mul": "(mul (reduce ?x sum ?axes true) ?n)" => "(reduce ?x mean ?axes true)" if averages, sample "x=3,8 axes=[1] n=0.125";
    // (sum x^2) = sum (x x)
    "sum-square": "(reduce ?x sum_square ?axes true)" => "(reduce (mul ?x ?x) sum ?axes true)", sample "x=3,8 axes=[1]";
    // x / sqrt(mean(x^2) + eps) = rmsnorm(x)
    "rms-norm": "(div ?x (sqrt (add (reduce (mul ?x ?x) mean ?axes true) ?eps)))" => "(rms_norm ?x $ones:x $f32:eps)"
        if last_positive, sample "x=3,2,8 axes=[2] eps=1e-5";
    // rmsnorm(x) g = rmsnorm(x, g)
    "rms-gain": "(mul (rms_norm ?x ?1 ?eps) ?g)" => "(rms_norm ?x ?g ?eps)", sample "x=3,2,8 g=8 eps=f32 1=8";
    // rmsnorm(x - mean x) = layernorm(x)
    "layer-norm": "(rms_norm (sub ?x (reduce ?x mean ?axes true)) ?1 ?eps)" => "(layer_norm ?x ?1 ?eps)"
        if last, sample "x=3,2,8 axes=[2] 1=8 eps=f32";
    // layernorm(x) g = layernorm(x, g)
    "layer-gain": "(mul (layer_norm ?x ?1 ?eps) ?g)" => "(layer_norm ?x ?g ?eps)", sample "x=3,2,8 g=8 eps=f32 1=8";
    // layernorm(x, g) + b = layernorm(x, g, b)
    "layer-bias": "(add (layer_norm ?x ?g ?eps) ?b)" => "(layer_norm ?x ?g ?b ?eps)", sample "x=3,2,8 g=8 b=8 eps=f32";
}
