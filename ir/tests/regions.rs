//! Regions, written as text, against the ops they stand for.

mod common;

use common::{Rng, at, f32s, f32t, one, points};
use rsqc_ir::eval::{Data, Tensor, run};
use rsqc_ir::ops::elementwise::{Add, Relu};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::norm::Softmax;
use rsqc_ir::ops::quant::QMatMul;
use rsqc_ir::text::{parse, print};
use rsqc_ir::verify::verify;

/// Parses, checks the round trip and the invariants, runs.
fn exec(text: &str, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let m = parse(text).map_err(|e| e.to_string())?;
    let printed = print(&m);
    let again = parse(&printed).expect("printed text parses");
    assert_eq!(print(&again), printed);
    let errors = verify(&m);
    if let Some(e) = errors.first() {
        return Err(e.to_string());
    }
    run(&m, ins).map_err(|e| e.to_string())
}

fn graph(body: &str) -> String {
    format!("rsqc 1\nmodule \"t\" phase fused\ngraph {{\n{body}\n}}\n")
}

#[test]
fn elementwise_with_broadcast_is_the_op() {
    let text = graph(
        r#"input %0 "a" : f32[m, n]
           input %1 "b" : f32[n]
           %2 = region(%0, %1) : f32[m, n] {
             axis i parallel {m}
             axis j parallel {n}
             row 0
             read {0} + i*{n} + j*{1}
             read {0} + j*{1}
             $0 = operand(0) : f32
             $1 = operand(1) : f32
             $2 = add($0, $1) : f32
             $3 = const(0.0) : f32
             $4 = max($3, $2) : f32
             store $4 at {0} + i*{n} + j*{1}
           }
           output "y" = %2"#,
    );
    let mut r = Rng(30);
    for (m, n) in [(1, 1), (3, 5), (100, 257), (0, 4), (4, 0)] {
        let (a, b) = (r.f32s(&[m, n]), r.f32s(&[n]));
        let got = exec(&text, &[a.clone(), b.clone()]).expect("runs");
        let want = one(Relu {}, &[&one(Add {}, &[&a, &b])]);
        assert!(common::same_bits(&got[0], &want), "{m} x {n}");
    }
}

#[test]
fn row_reductions_use_sixteen_partials() {
    let text = graph(
        r#"input %0 "x" : f32[m, n]
           %1, %2 = region(%0) : f32[m], f32[m, n] {
             axis i parallel {m}
             axis j parallel {n}
             row 1
             read {0} + i*{n} + j*{1}
             $0 = operand(0) : f32
             $1 = reduce.sum($0) : f32
             $2 = sub($0, $1) : f32
             store $1 at {0} + i*{1}
             store $2 at {0} + i*{n} + j*{1}
           }
           output "s" = %1
           output "y" = %2"#,
    );
    let mut r = Rng(31);
    for n in [0usize, 1, 15, 16, 17, 100, 20_000] {
        let x = r.f32s(&[3, n]);
        let got = exec(&text, std::slice::from_ref(&x)).expect("runs");
        for i in 0..3 {
            let row = &f32s(&x)[i * n..(i + 1) * n];
            let mut p = [0f32; 16];
            for (j, v) in row.iter().enumerate() {
                p[j % 16] += v;
            }
            for half in [8, 4, 2, 1] {
                for j in 0..half {
                    p[j] += p[j + half];
                }
            }
            assert_eq!(f32s(&got[0])[i].to_bits(), p[0].to_bits());
            for (j, v) in row.iter().enumerate() {
                assert_eq!(f32s(&got[1])[i * n + j], v - p[0]);
            }
        }
    }
}

