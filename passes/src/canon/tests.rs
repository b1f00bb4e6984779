//! Each canonical pass on a pattern, on one that almost matches, and in both cases against the reference evaluator.

use super::*;
use crate::manager::{ManagerOptions, PassManager};
use crate::pass::{Env, Pass};
use crate::testing::{Net, assert_same, dims, sym};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::Conv;
use rsqc_ir::ops::elementwise::{
    Add, And, Cast, Div, Equal, Gelu, GeluKind, Mul, Neg, Not, Pow, Relu, Sub, Where,
};
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::shape::{Concat, DimValue, Expand, Pad, Reshape, Slice, Transpose};
use rsqc_ir::{Dim, Module, ScalarType, ValueId};

/// Runs one pass verified and with its declared effect enforced; checks larger shapes and empty ones as well.
fn run(pass: impl Pass + 'static, m: &Module) -> Module {
    let mut out = m.clone();
    let options = ManagerOptions {
        verify_each: true,
        check_numeric: true,
        ..ManagerOptions::default()
    };
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(pass)];
    let report = PassManager::new(Env::default(), options)
        .run(&mut out, &passes)
        .unwrap_or_else(|d| panic!("{d}"));
    assert!(report.passes[0].notes.is_empty(), "{:?}", report.passes[0].notes);
    let shapes: [&[(&str, i64)]; 3] = [
        &[("b", 2), ("s", 7), ("n", 3)],
        &[("b", 1), ("s", 1), ("n", 2)],
        &[("b", 0), ("s", 3), ("n", 1)],
    ];
    assert_same(m, &out, &shapes, 1e-5);
    out
}

/// Op names in topological order.
fn ops(m: &Module) -> Vec<&'static str> {
    let order = m.graph.topo_order().expect("acyclic");
    order.iter().map(|n| m.graph.node(*n).op.name()).collect()
}

fn scalar(n: &mut Net, v: f32) -> ValueId {
    n.constant(&Tensor::new(vec![], vec![v]))
}

fn reshape(n: &mut Net, x: ValueId, words: &[&str]) -> ValueId {
    n.op(Reshape { shape: sym(words) }, &[x])
}

fn product(a: &str, b: &str) -> Dim {
    Dim::sym(a) * Dim::sym(b)
}

#[test]
fn fold_constants_evaluates_but_does_not_grow() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let w = n.weight(&[4, 4]);
    let t = n.op(Transpose { perm: vec![1, 0] }, &[w]);
    let y = n.op(MatMul {}, &[x, t]);
    let d = n.op(
        DimValue {
            values: vec![Dim::from(3i64)],
            shape: dims(&[1]),
        },
        &[],
    );
    let f = n.op(Cast { to: ScalarType::F32 }, &[d]);
    let y = n.op(Mul {}, &[y, f]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(FoldConstants::default(), &m)), ["matmul", "mul"]);

    let mut n = Net::new(1);
    let x = n.f32(&["b", "64"]);
    let c = scalar(&mut n, 0.5);
    let big = n.op(
        Expand {
            shape: dims(&[64, 64]),
        },
        &[c],
    );
    let y = n.op(MatMul {}, &[x, big]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(FoldConstants { grow: 1024 }, &m)), ["expand", "matmul"]);
    assert_eq!(ops(&run(FoldConstants { grow: 1 << 20 }, &m)), ["matmul"]);
}

#[test]
fn fold_constants_leaves_what_cannot_be_evaluated() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let table = n.weight(&[3, 4]);
    let i = n.constant(&Tensor::new(vec![], vec![7i64]));
    let row = n.op(Gather { axis: 0 }, &[table, i]);
    let y = n.op(Add {}, &[x, row]);
    let mut m = n.finish(&[y]);
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(FoldConstants::default())];
    PassManager::new(Env::default(), ManagerOptions::default())
        .run(&mut m, &passes)
        .expect("an index outside is no error yet");
    assert_eq!(ops(&m), ["gather", "add"]);
}

