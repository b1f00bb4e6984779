//! Convolution and pooling through channels-last forms, regions and layouts, against the evaluator.

use super::{AssignLayouts, SimplifyBodies, UseChannelsLast, passes};
use crate::fuse::{ComposeMovement, FormRegions, MergeRegions};
use crate::pass::Pass;
use crate::scheme::Scheme;
use crate::testing::{Net, Rng, assert_same, dims, region_count, run_passes};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind, QConv};
use rsqc_ir::ops::elementwise::{Add, Mul, Relu};
use rsqc_ir::ops::quant::{DynamicParams, Quantize, Rounding};
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::ops::shape::{Concat, Reshape};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Layout, Module, NodeId, Op, Phase, ValueId};

const SHAPES: &[&[(&str, i64)]] = &[&[("b", 2)], &[("b", 1)], &[("b", 0)]];

fn fused() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(UseChannelsLast),
        Box::new(FormRegions),
        Box::new(ComposeMovement),
        Box::new(MergeRegions),
        Box::new(SimplifyBodies),
        Box::new(AssignLayouts),
    ]
}

/// A random window over spatial extents that it fits.
struct Window {
    x: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
}

impl Window {
    fn random(rng: &mut Rng, axes: usize) -> Window {
        let mut w = Window {
            x: vec![],
            kernel: vec![],
            strides: vec![],
            dilations: vec![],
            pads: vec![0; 2 * axes],
        };
        for i in 0..axes {
            let (k, d) = (1 + rng.below(4), 1 + rng.below(3));
            let span = (k - 1) * d + 1;
            let (before, after) = (rng.below(span), rng.below(span));
            let least = span.saturating_sub(before + after).max(1);
            w.x.push(least + rng.below(6));
            w.kernel.push(k);
            w.strides.push(1 + rng.below(3) as i64);
            w.dilations.push(d as i64);
            w.pads[i] = before as i64;
            w.pads[axes + i] = after as i64;
        }
        w
    }

    fn words(&self, channels: usize) -> Vec<String> {
        let mut words = vec!["b".to_string(), channels.to_string()];
        words.extend(self.x.iter().map(usize::to_string));
        words
    }
}

