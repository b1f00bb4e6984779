//! Random regions: bodies, types, shapes and accesses.
#![allow(dead_code)]

use super::Random;
use super::kernel::{Symbols, eval_dim};
use super::naive::Value;
use rsqc_backend::KernelSpec;
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Clamp, Gather, Region, Store, Term};
use rsqc_ir::scalar::{BodyBuilder, BodyId, Pred, ReduceKind, ScalarConst, ScalarOp};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, Layout, ScalarType, TensorType};

/// Builds random specs.
pub struct Maker {
    pub random: Random,
    pub symbols: Symbols,
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// A dim of this value: a constant, or a symbol.
    fn dim(&mut self, value: i64) -> Dim {
        if self.chance(50) {
            return Dim::from(value);
        }
        let name = format!("s{}", self.symbols.len());
        self.symbols.insert(Symbol::new(&name), value);
        Dim::sym(&name)
    }

    fn axis(&mut self, kind: AxisKind, n: usize, extents: &[i64]) -> Axis {
        let value = self.pick(extents);
        Axis {
            name: format!("a{n}").into(),
            kind,
            extent: self.dim(value),
        }
    }

    fn value(&self, d: &Dim) -> i64 {
        eval_dim(&self.symbols)(d)
    }

    /// An access over some of the axes: dense in a random order, perhaps clamped; and the number of its elements.
    fn access(&mut self, axes: &[Axis], clamps: bool) -> (Access, i64) {
        let mut order: Vec<usize> = (0..axes.len()).collect();
        if self.chance(30) {
            for i in (1..order.len()).rev() {
                order.swap(i, self.random.below(i + 1));
            }
        }
        let mut stride = Dim::one();
        let mut terms = Vec::new();
        for axis in order.into_iter().rev() {
            if self.chance(20) {
                continue;
            }
            let mut extent = axes[axis].extent.clone();
            let mut clamp = None;
            if clamps && self.chance(25) {
                let limit = self.random.below(20) as i64;
                let shift = self.random.below(9) as i64 - 4;
                let limit = self.dim(limit);
                extent = limit.clone();
                clamp = Some(Clamp {
                    shift: self.dim(shift),
                    limit,
                });
            }
            terms.push(Term {
                axis: axis as u32,
                stride: stride.clone(),
                clamp,
            });
            stride = stride * extent.larger(&Dim::one());
        }
        terms.sort_by_key(|t| t.axis);
        let offset = self.random.below(3) as i64;
        let empty = terms
            .iter()
            .any(|t| t.clamp.as_ref().is_some_and(|c| self.value(&c.limit) == 0));
        let empty = empty
            || terms
                .iter()
                .any(|t| t.clamp.is_none() && self.value(&axes[t.axis as usize].extent) == 0);
        let elements = if empty { 0 } else { self.value(&stride) + offset };
        let offset = if empty { Dim::zero() } else { self.dim(offset) };
        (
            Access {
                offset,
                terms,
                gathers: Vec::new(),
            },
            elements,
        )
    }

    /// Bytes of `count` values: mostly small numbers, some special ones.
    fn data(&mut self, ty: ScalarType, count: i64) -> Vec<u8> {
        let size = ty.size();
        let mut bytes = vec![0; count as usize * size];
        let special = [
            0.0,
            -0.0,
            0.5,
            1.5,
            -2.5,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            3e9,
            -3e9,
            1e-40,
            200.0,
        ];
        for i in 0..count {
            let v = if ty.is_float() {
                let v = if self.chance(10) {
                    self.pick(&special)
                } else {
                    f64::from(self.random.unit()) * 10.0
                };
                Value::of_float(ty, v)
            } else if self.chance(10) {
                Value::of_int(
                    ty,
                    i128::from(self.pick(&[i64::MIN, i64::MAX, -1, 0, 1 << 31, -128])),
                )
            } else {
                Value::of_int(ty, self.random.below(41) as i128 - 20)
            };
            v.store(&mut bytes, i);
        }
        bytes
    }
}

const TYPES: [ScalarType; 13] = [
    ScalarType::F64,
    ScalarType::F32,
    ScalarType::F16,
    ScalarType::BF16,
    ScalarType::I64,
    ScalarType::I32,
    ScalarType::I16,
    ScalarType::I8,
    ScalarType::U64,
    ScalarType::U32,
    ScalarType::U16,
    ScalarType::U8,
    ScalarType::Bool,
];