#[test]
fn merge_equal_merges_nodes_and_constants() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let w = n.weight(&[4]);
    let copy = Tensor::from_const(&n.m.consts.get(rsqc_ir::ConstId(0)).clone()).expect("plain");
    let w2 = n.constant(&copy);
    let a = n.op(Add {}, &[x, w]);
    let b = n.op(Add {}, &[x, w2]);
    let (p, q) = (n.op(Relu {}, &[a]), n.op(Relu {}, &[b]));
    let y = n.op(Mul {}, &[p, q]);
    let e = n.op(Gelu { kind: GeluKind::Erf }, &[y]);
    let t = n.op(Gelu { kind: GeluKind::Tanh }, &[y]);
    let m = n.finish(&[e, t]);
    assert_eq!(ops(&run(MergeEqual, &m)), ["add", "relu", "mul", "gelu", "gelu"]);
}

#[test]
fn remove_identities_of_arithmetic() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let (one, minus_zero, wide) = (
        scalar(&mut n, 1.0),
        scalar(&mut n, -0.0),
        n.constant(&Tensor::new(vec![2, 1, 1], vec![1f32; 2])),
    );
    let a = n.op(Mul {}, &[one, x]);
    let a = n.op(Div {}, &[a, one]);
    let a = n.op(Add {}, &[a, minus_zero]);
    let a = n.op(Cast { to: ScalarType::F32 }, &[a]);
    let a = n.op(Neg {}, &[a]);
    let widened = n.op(Mul {}, &[a, wide]);
    let m = n.finish(&[a, widened]);
    assert_eq!(
        ops(&run(RemoveIdentities, &m)),
        ["neg", "mul"],
        "a factor that broadcasts stays"
    );
}

#[test]
fn adding_zero_is_not_exact() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let zero = scalar(&mut n, 0.0);
    let y = n.op(Add {}, &[x, zero]);
    let y = n.op(Relu {}, &[y]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(RemoveIdentities, &m)), ["add", "relu"]);
    assert_eq!(ops(&run(DropZeroAdds, &m)), ["relu"]);
}

#[test]
fn remove_identities_of_movement() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4", "s", "8"]);
    let a = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[x],
    );
    let a = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[a],
    );
    let a = n.op(
        Reshape {
            shape: vec![Dim::sym("b"), Dim::from(32i64) * Dim::sym("s")],
        },
        &[a],
    );
    let a = reshape(&mut n, a, &["b", "4", "s", "8"]);
    let a = n.op(
        Expand {
            shape: sym(&["b", "4", "s", "8"]),
        },
        &[a],
    );
    let a = n.op(
        Slice {
            starts: dims(&[0; 4]),
            sizes: sym(&["b", "4", "s", "8"]),
            steps: vec![1; 4],
        },
        &[a],
    );
    let z = scalar(&mut n, 0.0);
    let a = n.op(
        Pad {
            before: dims(&[0; 4]),
            after: dims(&[0; 4]),
        },
        &[a, z],
    );
    let a = n.op(Concat { axis: 1 }, &[a]);
    let a = n.op(Relu {}, &[a]);
    let m = n.finish(&[a]);
    assert_eq!(ops(&run(RemoveIdentities, &m)), ["relu"]);
}

#[test]
fn slices_compose_and_empty_operands_go() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "20"]);
    let s = |start: i64, size: i64, step: i64| Slice {
        starts: dims(&[0, start]),
        sizes: vec![Dim::sym("b"), Dim::from(size)],
        steps: vec![1, step],
    };
    let a = n.op(s(19, 10, -2), &[x]);
    let a = n.op(s(1, 4, 2), &[a]);
    let none = n.op(s(3, 0, 1), &[x]);
    let y = n.op(Concat { axis: 1 }, &[none, a]);
    let m = n.finish(&[y]);
    let out = run(RemoveIdentities, &m);
    assert_eq!(ops(&out), ["slice"]);
}

