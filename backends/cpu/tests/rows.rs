//! Row regions and contractions in general form against the naive interpreter: random bodies, types, shapes and
//! accesses, every level of this machine, bit for bit.

mod common;

use common::Random;
use common::kernel::{Symbols, compare, eval_dim};
use common::naive::Value;
use rsqc_backend::KernelSpec;
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Clamp, Gather, Region, Store, Term};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, Pred, ReduceKind, ScalarConst, ScalarOp};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, Layout, ScalarType, TensorType};
use std::collections::BTreeMap;

/// Builds random specs.
struct Maker {
    random: Random,
    symbols: Symbols,
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
fn random_spec(m: &mut Maker, reduce: bool, contract: bool) -> (KernelSpec, Vec<Vec<u8>>) {
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

fn exact(w: Value, g: Value) -> bool {
    w.same(g)
}

fn random_regions(seed: u64, count: u64, reduce: bool, contract: bool) {
    for i in 0..count {
        let mut m = Maker {
            random: Random(seed * 1000 + i),
            symbols: BTreeMap::new(),
        };
        let (spec, inputs) = random_spec(&mut m, reduce, contract);
        let what = format!(
            "seed {seed}, region {i}: {} {:?}",
            spec.key().replace(';', "\n"),
            m.symbols
        );
        compare(&spec, &m.symbols, &inputs, &BTreeMap::new(), &exact, &what);
    }
}

#[test]
fn random_maps() {
    random_regions(1, 80, false, false);
}

#[test]
fn random_reductions() {
    random_regions(2, 80, true, false);
}

#[test]
fn random_contractions() {
    random_regions(3, 40, false, true);
}

#[test]
fn random_contractions_with_reductions() {
    random_regions(4, 40, true, true);
}

/// A region over dense operands, one row axis.
fn dense(rows: Dim, cols: Dim, operands: &[ScalarType], body: Body, stores: &[(BodyId, bool)]) -> KernelSpec {
    let axis = |name: &str, extent: &Dim| Axis {
        name: name.into(),
        kind: AxisKind::Parallel,
        extent: extent.clone(),
    };
    let access = || Access::linear([(0, cols.clone()), (1, Dim::one())]);
    let shape = vec![rows.clone(), cols.clone()];
    let results = stores.iter().map(|(v, whole)| {
        let shape = if *whole { shape.clone() } else { vec![rows.clone()] };
        TensorType::new(body.stmt(*v).ty, shape)
    });
    KernelSpec {
        operands: operands
            .iter()
            .map(|t| TensorType::new(*t, shape.clone()))
            .collect(),
        operand_layouts: vec![None; operands.len()],
        results: results.collect(),
        result_layouts: vec![None; stores.len()],
        region: Region {
            axes: vec![axis("m", &rows), axis("n", &cols)],
            row_axes: 1,
            operands: operands.iter().map(|_| access()).collect(),
            anchor: Anchor::None,
            stores: stores
                .iter()
                .map(|(value, whole)| Store {
                    value: *value,
                    access: if *whole {
                        access()
                    } else {
                        Access::linear([(0, Dim::one())])
                    },
                })
                .collect(),
            body,
        },
    }
}

#[test]
fn norm_and_quantize_in_one_pass() {
    let (n, m) = (Dim::sym("n"), Dim::sym("m"));
    let mut b = BodyBuilder::new();
    let x = b.operand(0, ScalarType::F32);
    let count = b.dim(n.clone());
    let count = b.cast(count, ScalarType::F32);
    let sum = b.reduce(ReduceKind::Sum, x);
    let mean = b.div(sum, count);
    let d = b.sub(x, mean);
    let sq = b.mul(d, d);
    let var = b.reduce(ReduceKind::Sum, sq);
    let var = b.div(var, count);
    let eps = b.f32(1e-5);
    let var = b.add(var, eps);
    let root = b.sqrt(var);
    let y = b.div(d, root);
    let abs = b.abs(y);
    let amax = b.reduce(ReduceKind::Max, abs);
    let c = b.f32(127.0);
    let mul = b.div(c, amax);
    let scaled = b.mul(y, mul);
    let q = b.round_even(scaled);
    let q = b.cast(q, ScalarType::I8);
    let mut spec = dense(
        m,
        n,
        &[ScalarType::F32],
        b.finish().expect("typed"),
        &[(y, true), (q, true), (amax, false)],
    );
    spec.result_layouts[1] = Some(Layout::OffsetBinary);
    let mut random = Random(5);
    for (rows, cols) in [(1, 1), (3, 16), (5, 37), (2, 384), (0, 8), (70, 5), (1, 5000)] {
        let symbols = BTreeMap::from([(Symbol::new("m"), rows), (Symbol::new("n"), cols)]);
        let input = (0..rows * cols)
            .flat_map(|_| random.unit().to_le_bytes())
            .collect();
        compare(
            &spec,
            &symbols,
            &[input],
            &BTreeMap::new(),
            &exact,
            &format!("{rows} x {cols}"),
        );
    }
}

#[test]
fn expanded_transcendentals_run() {
    let mut b = BodyBuilder::new();
    let x = b.operand(0, ScalarType::F32);
    let y = b.exp(x);
    let z = b.tanh(x);
    let body = b.finish().expect("typed");
    let mut roots = [y, z];
    let expanded = rsqc_ir::scalar::expand(&body, &mut roots);
    let spec = |body, y, z| {
        dense(
            Dim::from(3i64),
            Dim::from(50i64),
            &[ScalarType::F32],
            body,
            &[(y, true), (z, true)],
        )
    };
    if expanded.stmts.iter().any(|s| s.op.is_transcendental()) {
        // What is not expanded must be refused, not called.
        use rsqc_backend::Backend;
        assert!(rsqc_cpu::Cpu::default().select(&spec(body, y, z)).is_err());
        return;
    }
    let mut random = Random(8);
    let input = (0..150)
        .flat_map(|_| (random.unit() * 30.0).to_le_bytes())
        .collect();
    compare(
        &spec(expanded, roots[0], roots[1]),
        &BTreeMap::new(),
        &[input],
        &BTreeMap::new(),
        &exact,
        "exp, tanh",
    );
}

/// Weights `[19, 3, 3, 3]` are the left factor and move with the channel alone, so channels share each load.
#[test]
fn convolution_shares_loads_among_channels() {
    let sizes: [(&str, i64); 6] = [("o", 19), ("y", 5), ("x", 21), ("c", 3), ("i", 3), ("j", 3)];
    let axes = sizes.iter().enumerate().map(|(n, (name, extent))| Axis {
        name: (*name).into(),
        kind: if n < 3 {
            AxisKind::Parallel
        } else {
            AxisKind::Reduce
        },
        extent: Dim::from(*extent),
    });
    let linear = |terms: &[(u32, i64)]| Access::linear(terms.iter().map(|(a, s)| (*a, Dim::from(*s))));
    // The padded image is 7 x 23.
    let image = linear(&[(1, 23), (2, 1), (3, 7 * 23), (4, 23), (5, 1)]);
    let weights = linear(&[(0, 27), (3, 9), (4, 3), (5, 1)]);
    let mut b = BodyBuilder::new();
    let acc = b.anchor(ScalarType::F32);
    let bias = b.operand(2, ScalarType::F32);
    let y = b.add(acc, bias);
    let zero = b.f32(0.0);
    let y = b.max(y, zero);
    let ty = |n: i64| TensorType::new(ScalarType::F32, vec![Dim::from(n)]);
    let spec = KernelSpec {
        region: Region {
            axes: axes.collect(),
            row_axes: 1,
            operands: vec![weights, image, linear(&[(0, 1)])],
            anchor: Anchor::Contract {
                lhs: 0,
                rhs: 1,
                acc: ScalarType::F32,
                pad: false,
            },
            body: b.finish().expect("typed"),
            stores: vec![Store {
                value: y,
                access: linear(&[(0, 5 * 21), (1, 21), (2, 1)]),
            }],
        },
        operands: vec![ty(19 * 27), ty(3 * 7 * 23), ty(19)],
        operand_layouts: vec![None; 3],
        results: vec![ty(19 * 5 * 21)],
        result_layouts: vec![None],
    };
    assert!(rsqc_cpu::kernels::rows::Schedule::of(&spec.region).shared.is_some());
    let mut random = Random(9);
    let inputs = [19 * 27, 3 * 7 * 23, 19].map(|n| -> Vec<u8> {
        (0..n).flat_map(|_| (random.below(9) as f32 - 4.0).to_le_bytes()).collect()
    });
    compare(&spec, &BTreeMap::new(), &inputs, &BTreeMap::new(), &exact, "convolution");
}
