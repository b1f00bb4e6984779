//! Malformed, contradictory and oversized models: always an error with a cause, never a panic.

mod common;

use std::time::Instant;

use common::*;
use onnx_protobuf::{OperatorSetIdProto, TensorProto};
use rsqc_onnx::{ErrorKind, ImportOptions, import, import_bytes};

/// A small model that uses facts, constants and a product.
fn sample() -> Build {
    Build::new(17)
        .input("x", F32, &["batch", "seq", "4"])
        .init(floats("w", &[4, 6], &[0.5; 24]))
        .ints("i0", &[0])
        .ints("tail", &[-1, 3])
        .node("Shape", &["x"], &["s"], &[])
        .node("Gather", &["s", "i0"], &["b"], &[("axis", A::Int(0))])
        .node("Concat", &["b", "tail"], &["t"], &[("axis", A::Int(0))])
        .node("MatMul", &["x", "w"], &["y"], &[])
        .node("Reshape", &["y", "t"], &["z"], &[])
        .node("Softmax", &["z"], &["out"], &[("axis", A::Int(-1))])
        .output("out", F32)
}

fn try_import(bytes: Vec<u8>) -> Result<(), ErrorKind> {
    import_bytes(&bytes.into(), "t", &ImportOptions::default()).map(|_| ())
}

#[test]
fn truncation_at_every_offset() {
    let whole = sample().bytes();
    try_import(whole.clone()).unwrap();
    let mut errors = 0;
    for n in 0..whole.len() {
        errors += usize::from(try_import(whole[..n].to_vec()).is_err());
    }
    assert!(
        errors >= whole.len() - 4,
        "{errors} of {} truncations were refused",
        whole.len()
    );
}

#[test]
fn random_damage_never_panics() {
    let whole = sample().bytes();
    let mut state = 0x2545_f491u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        if let Err(e) = try_import(bytes) {
            let text = e.to_string();
            assert!(
                !text.is_empty() && text.len() < 2000 && !text.contains('\u{0}'),
                "{text}"
            );
        }
    }
}