#[test]
fn transposes_of_unit_axes_are_reshapes_and_batched_ones_are_lifted() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "1", "s", "8"]);
    let y = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[x],
    );
    let z = n.f32(&["b", "4", "s", "8"]);
    let f = n.op(
        Reshape {
            shape: vec![Dim::from(4i64) * Dim::sym("b"), Dim::sym("s"), Dim::from(8i64)],
        },
        &[z],
    );
    let f = n.op(Transpose { perm: vec![0, 2, 1] }, &[f]);
    let f = reshape(&mut n, f, &["b", "4", "8", "s"]);
    let m = n.finish(&[y, f]);
    let mut found = ops(&run(RemoveIdentities, &m));
    found.sort_unstable();
    assert_eq!(found, ["reshape", "transpose"]);

    // Leading axes that are split otherwise are another function.
    let mut n = Net::new(1);
    let z = n.f32(&["b", "4", "s", "8"]);
    let f = n.op(
        Reshape {
            shape: vec![Dim::from(4i64) * Dim::sym("b"), Dim::sym("s"), Dim::from(8i64)],
        },
        &[z],
    );
    let f = n.op(Transpose { perm: vec![0, 2, 1] }, &[f]);
    let f = n.op(
        Reshape {
            shape: vec![
                Dim::from(2i64) * Dim::sym("b"),
                Dim::from(2i64),
                Dim::from(8i64),
                Dim::sym("s"),
            ],
        },
        &[f],
    );
    let m = n.finish(&[f]);
    assert_eq!(
        ops(&run(RemoveIdentities, &m)),
        ["reshape", "transpose", "reshape"]
    );
}

#[test]
fn order_operands_puts_constants_last_and_settles() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let y = n.f32(&["b", "4"]);
    let w = n.weight(&[4]);
    let a = n.op(Add {}, &[w, x]);
    let b = n.op(Mul {}, &[a, y]);
    let c = n.op(Sub {}, &[w, b]);
    let m = n.finish(&[c]);
    let out = run(OrderOperands, &m);
    let again = run(OrderOperands, &out);
    let inputs_of = |m: &Module| {
        m.graph
            .topo_order()
            .expect("acyclic")
            .iter()
            .map(|n| m.graph.node(*n).inputs.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(inputs_of(&out), inputs_of(&again));
    let first = out.graph.node(out.graph.topo_order().expect("acyclic")[0]);
    assert!(out.graph.const_id(first.input(1).expect("given")).is_some());
}

#[test]
fn arithmetic_has_one_spelling() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let (two, three, minus) = (scalar(&mut n, 2.0), scalar(&mut n, 3.0), scalar(&mut n, -1.0));
    let a = n.op(Pow {}, &[x, two]);
    let a = n.op(Sub {}, &[a, three]);
    let a = n.op(Div {}, &[a, two]);
    let a = n.op(Mul {}, &[a, minus]);
    let a = n.op(Neg {}, &[a]);
    let kept = n.op(Div {}, &[a, three]);
    let kept = n.op(Pow {}, &[kept, three]);
    let m = n.finish(&[kept]);
    assert_eq!(
        ops(&run(SimplifyArithmetic, &m)),
        ["mul", "add", "mul", "div", "pow"]
    );
}

#[test]
fn conditions_simplify() {
    let mut n = Net::new(1);
    let (x, y) = (n.f32(&["b", "4"]), n.f32(&["b", "4"]));
    let c = n.op(Equal {}, &[x, y]);
    let yes = n.constant(&Tensor::new(vec![], vec![true]));
    let rows = n.constant(&Tensor::new(vec![3, 1, 1], vec![true; 3]));
    let d = n.op(And {}, &[c, yes]);
    let d = n.op(Not {}, &[d]);
    let z = n.op(Where {}, &[d, x, y]);
    let z = n.op(Where {}, &[yes, z, x]);
    let widened = n.op(And {}, &[c, rows]);
    let m = n.finish(&[z, widened]);
    let mut found = ops(&run(SimplifyArithmetic, &m));
    found.sort_unstable();
    assert_eq!(found, ["and", "equal", "where"]);
}

