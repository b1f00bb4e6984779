//! Rotary position embedding (Su et al. 2021), half and interleaved.

use super::super::rule::{Rule, View, always};
use super::rules;
use rsqc_ir::Dim;

/// Whether (starts, sizes, steps) of a slice of `?x` keep every axis but the last whole.
fn other_axes_whole(v: &View<'_>, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> bool {
    let Some(t) = v.ty("x") else { return false };
    let n = t.rank();
    n > 0
        && starts.len() == n
        && (0..n - 1).all(|a| starts[a].is(0) && steps[a] == 1 && sizes[a] == t.shape[a])
}

/// The two slices read the lower and the upper half of the last axis.
fn halves(v: &View<'_>) -> bool {
    let (Some(lo), Some(hi), Some(size), Some(steps)) =
        (v.dims("lo"), v.dims("hi"), v.dims("size"), v.ints("steps"))
    else {
        return false;
    };
    let Some(d) = v.ty("x").and_then(|t| t.shape.last()?.as_const()) else {
        return false;
    };
    let (Some(l), Some(h), Some(s)) = (lo.last(), hi.last(), size.last()) else {
        return false;
    };
    d % 2 == 0
        && l.is(0)
        && h.is(d / 2)
        && s.is(d / 2)
        && steps.last() == Some(&1)
        && other_axes_whole(v, &lo, &size, &steps)
        && other_axes_whole(v, &hi, &size, &steps)
        && v.last_axis("axis", "x")
}

/// The two slices read the even and the odd elements of the last axis, each widened by a unit axis.
fn pairs(v: &View<'_>) -> bool {
    let (Some(even), Some(odd), Some(size), Some(steps)) =
        (v.dims("even"), v.dims("odd"), v.dims("size"), v.ints("steps"))
    else {
        return false;
    };
    let Some(t) = v.ty("x") else { return false };
    let Some(d) = t.shape.last().and_then(Dim::as_const) else {
        return false;
    };
    let widened = |name: &str| {
        v.dims(name)
            .is_some_and(|w| w.len() == t.rank() + 1 && w[..t.rank()] == size[..] && w[t.rank()].is(1))
    };
    d % 2 == 0
        && even.last().is_some_and(|e| e.is(0))
        && odd.last().is_some_and(|o| o.is(1))
        && size.last().is_some_and(|s| s.is(d / 2))
        && steps.last() == Some(&2)
        && other_axes_whole(v, &even, &size, &steps)
        && other_axes_whole(v, &odd, &size, &steps)
        && widened("wide")
        && v.ints("axis") == Some(vec![t.rank() as i64])
}

rules! {
    // x cos + [-x2, x1] sin with x = [x1, x2]
    "rope-half": "(add (mul ?x ?cos) (mul (concat (neg (slice ?x ?hi ?size ?steps)) (slice ?x ?lo ?size ?steps) ?axis) ?sin))"
        => "(rope ?x ?cos ?sin false)" if halves,
        sample "x=2,3,8 cos=3,8 sin=3,8 lo={0,0,0} hi={0,0,4} size={2,3,4} steps=[1,1,1] axis=i2";
    // x cos + [-x1, x0, -x3, x2, ...] sin
    "rope-pairs": "(add (mul ?x ?cos) (mul (reshape (concat (reshape (neg (slice ?x ?odd ?size ?steps)) ?wide) (reshape (slice ?x ?even ?size ?steps) ?wide) ?axis) ?shape) ?sin))"
        => "(rope ?x ?cos ?sin true)" if pairs,
        sample "x=2,3,8 cos=3,8 sin=3,8 even={0,0,0} odd={0,0,1} size={2,3,4} steps=[1,1,2] wide={2,3,4,1} axis=i3 shape={2,3,8}";
}
