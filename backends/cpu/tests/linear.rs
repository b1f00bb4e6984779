//! Matrix products with epilogues made from bodies, against the naive interpreter at every level of this machine.

mod common;

use common::Random;
use common::kernel::{Symbols, compare};
use common::naive::Value;
use rsqc_backend::{Backend, KernelSpec};
use rsqc_cpu::pack::{Matrix, pack_f32, pack_i8};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Region, Store};
use rsqc_ir::scalar::{BodyBuilder, BodyId, ReduceKind};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, Elem, Layout, ScalarType, TensorType};
use std::collections::BTreeMap;

/// A product with its data.
struct Case {
    spec: KernelSpec,
    symbols: Symbols,
    inputs: Vec<Vec<u8>>,
    physical: BTreeMap<usize, Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int8,
    Mixed,
    F32,
    Dynamic,
}

impl Case {
    /// `[batch, m, k] x [k, n]` (the dynamic kind: `x [batch, n, k]` transposed), with symbolic batch and m.
    fn new(kind: Kind, (batch, m, n, k): (i64, i64, i64, i64), random: &mut Random) -> Case {
        let (bd, md, nd, kd) = (Dim::sym("b"), Dim::sym("m"), Dim::from(n), Dim::from(k));
        let symbols = BTreeMap::from([(Symbol::new("b"), batch), (Symbol::new("m"), m)]);
        let axis = |name: &str, extent: &Dim, kind| Axis {
            name: name.into(),
            kind,
            extent: extent.clone(),
        };
        let int = kind == Kind::Int8;
        let elem: Elem = if int {
            QuantType::int8(Granularity::Token).into()
        } else {
            ScalarType::F32.into()
        };
        let codes = int || kind == Kind::Mixed;
        let weight: Elem = if codes {
            QuantType::int8(Granularity::Axis(1)).into()
        } else {
            ScalarType::F32.into()
        };
        // Rows of A lie 3 elements apart from each other.
        let row = kd.clone() + Dim::from(3i64);
        let lhs = Access::linear([(0, md.clone() * row.clone()), (1, row.clone()), (3, Dim::one())]);
        let rhs = match kind {
            Kind::Dynamic => Access::linear([(0, nd.clone() * kd.clone()), (2, kd.clone()), (3, Dim::one())]),
            _ => Access::linear([(2, Dim::one()), (3, nd.clone())]),
        };
        let weights = if kind == Kind::Dynamic {
            batch * n * k
        } else {
            k * n
        };
        let number = |random: &mut Random, codes: bool| {
            let v = i128::from(random.bits() % 255) - 127;
            // Small integers make float sums exact in any order.
            if codes {
                Value::of_int(ScalarType::I8, v)
            } else {
                Value::of_float(ScalarType::F32, (v % 8) as f64)
            }
        };
        let mut fill = |count: i64, codes: bool| {
            let values = (0..count).map(|_| number(random, codes));
            values
                .flat_map(|v| v.bits.to_le_bytes()[..v.ty.size()].to_vec())
                .collect::<Vec<u8>>()
        };
        let inputs = vec![fill(batch * m * (k + 3), int), fill(weights, codes)];
        let mut physical = BTreeMap::new();
        if codes {
            let codes: Vec<i8> = inputs[1].iter().map(|b| *b as i8).collect();
            let packed = pack_i8(Matrix::row_major(&codes, k as usize, n as usize), &[1.0]);
            physical.insert(1, packed.expect("a valid matrix"));
            if int {
                physical.insert(0, inputs[0].iter().map(|b| b ^ 0x80).collect());
            }
        } else if kind == Kind::F32 {
            let values: Vec<f32> = inputs[1]
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("4")))
                .collect();
            physical.insert(
                1,
                pack_f32(Matrix::row_major(&values, k as usize, n as usize)).expect("a valid matrix"),
            );
        }
        let acc = if int { ScalarType::I32 } else { ScalarType::F32 };
        let packed = (kind != Kind::Dynamic).then_some(Layout::PackedWeight);
        let spec = KernelSpec {
            region: Region {
                axes: vec![
                    axis("b", &bd, AxisKind::Parallel),
                    axis("m", &md, AxisKind::Parallel),
                    axis("n", &nd, AxisKind::Parallel),
                    axis("k", &kd, AxisKind::Reduce),
                ],
                row_axes: 1,
                operands: vec![lhs, rhs],
                anchor: Anchor::Contract {
                    lhs: 0,
                    rhs: 1,
                    acc,
                    pad: false,
                },
                body: Default::default(),
                stores: vec![],
            },
            operands: vec![
                TensorType {
                    elem,
                    shape: vec![bd, md, row],
                },
                TensorType {
                    elem: weight,
                    shape: vec![kd, nd],
                },
            ],
            operand_layouts: vec![int.then_some(Layout::OffsetBinary), packed],
            results: vec![],
            result_layouts: vec![],
        };
        Case {
            spec,
            symbols,
            inputs,
            physical,
        }
    }

    /// Adds an f32 operand `[n]` or `[batch, m]`.
    fn operand(&mut self, by_column: bool, random: &mut Random) -> u32 {
        let (b, m, n) = (
            Dim::sym("b"),
            Dim::sym("m"),
            self.spec.region.axes[2].extent.clone(),
        );
        let (access, shape) = if by_column {
            (Access::linear([(2, Dim::one())]), vec![n])
        } else {
            (Access::linear([(0, m.clone()), (1, Dim::one())]), vec![b, m])
        };
        let ty = TensorType::new(ScalarType::F32, shape);
        let count = ty
            .numel()
            .eval(&|s| self.symbols.get(s).copied())
            .expect("known symbols");
        self.inputs.push(
            (0..count)
                .flat_map(|_| (random.unit() + 1.5).to_le_bytes())
                .collect(),
        );
        self.spec.region.operands.push(access);
        self.spec.operands.push(ty);
        self.spec.operand_layouts.push(None);
        self.inputs.len() as u32 - 1
    }

    /// Adds a dense result, whole or a value a row.
    fn result(&mut self, value: BodyId, ty: ScalarType, whole: bool, layout: Option<Layout>) {
        let axes = &self.spec.region.axes;
        let count = if whole { 3 } else { 2 };
        let shape: Vec<Dim> = axes[..count].iter().map(|a| a.extent.clone()).collect();
        let ty = TensorType::new(ty, shape);
        let access = Access::linear(ty.strides().into_iter().enumerate().map(|(a, s)| (a as u32, s)));
        self.spec.region.stores.push(Store { value, access });
        self.spec.results.push(ty);
        self.spec.result_layouts.push(layout);
    }

    fn check(&self, what: &str) {
        let gemm = rsqc_cpu::Cpu::default()
            .select(&self.spec)
            .expect("a kernel")
            .kernel;
        let one_column = self.spec.region.axes[2].extent.is(1);
        assert!(
            one_column || gemm.contains("gemm"),
            "{gemm} is no register tile kernel"
        );
        compare(
            &self.spec,
            &self.symbols,
            &self.inputs,
            &self.physical,
            &|w, g| w.same(g),
            what,
        );
    }
}

