//! Convolutions as implicit products, and in general form, against the naive interpreter at every level of this machine.

mod common;

use common::Random;
use common::kernel::{Symbols, compare};
use common::naive::Value;
use rsqc_backend::{Backend, KernelSpec};
use rsqc_cpu::pack::{Matrix, pack_f32, pack_i8_segments};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Region, Store};
use rsqc_ir::scalar::BodyBuilder;
use rsqc_ir::types::Symbol;
use rsqc_ir::{Dim, Elem, Layout, ScalarType, TensorType};
use std::collections::BTreeMap;

/// A convolution over two spatial axes of a padded operand `[b, h, w, c]`.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: i64,
    out: (i64, i64),
    channels: i64,
    filters: i64,
    kernel: (i64, i64),
    stride: i64,
    dilation: i64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    /// Packed codes.
    Int8,
    /// Packed floats.
    F32,
    /// Codes that are not packed: the general form.
    Plain,
}

/// So many random codes or floats; small integers make float sums exact in any order.
fn fill(count: i64, float: bool, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let v = i128::from(random.bits() % 255) - 127;
        let (v, size) = match float {
            true => (Value::of_float(ScalarType::F32, (v % 8) as f64), 4),
            false => (Value::of_int(ScalarType::I8, v), 1),
        };
        bytes.extend_from_slice(&v.bits.to_le_bytes()[..size]);
    }
    bytes
}

fn check(kind: Kind, s: Shape, random: &mut Random) {
    let float = kind == Kind::F32;
    let (kh, kw) = s.kernel;
    let span = |out: i64, k: i64| (out - 1).max(0) * s.stride + (k - 1) * s.dilation + 1;
    let (h, w, c, o) = (span(s.out.0, kh), span(s.out.1, kw), s.channels, s.filters);
    let b = Dim::sym("b");
    let symbols: Symbols = BTreeMap::from([(Symbol::new("b"), s.batch)]);
    let axis = |name: &str, extent: Dim, kind| Axis {
        name: name.into(),
        kind,
        extent,
    };
    let (parallel, reduce) = (AxisKind::Parallel, AxisKind::Reduce);
    let mut axes = vec![
        axis("b", b.clone(), parallel),
        axis("y", s.out.0.into(), parallel),
        axis("x", s.out.1.into(), parallel),
        axis("o", o.into(), parallel),
    ];
    // Pieces of the reduction: extent, stride in the operand.
    let pieces = if s.dilation == 1 {
        vec![(kh, w * c), (kw * c, 1)]
    } else {
        vec![(kh, s.dilation * w * c), (kw, s.dilation * c), (c, 1)]
    };
    let mut lhs = vec![
        (0, Dim::from(h * w * c)),
        (1, Dim::from(s.stride * w * c)),
        (2, Dim::from(s.stride * c)),
    ];
    let mut rhs = vec![(3, Dim::one())];
    let mut step = kh * kw * c * o;
    for (i, (extent, stride)) in pieces.iter().enumerate() {
        axes.push(axis(&format!("k{i}"), Dim::from(*extent), reduce));
        step /= extent;
        lhs.push((4 + i as u32, Dim::from(*stride)));
        rhs.push((4 + i as u32, Dim::from(step)));
    }
    let acc = if float { ScalarType::F32 } else { ScalarType::I32 };
    let k = (kh * kw * c) as usize;
    let inputs = vec![
        fill(s.batch * h * w * c, float, random),
        fill(k as i64 * o, float, random),
    ];
    let last = pieces[pieces.len() - 1].0 as usize;
    let mut physical = BTreeMap::new();
    if kind == Kind::Int8 {
        let codes: Vec<i8> = inputs[1].iter().map(|b| *b as i8).collect();
        let matrix = Matrix::row_major(&codes, k, o as usize);
        physical.insert(1, pack_i8_segments(matrix, last, &[1.0]).expect("valid"));
        physical.insert(0, inputs[0].iter().map(|b| b ^ 0x80).collect());
    } else if float {
        let values = inputs[1]
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("4")));
        let values: Vec<f32> = values.collect();
        physical.insert(
            1,
            pack_f32(Matrix::row_major(&values, k, o as usize)).expect("valid"),
        );
    }
    let elem: Elem = if float {
        ScalarType::F32.into()
    } else {
        QuantType::int8(Granularity::Tensor).into()
    };
    let mut weights: Vec<Dim> = pieces.iter().map(|(n, _)| Dim::from(*n)).collect();
    weights.push(o.into());
    let shape = vec![b.clone(), h.into(), w.into(), c.into()];
    let packed = kind != Kind::Plain;
    let mut body = BodyBuilder::new();
    let sum = body.anchor(acc);
    let y = body.cast(sum, ScalarType::F32);
    let half = body.f32(0.5);
    let y = body.mul(y, half);
    let result = TensorType::new(ScalarType::F32, vec![b, s.out.0.into(), s.out.1.into(), o.into()]);
    let access = Access::linear(
        result
            .strides()
            .into_iter()
            .enumerate()
            .map(|(a, s)| (a as u32, s)),
    );
    let spec = KernelSpec {
        region: Region {
            axes,
            row_axes: 1,
            operands: vec![Access::linear(lhs), Access::linear(rhs)],
            anchor: Anchor::Contract {
                lhs: 0,
                rhs: 1,
                acc,
                pad: false,
            },
            body: body.finish().expect("typed"),
            stores: vec![Store { value: y, access }],
        },
        operands: vec![
            TensorType {
                elem: elem.clone(),
                shape,
            },
            TensorType { elem, shape: weights },
        ],
        operand_layouts: vec![
            (kind == Kind::Int8).then_some(Layout::OffsetBinary),
            packed.then_some(Layout::PackedWeight),
        ],
        results: vec![result],
        result_layouts: vec![None],
    };
    let kernel = rsqc_cpu::Cpu::default().select(&spec).expect("a kernel").kernel;
    let wanted = if packed { "igemm" } else { "contract" };
    assert!(kernel.contains(wanted), "{kernel} for {kind:?} {s:?}");
    let what = format!("{kind:?} {s:?}");
    compare(&spec, &symbols, &inputs, &physical, &|w, g| w.same(g), &what);
}

#[test]
fn convolutions_of_every_form() {
    let shape = |batch, out, channels, filters, kernel, stride, dilation| Shape {
        batch,
        out,
        channels,
        filters,
        kernel,
        stride,
        dilation,
    };
    let shapes = [
        // A first layer: three channels, pieces of 9.
        shape(2, (4, 7), 3, 16, (3, 3), 2, 1),
        shape(1, (3, 13), 16, 33, (3, 2), 1, 1),
        shape(1, (2, 3), 5, 70, (2, 3), 1, 2),
        shape(3, (2, 2), 2, 1, (3, 3), 3, 2),
        shape(0, (3, 3), 4, 8, (3, 3), 1, 1),
        shape(1, (0, 3), 4, 8, (3, 3), 1, 1),
        shape(1, (1, 9), 8, 48, (2, 2), 1, 1),
    ];
    let mut random = Random(11);
    for s in shapes {
        for kind in [Kind::Int8, Kind::F32, Kind::Plain] {
            check(kind, s, &mut random);
        }
    }
}
