//! Random graphs: the evaluator against compiled code, every graph at every level of this machine.
//!
//! Every module is lowered by a scheme's pipeline. Compiled code must give the evaluator's bits on the lowered module
//! unless it holds float products, whose order of additions belongs to the target; those stay within a tolerance. Float
//! modules are compared with the evaluator on the module as it was before any pass, too. Two threads must give the bits of one.

use rsqc_cpu::Cpu;
use rsqc_ir::eval::{Executor, ReferenceExecutor, Tensor};
use rsqc_ir::region::{Anchor, Products};
use rsqc_ir::{Module, Op, ScalarType, Symbol};
use rsqc_tests::random::{self, Options};
use rsqc_tests::run::{
    compile, compile_by, levels, load, lower_on, options, relative_difference, run, same_bits,
};
use std::collections::BTreeSet;

/// Graphs a test; eight tests make the total.
const GRAPHS: u64 = 250;

/// Every so many graphs one is compiled by a backend that has generated nothing yet, too.
const FRESH: u64 = 50;

/// Float products in another order.
const FLOAT_TOLERANCE: f64 = 2e-5;
/// The same where a rounding difference can move a code: one step of 1/127 a quantized layer, a few layers deep.
const CODE_TOLERANCE: f64 = 0.06;

fn reference(m: &Module, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut prepared = ReferenceExecutor
        .prepare(m, &[])
        .expect("a verified module prepares");
    prepared
        .run(inputs, &mut |_, _| {})
        .expect("a verified module runs")
}

fn has_float_products(m: &Module) -> bool {
    let float = |op: &Op| match op {
        Op::Region(r) => match &r.region.anchor {
            Anchor::None => false,
            Anchor::Contract { acc, .. } => *acc == ScalarType::F32,
            Anchor::Attention(a) => a.products == Products::Float,
        },
        _ => false,
    };
    m.graph.node_ids().any(|n| float(&m.graph.node(n).op))
}

/// The nodes of a module, one a line, for messages.
fn describe(m: &Module) -> String {
    let g = &m.graph;
    let line = |n: &rsqc_ir::Node| {
        let ins: Vec<String> = n
            .inputs
            .iter()
            .flatten()
            .map(|v| format!("%{}:{}", v.0, g.ty(*v)))
            .collect();
        format!("%{} = {:?}({})\n", n.output().0, n.op, ins.join(", "))
    };
    g.topo_order()
        .expect("acyclic")
        .into_iter()
        .map(|n| line(g.node(n)))
        .collect()
}

/// Ops of a graph: mostly few, so that many graphs fit the time; every eighth has up to nine.
fn ops(seed: u64) -> usize {
    let long = seed.is_multiple_of(8);
    (if long { 1 + seed / 8 % 9 } else { 1 + seed % 3 }) as usize
}

/// Checks one graph; gives the names of its kernels.
fn check(seed: u64, scheme: &str) -> Vec<String> {
    let test_op = seed.is_multiple_of(5);
    let original = random::module(seed, ops(seed), Options { test_op });
    let levels = levels();
    let o = options(scheme, &levels);
    let mut lowered = original.clone();
    let fixed = |n: &Symbol| Some(if n.name() == "b" { 2 } else { 3 });
    let sample = random::inputs(&original, &fixed, seed);
    if let Err(e) = lower_on(&mut lowered, &o, sample) {
        panic!("seed {seed} {scheme}: {e}");
    }
    let compiled = compile(&lowered, &o).unwrap_or_else(|e| panic!("seed {seed} {scheme}: {e}"));
    if seed.is_multiple_of(FRESH) {
        let fresh = compile_by(&lowered, &o, &Cpu::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(
            compiled.code, fresh.code,
            "seed {seed} {scheme}: code depends on what was compiled before"
        );
    }
    let models: Vec<_> = levels.iter().map(|l| (*l, load(&compiled, *l))).collect();
    for (b, s) in [(2, 3), ((seed % 8) as i64, (seed / 8 % 8) as i64)] {
        let value = |n: &Symbol| Some(if n.name() == "b" { b } else { s });
        let inputs = random::inputs(&original, &value, seed);
        let want = reference(&lowered, &inputs);
        if scheme == "none" {
            for (w, o) in want.iter().zip(reference(&original, &inputs)) {
                let d = relative_difference(&o, w);
                let ops = describe(&original);
                assert!(
                    d <= FLOAT_TOLERANCE,
                    "seed {seed} b={b} s={s}: the passes change the result by {d:e}\n{ops}"
                );
            }
        }
        for (i, (level, model)) in models.iter().enumerate() {
            let at = format!("seed {seed} {scheme} b={b} s={s} {}", level.name());
            let got = run(model, 1, &inputs).unwrap_or_else(|e| panic!("{at}: {e}"));
            compare(&at, &want, &got, tolerance(&lowered, scheme));
            // The thread pool does not depend on the level: one is enough.
            if i as u64 == seed % models.len() as u64 {
                let two = run(model, 2, &inputs).unwrap_or_else(|e| panic!("{at}: {e}"));
                let same = got.iter().zip(&two).all(|(x, y)| same_bits(x, y));
                assert!(same, "{at}: two threads give other bits");
            }
        }
    }
    compiled.manifest.kernels.into_iter().map(|k| k.name).collect()
}

/// A number that the environment gives, to look for rarer cases.
fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok().and_then(|v| v.parse().ok());
    given.unwrap_or(default)
}

fn batch(index: u64, scheme: &str) {
    let first = number("RSQC_FIRST_SEED", 0) + index * GRAPHS;
    let graphs = number("RSQC_GRAPHS", GRAPHS);
    let kernels: Vec<String> = (first..first + graphs)
        .flat_map(|seed| check(seed, scheme))
        .collect();
    let distinct = kernels.iter().collect::<BTreeSet<_>>().len();
    println!("{graphs} graphs, {} kernels, {distinct} distinct", kernels.len());
}

/// How far compiled code may be from the evaluator; `None`: not a bit.
fn tolerance(lowered: &Module, scheme: &str) -> Option<f64> {
    match (has_float_products(lowered), scheme) {
        (false, _) => None,
        (true, "none" | "w8a16") => Some(FLOAT_TOLERANCE),
        (true, _) => Some(CODE_TOLERANCE),
    }
}

fn compare(at: &str, want: &[Tensor], got: &[Tensor], tolerance: Option<f64>) {
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        let d = relative_difference(w, g);
        let fits = tolerance.map_or_else(|| same_bits(w, g), |t| d <= t);
        assert!(fits, "{at}: output {i} differs by {d:e}");
    }
}

macro_rules! batches {
    ($($name:ident $index:literal $scheme:literal;)*) => {$(
        #[test]
        fn $name() {
            batch($index, $scheme);
        }
    )*};
}

batches! {
    float_0 0 "none";
    float_1 1 "none";
    quantized_2 2 "w8a8";
    codes_in_attention_3 3 "w8a8+attn8";
    static_4 4 "w8a8-static";
    static_5 5 "w8a8-static-asym+attn8";
    tensor_6 6 "w8a8-tensor-wtensor";
    weight_only_7 7 "w8a16";
}