#[test]
fn graph_structure() {
    let base = || Build::new(17).input("x", F32, &["2"]);
    let relu = |b: Build, i: &str, o: &str| b.node("Relu", &[i], &[o], &[]);
    let cases = [
        (
            relu(base(), "nowhere", "y").output("y", F32),
            "uses 'nowhere', which is not defined before it",
        ),
        (relu(base(), "y", "y").output("y", F32), "not defined before it"),
        (
            relu(relu(base(), "x", "y"), "x", "y").output("y", F32),
            "already defined",
        ),
        (relu(base(), "x", "x").output("x", F32), "already defined"),
        (relu(base(), "x", "y"), "has no outputs"),
        (
            relu(base(), "x", "y").output("z", F32),
            "output 'z': is not defined",
        ),
        (
            relu(base(), "x", "y").output("y", I64),
            "declared as i64, but the graph computes f32",
        ),
        (
            base().input("x", F32, &["2"]).output("x", F32),
            "input 'x' is defined twice",
        ),
        (
            base().node("Add", &["x"], &["y"], &[]).output("y", F32),
            "has 1 operands, expected 2",
        ),
        (
            base().node("Relu", &["x"], &["y", "z"], &[]).output("y", F32),
            "has 2 outputs",
        ),
        (
            base().node("Relu", &[""], &["y"], &[]).output("y", F32),
            "has 0 operands",
        ),
        (
            Build::new(17).input("x", F32, &["-3"]).output("x", F32),
            "axis 0 has extent -3",
        ),
        (Build::new(17).input("x", 0, &["3"]).output("x", 0), "UNDEFINED"),
        (
            base()
                .node("Relu", &["x"], &["y"], &[("alpha", A::Int(1))])
                .output("y", F32),
            "attribute 'alpha' is not one",
        ),
        (
            base()
                .node("LeakyRelu", &["x"], &["y"], &[("alpha", A::Int(1))])
                .output("y", F32),
            "attribute 'alpha' has type INT, expected FLOAT",
        ),
        (
            base()
                .node("Elu", &["x"], &["y"], &[("alpha", A::Float(f32::NAN))])
                .output("y", F32),
            "'alpha' is NaN",
        ),
    ];
    for (model, want) in cases {
        let text = model.error();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn declared_types_of_inner_values() {
    let model = |elem: i32, dims: &[&str]| {
        let mut b = Build::new(17)
            .input("x", F32, &["n", "3"])
            .node("Relu", &["x"], &["a"], &[])
            .node("Relu", &["a"], &["y"], &[])
            .output("y", F32);
        b.graph.value_info.push(port("a", elem, Some(dims)));
        b
    };
    model(F32, &["other", "3"]).import().unwrap();
    for (bad, want) in [
        (model(I64, &["n", "3"]), "'a' is declared as i64"),
        (model(F32, &["3"]), "declared with rank 1"),
        (model(F32, &["n", "4"]), "axis 1 of 'a' is declared as 4"),
    ] {
        let text = bad.error();
        assert!(text.contains(want) && text.contains("n0"), "{text}");
    }
}

#[test]
fn versions_and_operators() {
    let relu = |b: Build| {
        b.input("x", F32, &["2"])
            .node("Relu", &["x"], &["y"], &[])
            .output("y", F32)
    };
    for (opset, unsupported) in [(0, false), (-1, false), (1 << 40, true), (999, true)] {
        let e = relu(Build::new(opset)).import().unwrap_err();
        assert_eq!(matches!(e, ErrorKind::Unsupported(_)), unsupported, "{e}");
    }
    let mut twice = relu(Build::new(17));
    twice.model.opset_import.push(OperatorSetIdProto {
        version: 18,
        ..Default::default()
    });
    assert!(twice.error().contains("given twice"));
    let mut none = relu(Build::new(17));
    none.model.opset_import.clear();
    assert!(none.error().contains("is missing"));
    let mut old = relu(Build::new(17));
    old.model.ir_version = 0;
    assert!(old.error().contains("IR version is 0"));
    let all = Build::new(17)
        .input("x", F32, &["2"])
        .node("FrobnicateA", &["x"], &["a"], &[])
        .node("FrobnicateB", &["a"], &["b"], &[])
        .node("Gelu", &["b"], &["y"], &[])
        .output("y", F32);
    let text = all.error();
    for part in [
        "FrobnicateA",
        "FrobnicateB",
        "Gelu at operator set 17 (supported from 20)",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Features within operators are collected as well.
    let features = Build::new(17)
        .input("x", F32, &["1", "2", "8", "8"])
        .input("n", I64, &["1"])
        .node(
            "MaxPool",
            &["x"],
            &["a", "ix"],
            &[("kernel_shape", A::Ints(&[2, 2]))],
        )
        .node("Tile", &["x", "n"], &["b"], &[])
        .node("Relu", &["a"], &["y"], &[])
        .output("y", F32);
    let text = features.error();
    assert!(
        text.contains("MaxPool with indices") && text.contains("repeats that depends on data"),
        "{text}"
    );
}

#[test]
fn shapes_and_attributes() {
    let on = |dims: &[&str]| Build::new(17).input("x", F32, dims);
    let huge = i64::MAX;
    let cases = [
        (
            on(&["2", "3"])
                .ints("s", &[5])
                .node("Reshape", &["x", "s"], &["y"], &[]),
            "differ",
        ),
        (
            on(&["2", "3"])
                .ints("s", &[-1, -1])
                .node("Reshape", &["x", "s"], &["y"], &[]),
            "-1 twice",
        ),
        (
            on(&["2", "3"])
                .ints("s", &[-2, 3])
                .node("Reshape", &["x", "s"], &["y"], &[]),
            "is -2",
        ),
        (
            on(&["2", "3"])
                .ints("s", &[-1, 4])
                .node("Reshape", &["x", "s"], &["y"], &[]),
            "do not fill",
        ),
        (
            on(&["2"])
                .ints("s", &[huge, huge])
                .node("Expand", &["x", "s"], &["y"], &[]),
            "differ",
        ),
        (
            on(&["1"])
                .ints("s", &[huge, huge])
                .node("Expand", &["x", "s"], &["y"], &[]),
            "over the limit",
        ),
        (
            on(&["1"])
                .ints("s", &[-5])
                .node("Expand", &["x", "s"], &["y"], &[]),
            "-5",
        ),
        (
            on(&["1"])
                .ints("s", &[1 << 40, 1 << 40])
                .node("ConstantOfShape", &["s"], &["y"], &[]),
            "over the limit",
        ),
        (
            on(&["4"])
                .ints("s", &[1 << 50])
                .node("Tile", &["x", "s"], &["y"], &[]),
            "over the limit",
        ),
        (
            on(&["4"])
                .ints("s", &[1, 1 << 60])
                .node("Pad", &["x", "s"], &["y"], &[]),
            "over the limit",
        ),
        (
            on(&["2", "3"]).node("Transpose", &["x"], &["y"], &[("perm", A::Ints(&[0, 0]))]),
            "twice",
        ),
        (
            on(&["2", "3"]).node("Transpose", &["x"], &["y"], &[("perm", A::Ints(&[0]))]),
            "expected 2",
        ),
        (
            on(&["2", "3"]).node("Softmax", &["x"], &["y"], &[("axis", A::Int(9))]),
            "axis 9 is outside rank 2",
        ),
        (
            on(&["2", "3"]).node("Softmax", &["x"], &["y"], &[("axis", A::Int(i64::MIN))]),
            "outside rank 2",
        ),
        (
            on(&["2", "3"]).node("Concat", &["x", "x"], &["y"], &[]),
            "'axis' is missing",
        ),
    ];
    refused(cases.into());
}

#[test]
fn windows_and_parameters() {
    let on = |dims: &[&str]| Build::new(17).input("x", F32, dims);
    let cases = [
        (
            on(&["1", "1", "4", "4"]).node("MaxPool", &["x"], &["y"], &[("kernel_shape", A::Ints(&[0, 2]))]),
            "at least 1",
        ),
        (
            on(&["1", "1", "4", "4"]).node(
                "MaxPool",
                &["x"],
                &["y"],
                &[("kernel_shape", A::Ints(&[2, 2])), ("strides", A::Ints(&[0, 1]))],
            ),
            "at least 1",
        ),
        (
            on(&["1", "1", "4", "4"]).node("MaxPool", &["x"], &["y"], &[("kernel_shape", A::Ints(&[9, 2]))]),
            "does not fit",
        ),
        (
            on(&["2", "3"])
                .ints("a", &[1])
                .node("Squeeze", &["x", "a"], &["y"], &[]),
            "squeezed axis 1",
        ),
        (
            on(&["2", "3"])
                .init(floats("w", &[4, 1], &[0.0; 4]))
                .node("MatMul", &["x", "w"], &["y"], &[]),
            "3 and 4 differ",
        ),
        (
            on(&["2", "3"])
                .init(floats("w", &[4], &[0.0; 4]))
                .node("Add", &["x", "w"], &["y"], &[]),
            "3 and 4 differ",
        ),
        (
            on(&["2", "3"])
                .ints("a", &[0])
                .ints("b", &[2])
                .ints("c", &[0])
                .ints("d", &[0])
                .node("Slice", &["x", "a", "b", "c", "d"], &["y"], &[]),
            "a step is 0",
        ),
        (
            on(&["2", "3"])
                .ints("i", &[5])
                .node("Gather", &["x", "i"], &["y"], &[]),
            "index 5 is outside",
        ),
        (
            on(&["2"])
                .init(floats("s", &[1], &[0.0]))
                .node("QuantizeLinear", &["x", "s"], &["y"], &[]),
            "a scale is 0",
        ),
        (
            on(&["2"])
                .init(floats("s", &[1], &[f32::NAN]))
                .node("QuantizeLinear", &["x", "s"], &["y"], &[]),
            "a scale is NaN",
        ),
    ];
    refused(cases.into());
}

/// Each model must be refused for the reason given.
fn refused(cases: Vec<(Build, &str)>) {
    for (model, want) in cases {
        let text = model
            .output("y", if want.starts_with("a scale") { U8 } else { F32 })
            .error();
        assert!(text.contains(want), "expected '{want}': {text}");
    }
}

#[test]
fn folding_cannot_trap() {
    for (op, a, b) in [
        ("Div", i64::MIN, -1),
        ("Mod", i64::MIN, -1),
        ("Mul", i64::MIN, i64::MIN),
        ("Add", i64::MAX, 1),
    ] {
        let m = Build::new(17)
            .ints("a", &[a])
            .ints("b", &[b])
            .node(op, &["a", "b"], &["y"], &[])
            .output("y", I64);
        m.import().unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    for op in ["Div", "Mod"] {
        let m = Build::new(17)
            .ints("a", &[7])
            .ints("b", &[0])
            .node(op, &["a", "b"], &["y"], &[])
            .output("y", I64);
        assert!(m.error().contains("by zero"));
    }
    let range = Build::new(17)
        .init(ints("a", &[], &[0]))
        .init(ints("b", &[], &[i64::MAX]))
        .init(ints("c", &[], &[1]))
        .node("Range", &["a", "b", "c"], &["y"], &[])
        .output("y", I64);
    assert!(range.error().contains("over the limit"));
}

#[test]
fn names_in_messages_are_harmless() {
    let evil = format!("\u{1b}[31m%s%n{}", "A".repeat(1 << 20));
    let m = Build::new(17)
        .input("x", F32, &["2"])
        .node("Relu", &[&evil], &["y"], &[])
        .output("y", F32);
    let text = m.error();
    assert!(
        text.len() < 1000 && !text.contains('\u{1b}'),
        "{} bytes",
        text.len()
    );
    // As names of real things they are fine.
    let m = Build::new(17)
        .input(&evil, F32, &["2"])
        .node("Relu", &[&evil], &["y"], &[])
        .output("y", F32);
    m.import().unwrap();
}

#[test]
fn legitimate_oddities_are_accepted() {
    // Zero-size tensors, an unused initializer, an input with a default, an output that is an input, unknown fields.
    let m = Build::new(17)
        .input("x", F32, &["0", "3"])
        .input("w", F32, &["3", "2"])
        .init(floats("w", &[3, 2], &[1.0; 6]))
        .init(floats("unused", &[0], &[]))
        .node("MatMul", &["x", "w"], &["y"], &[])
        .output("y", F32)
        .output("x", F32);
    let mut bytes = m.bytes();
    bytes.extend([0xba, 0x3e, 0x01, b'z']); // field 999
    let m = import_bytes(&bytes.into(), "t", &ImportOptions::default()).unwrap();
    assert_eq!(m.graph.inputs().len(), 1);
}

#[test]
fn large_graphs_take_linear_time() {
    let n = 100_000;
    let start = Instant::now();
    let mut chain = Build::new(17).input("x", F32, &["batch", "8"]);
    for i in 0..n {
        let (a, b) = (
            if i == 0 { "x".into() } else { format!("v{i}") },
            format!("v{}", i + 1),
        );
        chain = chain.node("Relu", &[&a], &[&b], &[]);
    }
    let m = chain.output(&format!("v{n}"), F32).import().unwrap();
    assert_eq!(m.graph.node_count(), n);
    // Facts that grow with each step are dropped, not copied without end.
    let mut grow = Build::new(17)
        .input("x", F32, &["a", "b"])
        .node("Shape", &["x"], &["v0"], &[]);
    for i in 0..20_000 {
        let op = if i % 2 == 0 { "Add" } else { "Mul" };
        grow = grow.node(
            op,
            &[&format!("v{i}"), &format!("v{}", i / 2)],
            &[&format!("v{}", i + 1)],
            &[],
        );
    }
    let result = grow.output("v20000", I64).import();
    assert!(
        start.elapsed().as_secs() < 60,
        "{:?}, {:?}",
        start.elapsed(),
        result.map(|m| m.graph.node_count())
    );
}

#[test]
fn files_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let options = ImportOptions::default();
    assert!(
        import(&path, &options)
            .unwrap_err()
            .to_string()
            .contains("no such file")
    );
    assert!(
        import(dir.path(), &options)
            .unwrap_err()
            .to_string()
            .contains("directory")
    );
    std::fs::write(&path, b"").unwrap();
    assert!(import(&path, &options).unwrap_err().to_string().contains("empty"));
    std::fs::write(&path, b"\x89PNG\r\n\x1a\n and so on").unwrap();
    assert!(
        import(&path, &options)
            .unwrap_err()
            .to_string()
            .contains("at byte")
    );
}

#[test]
fn external_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let data: Vec<u8> = (0..9).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(dir.path().join("w.bin"), [&[0u8; 3][..], &data].concat()).unwrap();
    let model = |entries: &[(&str, &str)]| {
        let mut w = TensorProto {
            name: "w".into(),
            data_type: F32,
            dims: vec![3, 3],
            ..Default::default()
        };
        w.data_location = onnx_protobuf::tensor_proto::DataLocation::EXTERNAL.into();
        w.external_data = entries
            .iter()
            .map(|(k, v)| onnx_protobuf::StringStringEntryProto {
                key: k.to_string(),
                value: v.to_string(),
                ..Default::default()
            })
            .collect();
        let b = Build::new(17)
            .input("x", F32, &["n", "3"])
            .init(w)
            .node("MatMul", &["x", "w"], &["y"], &[]);
        std::fs::write(&path, b.output("y", F32).bytes()).unwrap();
        import(&path, &ImportOptions::default())
    };
    // Unaligned, nested and plain data are legitimate.
    let m = model(&[("location", "w.bin"), ("offset", "3"), ("length", "36")]).unwrap();
    let w = m.graph.value_ids().find_map(|v| m.const_f32(v)).unwrap();
    assert_eq!(w[8], 8.0);
    let bad: [(&[(&str, &str)], &str); 8] = [
        (&[("offset", "0")], "without a location"),
        (&[("location", "nope.bin")], "no such file"),
        (&[("location", "../m.onnx")], "'..'"),
        (&[("location", "/etc/passwd")], "absolute"),
        (&[("location", "w.bin"), ("offset", "4")], "needs 36 bytes at 4"),
        (&[("location", "w.bin"), ("offset", "-1")], "expected a number"),
        (
            &[("location", "w.bin"), ("offset", "18446744073709551615")],
            "needs 36 bytes",
        ),
        (&[("location", "w.bin"), ("length", "12")], "expected 36"),
    ];
    for (entries, want) in bad {
        let text = model(entries).unwrap_err().to_string();
        assert!(text.contains(want) && text.contains("m.onnx"), "{text}");
    }
}
