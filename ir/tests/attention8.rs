//! Attention over 8-bit codes: the evaluator against a computation of its own here, against attention over floats, and
//! the op against the region.

mod common;

use common::{Rng, at, f32s, f32t, one, points, run_op, same_bits};
use rsqc_ir::eval::{Tensor, run};
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::ops::quant::QAttention;
use rsqc_ir::text::{parse, print};
use rsqc_ir::verify::verify;
use rsqc_ir::{Dim, ScalarType};

fn op(scale: f32, causal: Option<i64>, empty_row: EmptyRow) -> QAttention {
    QAttention {
        scale,
        causal: causal.map(Dim::from),
        empty_row,
    }
}

/// A scale and codes, in f64, of elements that share them.
fn coded(x: &[f64], given: Option<f64>) -> (f64, Vec<f64>) {
    let amax = x.iter().fold(0f64, |m, x| m.max(x.abs()));
    let scale = given.unwrap_or(amax / 127.0);
    let code = |x: &f64| {
        if scale == 0.0 {
            0.0
        } else {
            (x / scale).round_ties_even().clamp(-127.0, 127.0)
        }
    };
    (scale, x.iter().map(code).collect())
}

/// One row by the definition, in f64: queries `[d]`, keys `[t][d]`, values `[t][e]`; `None` hides a key.
fn naive(
    q: &[f64],
    k: &[Vec<f64>],
    v: &[Vec<f64>],
    bias: &dyn Fn(f64, usize) -> Option<f64>,
    given: Option<[f64; 3]>,
) -> Vec<f64> {
    let (qs, qc) = coded(q, given.map(|g| g[0]));
    let scores: Vec<Option<f64>> = (0..k.len())
        .map(|t| {
            let (ks, kc) = coded(&k[t], given.map(|g| g[1]));
            let sum: f64 = qc.iter().zip(&kc).map(|(a, b)| a * b).sum();
            bias(sum * qs * ks, t)
        })
        .collect();
    let highest = scores.iter().flatten().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let channels = v.first().map_or(0, Vec::len);
    let (mut out, mut sum) = (vec![0.0; channels], 0.0);
    for first in (0..k.len()).step_by(256) {
        let block: Vec<usize> = (first..k.len().min(first + 256)).collect();
        let top = block
            .iter()
            .filter_map(|t| scores[*t])
            .fold(f64::NEG_INFINITY, f64::max);
        let weight = |t: &usize| scores[*t].map_or(0.0, |s| ((s - top).exp() * 255.0).round_ties_even());
        let codes: Vec<f64> = block.iter().map(weight).collect();
        let factor = if top.is_finite() {
            (top - highest).exp()
        } else {
            0.0
        };
        sum += codes.iter().sum::<f64>() * factor;
        for (c, out) in out.iter_mut().enumerate() {
            let column: Vec<f64> = block.iter().map(|t| v[*t][c]).collect();
            let (vs, vc) = coded(&column, given.map(|g| g[2]));
            let acc: f64 = codes.iter().zip(&vc).map(|(p, v)| p * v).sum();
            *out += acc * vs * factor;
        }
    }
    out.iter()
        .map(|o| if sum == 0.0 { 0.0 } else { o / sum })
        .collect()
}

/// Rows of the last axis at these leading indices.
fn rows(t: &Tensor, b: usize, h: usize) -> Vec<Vec<f64>> {
    let (n, width) = (t.shape[2], t.shape[3]);
    let data = t.to_f64();
    let first = (b * t.shape[1] + h) * n;
    (first..first + n)
        .map(|i| data[i * width..(i + 1) * width].to_vec())
        .collect()
}

fn causal_mask(raw: f64, t: usize, s: usize, past: Option<i64>) -> Option<f64> {
    (past.is_none_or(|p| t as i64 <= s as i64 + p)).then_some(raw)
}

