//! Attention over 8-bit codes against the naive interpreter, bit for bit, at every level of this machine; and what levels
//! that this machine does not have are made of.

mod common;

use common::Random;
use common::attention::{Case, SHAPES, Shape, scaled};
use common::kernel::compare;
use common::naive::Value;
use rsqc_backend::{Backend, TextForm};
use rsqc_cpu::Cpu;
use rsqc_cpu::level::Level;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::region::{Access, Clamp, Gather, Products};
use rsqc_ir::scalar::{BodyBuilder, Pred, ReduceKind};
use rsqc_ir::{Dim, ScalarType, TensorType};
use std::collections::BTreeMap;

/// More shapes: several blocks of keys, heads wider than a panel, one query, no inner extent.
const MORE: [Shape; 6] = [
    [1, 1, 2, 32, 513, 32],
    [1, 97, 1, 65, 31, 33],
    [2, 13, 2, 48, 256, 4],
    [1, 3, 2, 17, 260, 1],
    [1, 12, 1, 4, 9, 0],
    [1, 5, 1, 130, 7, 70],
];

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.into_iter().chain(MORE)
}

/// A case whose products are of codes; with `fixed`, of given scales, under which some elements are out of range.
fn coded(shape: Shape, empty: EmptyRow, fixed: bool, random: &mut Random) -> Case {
    let mut case = Case::new(shape, empty, random);
    let scales = fixed.then(|| {
        [0.007f32, 0.006, 0.0075].map(|s| {
            let n = case.operand(&[], ScalarType::F32, random);
            case.inputs[n as usize] = s.to_le_bytes().to_vec();
            n
        })
    });
    case.attention().products = Products::Int8 { scales };
    case
}

fn check(case: &Case, what: &str) {
    let same = |w: Value, g: Value| w.same(g);
    compare(
        &case.spec,
        &case.symbols,
        &case.inputs,
        &BTreeMap::new(),
        &same,
        what,
    );
}

#[test]
fn plain_attention() {
    let mut random = Random(11);
    for shape in shapes() {
        for fixed in [false, true] {
            let case = coded(shape, EmptyRow::Nan, fixed, &mut random).plain();
            check(&case, &format!("{shape:?} {fixed}"));
        }
    }
}

#[test]
fn no_keys_give_an_empty_row() {
    let mut random = Random(12);
    for empty in [EmptyRow::Nan, EmptyRow::Zero] {
        let case = coded([2, 3, 2, 16, 0, 16], empty, false, &mut random).plain();
        check(&case, &format!("{empty:?}"));
    }
}

