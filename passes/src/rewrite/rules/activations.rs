//! Activations in the spellings that exporters write, and the two commutative laws.

use super::super::rule::{Rule, View, always};
use super::rules;

rules! {
    // a b = b a
    "mul-comm": "(mul ?a ?b)" => "(mul ?b ?a)", sample "a=3,4 b=4";
    // a + b = b + a
    "add-comm": "(add ?a ?b)" => "(add ?b ?a)", sample "a=3,4 b=4";
    // (a b)/2 = (a/2) b: halves move to the first factor, so that products of three have one form
    "half-out": "(mul (mul ?a ?b) ?0.5)" => "(mul (mul ?a ?0.5) ?b)", sample "a=3,4 b=3,4";
    // a (b/2) = (a/2) b
    "half-in": "(mul ?a (mul ?b ?0.5))" => "(mul (mul ?a ?0.5) ?b)", sample "a=3,4 b=3,4";
    // erf(x / sqrt 2) = erf(x * (1 / sqrt 2))
    "erf-div": "(erf (div ?x ?1.4142135623730951))" => "(erf (mul ?x $lit:0.7071067811865476:x))", sample "x=3,5";
    // x/2 (1 + erf(x / sqrt 2)) = gelu(x)
    "gelu-erf": "(mul (mul ?x ?0.5) (add (erf (mul ?x ?0.7071067811865476)) ?1))" => "(gelu ?x erf)", sample "x=3,5";
    // x^3 = x x x
    "cube": "(pow ?x ?3)" => "(mul (mul ?x ?x) ?x)", sample "x=3,5";
    // (c x)(a x x + 1) = c (x + a x^3): Bloom's factored form
    "gelu-factored": "(tanh (mul (mul ?x ?0.7978845608028654) (add (mul (mul ?x ?0.044715) ?x) ?1)))"
        => "(tanh (mul (add ?x (mul (mul (mul ?x ?x) ?x) ?0.044715)) ?0.7978845608028654))", sample "x=3,5";
    // a (x x) + 1 with the constant outside
    "gelu-factored-2": "(tanh (mul (mul ?x ?0.7978845608028654) (add (mul (mul ?x ?x) ?0.044715) ?1)))"
        => "(tanh (mul (add ?x (mul (mul (mul ?x ?x) ?x) ?0.044715)) ?0.7978845608028654))", sample "x=3,5";
    // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = gelu_tanh(x)
    "gelu-tanh": "(mul (mul ?x ?0.5) (add (tanh (mul (add ?x (mul (mul (mul ?x ?x) ?x) ?0.044715)) ?0.7978845608028654)) ?1))"
        => "(gelu ?x tanh)", sample "x=3,5";
    // x sigmoid(1.702 x) = gelu_quick(x)
    "gelu-quick": "(mul ?x (sigmoid (mul ?x ?1.702)))" => "(gelu ?x quick)", sample "x=3,5";
    // 1 / (1 + e^-x) = sigmoid(x)
    "sigmoid": "(reciprocal (add (exp (neg ?x)) ?1))" => "(sigmoid ?x)", sample "x=3,5";
    // x sigmoid(x) = silu(x)
    "silu": "(mul ?x (sigmoid ?x))" => "(silu ?x)", sample "x=3,5";
    // x / (1 + e^-x) = silu(x)
    "silu-div": "(div ?x (add (exp (neg ?x)) ?1))" => "(silu ?x)", sample "x=3,5";
    // max(x, 0) = relu(x)
    "relu": "(max ?x ?0)" => "(relu ?x)", sample "x=3,5";
    // e^(x - max x) / sum e^(x - max x) = softmax(x)
    "softmax": "(div (exp (sub ?x (reduce ?x max ?axes true))) (reduce (exp (sub ?x (reduce ?x max ?axes true))) sum ?axes true))"
        => "(softmax ?x $axis:axes false)", sample "x=3,5,4 axes=[1]";
}
