//! Each invariant of the verifier is violated once.

use rsqc_ir::text::parse;
use rsqc_ir::verify::{verify, verify_neighbourhood};

/// The numbers of the violated invariants.
fn violated(text: &str) -> Vec<String> {
    let m = parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let all = verify(&m);
    let ids: Vec<_> = m.graph.node_ids().collect();
    assert!(verify_neighbourhood(&m, &ids).len() <= all.len());
    let number = |d: &rsqc_ir::diag::Diag| d.message.split(':').next().unwrap_or_default().to_string();
    all.iter().map(number).collect()
}

fn module(phase: &str, head: &str, body: &str) -> String {
    format!("rsqc 1\nmodule \"m\" phase {phase}\n{head}\ngraph {{\n{body}\n}}\n")
}

fn expect(number: &str, phase: &str, body: &str) {
    let found = violated(&module(phase, "const @0 \"c\" : f32[2] = [1.0, 2.0]", body));
    assert_eq!(found, [number], "{body}");
}

#[test]
fn valid_modules_have_no_violations() {
    assert_eq!(
        violated(&module(
            "canonical",
            "symbol a in 0..4\ncheck {a} == {2*b}\nconst @0 \"c\" : f32[2] = [1.0, 2.0]",
            "input %0 \"x\" : f32[a, 2]\n input %1 \"z\" : f32[2*b, 2]\n %2 = add(%0, @0) : f32[a, 2]
             %3 = reshape(%2) {shape = (2*b, 2)} : f32[2*b, 2]\n %4 = add(%3, %1) : f32[a, 2]
             %5 = quant.fake(%4) {qtype = quant<i8/8:f32, token>, dynamic = false} : f32[a, 2]
             output \"y\" = %5"
        )),
        Vec::<String>::new()
    );
}

#[test]
fn names_and_bounds() {
    assert_eq!(
        violated(&module("imported", "symbol a in 5..4\nsymbol b in -1..4", "")),
        ["N1", "N1"]
    );
    expect(
        "N2",
        "imported",
        "input %0 \"x\" : f32[]\n input %1 \"x\" : f32[]",
    );
    expect(
        "N2",
        "imported",
        "input %0 \"x\" : f32[]\n output \"y\" = %0\n output \"y\" = %0",
    );
}

#[test]
fn types() {
    expect("T1", "imported", "%1 = neg(@0) : f32[3]");
    expect("T1", "imported", "%1 = neg(@0, @0) : f32[2]");
    expect("T1", "imported", "%1, %2 = neg(@0) : f32[2], f32[2]");
    expect(
        "T1",
        "imported",
        "input %0 \"x\" : f32[3]\n %1 = add(%0, @0) : f32[3]",
    );
    expect(
        "T2",
        "calibrated",
        "input %0 \"s\" : f32[2]\n %1 = quant.fake(@0, %0) {qtype = quant<i8/8:f32, tensor>, dynamic = false} : f32[2]",
    );
    expect(
        "T2",
        "calibrated",
        "input %0 \"p\" : f32[3]\n %1 = quant.fake(@0, _, _, %0) {qtype = quant<i8/8:f32, tensor>, dynamic = true} : f32[2]",
    );
    expect(
        "T2",
        "quantized",
        "input %0 \"s\" : f32[]\n input %1 \"z\" : u8[]\n %2 = quant.quantize(@0, %0, %1) {qtype = quant<i8/8:f32, tensor, zero>, rounding = div} : quant<i8/8:f32, tensor, zero>[2]",
    );
    for bad in [
        "quant<f32/8:f32, tensor>",
        "quant<i8/8:i32, tensor>",
        "quant<u8/8:f32, tensor, nf4>",
        "quant<i8/8:f32, axis(1)>",
        "quant<i8/8:f32, tensor, levels 3>",
        "quant<i32/20:f32, tensor>",
    ] {
        let body = format!("input %0 \"q\" : {bad}[2]\n %1 = reshape(%0) {{shape = (2)}} : {bad}[2]");
        let found = violated(&module("imported", "", &body));
        assert!(
            !found.is_empty() && found.iter().all(|n| n == "T3"),
            "{bad}: {found:?}"
        );
    }
}

