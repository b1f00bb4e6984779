//! Shape arithmetic, masks and positions in the forms that exporters write them: what is left of each in the module.

mod common;

use common::*;
use rsqc_ir::eval::Tensor;
use rsqc_ir::types::Dim;
use rsqc_onnx::{DimSpec, ImportOptions, import_bytes};

fn shape_of(b: &Build) -> String {
    let m = b.import().unwrap_or_else(|e| panic!("{e}"));
    m.graph.ty(m.graph.outputs()[0].value).to_string()
}

#[test]
fn reshape_to_computed_shape_leaves_one_node() {
    // TorchScript: Shape, Gather, Unsqueeze, Concat in front of a Reshape with -1.
    let b = Build::new(17)
        .input("x", F32, &["b", "s", "384"])
        .init(ints("one", &[], &[1]))
        .init(ints("zero", &[], &[0]))
        .ints("ax", &[0])
        .ints("tail", &[-1, 32])
        .node("Shape", &["x"], &["s0"], &[])
        .node("Gather", &["s0", "zero"], &["d0"], &[("axis", A::Int(0))])
        .node("Gather", &["s0", "one"], &["d1"], &[("axis", A::Int(0))])
        .node("Unsqueeze", &["d0", "ax"], &["u0"], &[])
        .node("Unsqueeze", &["d1", "ax"], &["u1"], &[])
        .node("Concat", &["u0", "u1", "tail"], &["t"], &[("axis", A::Int(0))])
        .node("Reshape", &["x", "t"], &["y"], &[])
        .output("y", F32);
    assert_eq!(ops(&b.import().unwrap()), ["reshape"]);
    assert_eq!(shape_of(&b), "f32[b, s, 12, 32]");
}