/// A random statement whose arguments are among those so far.
fn random_statement(m: &mut Maker, b: &mut BodyBuilder, reduce: bool) {
    let all: Vec<BodyId> = (0..b.body().stmts.len() as u32).map(BodyId).collect();
    let x = m.pick(&all);
    let ty = b.ty(x);
    let same: Vec<BodyId> = all.iter().copied().filter(|a| b.ty(*a) == ty).collect();
    let y = m.pick(&same);
    if reduce && ty != ScalarType::Bool && m.chance(25) {
        let kind = m.pick(&[
            ReduceKind::Sum,
            ReduceKind::Max,
            ReduceKind::Min,
            ReduceKind::Prod,
        ]);
        b.reduce(kind, x);
        return;
    }
    match m.random.below(5) {
        0 => {
            let to = m.pick(&TYPES);
            b.cast(x, to);
        }
        1 if ty.is_float() => {
            let op = m.pick(&[0, 1, 2, 3, 4, 5]);
            let op = [
                ScalarOp::Neg,
                ScalarOp::Abs,
                ScalarOp::Sqrt,
                ScalarOp::RoundEven,
                ScalarOp::Floor,
                ScalarOp::Ceil,
            ][op]
                .clone();
            b.unary(op, x);
        }
        1 if ty == ScalarType::Bool => {
            b.not(x);
        }
        1 => {
            let op = m.pick(&[0, 1, 2]);
            b.unary([ScalarOp::Neg, ScalarOp::Abs, ScalarOp::Not][op].clone(), x);
        }
        2 => {
            let p = m.pick(&[Pred::Eq, Pred::Ne, Pred::Lt, Pred::Le, Pred::Gt, Pred::Ge]);
            let c = b.cmp(p, x, y);
            b.select(c, x, y);
        }
        3 if matches!(ty, ScalarType::F32 | ScalarType::I32 | ScalarType::U32) => {
            let to = m.pick(&[ScalarType::F32, ScalarType::I32, ScalarType::U32]);
            b.bitcast(x, to);
        }
        _ => {
            let float = [
                ScalarOp::Add,
                ScalarOp::Sub,
                ScalarOp::Mul,
                ScalarOp::Div,
                ScalarOp::Min,
                ScalarOp::Max,
                ScalarOp::Rem,
            ];
            let int = [
                ScalarOp::And,
                ScalarOp::Or,
                ScalarOp::Xor,
                ScalarOp::Shl,
                ScalarOp::Shr,
            ];
            let op = if ty == ScalarType::Bool {
                int[m.random.below(3)].clone()
            } else if ty.is_float() {
                let n = if ty == ScalarType::F64 { 6 } else { 7 };
                float[m.random.below(n)].clone()
            } else {
                let n = m.random.below(12);
                if n < 7 {
                    float[n].clone()
                } else {
                    int[n - 7].clone()
                }
            };
            b.binary(op, x, y);
        }
    }
}

