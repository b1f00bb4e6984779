//! Execution of modules: symbols, checks, taps, errors.

mod common;

use common::{f32s, f32t};
use rsqc_ir::eval::{Executor, ReferenceExecutor, Tensor, bind_symbols, run};
use rsqc_ir::text::parse;
use rsqc_ir::types::Symbol;
use rsqc_ir::{Module, ValueId};

fn module(head: &str, graph: &str) -> Module {
    parse(&format!(
        "rsqc 1\nmodule \"m\" phase imported\n{head}\ngraph {{\n{graph}\n}}\n"
    ))
    .expect("parses")
}

fn zeros(shape: &[usize]) -> Tensor {
    f32t(shape, &vec![0.0; shape.iter().product()])
}

fn error(m: &Module, ins: &[Tensor]) -> String {
    run(m, ins).expect_err("does not run").to_string()
}

#[test]
fn expressions_are_solved_and_checked() {
    // `past` occurs only inside sums.
    let m = module(
        "symbol seq in 1..8",
        "input %0 \"mask\" : f32[batch, past + seq]\n input %1 \"ids\" : f32[batch, seq]\n input %2 \"kv\" : f32[2*past]
         output \"y\" = %0",
    );
    let ok = [zeros(&[2, 7]), zeros(&[2, 3]), zeros(&[8])];
    let env = bind_symbols(&m, &ok).expect("binds");
    let get = |n: &str| env.get(&Symbol::new(n)).copied();
    assert_eq!(
        (get("batch"), get("past"), get("seq")),
        (Some(2), Some(4), Some(3))
    );
    let e = |ins: [Tensor; 3]| error(&m, &ins);
    assert_eq!(
        e([zeros(&[2, 7]), zeros(&[2, 3]), zeros(&[6])]),
        "input `kv`: expected f32[2*past]: axis 0 should be `2*past` = 8, found 6"
    );
    assert_eq!(
        e([zeros(&[2, 7]), zeros(&[3, 3]), zeros(&[8])]),
        "input `ids`: expected f32[batch, seq]: axis 0 should be `batch` = 2, found 3"
    );
    assert!(e([zeros(&[2, 13]), zeros(&[2, 9]), zeros(&[8])]).contains("9 is outside 1 to 8"));
    assert!(e([zeros(&[2, 2]), zeros(&[2, 3]), zeros(&[0])]).contains("past"));
    assert!(error(&m, &ok[..2]).contains("3 inputs, 2 were given"));
    let wrong = Tensor::new(vec![8], vec![0i64; 8]);
    assert!(e([zeros(&[2, 7]), zeros(&[2, 3]), wrong]).contains("found elements of type i64"));
    assert!(e([zeros(&[2, 7]), zeros(&[2, 3]), zeros(&[8, 1])]).contains("found shape [8, 1]"));
}

#[test]
fn checks_name_their_node() {
    let m = module(
        "check {2*a} == {b} loc \"Reshape_3\"",
        "input %0 \"x\" : f32[a]\n input %1 \"y\" : f32[b]\n output \"z\" = %0",
    );
    assert!(run(&m, &[zeros(&[2]), zeros(&[4])]).is_ok());
    assert_eq!(
        error(&m, &[zeros(&[2]), zeros(&[5])]),
        "Reshape_3: `2*a` = 4 must equal `b` = 5"
    );
}

#[test]
fn wrong_declarations_and_bad_values_are_errors_of_the_node() {
    let m = module(
        "",
        "input %0 \"x\" : f32[n]\n %1 = reshape(%0) {shape = (m)} : f32[m] loc \"r\"\n output \"y\" = %1",
    );
    assert_eq!(
        error(&m, &[zeros(&[2])]),
        "r: reshape: dimension `m` has no value"
    );
    let m = module(
        "",
        "input %0 \"x\" : f32[n]\n %1 = expand(%0) {shape = (1000000000000, n)} : f32[1000000000000, n] loc \"e\"
         output \"y\" = %1",
    );
    assert!(error(&m, &[zeros(&[2])]).contains("= [1000000000000, 2] is too large"));
    let m = module(
        "",
        "input %0 \"x\" : f32[n]\n %1 = neg(%0) : f32[2*n] loc \"n\"\n output \"y\" = %1",
    );
    assert!(error(&m, &[zeros(&[2])]).contains("declared is f32[2*n] = [4]"));
}

#[test]
fn taps_see_inputs_constants_and_results() {
    let m = module(
        "const @0 \"c\" : f32[2] = [10.0, 20.0]",
        "input %0 \"x\" : f32[2]\n %1 = add(%0, @0) : f32[2]\n %2 = neg(%1) : f32[2]\n %3 = abs(%0) : f32[2]
         output \"y\" = %2\n output \"x\" = %0\n output \"y2\" = %2",
    );
    let all: Vec<ValueId> = m.graph.value_ids().collect();
    let mut p = ReferenceExecutor.prepare(&m, &all).expect("prepares");
    for k in [1.0f32, 2.0] {
        let mut seen = Vec::new();
        let out = p
            .run(&[f32t(&[2], &[k, -k])], &mut |v, t| {
                seen.push((v, f32s(t).to_vec()))
            })
            .expect("runs");
        assert_eq!(f32s(&out[0]), [-10.0 - k, k - 20.0]);
        assert_eq!(f32s(&out[1]), [k, -k]);
        assert_eq!(out[2], out[0]);
        seen.sort_by_key(|(v, _)| *v);
        let values: Vec<Vec<f32>> = seen.iter().map(|(_, t)| t.clone()).collect();
        // The unused result is tapped as well.
        assert_eq!(
            values,
            [
                [k, -k],
                [10.0, 20.0],
                [10.0 + k, 20.0 - k],
                [-10.0 - k, k - 20.0],
                [k, k]
            ]
        );
    }
}