#[test]
fn softmax_over_two_row_axes() {
    let text = graph(
        r#"input %0 "x" : f32[a, b, c]
           %1 = region(%0) : f32[a, b, c] {
             axis i parallel {a}
             axis j parallel {b}
             axis k parallel {c}
             row 2
             read {0} + i*{b*c} + j*{c} + k*{1}
             $0 = operand(0) : f32
             $1 = reduce.max($0) : f32
             $2 = sub($0, $1) : f32
             $3 = exp($2) : f32
             $4 = reduce.sum($3) : f32
             $5 = div($3, $4) : f32
             store $5 at {0} + i*{b*c} + j*{c} + k*{1}
           }
           output "y" = %1"#,
    );
    let mut r = Rng(32);
    let x = r.f32s(&[3, 4, 5]);
    let got = exec(&text, std::slice::from_ref(&x)).expect("runs");
    let flat = Tensor {
        shape: vec![3, 20],
        data: x.data.clone(),
    };
    let want = one(Softmax { axis: 1, log: false }, &[&flat]);
    for (g, w) in f32s(&got[0]).iter().zip(f32s(&want)) {
        assert!((g - w).abs() <= 1e-6 * w);
    }
}

fn matmul_text(a: &str, b: &str, acc: &str, tail: &str, out: &str) -> String {
    graph(&format!(
        r#"input %0 "a" : {a}[g, m, k]
           input %1 "b" : {b}[k, n]
           %2 = region(%0, %1) : {out}[g, m, n] {{
             axis h parallel {{g}}
             axis i parallel {{m}}
             axis j parallel {{n}}
             axis l reduce {{k}}
             row 1
             read {{0}} + h*{{m*k}} + i*{{k}} + l*{{1}}
             read {{0}} + j*{{1}} + l*{{n}}
             contract(0, 1) : {acc}
             $0 = anchor() : {acc}
             {tail}
             store $1 at {{0}} + h*{{m*n}} + i*{{n}} + j*{{1}}
           }}
           output "y" = %2"#
    ))
}

#[test]
fn contractions_are_matrix_products() {
    let mut r = Rng(33);
    let float = matmul_text("f32", "f32", "f32", "$1 = abs($0) : f32", "f32");
    let mixed = matmul_text("f32", "i8", "f32", "$1 = neg($0) : f32", "f32");
    let int = matmul_text("i8", "i8", "i32", "$1 = neg($0) : i32", "i32");
    for (g, m, k, n) in [
        (1, 1, 1, 1),
        (2, 3, 5, 7),
        (3, 65, 33, 17),
        (2, 3, 0, 4),
        (0, 1, 2, 3),
    ] {
        let (a, b) = (r.f32s(&[g, m, k]), r.f32s(&[k, n]));
        let got = exec(&float, &[a.clone(), b.clone()]).expect("runs");
        let want: Vec<f32> = f32s(&one(MatMul {}, &[&a, &b])).iter().map(|v| v.abs()).collect();
        assert_eq!(f32s(&got[0]), want);
        let b = r.i8s(&[k, n]);
        let got = exec(&mixed, &[a.clone(), b.clone()]).expect("runs");
        let floats: Vec<f32> = b.to_f64().iter().map(|v| *v as f32).collect();
        let want = one(MatMul {}, &[&a, &Tensor::new(vec![k, n], floats)]);
        let want: Vec<f32> = f32s(&want).iter().map(|v| -v).collect();
        assert_eq!(f32s(&got[0]), want);
        let (a, b) = (r.i8s(&[g, m, k]), r.i8s(&[k, n]));
        let got = exec(&int, &[a.clone(), b.clone()]).expect("runs");
        let Data::I32(want) = one(QMatMul {}, &[&a, &b]).data else {
            panic!("i32 products")
        };
        assert_eq!(got[0].data, Data::I32(want.into_iter().map(|v| -v).collect()));
    }
}

#[test]
fn batched_transposed_contraction_reads_through_strides() {
    // y[h, i, j] = sum_l a[i, h, l] * b[j, h, l]: head splits are only strides.
    let text = graph(
        r#"input %0 "a" : f32[s, 12]
           input %1 "b" : f32[t, 12]
           %2 = region(%0, %1) : f32[3, s, t] {
             axis h parallel {3}
             axis i parallel {s}
             axis j parallel {t}
             axis l reduce {4}
             row 1
             read {0} + h*{4} + i*{12} + l*{1}
             read {0} + h*{4} + j*{12} + l*{1}
             contract(0, 1) : f32
             $0 = anchor() : f32
             store $0 at {0} + h*{s*t} + i*{t} + j*{1}
           }
           output "y" = %2"#,
    );
    let mut r = Rng(34);
    let (a, b) = (r.f32s(&[5, 12]), r.f32s(&[6, 12]));
    let y = &exec(&text, &[a.clone(), b.clone()]).expect("runs")[0];
    for p in points(&[3, 5, 6]) {
        let want: f64 = (0..4)
            .map(|l| at(&a, &[p[1], p[0] * 4 + l]) * at(&b, &[p[2], p[0] * 4 + l]))
            .sum();
        assert_eq!(at(y, &p), f64::from(want as f32));
    }
}

