//! The pass: which values are observed, what is filled in, what goes wrong with a clear word.

use super::Calibrate;
use crate::lower::LowerToInteger;
use crate::manager::{ManagerOptions, PassManager, Report};
use crate::methods::InsertFakeQuant;
use crate::pass::{Env, Pass, Samples};
use crate::scheme::Scheme;
use crate::testing::{Net, assert_same};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{ReferenceExecutor, Tensor};
use rsqc_ir::ops::elementwise::Relu;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::{Module, Op, Phase};

struct Stored(Vec<Vec<Tensor>>);

impl Samples for Stored {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

fn samples() -> Stored {
    let one = |b: usize, f: f32| {
        let x = (0..b * 8)
            .map(|i| f * ((i * 29 % 41) as f32 / 20.0 - 1.0))
            .collect();
        vec![Tensor::new(vec![b, 8], x)]
    };
    Stored(vec![one(3, 1.0), one(6, 2.0), one(5, 0.5)])
}

/// x feeds n0 and n1; n0 goes through a Relu into n3.
fn net() -> Module {
    let mut n = Net::new(3);
    let x = n.f32(&["b", "8"]);
    let (w0, w1, w2) = (n.weight(&[8, 6]), n.weight(&[8, 5]), n.weight(&[6, 4]));
    let (a, b) = (n.op(MatMul {}, &[x, w0]), n.op(MatMul {}, &[x, w1]));
    let r = n.op(Relu {}, &[a]);
    let c = n.op(MatMul {}, &[r, w2]);
    n.finish(&[b, c])
}

fn try_calibrate(m: &Module, scheme: &Scheme, s: Option<&dyn Samples>) -> Result<(Module, Report), Diag> {
    let mut out = m.clone();
    let env = Env {
        executor: Some(&ReferenceExecutor),
        samples: s,
        ..Env::default()
    };
    let scheme = || scheme.clone();
    let passes: [Box<dyn Pass>; 2] = [
        Box::new(InsertFakeQuant { scheme: scheme() }),
        Box::new(Calibrate { scheme: scheme() }),
    ];
    let options = ManagerOptions {
        verify_each: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(env, options).run(&mut out, &passes)?;
    Ok((out, report))
}

fn calibrate(name: &str) -> (Module, Report) {
    let scheme = Scheme::parse(name).expect("known");
    try_calibrate(&net(), &scheme, Some(&samples())).unwrap_or_else(|d| panic!("{d}"))
}

/// Scale and zero point of every static fake quantization, by location.
fn found(m: &Module) -> Vec<(String, f64, Option<f64>)> {
    let g = &m.graph;
    g.node_ids()
        .map(|id| g.node(id))
        .filter(|n| matches!(&n.op, Op::FakeQuant(f) if !f.dynamic))
        .map(|n| {
            let constant = |i: usize| n.input(i).and_then(|v| m.const_scalar(v));
            (n.loc.to_string(), constant(1).expect("a scale"), constant(2))
        })
        .collect()
}

#[test]
fn scales_come_from_the_float_values() {
    let (m, report) = calibrate("w8a8-static");
    assert_eq!(m.phase, Phase::Calibrated);
    let all = found(&m);
    // One for x, which two products share; one behind the Relu, with a zero point.
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], ("n0".into(), f64::from((2.0f64 / 127.0) as f32), None));
    assert_eq!(all[1].2, Some(-128.0));
    // The Relu's largest value, from the float model.
    let mut largest = 0f32;
    let float = net();
    for s in samples().0 {
        let mut prepared = rsqc_ir::eval::Executor::prepare(
            &ReferenceExecutor,
            &float,
            &float.graph.value_ids().collect::<Vec<_>>(),
        )
        .expect("prepared");
        let relu = float
            .graph
            .node_ids()
            .find(|n| matches!(float.graph.node(*n).op, Op::Relu(_)));
        let v = float.graph.node(relu.expect("a relu")).output();
        prepared
            .run(&s, &mut |at, t| {
                if at == v {
                    largest = t
                        .as_slice::<f32>()
                        .expect("floats")
                        .iter()
                        .fold(largest, |m, x| m.max(*x));
                }
            })
            .expect("runs");
    }
    assert_eq!(all[1].1, f64::from((f64::from(largest) / 255.0) as f32));
    let extra = &report.layers[0].extra;
    let value = |key: &str| extra.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!(
        (value("samples"), value("calibrator")),
        (Some("3"), Some("minmax"))
    );
    assert_eq!((value("max"), value("clipped")), (Some("2"), Some("0.000e0")));
    // The second reader of x reports the same.
    assert_eq!(extra, &report.layers[1].extra);
    assert!(
        report.layers[2]
            .extra
            .iter()
            .any(|(k, v)| k == "zero" && v == "-128")
    );
}