#[test]
fn guarded_expand_is_decided() {
    // Where(Equal(shape, -1), ones, shape) in front of Expand: a dim is never -1.
    let b = Build::new(17)
        .input("x", F32, &["b", "s"])
        .init(floats("w", &[1, 3], &[1.0, 2.0, 3.0]))
        .init(ints("zero", &[], &[0]))
        .ints("ax", &[0])
        .ints("minus", &[-1])
        .ints("three", &[3])
        .node("Shape", &["x"], &["s0"], &[])
        .node("Gather", &["s0", "zero"], &["d"], &[("axis", A::Int(0))])
        .node("Unsqueeze", &["d", "ax"], &["u"], &[])
        .node("Concat", &["u", "three"], &["t"], &[("axis", A::Int(0))])
        .node("Shape", &["t"], &["n"], &[])
        .node(
            "ConstantOfShape",
            &["n"],
            &["ones"],
            &[("value", A::Tensor(ints("", &[1], &[1])))],
        )
        .node("Mul", &["ones", "minus"], &["neg"], &[])
        .node("Equal", &["t", "neg"], &["eq"], &[])
        .node("Where", &["eq", "ones", "t"], &["shape"], &[])
        .node("Expand", &["w", "shape"], &["y"], &[])
        .output("y", F32);
    assert_eq!(ops(&b.import().unwrap()), ["expand"]);
    let y = b.run(&[ramp(&[2, 5])]);
    assert_eq!(
        (y.shape.as_slice(), y.to_f64()),
        (&[2usize, 3][..], vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    );
}

/// The mask of TorchScript exports: a gather on the flattened mask at b*K + k, joined with k <= q.
fn mask_model() -> Build {
    let unsqueeze = |b: Build, from: &str, to: &str, axes: &[i64]| {
        let name = format!("{to}_axes");
        b.ints(&name, axes).node("Unsqueeze", &[from, &name], &[to], &[])
    };
    let b = Build::new(17)
        .input("mask", I64, &["batch", "past + seq"])
        .input("ids", I64, &["batch", "seq"])
        .init(ints("zero", &[], &[0]))
        .init(ints("one", &[], &[1]))
        .ints("ones", &[1])
        .ints("flat", &[-1])
        .init(floats("keep", &[], &[0.0]))
        .init(floats("hide", &[], &[-10.0]))
        .node("Shape", &["mask"], &["ms"], &[])
        .node("Gather", &["ms", "zero"], &["B"], &[("axis", A::Int(0))])
        .node("Gather", &["ms", "one"], &["K"], &[("axis", A::Int(0))])
        .node("Gather", &["ms", "ones"], &["K1"], &[("axis", A::Int(0))])
        .node("Shape", &["ids"], &["is"], &[])
        .node("Gather", &["is", "one"], &["Q"], &[("axis", A::Int(0))])
        .node("Sub", &["K", "Q"], &["past"], &[])
        .node("Range", &["zero", "B", "one"], &["rb"], &[])
        .node("Range", &["zero", "K", "one"], &["rk"], &[])
        .node("Range", &["past", "K", "one"], &["rq"], &[]);
    let b = unsqueeze(b, "rb", "ib", &[1, 2, 3]);
    let b = unsqueeze(b, "rk", "ik", &[0, 1, 2]);
    let b = unsqueeze(b, "rq", "iq", &[0, 1, 3]);
    b.node("LessOrEqual", &["ik", "iq"], &["causal"], &[])
        .node("Cast", &["mask"], &["bools"], &[("to", A::Int(9))])
        .node("Flatten", &["bools"], &["line"], &[("axis", A::Int(2))])
        .node("Mul", &["ib", "K1"], &["row"], &[])
        .node("Add", &["ik", "row"], &["at"], &[])
        .node("Gather", &["line", "at"], &["picked"], &[("axis", A::Int(0))])
        .node("Shape", &["at"], &["shape"], &[])
        .node("Reshape", &["picked", "flat"], &["p1"], &[])
        .node("Reshape", &["p1", "shape"], &["p2"], &[])
        .node("And", &["causal", "p2"], &["both"], &[])
        .node("Where", &["both", "keep", "hide"], &["y"], &[])
        .output("y", F32)
}

#[test]
fn mask_builder_becomes_a_view_and_a_predicate() {
    let b = mask_model();
    let m = b.import().unwrap();
    let names = ops(&m);
    for gone in ["gather", "mul", "dim"] {
        assert!(!names.contains(&gone), "{names:?}");
    }
    assert_eq!(names.iter().filter(|n| **n == "iota").count(), 2, "{names:?}");
    assert_eq!(
        names.iter().filter(|n| **n == "less_equal").count(),
        1,
        "{names:?}"
    );
    // batch 2, past 1, seq 2
    let mask = Tensor::new(vec![2, 3], vec![1i64, 1, 1, 0, 1, 1]);
    let y = b.run(&[mask, Tensor::new(vec![2, 2], vec![0i64; 4])]);
    assert_eq!(y.shape, [2, 1, 2, 3]);
    let want = [0.0, 0.0, -10.0, 0.0, 0.0, 0.0, -10.0, 0.0, -10.0, -10.0, 0.0, 0.0];
    assert_eq!(y.to_f64(), want);
}

#[test]
fn gather_nd_on_index_tuples_is_a_view() {
    let b = Build::new(18)
        .input("mask", BOOL, &["m0", "m1"])
        .input("x", F32, &["b", "k"])
        .init(ints("zero", &[], &[0]))
        .init(ints("one", &[], &[1]))
        .ints("i0", &[0])
        .ints("i1", &[1])
        .ints("tail", &[2])
        .ints("ax12", &[1, 2])
        .ints("ax02", &[0, 2])
        .node(
            "Shape",
            &["x"],
            &["b1"],
            &[("start", A::Int(0)), ("end", A::Int(1))],
        )
        .node(
            "Shape",
            &["x"],
            &["k1"],
            &[("start", A::Int(1)), ("end", A::Int(2))],
        )
        .node("Squeeze", &["b1"], &["B"], &[])
        .node("Squeeze", &["k1"], &["K"], &[])
        .node("Range", &["zero", "B", "one"], &["rb"], &[])
        .node("Range", &["zero", "K", "one"], &["rk"], &[])
        .node("Unsqueeze", &["rb", "ax12"], &["ub"], &[])
        .node("Unsqueeze", &["rk", "ax02"], &["uk"], &[])
        .node("Max", &["ub", "uk"], &["wide"], &[])
        .node("Shape", &["wide"], &["ws"], &[])
        .node("Expand", &["ub", "ws"], &["eb"], &[])
        .node("Expand", &["uk", "ws"], &["ek"], &[])
        .node("Concat", &["eb", "ek"], &["tuples"], &[("axis", A::Int(-1))])
        .node("GatherND", &["mask", "tuples"], &["picked"], &[])
        .node("Cast", &["picked"], &["y"], &[("to", A::Int(1))])
        .output("y", F32);
    let m = b.import().unwrap();
    assert!(!ops(&m).contains(&"gather_nd"), "{:?}", ops(&m));
    // Both inputs have the same names now.
    let shape = |i: usize| m.graph.ty(m.graph.inputs()[i].value).shape.clone();
    assert_eq!(shape(0), shape(1));
}

#[test]
fn names_are_unified_where_shapes_demand_it() {
    let b = Build::new(17)
        .input("past", F32, &["s1", "4", "s2"])
        .input("new", F32, &["s3", "4", "n"])
        .input("w", F32, &["s9", "total", "5"])
        .node("Concat", &["past", "new"], &["k"], &[("axis", A::Int(2))])
        .node("MatMul", &["k", "w"], &["y"], &[])
        .output("y", F32);
    let m = b.import().unwrap();
    let types: Vec<String> = m
        .graph
        .inputs()
        .iter()
        .map(|p| m.graph.ty(p.value).to_string())
        .collect();
    // s3 = s1 by concatenation, total = s2 + n by the product; s9 broadcasts against s1.
    assert_eq!(types[1], "f32[s1, 4, n]");
    assert!(
        types[2] == "f32[s1, s2 + n, 5]" || types[2] == "f32[s1, n + s2, 5]",
        "{types:?}"
    );
    assert!(m.checks.is_empty());
}

#[test]
fn what_cannot_be_solved_is_checked_at_run_time() {
    let b = Build::new(17)
        .input("x", F32, &["a*b", "2"])
        .input("y", F32, &["c*d", "2"])
        .input("ab", F32, &["a", "b", "c", "d"])
        .node("Add", &["x", "y"], &["z"], &[])
        .output("z", F32);
    let m = b.import().unwrap();
    assert_eq!(m.checks.len(), 1);
    let y = b.run(&[ramp(&[6, 2]), ramp(&[6, 2]), ramp(&[2, 3, 6, 1])]);
    assert_eq!(y.to_f64()[11], 22.0);
    let bad = [ramp(&[6, 2]), ramp(&[4, 2]), ramp(&[2, 3, 4, 1])];
    assert!(rsqc_ir::eval::run(&m, &bad).is_err());
}

#[test]
fn position_tables_bound_the_sequence() {
    let b = Build::new(17)
        .input("ids", I64, &["b", "seq"])
        .init(ints("table", &[1, 16], &(0..16).collect::<Vec<_>>()))
        .init(floats(
            "w",
            &[16, 2],
            &(0..32).map(|i| i as f32).collect::<Vec<_>>(),
        ))
        .init(ints("one", &[], &[1]))
        .ints("z", &[0])
        .ints("o", &[1])
        .node("Shape", &["ids"], &["s"], &[])
        .node("Gather", &["s", "one"], &["n"], &[("axis", A::Int(0))])
        .node("Unsqueeze", &["n", "z"], &["end"], &[])
        .node("Slice", &["table", "z", "end", "o", "o"], &["pos"], &[])
        .node("Gather", &["w", "pos"], &["y"], &[("axis", A::Int(0))])
        .output("y", F32);
    let m = b.import().unwrap();
    assert_eq!(m.symbols.0.values().map(|i| i.hi).min(), Some(16));
    // Consecutive positions make the gather a slice of the table.
    assert!(!ops(&m).contains(&"gather"), "{:?}", ops(&m));
    let y = b.run(&[Tensor::new(vec![1, 3], vec![0i64; 3])]);
    assert_eq!(
        (y.shape.as_slice(), y.to_f64()),
        (&[1usize, 3, 2][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    );
}

#[test]
fn floor_division_is_not_undone() {
    let b = Build::new(17)
        .input("x", F32, &["n", "h"])
        .init(ints("one", &[], &[1]))
        .init(ints("two", &[], &[2]))
        .ints("ax", &[0])
        .ints("start", &[0])
        .node("Shape", &["x"], &["s"], &[])
        .node("Gather", &["s", "one"], &["h"], &[("axis", A::Int(0))])
        .node("Div", &["h", "two"], &["half"], &[])
        .node("Mul", &["half", "two"], &["even"], &[])
        .node("Unsqueeze", &["even", "ax"], &["end"], &[])
        .ints("axis1", &[1])
        .node("Slice", &["x", "start", "end", "axis1"], &["y"], &[])
        .output("y", F32);
    let y = b.run(&[ramp(&[1, 5])]);
    assert_eq!(y.shape, [1, 4]);
}

#[test]
fn dims_as_data_are_materialised() {
    let b = Build::new(17)
        .input("x", F32, &["n", "m"])
        .node("Shape", &["x"], &["s"], &[])
        .node("Cast", &["s"], &["y"], &[("to", A::Int(1))])
        .output("y", F32);
    assert_eq!(b.run(&[ramp(&[2, 7])]).to_f64(), [2.0, 7.0]);
    let range = Build::new(17)
        .input("x", F32, &["n"])
        .init(ints("three", &[], &[3]))
        .init(ints("two", &[], &[2]))
        .node("Size", &["x"], &["n"], &[])
        .node("Range", &["three", "n", "two"], &["r"], &[])
        .node("Mul", &["r", "r"], &["y"], &[])
        .output("y", I64);
    assert_eq!(range.run(&[ramp(&[10])]).to_f64(), [9.0, 25.0, 49.0, 81.0]);
    assert_eq!(range.run(&[ramp(&[2])]).to_f64(), [0.0; 0]);
}

#[test]
fn options_fix_and_bound_dims() {
    let b = Build::new(17)
        .input("x", F32, &["batch", "seq"])
        .node("Relu", &["x"], &["y"], &[])
        .output("y", F32);
    let with = |list: &[(&str, DimSpec)]| {
        let dims = list.iter().map(|(n, s)| (n.to_string(), *s)).collect();
        import_bytes(&b.bytes().into(), "t", &ImportOptions { dims })
    };
    let m = with(&[("seq", DimSpec::Fixed(128)), ("batch", DimSpec::Range(1, 8))]).unwrap();
    let ty = m.graph.ty(m.graph.inputs()[0].value);
    assert_eq!(ty.shape, [Dim::sym("batch"), Dim::from(128i64)]);
    assert_eq!(m.symbols.0.values().next().map(|i| (i.lo, i.hi)), Some((1, 8)));
    assert!(
        with(&[("nope", DimSpec::Fixed(1))])
            .unwrap_err()
            .to_string()
            .contains("no dimension 'nope'")
    );
}

#[test]
fn undeclared_dims_get_names() {
    let b = Build::new(17)
        .input("x", F32, &["?", "3"])
        .node("Relu", &["x"], &["y"], &[])
        .output("y", F32);
    assert_eq!(shape_of(&b), "f32[x.0, 3]");
}