#[test]
fn clamped_reads_pad_and_concatenate() {
    // A window sum with zero padding: y[c] = sum_k x[clamp(k - 1)] * w[k, c] with the clamped ones counted as 0.
    let text = graph(
        r#"input %0 "x" : f32[n]
           input %1 "w" : f32[n + 2, 3]
           %2 = region(%0, %1) : f32[3] {
             axis c parallel {3}
             axis k reduce {n + 2}
             row 0
             read {0} + clamp(k, {-1}, {n})*{1}
             read {0} + c*{1} + k*{3}
             contract(0, 1) : f32 pad
             $0 = anchor() : f32
             store $0 at {0} + c*{1}
           }
           output "y" = %2"#,
    );
    let mut r = Rng(35);
    let (x, w) = (r.f32s(&[4]), r.f32s(&[6, 3]));
    let y = &exec(&text, &[x.clone(), w.clone()]).expect("runs")[0];
    for c in 0..3 {
        let want: f64 = (0..4).map(|k| at(&x, &[k]) * at(&w, &[k + 1, c])).sum();
        assert_eq!(at(y, &[c]), f64::from(want as f32));
    }
    // Concatenation: both operands are read clamped, the index decides. Empty parts are legal.
    let text = graph(
        r#"input %0 "a" : f32[n]
           input %1 "b" : f32[m]
           %2 = region(%0, %1) : f32[n + m] {
             axis i parallel {n + m}
             row 0
             read {0} + clamp(i, {0}, {n})*{1}
             read {0} + clamp(i, {-n}, {m})*{1}
             $0 = index(i) : i64
             $1 = dim({n}) : i64
             $2 = cmp.lt($0, $1) : bool
             $3 = operand(0) : f32
             $4 = operand(1) : f32
             $5 = select($2, $3, $4) : f32
             store $5 at {0} + i*{1}
           }
           output "y" = %2"#,
    );
    for (n, m) in [(3, 4), (0, 5), (5, 0), (0, 0)] {
        let (a, b) = (r.f32s(&[n]), r.f32s(&[m]));
        let y = exec(&text, &[a.clone(), b.clone()]).expect("runs");
        assert_eq!(f32s(&y[0]), [f32s(&a), f32s(&b)].concat());
    }
}