const SHAPES: [(i64, i64, i64, i64); 8] = [
    (1, 1, 1, 1),
    (1, 7, 5, 3),
    (2, 13, 65, 37),
    (3, 1, 200, 4),
    (1, 100, 64, 16),
    (1, 0, 64, 16),
    (0, 4, 16, 16),
    (2, 26, 33, 1),
];

/// The mixed product differs from that of floats in its tile alone, whose shapes are tested as such: half of them here.
fn shapes(kind: Kind) -> impl Iterator<Item = (i64, i64, i64, i64)> {
    let step = if kind == Kind::Mixed { 2 } else { 1 };
    SHAPES.into_iter().skip(step - 1).step_by(step)
}

/// `acc * row scale * column scale + bias`, clipped at 0.
#[test]
fn direct_epilogues() {
    let mut random = Random(1);
    for kind in [Kind::Int8, Kind::Mixed, Kind::F32, Kind::Dynamic] {
        for shape in shapes(kind) {
            let mut case = Case::new(kind, shape, &mut random);
            let (row, column) = (case.operand(false, &mut random), case.operand(true, &mut random));
            let mut b = BodyBuilder::new();
            let acc = b.anchor(if kind == Kind::Int8 {
                ScalarType::I32
            } else {
                ScalarType::F32
            });
            let x = b.cast(acc, ScalarType::F32);
            let s = b.operand(row, ScalarType::F32);
            let y = b.mul(x, s);
            let c = b.operand(column, ScalarType::F32);
            let y = b.mul(y, c);
            let y = b.add(y, c);
            let zero = b.f32(0.0);
            let y = b.max(y, zero);
            case.spec.region.body = b.finish().expect("typed");
            case.result(y, ScalarType::F32, true, None);
            case.check(&format!("{shape:?}"));
        }
    }
}

/// The epilogue ends in a quantizer whose scale depends on the whole row.
#[test]
fn row_block_epilogues() {
    let mut random = Random(2);
    for kind in [Kind::Int8, Kind::Mixed, Kind::F32, Kind::Dynamic] {
        for shape in shapes(kind) {
            let mut case = Case::new(kind, shape, &mut random);
            let column = case.operand(true, &mut random);
            let mut b = BodyBuilder::new();
            let acc = b.anchor(if kind == Kind::Int8 {
                ScalarType::I32
            } else {
                ScalarType::F32
            });
            let x = b.cast(acc, ScalarType::F32);
            let c = b.operand(column, ScalarType::F32);
            let y = b.mul(x, c);
            let tenth = b.f32(0.1);
            let wave = b.mul(y, tenth);
            let floor = b.floor(wave);
            let y = b.sub(y, floor);
            let y = b.add(y, c);
            let abs = b.abs(y);
            let amax = b.reduce(ReduceKind::Max, abs);
            let full = b.f32(127.0);
            let m = b.div(full, amax);
            let q = b.mul(y, m);
            let q = b.round_even(q);
            let q = b.cast(q, ScalarType::I8);
            case.spec.region.body = b.finish().expect("typed");
            case.result(q, ScalarType::I8, true, Some(Layout::OffsetBinary));
            case.result(amax, ScalarType::F32, false, None);
            case.check(&format!("{shape:?}"));
        }
    }
}

/// Products that no register tile can do still run, but never on packed weights.
#[test]
fn unfit_products_fall_back_or_are_refused() {
    let mut random = Random(3);
    let mut case = Case::new(Kind::Dynamic, (1, 4, 8, 5), &mut random);
    let mut b = BodyBuilder::new();
    let acc = b.anchor(ScalarType::F32);
    case.spec.region.body = b.finish().expect("typed");
    case.result(acc, ScalarType::F32, true, None);
    let cpu = rsqc_cpu::Cpu::default();
    let lhs = &mut case.spec.region.operands[0];
    lhs.terms.push(rsqc_ir::region::Term {
        axis: 2,
        stride: Dim::zero() + Dim::one(),
        clamp: None,
    });
    assert!(
        cpu.select(&case.spec)
            .expect("a general kernel")
            .kernel
            .contains("contract")
    );
    case.spec.operand_layouts[1] = Some(Layout::PackedWeight);
    assert_eq!(
        cpu.select(&case.spec).expect_err("no kernel").blame,
        rsqc_ir::diag::Blame::Unsupported
    );
}
