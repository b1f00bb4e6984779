//! The text form: round trips, errors with their places, and texts that nobody meant.

mod common;

use common::Rng;
use rsqc_ir::text::{parse, parse_with_data, print, print_with_data};
use rsqc_ir::verify::verify;
use rsqc_ir::{Const, Graph, Module, Port, ScalarType, TensorType};
use std::sync::Arc;

/// Canonical texts: printing what was parsed gives the same text.
const CANONICAL: &[&str] = &[
    r#"rsqc 1
module "every kind of attribute" phase quantized
provenance "onnx \"opset 17\""
provenance "w8a8\n"
symbol `a b` in 2..7
symbol batch in 1..
check {batch} == {2*`a b`} loc "Reshape_1"
const @0 "w" : f32[2, 2] = [1.0, -0.0, 1e-45, +inf]
const @1 "s" : f32[2, 2] = [1.0, 2.0, nan, 0x7fc00001]
const @2 "codes" : quant<i8/4:f32, group(0, 2)>[4, 2] = [1, -7, 7, 0, 1, 2, 3, 4]
const @3 "zeros" : f16[17] = splat 0.5
const @4 "flags" : bool[17] = hex 0001000100010001000100010001000100
const @5 "none" : f32[0] = []
graph {
  input %0 "x" : f32[batch, 2]
  input %1 "k" : f32[batch, 2, 3, 4]
  %2 = matmul(%0, @0) : f32[batch, 2] loc "MatMul_3"
  %3 = reshape(%2) {shape = (2*batch, 1)} : f32[2*batch, 1]
  %4 = transpose(%1) {perm = [0, 1, 3, 2]} : f32[batch, 2, 4, 3]
  %5 = softmax(%2) {axis = 1, log = false} : f32[batch, 2]
  %6 = layer_norm(%0, @1, _) {eps = 1e-5} : f32[batch, 2]
  %7 = cast(%0) {to = i64} : i64[batch, 2]
  %8 = gelu(%0) {kind = erf} : f32[batch, 2]
  %9 = attention(%1, %1, %1) {scale = 1.0, causal = {batch - 1}, empty_row = nan} : f32[batch, 2, 3, 4]
  %10, %11 = quant.params(%0) {qtype = quant<i8/8:f32, token>} : f32[batch, 1], f32[batch, 1]
  %12 = quant.dequantize(@2, @1) {qtype = quant<i8/4:f32, group(0, 2)>} : f32[4, 2]
  %13 = add(@3, @3) : f16[17]
  %14 = where(@4, @3, @3) : f16[17]
  %15 = concat(@5, @5) {axis = 0} : f32[0]
  %16 = quant.attention(%1, %1, %1) {scale = 0.5, empty_row = zero} : f32[batch, 2, 3, 4]
  output "y" = %3
  output "z" = @0
}
subgraph {
  input %0 "s" : i64[]
  output "t" = %0
}
"#,
    r#"rsqc 1
module "" phase lowered
const @0 "w" : i8[4, 3] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
graph {
  input %0 "x" : i8[m, 4] layout offset_binary
  %1 = @0 : i8[4, 3] layout packed_weight
  %2, %3 = region(%0, %1, %0) : f32[m, 3], f32[m] loc "fc" {
    axis i parallel {m}
    axis j parallel {3}
    axis k reduce {4}
    row 1
    read {0} + i*{4} + k*{1}
    read {0} + j*{1} + k*{3}
    read {0} + clamp(i, {-1}, {m})*{4} + gather(2, {3})*{1}
    contract(0, 1) : i32 pad
    $0 = anchor() : i32
    $1 = cast($0) : f32
    $2 = index(j) : i64
    $3 = dim({floordiv(m, 2)}) : i64
    $4 = cmp.lt($2, $3) : bool
    $5 = const(0.5) : f32
    $6 = select($4, $5, $1) : f32
    $7 = reduce.max($6) : f32
    store $6 at {0} + i*{3} + j*{1}
    store $7 at {0} + i*{1}
  }
  output "y" = %2
  output "m" = %3
}
"#,
];

#[test]
fn printing_what_was_parsed_gives_the_text() {
    for t in CANONICAL {
        let m = parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        assert_eq!(print(&m), *t);
    }
}

