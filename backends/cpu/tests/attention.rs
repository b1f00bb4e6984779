//! Attention against the naive interpreter (which computes it in f64), at every level of this machine.

mod common;

use common::Random;
use common::kernel::{Symbols, compare};
use common::naive::Value;
use rsqc_backend::KernelSpec;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::region::{Access, Anchor, Attention, Axis, AxisKind, Clamp, Gather, Region, Store, Term};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, Pred, ReduceKind};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, ScalarType, TensorType};
use std::collections::BTreeMap;

/// Axes of every region here: batch, query, head, channel, key, inner.
const AXES: [&str; 6] = ["b", "s", "h", "e", "t", "d"];

struct Case {
    spec: KernelSpec,
    symbols: Symbols,
    inputs: Vec<Vec<u8>>,
}

/// Sizes in the order of [`AXES`].
type Shape = [i64; 6];

impl Case {
    /// `[b, s, h, d]`, `[b, t, h, d]`, `[b, t, h, e]` in one projected tensor each; b, s, t are symbols.
    fn new(shape: Shape, empty_row: EmptyRow, random: &mut Random) -> Case {
        let dims: Vec<Dim> = AXES
            .iter()
            .zip(shape)
            .map(|(name, v)| {
                if matches!(*name, "b" | "s" | "t") {
                    Dim::sym(name)
                } else {
                    Dim::from(v)
                }
            })
            .collect();
        let symbols = AXES.iter().zip(shape).map(|(n, v)| (Symbol::new(n), v)).collect();
        let [b, s, h, e, t, d] = [0u32, 1, 2, 3, 4, 5];
        let axes = AXES
            .iter()
            .zip(&dims)
            .enumerate()
            .map(|(i, (name, extent))| Axis {
                name: (*name).into(),
                kind: if i < 4 {
                    AxisKind::Parallel
                } else {
                    AxisKind::Reduce
                },
                extent: extent.clone(),
            });
        let mut case = Case {
            spec: KernelSpec {
                region: Region {
                    axes: axes.collect(),
                    row_axes: 2,
                    operands: vec![],
                    anchor: Anchor::None,
                    body: Body::default(),
                    stores: vec![],
                },
                operands: vec![],
                operand_layouts: vec![],
                results: vec![],
                result_layouts: vec![],
            },
            symbols,
            inputs: vec![],
        };
        let q = case.operand(&[b, s, h, d], ScalarType::F32, random);
        let k = case.operand(&[b, t, h, d], ScalarType::F32, random);
        let v = case.operand(&[b, t, h, e], ScalarType::F32, random);
        let score = scaled(0.3).0;
        case.spec.region.anchor = Anchor::Attention(Box::new(Attention {
            q,
            k,
            v,
            key: t,
            inner: d,
            score,
            empty_row,
        }));
        case
    }

    fn size(&self, d: &Dim) -> i64 {
        d.eval(&|s| self.symbols.get(s).copied()).expect("known symbols")
    }

    /// A dense operand over some axes.
    fn operand(&mut self, axes: &[u32], ty: ScalarType, random: &mut Random) -> u32 {
        let shape = axes
            .iter()
            .map(|a| self.spec.region.axes[*a as usize].extent.clone())
            .collect();
        let ty = TensorType::new(ty, shape);
        let access = Access::linear(axes.iter().copied().zip(ty.strides()));
        let count = self.size(&ty.numel());
        let values = (0..count).map(|_| Value::of_float(ty.storage(), f64::from(random.unit())));
        self.inputs.push(
            values
                .flat_map(|v| v.bits.to_le_bytes()[..v.ty.size()].to_vec())
                .collect(),
        );
        self.spec.region.operands.push(access);
        self.spec.operands.push(ty);
        self.spec.operand_layouts.push(None);
        self.inputs.len() as u32 - 1
    }

    fn attention(&mut self) -> &mut Attention {
        match &mut self.spec.region.anchor {
            Anchor::Attention(a) => a,
            _ => panic!("the case is attention"),
        }
    }

    fn result(&mut self, value: BodyId, whole: bool) {
        let axes: &[u32] = if whole { &[0, 1, 2, 3] } else { &[0, 1] };
        let shape = axes
            .iter()
            .map(|a| self.spec.region.axes[*a as usize].extent.clone())
            .collect();
        let ty = TensorType::new(self.spec.region.body.stmt(value).ty, shape);
        let access = Access::linear(axes.iter().copied().zip(ty.strides()));
        self.spec.region.stores.push(Store { value, access });
        self.spec.results.push(ty);
        self.spec.result_layouts.push(None);
    }

    /// The accumulator as the only result.
    fn plain(mut self) -> Case {
        let mut b = BodyBuilder::new();
        let x = b.anchor(ScalarType::F32);
        self.spec.region.body = b.finish().expect("typed");
        self.result(x, true);
        self
    }

    fn check(&self, what: &str) {
        let close = |w: Value, g: Value| match w.ty {
            ScalarType::I8 => (w.int() - g.int()).abs() <= 1,
            _ => w.same(g) || (w.float() - g.float()).abs() <= 2e-6 + 2e-5 * w.float().abs(),
        };
        compare(
            &self.spec,
            &self.symbols,
            &self.inputs,
            &BTreeMap::new(),
            &close,
            what,
        );
    }
}

/// `anchor * factor`, and the builder to go on.
fn scaled(factor: f32) -> (Body, BodyBuilder, BodyId) {
    let mut b = BodyBuilder::new();
    let x = b.anchor(ScalarType::F32);
    let f = b.f32(factor);
    let y = b.mul(x, f);
    (b.body().clone(), b, y)
}

const SHAPES: [Shape; 8] = [
    [1, 1, 1, 1, 1, 1],
    [2, 7, 3, 16, 33, 16],
    [1, 13, 2, 32, 65, 24],
    [1, 14, 1, 64, 300, 40],
    [3, 1, 4, 8, 20, 8],
    [1, 6, 1, 80, 5, 3],
    [0, 5, 2, 16, 5, 16],
    [2, 49, 2, 5, 257, 7],
];

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