fn input(n: &mut Net, words: &[String]) -> ValueId {
    n.f32(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn filters(rng: &mut Rng) -> (usize, usize, usize) {
    let group = [1, 1, 2, 3][rng.below(4)];
    let (cg, og) = (1 + rng.below(9), 1 + rng.below(4));
    // Depthwise now and then.
    if group == 3 { (9, 1, 1) } else { (group, cg, og) }
}

#[test]
fn random_float_convolutions() {
    let mut rng = Rng::new(5);
    for case in 0..60 {
        let w = Window::random(&mut rng, 1 + case % 3);
        let (group, cg, og) = filters(&mut rng);
        let mut n = Net::new(case as u64);
        let x = input(&mut n, &w.words(group * cg));
        let mut shape = vec![group * og, cg];
        shape.extend(&w.kernel);
        let (filter, bias) = (n.weight(&shape), n.weight(&[group * og]));
        let op = Conv {
            strides: w.strides.clone(),
            dilations: w.dilations.clone(),
            pads: w.pads.clone(),
            group: group as i64,
        };
        let y = n.op(op, &[x, filter, bias]);
        let y = n.op(Relu {}, &[y]);
        let mut m = n.finish(&[y]);
        m.phase = Phase::Quantized;
        let out = run_passes(&m, &fused());
        assert_same(&m, &out, SHAPES, 1e-5);
    }
}

#[test]
fn random_integer_convolutions_are_exact() {
    let mut rng = Rng::new(6);
    let mut packed = 0;
    for case in 0..60 {
        let w = Window::random(&mut rng, 1 + case % 3);
        let (group, cg, og) = filters(&mut rng);
        let mut n = Net::new(case as u64);
        let x = input(&mut n, &w.words(group * cg));
        // No zero point, one, or one a channel.
        let kind = rng.below(3);
        let zero = kind > 0;
        let (granularity, shape) = match kind {
            2 => (Granularity::Axis(1), vec![group * cg]),
            _ => (Granularity::Tensor, vec![]),
        };
        let q = QuantType {
            zero,
            ..QuantType::int8(granularity)
        };
        let count: usize = shape.iter().product();
        let m = (0..count).map(|i| 100.0 - i as f32).collect();
        let z = (0..count).map(|_| rng.below(256) as u8 as i8).collect();
        let (m, z) = (Tensor::new::<f32>(shape.clone(), m), Tensor::new::<i8>(shape, z));
        let (m, z) = (n.constant(&m), n.constant(&z));
        let quantize = Quantize {
            qtype: q,
            rounding: Rounding::Mul,
        };
        let codes = if zero {
            n.op(quantize, &[x, m, z])
        } else {
            n.op(quantize, &[x, m])
        };
        let mut shape = vec![group * og, cg];
        shape.extend(&w.kernel);
        let count = shape.iter().product();
        let filter: Vec<i8> = (0..count).map(|_| rng.below(255) as i32 as i8).collect();
        let filter = n.constant(&Tensor::new(shape, filter));
        let op = QConv {
            strides: w.strides.clone(),
            dilations: w.dilations.clone(),
            pads: w.pads.clone(),
            group: group as i64,
        };
        let y = if zero {
            n.op(op, &[codes, filter, z])
        } else {
            n.op(op, &[codes, filter])
        };
        let mut m = n.finish(&[y]);
        m.phase = Phase::Quantized;
        let out = run_passes(&m, &fused());
        assert_same(&m, &out, SHAPES, 0.0);
        packed += layouts(&out, Layout::PackedWeight);
    }
    assert!(packed > 20, "{packed}");
}

fn layouts(m: &Module, l: Layout) -> usize {
    m.graph
        .value_ids()
        .filter(|v| m.graph.value(*v).layout == Some(l) && m.graph.is_used(*v))
        .count()
}

#[test]
fn random_pools() {
    let mut rng = Rng::new(7);
    for case in 0..60 {
        let mut w = Window::random(&mut rng, 1 + case % 3);
        if case % 10 == 0 {
            // Too many taps to write out.
            w = Window {
                x: vec![9, 8],
                kernel: vec![6, 5],
                strides: vec![2, 1],
                dilations: vec![1, 1],
                pads: vec![1, 2, 3, 1],
            };
        }
        let mut n = Net::new(case as u64);
        let x = input(&mut n, &w.words(1 + rng.below(20)));
        let kinds = [PoolKind::Max, PoolKind::Average, PoolKind::AverageWithPad];
        let mut outs = Vec::new();
        for kind in kinds {
            let op = Pool {
                kind,
                kernel: w.kernel.iter().map(|k| *k as i64).collect(),
                strides: w.strides.clone(),
                dilations: w.dilations.clone(),
                pads: w.pads.clone(),
                ceil: rng.below(2) == 0,
            };
            outs.push(n.op(op, &[x]));
        }
        let mut m = n.finish(&outs);
        m.phase = Phase::Quantized;
        assert_same(&m, &run_passes(&m, &fused()), SHAPES, 1e-5);
    }
}

#[test]
fn a_nan_wins_a_maximum() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "2", "4", "4"]);
    let nan = n.constant(&Tensor::new(
        vec![1, 1, 4, 1],
        vec![1f32, f32::NAN, 0.0, f32::INFINITY],
    ));
    let x = n.op(Mul {}, &[x, nan]);
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![2, 2],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![0, 1, 1, 0],
        ceil: false,
    };
    let y = n.op(pool, &[x]);
    let mut m = n.finish(&[y]);
    m.phase = Phase::Quantized;
    assert_same(&m, &run_passes(&m, &fused()), SHAPES, 0.0);
}

fn conv3(n: &mut Net, x: ValueId, (c, o): (usize, usize), stride: i64) -> ValueId {
    let (w, b) = (n.weight(&[o, c, 3, 3]), n.weight(&[o]));
    let op = Conv {
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![1; 4],
        group: 1,
    };
    n.op(op, &[x, w, b])
}

