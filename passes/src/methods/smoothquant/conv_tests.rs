//! SmoothQuant between convolutions: the float function stays, factors follow the formula, nothing runs in addition.

use super::SmoothQuant;
use crate::lower::passes;
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::pass::{Env, Pass, Samples};
use crate::scheme::Scheme;
use crate::testing::{Net, assert_same, inputs, region_count};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{Executor, ReferenceExecutor, Tensor};
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::elementwise::{Add, Mul, Relu};
use rsqc_ir::ops::shape::Pad;
use rsqc_ir::{Module, Op, ValueId};

const SHAPES: &[&[(&str, i64)]] = &[&[("b", 2)], &[("b", 1)], &[("b", 0)]];

struct Stored(Vec<Vec<Tensor>>);

impl Samples for Stored {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

fn samples(m: &Module) -> Stored {
    Stored(
        (0..3)
            .map(|i| inputs(m, &[("b", 1 + i % 2)], 5, 100 + i as u64))
            .collect(),
    )
}

/// Filters `w` without padding, channel `outlier` of the result 50 times as large.
fn conv(n: &mut Net, x: ValueId, w: &[usize], group: i64, outlier: Option<usize>) -> ValueId {
    let (filters, bias) = (n.weight(w), n.weight(&w[..1]));
    let scaled = |n: &mut Net, v: ValueId, shape: Vec<usize>| match outlier {
        None => v,
        Some(o) => {
            let factors = (0..w[0]).map(|c| if c == o { 50.0 } else { 1.0f32 }).collect();
            let f = n.constant(&Tensor::new(shape, factors));
            n.op(Mul {}, &[v, f])
        }
    };
    let op = Conv {
        strides: vec![1; 2],
        dilations: vec![1; 2],
        pads: vec![0; 4],
        group,
    };
    let y = n.op(op, &[x, filters, bias]);
    scaled(n, y, vec![w[0], 1, 1])
}

/// A picture through convolutions: plain, depthwise, grouped, with Relu, a pool and padding between, and a residual.
fn net() -> Module {
    let mut n = Net::new(11);
    let x = n.f32(&["b", "3", "12", "11"]);
    let a = conv(&mut n, x, &[6, 3, 3, 3], 1, Some(2));
    let a = n.op(Relu {}, &[a]);
    let zero = n.constant(&Tensor::new(vec![], vec![0f32]));
    let side = |d: [i64; 4]| d.iter().map(|d| (*d).into()).collect::<Vec<rsqc_ir::Dim>>();
    let pad = Pad {
        before: side([0, 0, 1, 0]),
        after: side([0, 0, 0, 1]),
    };
    let a = n.op(pad, &[a, zero]);
    let d = conv(&mut n, a, &[6, 1, 3, 3], 6, Some(4));
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![2, 2],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![0; 4],
        ceil: false,
    };
    let d = n.op(pool, &[d]);
    let g = conv(&mut n, d, &[8, 3, 1, 1], 2, Some(1));
    let g = n.op(Relu {}, &[g]);
    let h = conv(&mut n, g, &[8, 8, 1, 1], 1, None);
    let sum = n.op(Add {}, &[g, h]);
    let y = conv(&mut n, sum, &[5, 8, 1, 1], 1, None);
    n.finish(&[y])
}