/// A random region with its inputs.
pub fn random_spec(m: &mut Maker, reduce: bool, contract: bool) -> (KernelSpec, Vec<Vec<u8>>) {
    let extents = [1, 2, 3, 5, 7, 16, 17, 31, 33, 48];
    let (outer, row) = (m.random.below(3), m.random.below(3) + usize::from(reduce));
    let row = row.min(2);
    let mut axes: Vec<Axis> = Vec::new();
    for n in 0..outer + row {
        let choose: &[i64] = if m.chance(4) { &[0] } else { &extents };
        axes.push(m.axis(AxisKind::Parallel, n, choose));
    }
    let parallel = axes.len();
    if contract {
        for n in 0..1 + m.random.below(2) {
            axes.push(m.axis(AxisKind::Reduce, parallel + n, &[0, 1, 2, 3, 5, 9]));
        }
    }
    let (mut operands, mut types, mut layouts, mut inputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut b = BodyBuilder::new();
    let count = 1 + m.random.below(3);
    for n in 0..count {
        let ty = m.pick(&TYPES);
        let (mut access, elements) = m.access(&axes[..parallel], true);
        let mut data = m.data(ty, elements);
        if m.chance(25) && n > 0 {
            // Gather through the first operand, which becomes an integer one.
            let limit = m.random.below(12) as i64;
            let index_ty = m.pick(&[ScalarType::I64, ScalarType::I32, ScalarType::U8]);
            types[0] = TensorType::new(index_ty, vec![Dim::from(inputs_len(&inputs, &types, 0))]);
            inputs[0] = m.data(index_ty, inputs_len(&inputs, &types, 0));
            layouts[0] = None;
            let rest = elements.max(1);
            access.gathers.push(Gather {
                operand: 0,
                stride: m.dim(rest),
                limit: m.dim(limit),
            });
            data = m.data(ty, if elements == 0 { 0 } else { rest * limit });
        }
        operands.push(access);
        types.push(TensorType::new(
            ty,
            vec![Dim::from(data.len() as i64 / ty.size() as i64)],
        ));
        inputs.push(data);
        layouts.push((ty == ScalarType::I8 && m.chance(50)).then_some(Layout::OffsetBinary));
    }
    let mut anchor = Anchor::None;
    if contract {
        let (acc, ty) = m.pick(&[
            (ScalarType::I32, ScalarType::I8),
            (ScalarType::I32, ScalarType::U8),
            (ScalarType::F32, ScalarType::F32),
        ]);
        for _ in 0..2 {
            let (access, elements) = m.access(&axes, true);
            operands.push(access);
            types.push(TensorType::new(ty, vec![Dim::from(elements)]));
            // Small integers keep float sums exact in any order.
            let data: Vec<u8> = (0..elements)
                .flat_map(|_| {
                    let v = m.random.below(9) as i128 - 4;
                    let v = if ty.is_float() {
                        Value::of_float(ty, v as f64)
                    } else {
                        Value::of_int(ty, v.abs())
                    };
                    v.bits.to_le_bytes()[..ty.size()].to_vec()
                })
                .collect();
            inputs.push(data);
            layouts.push((ty == ScalarType::I8 && m.chance(50)).then_some(Layout::OffsetBinary));
        }
        anchor = Anchor::Contract {
            lhs: count as u32,
            rhs: count as u32 + 1,
            acc,
            pad: m.chance(50),
        };
        b.anchor(acc);
    }
    for (n, t) in types.iter().enumerate().take(count) {
        b.operand(n as u32, t.storage());
    }
    if parallel > 0 {
        let axis = m.random.below(parallel) as u32;
        b.index(axis);
    }
    let d = m.random.below(100) as i64;
    let d = m.dim(d);
    b.dim(d);
    b.constant(ScalarConst::f32(1.25));
    for _ in 0..4 + m.random.below(12) {
        random_statement(m, &mut b, reduce);
    }
    let body = b.finish().expect("statements are typed");
    let mut region = Region {
        axes,
        row_axes: row as u32,
        operands,
        anchor,
        body,
        stores: Vec::new(),
    };
    let (stores, results) = random_stores(m, &region, parallel);
    region.stores = stores;
    let result_layouts = results
        .iter()
        .map(|t| (t.storage() == ScalarType::I8 && m.chance(50)).then_some(Layout::OffsetBinary));
    let result_layouts = result_layouts.collect();
    let spec = KernelSpec {
        region,
        operands: types,
        operand_layouts: layouts,
        results,
        result_layouts,
    };
    (spec, inputs)
}

fn inputs_len(inputs: &[Vec<u8>], types: &[TensorType], n: usize) -> i64 {
    types[n].shape[0].as_const().unwrap_or(inputs[n].len() as i64)
}

fn random_stores(m: &mut Maker, r: &Region, parallel: usize) -> (Vec<Store>, Vec<TensorType>) {
    let varying = r.body.varying(&|op| match op {
        ScalarOp::Operand(n) => r.varies_in_row(*n),
        ScalarOp::Index(a) => r.row().contains(a),
        _ => r.row_axes > 0,
    });
    let (mut stores, mut results) = (Vec::new(), Vec::new());
    let count = r.body.stmts.len();
    for _ in 0..1 + m.random.below(3) {
        // Late statements are the interesting ones.
        let value = BodyId((count - 1 - m.random.below(count.min(5))) as u32);
        let whole = varying[value.index()] || m.chance(30);
        let axes = if whole { parallel } else { r.outer().end as usize };
        let shape: Vec<Dim> = r.axes[..axes].iter().map(|a| a.extent.clone()).collect();
        let strides = rsqc_ir::types::TensorType::new(ScalarType::F32, shape.clone()).strides();
        let access = Access::linear(strides.into_iter().enumerate().map(|(a, s)| (a as u32, s)));
        stores.push(Store { value, access });
        results.push(TensorType::new(r.body.stmt(value).ty, shape));
    }
    (stores, results)
}
