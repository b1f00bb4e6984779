//! Convolutions in calibration: ranges of few channels, and biases that take up the mean error of codes.

use super::Calibrate;
use crate::lower::LowerToInteger;
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::methods::InsertFakeQuant;
use crate::pass::{Env, Pass, Samples};
use crate::scheme::Scheme;
use crate::testing::{Net, Rng};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{Executor, ReferenceExecutor, Tensor};
use rsqc_ir::ops::conv::Conv;
use rsqc_ir::{Module, Op};

struct Stored(Vec<Vec<Tensor>>);

impl Samples for Stored {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

/// A picture of 3 channels and a map of 6, each convolved: with a bias and padding, and in groups with steps and gaps.
fn net() -> Module {
    let mut n = Net::new(3);
    let (x, y) = (n.f32(&["b", "3", "6", "5"]), n.f32(&["b", "6", "8", "7"]));
    let (w, b, v) = (n.weight(&[5, 3, 3, 3]), n.weight(&[5]), n.weight(&[4, 3, 2, 3]));
    let plain = Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![1; 4],
        group: 1,
    };
    let grouped = Conv {
        strides: vec![2, 1],
        dilations: vec![2, 1],
        pads: vec![1, 0, 2, 1],
        group: 2,
    };
    let outs = [n.op(plain, &[x, w, b]), n.op(grouped, &[y, v])];
    n.finish(&outs)
}

/// Two samples; the channels of the picture lie in -1..1, 1..4, and -6..-3.
fn samples() -> Stored {
    let mut rng = Rng::new(8);
    let mut one = |b: usize| {
        let picture = (0..b * 90).map(|i| match i / 30 % 3 {
            0 => rng.float(),
            1 => 2.5 + 1.5 * rng.float(),
            _ => -4.5 + 1.5 * rng.float(),
        });
        let x = Tensor::new(vec![b, 3, 6, 5], picture.collect());
        let map = rng.floats(b * 336).iter().map(|v| v.abs()).collect();
        vec![x, Tensor::new(vec![b, 6, 8, 7], map)]
    };
    Stored(vec![one(2), one(3)])
}

fn quantized(scheme: &str) -> (Module, Module, Report) {
    let (mut m, s) = (net(), samples());
    let env = || Env {
        executor: Some(&ReferenceExecutor),
        samples: Some(&s),
        ..Env::default()
    };
    let scheme = || Scheme::parse(scheme).expect("known");
    let passes: [Box<dyn Pass>; 2] = [
        Box::new(InsertFakeQuant { scheme: scheme() }),
        Box::new(Calibrate { scheme: scheme() }),
    ];
    let manager = || {
        let options = ManagerOptions {
            verify_each: true,
            ..ManagerOptions::default()
        };
        PassManager::new(env(), options)
    };
    let report = manager().run(&mut m, &passes).unwrap_or_else(|d| panic!("{d}"));
    let mut int = m.clone();
    let lower: [Box<dyn Pass>; 1] = [Box::new(LowerToInteger)];
    manager().run(&mut int, &lower).unwrap_or_else(|d| panic!("{d}"));
    let convs = |m: &Module| {
        m.graph
            .node_ids()
            .filter(|n| matches!(m.graph.node(*n).op, Op::QConv(_)))
            .count()
    };
    assert_eq!(convs(&int), 2);
    (m, int, report)
}

fn run(m: &Module, s: &[Tensor]) -> Vec<Tensor> {
    let mut p = ReferenceExecutor.prepare(m, &[]).expect("prepared");
    p.run(s, &mut |_, _| {}).expect("runs")
}

/// Of each output's each channel: the mean of the difference to the float model over all samples, and the root of the mean
/// of its square.
fn errors(m: &Module) -> Vec<(f64, f64)> {
    let mut sums: Vec<Vec<(f64, f64, f64)>> = vec![Vec::new(); 2];
    for s in &samples().0 {
        for ((a, b), sums) in run(&net(), s).iter().zip(run(m, s)).zip(&mut sums) {
            let (channels, area) = (a.shape[1], a.shape[2] * a.shape[3]);
            sums.resize(channels, (0.0, 0.0, 0.0));
            for (i, (a, b)) in a.to_f64().iter().zip(b.to_f64()).enumerate() {
                let (n, d, d2) = &mut sums[i / area % channels];
                *n += 1.0;
                *d += b - a;
                *d2 += (b - a) * (b - a);
            }
        }
    }
    let all = sums.into_iter().flatten();
    all.map(|(n, d, d2)| ((d / n).abs(), (d2 / n).sqrt())).collect()
}