/// Two convolutions with a residual, two joined, pools, a mean, the classifier's flattening.
fn network() -> Module {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "3", "9", "8"]);
    let a = conv3(&mut n, x, (3, 16), 2);
    let a = n.op(Relu {}, &[a]);
    let c = conv3(&mut n, a, (16, 16), 1);
    let scale = n.weight(&[16, 1, 1]);
    let c = n.op(Mul {}, &[c, scale]);
    let s = n.op(Add {}, &[a, c]);
    let s = n.op(Relu {}, &[s]);
    let d = conv3(&mut n, s, (16, 8), 1);
    let j = n.op(Concat { axis: 1 }, &[s, d]);
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![2, 2],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![0; 4],
        ceil: true,
    };
    let p = n.op(pool, &[j]);
    let e = conv3(&mut n, p, (24, 20), 1);
    let mean = Reduce {
        kind: Reduction::Mean,
        axes: vec![2, 3],
        keep: true,
    };
    let y = n.op(mean, &[e]);
    let shape = vec![rsqc_ir::Dim::sym("b"), 20i64.into()];
    let y = n.op(Reshape { shape }, &[y]);
    n.finish(&[y, e])
}

#[test]
fn transposes_sink_through_a_network() {
    let m = network();
    let scheme = Scheme::parse("none").expect("known");
    let out = run_passes(&m, &passes(&scheme));
    assert_same(&m, &out, SHAPES, 1e-4);
    // Four convolutions with their padding, the join, the pool with the next padding, mean, and the second output.
    assert!(region_count(&out) <= 12, "{}", region_count(&out));
    assert_eq!(layouts(&out, Layout::PackedWeight), 4);
}

#[test]
fn dynamic_codes_of_samples() {
    let m = network();
    let w8a8 = Scheme::parse("w8a8").expect("known");
    let out = run_passes(&m, &passes(&w8a8));
    // Quantization noise, and nothing worse.
    assert_same(&m, &out, SHAPES, 0.2);
    assert_eq!(layouts(&out, Layout::OffsetBinary), 4);
    let mut quantized = m.clone();
    quantized.phase = Phase::Canonical;
    let steps = passes(&w8a8);
    let until = steps
        .iter()
        .position(|p| p.name() == "use-channels-last")
        .expect("there");
    let before = run_passes(&quantized, &steps[..until]);
    let integer = |m: &Module| {
        m.graph
            .node_ids()
            .filter(|id| matches!(m.graph.node(*id).op, Op::QConv(_)))
            .count()
    };
    assert_eq!(integer(&before), 4);
    assert_same(&before, &out, SHAPES, 1e-6);
}

#[test]
fn codes_with_scales_of_channels_are_turned() {
    let mut n = Net::new(9);
    let x = n.f32(&["b", "5", "4", "3"]);
    let y = conv3(&mut n, x, (5, 6), 1);
    let q = QuantType::int8(Granularity::Axis(1));
    let p = n.try_op(DynamicParams { qtype: q.clone() }, &[y]).expect("fits");
    let rounding = Rounding::Mul;
    let codes = n.op(Quantize { qtype: q, rounding }, &[y, p[0]]);
    let sum = n.op(
        Reshape {
            shape: dims(&[6, 1, 1]),
        },
        &[p[1]],
    );
    let y = n.op(Add {}, &[y, sum]);
    let mut m = n.finish(&[y, p[0], codes]);
    m.phase = Phase::Quantized;
    let turned = run_passes(&m, &[Box::new(UseChannelsLast)]);
    let is_turned = |id: &NodeId| match &turned.graph.node(*id).op {
        Op::Quantize(q) => q.qtype.granularity == Granularity::Axis(3),
        _ => false,
    };
    assert_eq!(turned.graph.node_ids().filter(is_turned).count(), 1);
    let out = run_passes(&m, &fused());
    // One code may differ where a bias is added in another place.
    assert_same(&m, &out, SHAPES, 0.05);
}