/// An additive mask with whole rows (and whole blocks) of -inf, and a bool mask over keys.
#[test]
fn masks() {
    let mut random = Random(13);
    for shape in shapes() {
        for empty in [EmptyRow::Nan, EmptyRow::Zero] {
            let mut case = coded(shape, empty, empty == EmptyRow::Zero, &mut random);
            let mask = case.operand(&[0, 1, 4], ScalarType::F32, &mut random);
            let keep = case.operand(&[0, 4], ScalarType::F32, &mut random);
            let keys = shape[4].max(1) as usize;
            for (i, cell) in case.inputs[mask as usize].chunks_mut(4).enumerate() {
                let (row, key) = (i / keys, i % keys);
                let block = row % 5 == 1 && key < 256;
                if row % 5 == 2 || block || random.below(7) == 0 {
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
            check(&case.plain(), &format!("{shape:?} {empty:?}"));
        }
    }
}

#[test]
fn causal() {
    let mut random = Random(14);
    for shape in shapes() {
        let mut case = coded(shape, EmptyRow::Zero, false, &mut random);
        let (_, mut b, y) = scaled(0.5);
        let (t, s) = (b.index(4), b.index(1));
        let c = b.cmp(Pred::Le, t, s);
        let inf = b.f32(f32::NEG_INFINITY);
        b.select(c, y, inf);
        case.attention().score = b.finish().expect("typed");
        check(&case.plain(), &format!("{shape:?}"));
    }
}

/// Elements of all magnitudes, infinities and NaN among them; zeros as whole rows.
#[test]
fn unusual_elements() {
    let mut random = Random(15);
    for shape in shapes() {
        for fixed in [false, true] {
            let mut case = coded(shape, EmptyRow::Nan, fixed, &mut random);
            let rows = [shape[5], shape[5], shape[3]].map(|n| n.max(1) as usize);
            for (operand, row) in rows.into_iter().enumerate() {
                for (i, cell) in case.inputs[operand].chunks_mut(4).enumerate() {
                    let value = match (i / row % 7, random.below(61)) {
                        (3, _) => 0.0,
                        (5, r) => (r as f32 - 30.0) * 1e-40,
                        (_, 7) => f32::from_bits(random.below(1 << 31) as u32),
                        _ => continue,
                    };
                    // An operand in six has numbers that are none.
                    let value = if value.is_finite() || operand == random.below(6) {
                        value
                    } else {
                        -3.0
                    };
                    cell.copy_from_slice(&value.to_le_bytes());
                }
            }
            check(&case.plain(), &format!("{shape:?} {fixed}"));
        }
    }
}

/// The body quantizes whole rows: maximum over heads and channels, then codes.
#[test]
fn rows_are_quantized() {
    let mut random = Random(16);
    for shape in shapes() {
        let mut case = coded(shape, EmptyRow::Zero, false, &mut random);
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
        check(&case, &format!("{shape:?}"));
    }
}

/// Keys and values shared by the heads of a group, gathered, clamped, of another type or with strided channels.
#[test]
fn operands_in_other_forms() {
    let mut random = Random(17);
    for shape in shapes() {
        let mut case = coded(shape, EmptyRow::Zero, false, &mut random);
        // One head of keys and values for all.
        let k = case.operand(&[0, 4, 5], ScalarType::F32, &mut random);
        let v = case.operand(&[0, 3, 4], ScalarType::F32, &mut random);
        let a = case.attention();
        (a.k, a.v) = (k, v);
        check(&case.plain(), &format!("shared {shape:?}"));

        let mut case = coded(shape, EmptyRow::Zero, true, &mut random);
        let q = case.operand(&[0, 1, 2, 5], ScalarType::F16, &mut random);
        let v = case.operand(&[0, 2, 4, 3], ScalarType::BF16, &mut random);
        let index = case.operand(&[4], ScalarType::F32, &mut random);
        let n = index as usize;
        case.spec.operands[n] = TensorType::new(ScalarType::I64, vec![Dim::sym("t")]);
        case.inputs[n] = (0..shape[4])
            .flat_map(|_| (random.below(18) as i64 - 9).to_le_bytes())
            .collect();
        let table = case.operand(&[5], ScalarType::F32, &mut random);
        case.inputs[table as usize] = (0..9 * shape[5])
            .flat_map(|_| random.unit().to_le_bytes())
            .collect();
        case.spec.region.operands[table as usize].gathers = vec![Gather {
            operand: index,
            stride: Dim::from(shape[5]),
            limit: Dim::from(9i64),
        }];
        let a = case.attention();
        (a.q, a.k, a.v) = (q, table, v);
        check(&case.plain(), &format!("gathered {shape:?}"));

        let mut case = coded(shape, EmptyRow::Zero, false, &mut random);
        for operand in [1, 2] {
            let accesses: &mut Vec<Access> = &mut case.spec.region.operands;
            let term = accesses[operand].terms.iter_mut().find(|t| t.axis == 4);
            if let Some(term) = term {
                term.clamp = Some(Clamp {
                    shift: Dim::from(-2i64),
                    limit: Dim::sym("t"),
                });
            }
        }
        check(&case.plain(), &format!("clamped {shape:?}"));
    }
}

/// A level with `vpdpbusd` multiplies by it, whatever this machine can run; the others by `pmaddwd`.
#[test]
fn every_level_has_code() {
    let mut random = Random(18);
    let case = coded([1, 13, 2, 32, 65, 32], EmptyRow::Nan, false, &mut random).plain();
    let cpu = Cpu::default();
    let launch = cpu.select(&case.spec).expect("the backend has a kernel");
    assert!(launch.kernel.contains("attention_qd8"), "{}", launch.kernel);
    let levels: Vec<String> = Level::ALL.iter().map(|l| l.name().into()).collect();
    let kernels = BTreeMap::from([(launch.kernel.clone(), case.spec.clone())]);
    let code = cpu.generate(&kernels, &levels).expect("the kernel compiles");
    let entries = &code.entries[&launch.kernel];
    assert_eq!(entries.len(), levels.len());
    let offset = |level: Level| entries.iter().find(|(name, _)| name == level.name()).map(|e| e.1);
    assert_ne!(
        offset(Level::Avx2),
        offset(Level::AvxVnni),
        "integer products have code of their own"
    );
    for level in Level::ALL {
        let text = cpu.text(&kernels, &[level.name().into()], TextForm::Asm);
        let text = text.expect("a listing");
        let dot = text.contains("vpdpbusd");
        let wanted = matches!(level, Level::AvxVnni | Level::Avx512Vnni);
        assert_eq!(dot, wanted, "{level}");
        assert_eq!(text.contains("pmaddwd"), !wanted, "{level}");
        assert!(!text.contains("pmaddubsw"), "{level}");
    }
}