#[test]
fn gathers_that_are_slices() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "6", "5"]);
    let last = n.constant(&Tensor::new(vec![], vec![-1i64]));
    let some = n.constant(&Tensor::new(vec![3], vec![4i64, 2, 0]));
    let uneven = n.constant(&Tensor::new(vec![3], vec![0i64, 1, 3]));
    let a = n.op(Gather { axis: 1 }, &[x, last]);
    let b = n.op(Gather { axis: 1 }, &[x, some]);
    let c = n.op(Gather { axis: 1 }, &[x, uneven]);
    let m = n.finish(&[a, b, c]);
    let mut found = ops(&run(SimplifyGathers, &m));
    found.sort_unstable();
    assert_eq!(found, ["gather", "reshape", "slice", "slice"]);
}

#[test]
fn constants_are_trimmed_where_broadcasting_allows() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "4"]);
    let gain = n.weight(&[1, 1, 4]);
    let halves = n.constant(&Tensor::new(vec![4], vec![0.5f32; 4]));
    let a = n.op(Mul {}, &[x, gain]);
    let a = n.op(Mul {}, &[a, halves]);
    let narrow = n.f32(&["b"]);
    let needed = n.constant(&Tensor::new(vec![1, 1], vec![0.5f32]));
    let b = n.op(Mul {}, &[narrow, needed]);
    let m = n.finish(&[a, b]);
    let out = run(TrimConstants, &m);
    let ranks: Vec<usize> = out
        .graph
        .topo_order()
        .expect("acyclic")
        .iter()
        .map(|id| out.graph.ty(out.graph.node(*id).input(1).expect("given")).rank())
        .collect();
    let mut ranks = ranks;
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1, 2], "the last one gives the result its rank");
}

#[test]
fn expands_are_bypassed_unless_they_give_the_shape() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "4"]);
    let c = n.f32(&["s", "1"]);
    let wide = n.op(
        Expand {
            shape: sym(&["b", "s", "4"]),
        },
        &[c],
    );
    let y = n.op(Add {}, &[x, wide]);
    let front = reshape(&mut n, c, &["1", "s", "1"]);
    let y = n.op(Mul {}, &[y, front]);
    let alone = n.op(Relu {}, &[wide]);
    let m = n.finish(&[y, alone]);
    let mut found = ops(&run(BypassExpands, &m));
    found.sort_unstable();
    assert_eq!(found, ["add", "expand", "mul", "relu"]);
}

#[test]
fn matrices_are_not_bypassed_by_products() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "4"]);
    let w = n.f32(&["1", "4"]);
    let rows = n.op(Expand { shape: dims(&[4, 4]) }, &[w]);
    let y = n.op(MatMul {}, &[x, rows]);
    let batch = n.f32(&["1", "4", "6"]);
    let wide = n.op(
        Expand {
            shape: sym(&["b", "4", "6"]),
        },
        &[batch],
    );
    let z = n.op(MatMul {}, &[x, wide]);
    let m = n.finish(&[y, z]);
    let mut found = ops(&run(BypassExpands, &m));
    found.sort_unstable();
    assert_eq!(found, ["expand", "matmul", "matmul"]);
}

#[test]
fn linears_are_flattened_back() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "8"]);
    let (w, b, w2) = (n.weight(&[8, 6]), n.weight(&[6]), n.weight(&[6, 5]));
    let flat = n.op(
        Reshape {
            shape: vec![product("b", "s"), Dim::from(8i64)],
        },
        &[x],
    );
    let y = n.op(MatMul {}, &[flat, w]);
    let y = n.op(Add {}, &[y, b]);
    let y = n.op(Gelu { kind: GeluKind::Erf }, &[y]);
    let y = reshape(&mut n, y, &["b", "s", "6"]);
    let y = n.op(
        Reshape {
            shape: vec![product("b", "s"), Dim::from(6i64)],
        },
        &[y],
    );
    let y = n.op(MatMul {}, &[y, w2]);
    let y = reshape(&mut n, y, &["b", "s", "5"]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(FlattenLinears, &m)), ["matmul", "add", "gelu", "matmul"]);

    // Rows regrouped: [b*s] is not split as it was.
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4", "8"]);
    let w = n.weight(&[8, 6]);
    let flat = n.op(
        Reshape {
            shape: vec![Dim::from(4i64) * Dim::sym("b"), Dim::from(8i64)],
        },
        &[x],
    );
    let y = n.op(MatMul {}, &[flat, w]);
    let y = n.op(
        Reshape {
            shape: vec![Dim::from(2i64) * Dim::sym("b"), Dim::from(2i64), Dim::from(6i64)],
        },
        &[y],
    );
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(FlattenLinears, &m)), ["reshape", "matmul", "reshape"]);
}