#[test]
fn free_writing_becomes_canonical() {
    let t = "rsqc 1 # version\nmodule \"m\" phase imported const @0\"a\":f32[]=[2]const @1 \"unused\" : f32[] = [3.0]
        graph{input %7\"x\":f32[n+n]# a comment\n%3=mul(%7,@0):f32[2*n]output\"y\"=%3}";
    let p = print(&parse(t).expect("parses"));
    assert_eq!(
        p,
        "rsqc 1\nmodule \"m\" phase imported\nconst @0 \"a\" : f32[] = [2.0]\ngraph {\n  input %0 \"x\" : f32[2*n]\n  \
         %1 = mul(%0, @0) : f32[2*n]\n  output \"y\" = %1\n}\n"
    );
    assert_eq!(print(&parse(&p).expect("parses")), p);
}

#[test]
fn large_constants_go_to_a_data_file() {
    let mut m = Module::default();
    let mut g = Graph::new();
    let mut r = Rng(40);
    let mut outs = Vec::new();
    for n in [5000usize, 20, 3000] {
        let ty = TensorType::new(ScalarType::I16, vec![n.into()]);
        let bytes = (0..2 * n).map(|_| r.bits() as u8).collect();
        let id = m
            .consts
            .add(Const::from_bytes("w", ty.clone(), bytes).expect("fills"));
        outs.push(Port {
            name: format!("y{n}"),
            value: g.add_const(id, ty),
        });
    }
    g.set_outputs(outs);
    m.graph = g;
    let (text, data) = print_with_data(&m);
    assert_eq!(text, print(&m));
    assert_eq!(data.len(), 2 * (5000 + 3000));
    assert!(parse(&text).expect_err("no data").message.contains("data file"));
    let back = parse_with_data(&text, Arc::new(data.clone())).expect("parses");
    assert_eq!(print_with_data(&back), (text.clone(), data.clone()));
    for id in 0..3 {
        let id = rsqc_ir::ConstId(id);
        assert_eq!(back.consts.get(id).bytes(), m.consts.get(id).bytes());
    }
    let mut damaged = data.clone();
    damaged[9] ^= 1;
    let e = parse_with_data(&text, Arc::new(damaged)).expect_err("other data");
    assert!(e.message.contains("other data"), "{e}");
    assert!(parse_with_data(&text, Arc::new(data[..100].to_vec())).is_err());
}

#[test]
fn errors_name_line_and_column() {
    let head = "rsqc 1\nmodule \"m\" phase imported\n";
    let cases = [
        ("rsqc 2", "1:6: version 2 of the text form; this is version 1"),
        ("rsqc 1 module \"m\" phase early", "1:25: unknown phase `early`"),
        (
            "graph {\n  %1 = add(%0, %0) : f32[]\n}",
            "4:13: %0 is not defined before this use",
        ),
        (
            "graph {\n  input %0 \"x\" : f33[]\n}",
            "4:18: unknown element type `f33`",
        ),
        (
            "graph {\n  input %0 \"x\" : f32[n\n}",
            "5:1: expected `,`, found `}`",
        ),
        (
            "graph {\n  input %0 \"x\" : f32[]\n  %1 = ad(%0) : f32[]\n}",
            "5:8: unknown op `ad`",
        ),
        (
            "graph {\n  input %0 \"x\" : f32[]\n  %1 = softmax(%0) {axis = 0} : f32[]\n}",
            "5:8: attribute `log` is missing",
        ),
        (
            "graph {\n  input %0 \"x\" : f32[]\n  %1 = neg(%0) {axis = 0} : f32[]\n}",
            "5:8: unknown attribute `axis`",
        ),
        (
            "graph {\n  input %0 \"x\" : f32[]\n  input %0 \"y\" : f32[]\n}",
            "5:10: %0 is defined twice",
        ),
        (
            "const @0 \"c\" : i8[2] = [1, 200]\ngraph { }",
            "3:28: `200` is no i8",
        ),
        (
            "const @0 \"c\" : i8[3] = [1, 2]\ngraph { }",
            "3:24: the data does not fill 3 bytes",
        ),
        (
            "const @0 \"c\" : i8[n] = [1]\ngraph { }",
            "3:16: a constant of type i8[n]",
        ),
        (
            "const @0 \"c\" : i8[99999999999] = splat 0\ngraph { }",
            "3:40: a constant of 99999999999 bytes in the text",
        ),
        ("graph {\n} x", "4:3: expected `subgraph` or the end, found `x`"),
    ];
    for (text, want) in cases {
        let full = if text.starts_with("rsqc") {
            text.to_string()
        } else {
            format!("{head}{text}")
        };
        let e = parse(&full).expect_err(text);
        assert_eq!(e.to_string(), want, "{full}");
    }
}

/// Changes a text at random: bytes, tokens, lines.
fn mutate(text: &str, r: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let pieces = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "%",
        "@",
        "$",
        "-",
        "\"",
        "`",
        "*",
        "99999999999999999999",
        "0",
        "-1",
        "f32",
        "quant<",
        "region",
        "row",
        "axis",
        "gather(0, {1})*{1}",
        "\\u{",
        "é",
        "\u{0}",
        "floordiv(",
        " : ",
        "i64",
        "4294967296",
    ];
    for _ in 0..1 + r.below(2) {
        let i = r.below(chars.len());
        match r.below(7) {
            0 => drop(chars.remove(i)),
            1 => {
                let p = pieces[r.below(pieces.len())].chars();
                chars.splice(i..i, p);
            }
            2 => {
                let j = (i + 1 + r.below(30)).min(chars.len());
                chars.drain(i..j);
            }
            3 => {
                let j = (i + 1 + r.below(60)).min(chars.len());
                let copy = chars[i..j].to_vec();
                let to = r.below(chars.len());
                chars.splice(to..to, copy);
            }
            4 => chars[i] = char::from(32 + r.below(95) as u8),
            // Another digit: texts that stay well-formed.
            _ => {
                let digits: Vec<usize> = (0..chars.len()).filter(|i| chars[*i].is_ascii_digit()).collect();
                if let Some(i) = digits.get(r.below(digits.len().max(1))) {
                    chars[*i] = char::from(b'0' + r.below(10) as u8);
                }
            }
        }
        if chars.is_empty() {
            chars.push('x');
        }
    }
    chars.into_iter().collect()
}

#[test]
fn no_text_makes_the_parser_or_the_verifier_panic() {
    let mut r = Rng(41);
    let (mut parsed, mut clean) = (0, 0);
    for i in 0..20_000 {
        let text = mutate(CANONICAL[i % CANONICAL.len()], &mut r);
        let Ok(m) = parse(&text) else { continue };
        parsed += 1;
        let printed = print(&m);
        let again = parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(print(&again), printed);
        clean += usize::from(verify(&m).is_empty());
    }
    assert!(
        parsed > 1000,
        "{parsed} mutants parse: the mutations are too wild"
    );
    assert!(clean < parsed);
}