#[test]
fn the_evaluator_follows_the_definition() {
    let mut r = Rng(81);
    let (mut compared, mut off) = (0, 0);
    for (h, g, s, t, d, e) in [
        (1, 1, 1, 1, 1, 1),
        (4, 2, 3, 5, 6, 7),
        (2, 1, 2, 300, 17, 3),
        (2, 2, 4, 513, 8, 5),
        (3, 3, 5, 256, 33, 1),
    ] {
        let (q, k, v) = (
            r.f32s(&[2, h, s, d]),
            r.f32s(&[2, g, t, d]),
            r.f32s(&[2, g, t, e]),
        );
        let mask = r.f32s(&[2, 1, 1, t]);
        let scales = [0.031f32, 0.029, 0.027].map(|s| f32t(&[], &[s]));
        for (causal, masked, fixed) in [
            (None, false, false),
            (Some(1), false, false),
            (None, true, true),
            (Some(0), true, false),
        ] {
            let mut ins = vec![&q, &k, &v];
            if masked {
                ins.push(&mask);
            }
            let model = module(&ins, fixed.then_some(&scales), op(0.2, causal, EmptyRow::Zero));
            let y = &run(&model.0, &model.1).expect("runs")[0];
            let given = fixed.then_some([0.031f32, 0.029, 0.027].map(f64::from));
            let mask = mask.to_f64();
            for p in points(&[2, h, s]) {
                let kv = p[1] / (h / g);
                let bias = |raw: f64, ti: usize| {
                    let m = if masked { mask[p[0] * t + ti] } else { 0.0 };
                    causal_mask(raw * f64::from(0.2f32) + m, ti, p[2], causal)
                };
                let want = naive(
                    &rows(&q, p[0], p[1])[p[2]],
                    &rows(&k, p[0], kv),
                    &rows(&v, p[0], kv),
                    &bias,
                    given,
                );
                for (c, w) in want.iter().enumerate() {
                    let got = rows(y, p[0], p[1])[p[2]][c];
                    // A code that is a tie but for rounding may differ by one step.
                    assert!((got - w).abs() < 0.04, "{p:?} {c}: {got} {w}");
                    off += usize::from((got - w).abs() > 1e-5);
                    compared += 1;
                }
            }
        }
    }
    assert!(off * 50 < compared, "{off} of {compared} are off");
}

/// A module of the op, the mask left out where there is none, with or without scales.
fn module(ins: &[&Tensor], scales: Option<&[Tensor; 3]>, op: QAttention) -> (rsqc_ir::Module, Vec<Tensor>) {
    use rsqc_ir::{Graph, Module, Port};
    let mut m = Module::default();
    let mut g = Graph::new();
    let mut fed: Vec<Tensor> = ins.iter().map(|t| (*t).clone()).collect();
    let mut slots: Vec<Option<usize>> = (0..ins.len()).map(Some).collect();
    if let Some(s) = scales {
        slots.resize(4, None);
        slots.extend((0..3).map(|i| Some(fed.len() + i)));
        fed.extend(s.iter().cloned());
    }
    let values: Vec<_> = fed
        .iter()
        .enumerate()
        .map(|(i, t)| g.add_input(&format!("x{i}"), common::type_of(t)))
        .collect();
    let operands: Vec<_> = slots.iter().map(|s| s.map(|s| values[s])).collect();
    let types: Vec<_> = operands.iter().map(|v| v.map(|v| g.ty(v).clone())).collect();
    let refs: Vec<_> = types.iter().map(Option::as_ref).collect();
    let op: rsqc_ir::Op = op.into();
    let out = op
        .infer(&rsqc_ir::ops::InferCx { symbols: &m.symbols }, &refs)
        .expect("operands fit");
    let node = g.add_node(op, operands, out, "attention".into());
    let value = g.node(node).output();
    g.set_outputs(vec![Port {
        name: "y".into(),
        value,
    }]);
    m.graph = g;
    (m, fed)
}

#[test]
fn it_is_close_to_attention_over_floats() {
    let mut r = Rng(82);
    for t in [1, 40, 700] {
        let (q, k, v) = (
            r.f32s(&[1, 2, 9, 32]),
            r.f32s(&[1, 2, t, 32]),
            r.f32s(&[1, 2, t, 24]),
        );
        let coded = op(0.02, None, EmptyRow::Nan);
        let float = one(coded.in_float(), &[&q, &k, &v]);
        let coded = one(coded, &[&q, &k, &v]);
        let error: f64 = points(&float.shape)
            .iter()
            .map(|p| (at(&float, p) - at(&coded, p)).powi(2))
            .sum();
        let power: f64 = float.to_f64().iter().map(|x| x * x).sum();
        assert!(error < power * 1e-3, "{t} keys: {error:e} of {power:e}");
    }
}

