//! Row regions and contractions in general form against the naive interpreter: random bodies, types, shapes and
//! accesses, every level of this machine, bit for bit.

mod common;

use common::Random;
use common::kernel::compare;
use common::naive::Value;
use common::random_region::{Maker, random_spec};
use rsqc_backend::KernelSpec;
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Region, Store};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, ReduceKind};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, Layout, ScalarType, TensorType};
use std::collections::BTreeMap;

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
    assert!(
        rsqc_cpu::kernels::rows::Schedule::of(&spec.region)
            .shared
            .is_some()
    );
    let mut random = Random(9);
    let inputs = [19 * 27, 3 * 7 * 23, 19].map(|n| -> Vec<u8> {
        (0..n)
            .flat_map(|_| (random.below(9) as f32 - 4.0).to_le_bytes())
            .collect()
    });
    compare(
        &spec,
        &BTreeMap::new(),
        &inputs,
        &BTreeMap::new(),
        &exact,
        "convolution",
    );
}