#[test]
fn few_channels_have_ranges_of_their_own() {
    let (m, _, report) = quantized("w8a8-static+minmax");
    let fakes: Vec<_> = m
        .graph
        .node_ids()
        .map(|id| m.graph.node(id))
        .filter(|n| matches!(&n.op, Op::FakeQuant(f) if !f.dynamic))
        .collect();
    let scales: Vec<Vec<f32>> = fakes
        .iter()
        .map(|n| m.const_f32(n.input(1).expect("scales")).expect("floats"))
        .collect();
    assert_eq!((scales[0].len(), scales[1].len()), (3, 1));
    let x: Vec<Tensor> = samples().0.into_iter().map(|s| s[0].clone()).collect();
    for (c, scale) in scales[0].iter().enumerate() {
        let values = x.iter().flat_map(|t| {
            let own = |(i, _): &(usize, f64)| i / 30 % 3 == c;
            let all: Vec<f64> = t
                .to_f64()
                .into_iter()
                .enumerate()
                .filter(own)
                .map(|p| p.1)
                .collect();
            all
        });
        // 0 is in every range.
        let (lo, hi) = values.fold((0f64, 0f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
        assert_eq!(*scale, ((hi - lo) / 255.0) as f32, "channel {c}");
    }
    let layer = &report.layers[0];
    assert!(
        layer.reason.contains("static per channel with a zero point"),
        "{}",
        layer.reason
    );
    let zero = layer
        .extra
        .iter()
        .find(|(k, _)| k == "zero")
        .expect("zero points");
    assert_eq!(zero.1.split(' ').count(), 3);
    assert!(
        zero.1.ends_with(" 127") && zero.1.contains(" -128 "),
        "{}",
        zero.1
    );
}

#[test]
fn codes_of_channels_follow_the_float_model() {
    for scheme in [
        "w8a8-static",
        "w8a8-static-sym",
        "w8a8-static+percentile:p=99.9",
        "w8a8-static-wtensor",
        "w8a8-static+isotone",
    ] {
        let (_, int, _) = quantized(scheme);
        for (i, (_, error)) in errors(&int).into_iter().enumerate() {
            // Results have magnitudes about 10 (filters of the picture) and 2.
            let bound = if i < 5 { 0.2 } else { 0.05 };
            assert!(error < bound, "{scheme}: filter {i}: {error}");
        }
    }
}

#[test]
fn corrected_biases_leave_no_mean_error() {
    for options in ["", "-sym", "-wtensor"] {
        let (_, plain, _) = quantized(&format!("w8a8-static{options}+biascorrection:layers=none"));
        let (_, corrected, report) = quantized(&format!("w8a8-static{options}"));
        for (i, (before, after)) in errors(&plain).iter().zip(errors(&corrected)).enumerate() {
            assert!(
                after.0 < 2e-6,
                "{options}: filter {i}: {} after {}",
                after.0,
                before.0
            );
            assert!(
                after.1 < before.1,
                "{options}: filter {i}: {} after {}",
                after.1,
                before.1
            );
        }
        let largest = errors(&plain).iter().fold(0f64, |a, e| a.max(e.0));
        assert!(largest > 1e-3, "{options}: nothing to correct, {largest}");
        for l in &report.layers {
            assert!(
                l.extra
                    .iter()
                    .any(|(k, v)| k == "biascorrection" && v.ends_with("at most"))
            );
        }
    }
}

#[test]
fn the_correction_is_a_choice_of_the_scheme() {
    let biases = |m: &Module| -> Vec<bool> {
        let convs = m
            .graph
            .node_ids()
            .map(|id| m.graph.node(id))
            .filter(|n| matches!(n.op, Op::Conv(_)));
        convs.map(|n| n.input(2).is_some()).collect()
    };
    assert_eq!(
        biases(&quantized("w8a8-static+biascorrection:layers=none").0),
        [true, false]
    );
    assert_eq!(biases(&quantized("w8a8-static+biascorrection").0), [true, true]);
    let e = Scheme::parse("w8a8+biascorrection").expect_err("no samples");
    assert!(e.message.contains("needs static scales"), "{}", e.message);
    assert!(Scheme::parse("w8a8-static+biascorrection:layers=all").is_err());
}