fn conv(stride: i64, pad: i64, group: i64) -> Conv {
    Conv {
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![pad; 4],
        group,
    }
}

#[test]
fn patch_convolutions_become_products() {
    let patch = |c: Conv, k: usize, extent: &str, groups: usize| {
        let mut n = Net::new(1);
        let x = n.f32(&["b", "4", extent, "12"]);
        let (w, b) = (n.weight(&[6, 4 / groups, k, k]), n.weight(&[6]));
        let y = n.op(c, &[x, w, b]);
        let m = n.finish(&[y]);
        ops(&run(LowerPatchConvs, &m))
    };
    let product = [
        "reshape",
        "transpose",
        "reshape",
        "matmul",
        "add",
        "transpose",
        "reshape",
    ];
    assert_eq!(patch(conv(4, 0, 1), 4, "8", 1), product);
    assert_eq!(patch(conv(2, 0, 1), 2, "6", 1), product);
    assert_eq!(
        patch(conv(4, 0, 1), 4, "10", 1),
        ["conv"],
        "the last rows are cut off"
    );
    assert_eq!(patch(conv(2, 1, 1), 2, "6", 1), ["conv"], "padding");
    assert_eq!(patch(conv(2, 0, 2), 2, "6", 2), ["conv"], "groups");
    assert_eq!(patch(conv(1, 0, 1), 1, "6", 1), ["conv"], "one pixel");
}

#[test]
fn affine_folds_into_convolutions_and_products() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "3", "5", "6"]);
    let (w, scale, shift) = (
        n.weight(&[4, 3, 3, 3]),
        n.weight(&[1, 4, 1, 1]),
        n.weight(&[4, 1, 1]),
    );
    let y = n.op(conv(1, 1, 1), &[x, w]);
    let y = n.op(Mul {}, &[y, scale]);
    let y = n.op(Add {}, &[y, shift]);
    let y = n.op(Relu {}, &[y]);
    let t = n.f32(&["b", "s", "8"]);
    let (w, b, g) = (n.weight(&[8, 5]), n.weight(&[5]), n.weight(&[5]));
    let z = n.op(MatMul {}, &[t, w]);
    let z = n.op(Add {}, &[b, z]);
    let z = n.op(Mul {}, &[g, z]);
    let m = n.finish(&[y, z]);
    let m = run(OrderOperands, &m);
    let mut found = ops(&run(FoldAffine, &m));
    found.sort_unstable();
    assert_eq!(found, ["add", "conv", "matmul", "relu"]);
}

#[test]
fn affine_stays_where_it_is_not_per_channel_or_not_private() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "3", "5", "6"]);
    let (w, along_width) = (n.weight(&[6, 3, 3, 3]), n.weight(&[6]));
    let y = n.op(conv(1, 1, 1), &[x, w]);
    let y = n.op(Mul {}, &[y, along_width]);
    let t = n.f32(&["b", "s", "8"]);
    let (w, g) = (n.weight(&[8, 5]), n.weight(&[5]));
    let z = n.op(MatMul {}, &[t, w]);
    let scaled = n.op(Mul {}, &[z, g]);
    let m = n.finish(&[y, z, scaled]);
    assert_eq!(ops(&run(FoldAffine, &m)).len(), 4);
}

#[test]
fn dead_nodes_go() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let dead = n.op(Relu {}, &[x]);
    n.op(Neg {}, &[dead]);
    let y = n.op(Neg {}, &[x]);
    let m = n.finish(&[y]);
    assert_eq!(ops(&run(RemoveDead, &m)), ["neg"]);
}
