//! Attention against the naive interpreter (which computes it in f64), at every level of this machine.

mod common;

use common::Random;
use common::attention::{Case, SHAPES, scaled};
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::region::{Clamp, Gather, Term};
use rsqc_ir::scalar::{BodyBuilder, Pred, ReduceKind};
use rsqc_ir::{Dim, ScalarType, TensorType};

#[test]
fn plain_attention() {
    let mut random = Random(1);
    for shape in SHAPES {
        Case::new(shape, EmptyRow::Nan, &mut random)
            .plain()
            .check(&format!("{shape:?}"));
    }
}

#[test]
fn no_keys_give_an_empty_row() {
    let mut random = Random(2);
    for empty in [EmptyRow::Nan, EmptyRow::Zero] {
        let case = Case::new([2, 3, 2, 16, 0, 16], empty, &mut random).plain();
        case.check(&format!("{empty:?}"));
    }
}

/// An additive mask over queries and keys with whole rows of -inf, and one over keys alone that is a bool.
#[test]
fn masks() {
    let mut random = Random(3);
    for shape in SHAPES {
        for empty in [EmptyRow::Nan, EmptyRow::Zero] {
            let mut case = Case::new(shape, empty, &mut random);
            let mask = case.operand(&[0, 1, 4], ScalarType::F32, &mut random);
            let keep = case.operand(&[0, 4], ScalarType::F32, &mut random);
            let keys = shape[4].max(1) as usize;
            for (i, cell) in case.inputs[mask as usize].chunks_mut(4).enumerate() {
                if i / keys % 5 == 2 || random.below(7) == 0 {
                    cell.copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
                }
            }
            let (_, mut b, y) = scaled(0.5);
            let m = b.operand(mask, ScalarType::F32);
            let y = b.add(y, m);
            let k = b.operand(keep, ScalarType::F32);
            let low = b.f32(-0.9);
            let c = b.cmp(Pred::Lt, k, low);
            let inf = b.f32(f32::NEG_INFINITY);
            b.select(c, inf, y);
            case.attention().score = b.finish().expect("typed");
            case.plain().check(&format!("{shape:?} {empty:?}"));
        }
    }
}

/// Key t is seen by query s if `t <= s`.
#[test]
fn causal() {
    let mut random = Random(4);
    for shape in SHAPES {
        let mut case = Case::new(shape, EmptyRow::Zero, &mut random);
        let (_, mut b, y) = scaled(0.5);
        let (t, s) = (b.index(4), b.index(1));
        let c = b.cmp(Pred::Le, t, s);
        let inf = b.f32(f32::NEG_INFINITY);
        b.select(c, y, inf);
        case.attention().score = b.finish().expect("typed");
        case.plain().check(&format!("{shape:?}"));
    }
}

/// The body quantizes whole rows: maximum over heads and channels, then codes.
#[test]
fn rows_are_quantized() {
    let mut random = Random(5);
    for shape in SHAPES {
        let mut case = Case::new(shape, EmptyRow::Nan, &mut random);
        let mut b = BodyBuilder::new();
        let x = b.anchor(ScalarType::F32);
        let abs = b.abs(x);
        let amax = b.reduce(ReduceKind::Max, abs);
        let full = b.f32(127.0);
        let m = b.div(full, amax);
        let q = b.mul(x, m);
        let q = b.round_even(q);
        let q = b.cast(q, ScalarType::I8);
        case.spec.region.body = b.finish().expect("typed");
        case.result(q, true);
        case.result(amax, false);
        case.check(&format!("{shape:?}"));
    }
}

/// Keys and values that are gathered, clamped or of another type; queries in half precision.
#[test]
fn operands_in_other_forms() {
    let mut random = Random(6);
    for shape in SHAPES {
        let mut case = Case::new(shape, EmptyRow::Zero, &mut random);
        let q = case.operand(&[0, 1, 2, 5], ScalarType::F16, &mut random);
        let v = case.operand(&[0, 2, 4, 3], ScalarType::BF16, &mut random);
        // Rows of a table of 9 keys, chosen by an index a key.
        let index = case.operand(&[4], ScalarType::F32, &mut random);
        let n = index as usize;
        case.spec.operands[n] = TensorType::new(ScalarType::I64, vec![Dim::sym("t")]);
        case.inputs[n] = (0..shape[4])
            .flat_map(|_| (random.below(18) as i64 - 9).to_le_bytes())
            .collect();
        let inner = shape[5];
        let table = case.operand(&[5], ScalarType::F32, &mut random);
        case.inputs[table as usize] = (0..9 * inner).flat_map(|_| random.unit().to_le_bytes()).collect();
        case.spec.region.operands[table as usize].gathers = vec![Gather {
            operand: index,
            stride: Dim::from(inner),
            limit: Dim::from(9i64),
        }];
        let a = case.attention();
        (a.q, a.k, a.v) = (q, table, v);
        case.plain().check(&format!("{shape:?}"));

        // Keys before the first and behind the last repeat these.
        let mut case = Case::new(shape, EmptyRow::Zero, &mut random);
        for operand in [1, 2] {
            let term: &mut Term = case.spec.region.operands[operand]
                .terms
                .iter_mut()
                .find(|t| t.axis == 4)
                .expect("keys");
            term.clamp = Some(Clamp {
                shift: Dim::from(-2i64),
                limit: Dim::sym("t"),
            });
        }
        case.plain().check(&format!("clamped {shape:?}"));
    }
}
