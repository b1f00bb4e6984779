//! Movement: transposes and reshapes compose, and pass through elementwise ops so that pairs of them meet.

use super::super::rule::{Rule, View, always};
use super::rules;

/// Whether `?c` is a scalar of rank 0.
fn scalar(v: &View<'_>) -> bool {
    v.ty("c").is_some_and(|t| t.rank() == 0)
}

fn identity(v: &View<'_>) -> bool {
    v.ints("p").is_some_and(|p| p.is_sorted())
}

/// Whether `?b` has the rank of `?a`, so that one permutation fits both.
fn same_rank(v: &View<'_>) -> bool {
    matches!((v.ty("a"), v.ty("b")), (Some(a), Some(b)) if a.rank() == b.rank())
}

rules! {
    // x^T^T: one permutation
    "transpose-compose": "(transpose (transpose ?x ?p) ?q)" => "(transpose ?x $compose:p:q)", sample "x=2,3,4 p=[2,0,1] q=[1,0,2]";
    // permutation by the identity
    "transpose-identity": "(transpose ?x ?p)" => "?x" if identity, sample "x=2,3,4 p=[0,1,2]";
    // the last of two reshapes says it all
    "reshape-reshape": "(reshape (reshape ?x ?s) ?t)" => "(reshape ?x ?t)", sample "x=2,6 s={3,4} t={12}";
    // reshape to the same shape (types decide)
    "reshape-identity": "(reshape ?x ?s)" => "?x", sample "x=2,6 s={2,6}";
    // f(x)^T = f(x^T)
    "transpose-neg": "(transpose (neg ?x) ?p)" => "(neg (transpose ?x ?p))", sample "x=2,3,4 p=[2,0,1]";
    "transpose-relu": "(transpose (relu ?x) ?p)" => "(relu (transpose ?x ?p))", sample "x=2,3,4 p=[2,0,1]";
    "transpose-gelu": "(transpose (gelu ?x ?k) ?p)" => "(gelu (transpose ?x ?p) ?k)", sample "x=2,3,4 p=[2,0,1] k=tanh";
    "transpose-silu": "(transpose (silu ?x) ?p)" => "(silu (transpose ?x ?p))", sample "x=2,3,4 p=[2,0,1]";
    "transpose-sigmoid": "(transpose (sigmoid ?x) ?p)" => "(sigmoid (transpose ?x ?p))", sample "x=2,3,4 p=[2,0,1]";
    "transpose-tanh": "(transpose (tanh ?x) ?p)" => "(tanh (transpose ?x ?p))", sample "x=2,3,4 p=[2,0,1]";
    // (x c)^T = x^T c for a scalar c
    "transpose-scale": "(transpose (mul ?x ?c) ?p)" => "(mul (transpose ?x ?p) ?c)" if scalar, sample "x=2,3,4 p=[2,0,1] c=";
    "transpose-offset": "(transpose (add ?x ?c) ?p)" => "(add (transpose ?x ?p) ?c)" if scalar, sample "x=2,3,4 p=[2,0,1] c=";
    // (a + b)^T = a^T + b^T, (a b)^T = a^T b^T when both are moved alike already
    "transpose-add": "(add (transpose ?a ?p) (transpose ?b ?p))" => "(transpose (add ?a ?b) ?p)" if same_rank, sample "a=2,3,4 b=2,3,4 p=[2,0,1]";
    "transpose-mul": "(mul (transpose ?a ?p) (transpose ?b ?p))" => "(transpose (mul ?a ?b) ?p)" if same_rank, sample "a=2,3,4 b=2,3,4 p=[2,0,1]";
    // reshape(f(x)) = f(reshape(x))
    "reshape-neg": "(reshape (neg ?x) ?s)" => "(neg (reshape ?x ?s))", sample "x=2,6 s={3,4}";
    "reshape-relu": "(reshape (relu ?x) ?s)" => "(relu (reshape ?x ?s))", sample "x=2,6 s={3,4}";
    "reshape-gelu": "(reshape (gelu ?x ?k) ?s)" => "(gelu (reshape ?x ?s) ?k)", sample "x=2,6 s={3,4} k=erf";
    "reshape-silu": "(reshape (silu ?x) ?s)" => "(silu (reshape ?x ?s))", sample "x=2,6 s={3,4}";
    "reshape-scale": "(reshape (mul ?x ?c) ?s)" => "(mul (reshape ?x ?s) ?c)" if scalar, sample "x=2,6 s={3,4} c=";
}