/// 256 keys far below the row's maximum weigh as much as the one key at it: a step of the whole row would lose them.
#[test]
fn a_block_keeps_its_precision_below_the_maximum() {
    let far = 7.0f32;
    let t = 2 * 256;
    let keys: Vec<f32> = (0..t).map(|i| if i == 0 { far } else { 0.0 }).collect();
    let values: Vec<f32> = (0..t).map(|i| if i < 256 { 0.0 } else { 1.0 }).collect();
    let (q, k, v) = (
        f32t(&[1, 1, 1, 1], &[1.0]),
        f32t(&[1, 1, t, 1], &keys),
        f32t(&[1, 1, t, 1], &values),
    );
    let coded = op(1.0, None, EmptyRow::Nan);
    let float = f32s(&one(coded.in_float(), &[&q, &k, &v]))[0];
    let got = f32s(&one(coded, &[&q, &k, &v]))[0];
    // The first block's own 255 keys behind its maximum round to nothing: 0.23 of 1 + 2 * 0.23.
    let power = 256.0 * (-far).exp();
    assert!((got - power / (1.0 + power)).abs() < 1e-3, "{got} {float}");
    assert!((float - power / (1.0 + 511.0 / 256.0 * power)).abs() < 1e-3);
}

#[test]
fn rows_without_keys() {
    let q = f32t(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let none = f32t(&[1, 1, 0, 2], &[]);
    let one_key = f32t(&[1, 1, 1, 2], &[1.0, -2.0]);
    let hidden = Tensor::new(vec![1, 1, 2, 1], vec![false, true]);
    for (empty, value) in [(EmptyRow::Zero, 0.0f32), (EmptyRow::Nan, f32::NAN)] {
        let y = one(op(1.0, None, empty), &[&q, &none, &none]);
        assert!(
            f32s(&y)
                .iter()
                .all(|x| x.to_bits() == value.to_bits() || x.is_nan() && value.is_nan())
        );
        let y = one(op(1.0, None, empty), &[&q, &one_key, &one_key, &hidden]);
        let y = f32s(&y);
        assert!(
            y[..2].iter().all(|x| *x == value || x.is_nan() && value.is_nan()),
            "{y:?}"
        );
        // Alone in its column, a value is the largest of those that share its scale.
        assert!((y[2] - 1.0).abs() < 1e-6 && (y[3] + 2.0).abs() < 1e-6, "{y:?}");
    }
}

#[test]
fn what_is_no_number_shows() {
    let mut r = Rng(83);
    let shape = [1, 1, 3, 4];
    let plain = [r.f32s(&shape), r.f32s(&shape), r.f32s(&shape)];
    let with = |operand: usize, at: usize, value: f32| {
        let mut all = plain.clone();
        let mut data = f32s(&all[operand]).to_vec();
        data[at] = value;
        all[operand] = f32t(&shape, &data);
        let y = one(op(0.5, None, EmptyRow::Zero), &[&all[0], &all[1], &all[2]]);
        f32s(&y).iter().map(|x| x.is_nan()).collect::<Vec<bool>>()
    };
    for value in [f32::NAN, f32::INFINITY] {
        // A query spoils its row, a key every row, a value its channel.
        let row = |i: usize| (0..12).map(|p| p / 4 == i).collect::<Vec<bool>>();
        let channel = |i: usize| (0..12).map(|p| p % 4 == i).collect::<Vec<bool>>();
        assert_eq!(with(0, 5, value), row(1));
        assert_eq!(with(1, 5, value), vec![true; 12]);
        assert_eq!(with(2, 6, value), channel(2));
    }
    // A hidden key does no harm.
    let mut data = f32s(&plain[1]).to_vec();
    data[9] = f32::NAN;
    let keep = Tensor::new(vec![3], vec![true, true, false]);
    let keys = f32t(&shape, &data);
    let y = one(
        op(0.5, None, EmptyRow::Zero),
        &[&plain[0], &keys, &plain[2], &keep],
    );
    assert!(f32s(&y).iter().all(|x| x.is_finite()));
}

/// `[s, h*d]`, `[t, h*d]` twice, and a mask over keys; heads are strides.
fn region(products: &str, scales: bool) -> String {
    let (inputs, operands, reads) = if scales {
        (
            "input %4 \"a\" : f32[]\n input %5 \"b\" : f32[]\n input %6 \"c\" : f32[]\n",
            ", %4, %5, %6",
            "read {0}\n read {0}\n read {0}\n",
        )
    } else {
        ("", "", "")
    };
    format!(
        r#"rsqc 1
module "t" phase fused
graph {{
  input %0 "q" : f32[s, 8]
  input %1 "k" : f32[t, 8]
  input %2 "v" : f32[t, 8]
  input %3 "mask" : f32[t]
  {inputs}
  %7 = region(%0, %1, %2, %3{operands}) : f32[s, 8] {{
    axis i parallel {{s}}
    axis h parallel {{2}}
    axis e parallel {{4}}
    axis l reduce {{t}}
    axis d reduce {{4}}
    row 2
    read {{0}} + i*{{8}} + h*{{4}} + d*{{1}}
    read {{0}} + h*{{4}} + l*{{8}} + d*{{1}}
    read {{0}} + h*{{4}} + e*{{1}} + l*{{8}}
    read {{0}} + l*{{1}}
    {reads}
    attention(0, 1, 2) key l inner d empty zero {products} {{
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
    }}
    $0 = anchor() : f32
    store $0 at {{0}} + i*{{8}} + h*{{4}} + e*{{1}}
  }}
  output "y" = %7
}}
"#
    )
}

#[test]
fn the_region_is_the_op_bit_by_bit() {
    let mut r = Rng(84);
    for (s, t) in [(5, 7), (3, 600), (4, 0), (0, 3)] {
        let (q, k, v) = (r.f32s(&[s, 8]), r.f32s(&[t, 8]), r.f32s(&[t, 8]));
        let mask = r.f32s(&[t]);
        let scales = [0.02f32, 0.03, 0.025].map(|s| f32t(&[], &[s]));
        let heads = |x: &Tensor| {
            let n = x.shape[0];
            let pick = |p: &Vec<usize>| at(x, &[p[1], p[0] * 4 + p[2]]) as f32;
            let data: Vec<f32> = points(&[2, n, 4]).iter().map(pick).collect();
            f32t(&[1, 2, n, 4], &data)
        };
        for fixed in [false, true] {
            let products = if fixed {
                "products i8 scales(4, 5, 6)"
            } else {
                "products i8"
            };
            let text = region(products, fixed);
            let m = parse(&text).expect("parses");
            assert!(verify(&m).is_empty(), "{:?}", verify(&m));
            let printed = print(&m);
            assert!(
                printed.contains(&format!("empty zero {products} {{")),
                "{printed}"
            );
            assert_eq!(print(&parse(&printed).expect("parses again")), printed);
            let mut fed = vec![q.clone(), k.clone(), v.clone(), mask.clone()];
            if fixed {
                fed.extend(scales.iter().cloned());
            }
            let got = &run(&m, &fed).expect("runs")[0];
            let op = op(0.5, Some(0), EmptyRow::Zero);
            let (heads_q, heads_k, heads_v) = (heads(&q), heads(&k), heads(&v));
            let ins = [&heads_q, &heads_k, &heads_v, &mask];
            let (m, fed) = module(&ins, fixed.then_some(&scales), op);
            let want = &run(&m, &fed).expect("runs")[0];
            let back: Vec<f32> = points(&[s, 8])
                .iter()
                .map(|p| at(want, &[0, p[1] / 4, p[0], p[1] % 4]) as f32)
                .collect();
            assert!(same_bits(got, &f32t(&[s, 8], &back)), "{s} {t} {fixed}");
        }
    }
}

#[test]
fn what_has_no_definition_is_refused() {
    let refused = |text: &str| -> Vec<String> {
        let m = parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        verify(&m).into_iter().map(|d| d.message).collect()
    };
    let text = region("products i8", false);
    assert!(refused(&text).is_empty());
    let long = text.replace("axis d reduce {4}", "axis d reduce {n}");
    assert!(refused(&long)[0].contains("needs a constant inner extent"));
    let codes = text.replace("input %1 \"k\" : f32[t, 8]", "input %1 \"k\" : i8[t, 8]");
    assert!(refused(&codes)[0].contains("makes codes of i8"));
    let text = region("products i8 scales(4, 5, 6)", true);
    assert!(refused(&text).is_empty());
    let wide = text.replace("scales(4, 5, 6)", "scales(4, 5, 3)");
    assert!(refused(&wide)[0].contains("operand 3 is no single scale"));
    let missing = text.replace("scales(4, 5, 6)", "scales(4, 5, 9)");
    assert!(refused(&missing)[0].contains("operand 9 does not exist"));

    let q = f32t(&[1, 1, 1, 2], &[0.0; 2]);
    let half = Tensor::new(vec![1, 1, 1, 2], vec![half::f16::ZERO; 2]);
    assert_eq!(half.elem(), ScalarType::F16);
    let e = run_op(op(1.0, None, EmptyRow::Nan), &[&q, &half, &q]).expect_err("half precision");
    assert!(e.contains("makes them of f32"), "{e}");
    let e = run_op(op(1.0, None, EmptyRow::Nan), &[&q, &q, &q, &q, &q, &q, &q]).expect_err("scales");
    assert!(e.contains("mask") || e.contains("no f32 scale"), "{e}");
}