#[test]
fn gathers_wrap_and_clamp() {
    let text = graph(
        r#"input %0 "table" : f32[v, 2]
           input %1 "ids" : i64[n]
           %2 = region(%0, %1) : f32[n, 2] {
             axis i parallel {n}
             axis j parallel {2}
             row 0
             read {0} + j*{1} + gather(1, {v})*{2}
             read {0} + i*{1}
             $0 = operand(0) : f32
             store $0 at {0} + i*{2} + j*{1}
           }
           output "y" = %2"#,
    );
    let table = f32t(&[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let ids = Tensor::new(vec![6], vec![0i64, -1, 2, 99, -99, i64::MIN]);
    let y = exec(&text, &[table, ids]).expect("runs");
    assert_eq!(
        f32s(&y[0]),
        [0.0, 1.0, 20.0, 21.0, 20.0, 21.0, 20.0, 21.0, 0.0, 1.0, 0.0, 1.0]
    );
}

#[test]
fn attention_is_the_op() {
    // q [s, h*d], k and v [t, h*d]; heads are strides; a mask over keys is added, and keys are causal.
    let text = graph(
        r#"input %0 "q" : f32[s, 8]
           input %1 "k" : f32[t, 8]
           input %2 "v" : f32[t, 8]
           input %3 "mask" : f32[t]
           %4 = region(%0, %1, %2, %3) : f32[s, 8] {
             axis i parallel {s}
             axis h parallel {2}
             axis e parallel {4}
             axis l reduce {t}
             axis d reduce {4}
             row 2
             read {0} + i*{8} + h*{4} + d*{1}
             read {0} + h*{4} + l*{8} + d*{1}
             read {0} + h*{4} + e*{1} + l*{8}
             read {0} + l*{1}
             attention(0, 1, 2) key l inner d empty zero {
               $0 = anchor() : f32
               $1 = const(0.5) : f32
               $2 = mul($0, $1) : f32
               $3 = operand(3) : f32
               $4 = add($2, $3) : f32
               $5 = index(l) : i64
               $6 = index(i) : i64
               $7 = cmp.le($5, $6) : bool
               $8 = const(-inf) : f32
               $9 = select($7, $4, $8) : f32
             }
             $0 = anchor() : f32
             store $0 at {0} + i*{8} + h*{4} + e*{1}
           }
           output "y" = %4"#,
    );
    let mut r = Rng(36);
    let (s, t) = (5, 7);
    let (q, k, v) = (r.f32s(&[s, 8]), r.f32s(&[t, 8]), r.f32s(&[t, 8]));
    let mut mask = f32s(&r.f32s(&[t])).to_vec();
    mask[0] = f32::NEG_INFINITY;
    let mask = f32t(&[t], &mask);
    let y = &exec(&text, &[q.clone(), k.clone(), v.clone(), mask.clone()]).expect("runs")[0];
    let heads = |x: &Tensor| {
        let n = x.shape[0];
        let data = points(&[2, n, 4])
            .iter()
            .map(|p| at(x, &[p[1], p[0] * 4 + p[2]]) as f32)
            .collect::<Vec<_>>();
        Tensor::new(vec![1, 2, n, 4], data)
    };
    let op = Attention {
        scale: 0.5,
        causal: Some(0i64.into()),
        empty_row: EmptyRow::Zero,
    };
    let want = one(op, &[&heads(&q), &heads(&k), &heads(&v), &mask]);
    for p in points(&[s, 8]) {
        let w = at(&want, &[0, p[1] / 4, p[0], p[1] % 4]);
        assert!((at(y, &p) - w).abs() < 1e-5, "{p:?}: {} {w}", at(y, &p));
    }
    // Row 0 sees only the masked key.
    assert!((0..8).all(|c| at(y, &[0, c]) == 0.0));
}

#[test]
fn wrong_accesses_are_errors_not_wrong_results() {
    let copy = |read: &str, store: &str| {
        graph(&format!(
            r#"input %0 "x" : f32[n]
               %1 = region(%0) : f32[n] {{
                 axis i parallel {{n}}
                 row 0
                 read {read}
                 $0 = operand(0) : f32
                 store $0 at {store}
               }}
               output "y" = %1"#
        ))
    };
    let x = f32t(&[3], &[1.0, 2.0, 3.0]);
    let run = |read: &str, store: &str| exec(&copy(read, store), std::slice::from_ref(&x));
    assert_eq!(
        f32s(&run("{n - 1} + i*{-1}", "{0} + i*{1}").expect("runs")[0]),
        [3.0, 2.0, 1.0]
    );
    assert!(
        run("{1} + i*{1}", "{0} + i*{1}")
            .expect_err("reads behind the end")
            .contains("is read at 3")
    );
    assert!(
        run("{0} + i*{1}", "{0} + i*{2}")
            .expect_err("writes behind the end")
            .contains("written at 4")
    );
    assert!(
        run("{0} + i*{1}", "{0}")
            .expect_err("writes one element")
            .contains("written twice")
    );
    let half = graph(
        r#"input %0 "x" : f32[n]
           %1 = region(%0) : f32[2*n] {
             axis i parallel {n}
             row 0
             read {0} + i*{1}
             $0 = operand(0) : f32
             store $0 at {0} + i*{2}
           }
           output "y" = %1"#,
    );
    assert!(
        exec(&half, &[x])
            .expect_err("leaves holes")
            .contains("never written")
    );
}
