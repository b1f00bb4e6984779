//! Cases of attention for the tests of its kernels.
#![allow(dead_code)]

use super::Random;
use super::kernel::{Symbols, compare};
use super::naive::Value;
use rsqc_backend::KernelSpec;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::region::{Access, Anchor, Attention, Axis, AxisKind, Products, Region, Store};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId};
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, ScalarType, TensorType};
use std::collections::BTreeMap;

/// Axes of every region here: batch, query, head, channel, key, inner.
const AXES: [&str; 6] = ["b", "s", "h", "e", "t", "d"];

pub struct Case {
    pub spec: KernelSpec,
    pub symbols: Symbols,
    pub inputs: Vec<Vec<u8>>,
}

/// Sizes in the order of [`AXES`].
pub type Shape = [i64; 6];

impl Case {
    /// `[b, s, h, d]`, `[b, t, h, d]`, `[b, t, h, e]` in one projected tensor each; b, s, t are symbols.
    pub fn new(shape: Shape, empty_row: EmptyRow, random: &mut Random) -> Case {
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
            products: Products::Float,
            score,
            empty_row,
        }));
        case
    }

    pub fn size(&self, d: &Dim) -> i64 {
        d.eval(&|s| self.symbols.get(s).copied()).expect("known symbols")
    }

    /// A dense operand over some axes.
    pub fn operand(&mut self, axes: &[u32], ty: ScalarType, random: &mut Random) -> u32 {
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

    pub fn attention(&mut self) -> &mut Attention {
        match &mut self.spec.region.anchor {
            Anchor::Attention(a) => a,
            _ => panic!("the case is attention"),
        }
    }

    pub fn result(&mut self, value: BodyId, whole: bool) {
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
    pub fn plain(mut self) -> Case {
        let mut b = BodyBuilder::new();
        let x = b.anchor(ScalarType::F32);
        self.spec.region.body = b.finish().expect("typed");
        self.result(x, true);
        self
    }

    pub fn check(&self, what: &str) {
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
pub fn scaled(factor: f32) -> (Body, BodyBuilder, BodyId) {
    let mut b = BodyBuilder::new();
    let x = b.anchor(ScalarType::F32);
    let f = b.f32(factor);
    let y = b.mul(x, f);
    (b.body().clone(), b, y)
}

pub const SHAPES: [Shape; 8] = [
    [1, 1, 1, 1, 1, 1],
    [2, 7, 3, 16, 33, 16],
    [1, 13, 2, 32, 65, 24],
    [1, 14, 1, 64, 300, 40],
    [3, 1, 4, 8, 20, 8],
    [1, 6, 1, 80, 5, 3],
    [0, 5, 2, 16, 5, 16],
    [2, 49, 2, 5, 257, 7],
];