fn run(m: &Module, list: &[Box<dyn Pass>]) -> (Module, Report) {
    let (mut out, s) = (m.clone(), samples(m));
    let env = Env {
        executor: Some(&ReferenceExecutor),
        samples: Some(&s),
        ..Env::default()
    };
    let options = ManagerOptions {
        verify_each: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(env, options).run(&mut out, list);
    (out, report.unwrap_or_else(|d| panic!("{d}")))
}

fn smoothed(text: &str) -> Module {
    let scheme = Scheme::parse(text).expect("known");
    run(&net(), &[Box::new(SmoothQuant { scheme })]).0
}

/// Largest |x| of each channel of every convolution's input over the samples, with the convolution's weights and shape.
fn facts(m: &Module) -> Vec<(Vec<f64>, Vec<f32>, Vec<usize>)> {
    let g = &m.graph;
    let convs: Vec<_> = g
        .node_ids()
        .map(|id| g.node(id))
        .filter(|n| matches!(n.op, Op::Conv(_)))
        .collect();
    let taps: Vec<ValueId> = convs.iter().map(|n| n.input(0).expect("x")).collect();
    let mut top: Vec<Vec<f64>> = taps
        .iter()
        .map(|v| vec![0.0; g.ty(*v).shape[1].as_const().expect("counted") as usize])
        .collect();
    let mut p = ReferenceExecutor.prepare(m, &taps).expect("prepared");
    for s in &samples(m).0 {
        p.run(s, &mut |v, t| {
            let at = taps.iter().position(|x| *x == v).expect("tapped");
            let (area, channels) = (t.shape[2] * t.shape[3], t.shape[1]);
            for (i, x) in t.to_f64().iter().enumerate() {
                let most = &mut top[at][i / area % channels];
                *most = most.max(x.abs());
            }
        })
        .expect("runs");
    }
    let weights = convs.iter().map(|n| {
        let w = n.input(1).expect("w");
        let shape = m.const_of(w).and_then(|c| c.ty.static_shape()).expect("constant");
        (m.const_f32(w).expect("floats"), shape)
    });
    top.into_iter()
        .zip(weights)
        .map(|(t, (w, s))| (t, w, s))
        .collect()
}

#[test]
fn the_float_function_stays_and_no_step_is_added() {
    let m = net();
    for text in [
        "w8a8+smoothquant:sites=all",
        "w8a8-static+smoothquant:sites=all:alpha=0.8",
    ] {
        let out = smoothed(text);
        assert_same(&m, &out, SHAPES, 1e-5);
        let plain = Scheme::parse(text.split('+').next().expect("a base")).expect("known");
        let regions = |s: &Scheme| region_count(&run(&m, &passes(s)).0);
        assert_eq!(
            regions(&plain),
            regions(&Scheme::parse(text).expect("known")),
            "{text}"
        );
    }
}

#[test]
fn factors_follow_the_formula() {
    let (before, after) = (
        facts(&net()),
        facts(&smoothed("w8a8+smoothquant:sites=all:alpha=0.5")),
    );
    // The picture stays as it is.
    assert_eq!(before[0].0, after[0].0);
    for (i, ((x, w, shape), (sx, ..))) in before.iter().zip(&after).enumerate().skip(1) {
        let group = x.len() / shape[1];
        let (window, filters) = (shape[2] * shape[3], shape[0] / group);
        for c in 0..x.len() {
            // Largest weight that multiplies channel c, counted from its group.
            let (g, inner) = (c / shape[1], c % shape[1]);
            let of = (g * filters..(g + 1) * filters)
                .flat_map(|f| &w[(f * shape[1] + inner) * window..][..window])
                .fold(0f32, |a, v| a.max(v.abs()));
            let s = (x[c] / f64::from(of.max(1e-5))).sqrt();
            let want = if x[c] == 0.0 { 0.0 } else { x[c] / s };
            assert!(
                (sx[c] - want).abs() <= 1e-5 * want,
                "convolution {i}, channel {c}: {} not {want}",
                sx[c]
            );
        }
    }
}

#[test]
fn outliers_of_channels_no_longer_spoil_the_codes() {
    let m = net();
    let error = |text: &str| {
        let scheme = Scheme::parse(text).expect("known");
        let out = run(&m, &passes(&scheme)).0;
        // One of the samples: three cannot know the range of other inputs, and clipping is not what smoothing helps against.
        let ins = inputs(&m, &[("b", 2)], 5, 101);
        let run = |m: &Module| rsqc_ir::eval::run(m, &ins).expect("runs")[0].to_f64();
        let (a, b) = (run(&m), run(&out));
        a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.iter().map(|a| a * a).sum::<f64>()
    };
    for base in ["w8a8", "w8a8-static"] {
        let (plain, smooth) = (error(base), error(&format!("{base}+smoothquant:sites=all")));
        assert!(smooth < 0.3 * plain, "{base}: {smooth} against {plain}");
    }
}