#[test]
fn recipes_choose_a_calibrator_by_layer() {
    let text = "scheme = \"w8a8-static+percentile:p=90\"\n[[layer]]\nmatch = \"n1\"\nscheme = \"w8a8-static-asym\"\n";
    let scheme = Scheme::from_recipe("r.toml", text).expect("a recipe");
    let (m, _) = try_calibrate(&net(), &scheme, Some(&samples())).unwrap_or_else(|d| panic!("{d}"));
    let all = found(&m);
    let of = |loc: &str| all.iter().find(|(l, ..)| l == loc).expect("a layer");
    assert_eq!(all.len(), 3);
    assert!(of("n0").1 < 1.9 / 127.0 && of("n0").2.is_none());
    assert!((of("n1").1 - 4.0 / 255.0).abs() < 2e-4 && of("n1").2.is_some());
}

#[test]
fn integer_layers_follow_static_fake_quantization() {
    for name in [
        "w8a8-static",
        "w8a8-static-sym",
        "w8a8-static-asym",
        "w8a8-static-wtensor+mse",
        "w8a8-tensor",
        "w8a8-tensor-wtensor",
    ] {
        let (m, _) = calibrate(name);
        let mut int = m.clone();
        let passes: [Box<dyn Pass>; 1] = [Box::new(LowerToInteger)];
        let options = ManagerOptions {
            verify_each: true,
            ..ManagerOptions::default()
        };
        PassManager::new(Env::default(), options)
            .run(&mut int, &passes)
            .unwrap_or_else(|d| panic!("{name}: {d}"));
        assert!(
            int.graph
                .node_ids()
                .all(|n| !matches!(int.graph.node(n).op, Op::FakeQuant(_)))
        );
        // Activation codes are the same; weights may round the other way at ties, sums are exact.
        assert_same(&m, &int, &[&[("b", 4)], &[("b", 1)], &[("b", 0)]], 2e-2);
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let scheme = Scheme::parse("w8a8-static").expect("known");
    let e = try_calibrate(&net(), &scheme, None).expect_err("no samples");
    assert_eq!(e.blame, Blame::User);
    assert!(e.help.expect("a help line").contains("--calib"));
    for (bad, value) in [(1, f32::NAN), (2, f32::INFINITY)] {
        let mut s = samples();
        if let rsqc_ir::eval::Data::F32(x) = &mut s.0[bad][0].data {
            x.iter_mut().for_each(|x| *x = value);
        }
        let e = try_calibrate(&net(), &scheme, Some(&s))
            .map(|_| ())
            .expect_err("not finite");
        assert_eq!(e.blame, Blame::User);
        assert!(e.message.contains(&format!("sample {bad}")), "{}", e.message);
        assert!(e.loc.starts_with('n'), "{}", e.loc);
    }
    let empty = Stored(vec![vec![Tensor::new(vec![0, 8], Vec::<f32>::new())]]);
    let e = try_calibrate(&net(), &scheme, Some(&empty)).expect_err("no element");
    assert!(e.message.contains("no element"), "{}", e.message);
    let one = Stored(samples().0[..1].to_vec());
    let (_, report) = try_calibrate(&net(), &scheme, Some(&one)).expect("one sample is enough");
    assert!(report.passes[1].notes.iter().any(|n| n.contains("single sample")));
}