#[test]
fn phases() {
    let fake = "{qtype = quant<i8/8:f32, token>, dynamic";
    expect(
        "P1",
        "quantized",
        &format!("%1 = quant.fake(@0) {fake} = true}} : f32[2]"),
    );
    expect(
        "P2",
        "calibrated",
        &format!("%1 = quant.fake(@0) {fake} = false}} : f32[2]"),
    );
    expect("P3", "fused", "%1 = neg(@0) : f32[2]");
    expect("P3", "quantized", REGION);
    expect("P4", "quantized", "input %0 \"x\" : i8[2] layout offset_binary");
    expect("P4", "fused", "input %0 \"x\" : f32[2, 2] layout packed_weight");
    expect("P4", "fused", "input %0 \"x\" : f32[2] layout offset_binary");
    expect("P5", "lowered", "output \"y\" = @0");
    expect(
        "P5",
        "lowered",
        &format!("{REGION}\n output \"y\" = %1\n output \"z\" = %1"),
    );
    expect("P5", "lowered", &REGION.replace("abs", "exp"));
}

const REGION: &str = r#"%1 = region(@0) : f32[2] {
    axis i parallel {2}
    row 0
    read {0} + i*{1}
    $0 = operand(0) : f32
    $1 = abs($0) : f32
    store $1 at {0} + i*{1}
}"#;

/// The region above with one piece replaced.
fn broken(number: &str, from: &str, to: &str) {
    assert!(REGION.contains(from), "{from}");
    expect(number, "fused", &REGION.replace(from, to));
}

#[test]
fn regions() {
    expect_none(REGION);
    broken(
        "R1",
        "axis i parallel {2}",
        "axis i parallel {2}\n axis Bad parallel {1}",
    );
    broken(
        "R1",
        "axis i parallel {2}",
        "axis i parallel {2}\n axis k reduce {1}\n axis j parallel {1}",
    );
    let none = REGION.replace("read {0} + i*{1}", "");
    assert_eq!(
        violated(&module("fused", "const @0 \"c\" : f32[2] = [1.0, 2.0]", &none)),
        ["T1", "R2"]
    );
    broken("R2", "read {0} + i*{1}", "read {0} + i*{0}");
    broken("R2", "read {0} + i*{1}", "read {0} + i*{1} + i*{1}");
    broken("R2", "read {0} + i*{1}", "read {0} + gather(0, {2})*{1}");
    broken("R2", "read {0} + i*{1}", "read {0} + gather(7, {2})*{1}");
    broken("R3", "$0 =", "contract(0, 3) : f32\n $0 =");
    broken("R3", "$0 =", "contract(0, 0) : i32\n $0 =");
    broken("R4", "$0 = operand(0) : f32", "$0 = anchor() : f32");
    broken(
        "R4",
        "$0 = operand(0) : f32\n    $1 = abs($0) : f32",
        "$0 = operand(0) : i32\n $1 = cast($0) : f32",
    );
    broken("R4", "$0 = operand(0) : f32", "$0 = const(true) : bool");
    broken("R4", "$0 = operand(0)", "$0 = operand(1)");
    let none = REGION.replace("store $1 at {0} + i*{1}", "");
    assert_eq!(
        violated(&module("fused", "const @0 \"c\" : f32[2] = [1.0, 2.0]", &none)),
        ["T1", "R5"]
    );
    broken("R5", "store $1", "$2 = cast($1) : i32\n store $2");
    broken(
        "R5",
        "store $1 at {0} + i*{1}",
        "store $1 at {0} + clamp(i, {0}, {2})*{1}",
    );
    broken(
        "R5",
        "row 0\n    read {0} + i*{1}\n    $0 = operand(0) : f32\n    $1 = abs($0) : f32\n    store $1 at {0} + i*{1}",
        "row 1\n read {0} + i*{1}\n $0 = operand(0) : f32\n $1 = abs($0) : f32\n store $1 at {0}",
    );
    broken("R6", "read {0} + i*{1}", "read {1} + i*{1}");
    broken("R6", "read {0} + i*{1}", "read {-1} + i*{1}");
    broken("R6", "store $1 at {0} + i*{1}", "store $1 at {0} + i*{2}");
    broken("R7", "axis i parallel {2}", "axis i parallel {-2}");
}

fn expect_none(body: &str) {
    let found = violated(&module("fused", "const @0 \"c\" : f32[2] = [1.0, 2.0]", body));
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn messages_carry_place_and_text() {
    let m = parse(&module(
        "imported",
        "",
        "input %0 \"x\" : f32[2]\n %1 = neg(%0) : f32[3] loc \"Neg_7\"",
    ))
    .expect("parses");
    let d = verify(&m).remove(0);
    assert_eq!(d.loc, "Neg_7");
    assert_eq!(
        d.message,
        "T1: %1 is declared f32[3], inferred is f32[2]\n    in %1 = neg(%0) : f32[3] loc \"Neg_7\""
    );
}
