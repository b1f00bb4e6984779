//! `calibrate`: static fake quantizations get their scales and zero points.
//!
//! Before -> after: `quant.fake(x) {static}` -> `quant.fake(x, scale, zero)` with constants. The float model, which is the
//! module with its fake quantizations bypassed, runs over all samples through the executor; the values in front of static
//! fake quantizations are tapped and observed one sample at a time. Fake quantizations of one value with one calibrator
//! share an observer. Sound because only parameters that were missing are filled in; lossy because what they belong to is.
//! Codes with scales for channels have an observer for each channel.
//! A vector that multiplies the value first (operand 3) is applied before it is observed.
//!
//! Then the samples run a second time, and the biases of convolutions take up the mean error of their codes (`bias.rs`),
//! unless the scheme says `+biascorrection:layers=none`.

use super::bias;
use super::observer::{Observer, parameters};
use crate::methods::member;
use crate::pass::{Effect, Env, Pass, PassCx, Phases, Samples, edit_diag};
use crate::scheme::{Calibrator, Scheme};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{EvalError, Prepared, Tensor};
use rsqc_ir::ops::elementwise::Mul;
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Const, Module, NodeId, Op, Patch, Phase, ScalarType, TensorType, ValueId};
use std::cell::RefCell;

/// See the file documentation.
pub struct Calibrate {
    /// What each layer becomes.
    pub scheme: Scheme,
}

impl Pass for Calibrate {
    fn name(&self) -> &'static str {
        "calibrate"
    }
    fn effect(&self) -> Effect {
        Effect::Lossy
    }
    fn phases(&self) -> Phases {
        Phases::change(Phase::Canonical, Phase::Calibrated)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let points = self.points(cx.module());
        if points.is_empty() {
            return Ok(());
        }
        let mut taps: Vec<Tap> = Vec::new();
        let mut of: Vec<usize> = Vec::new();
        for p in &points {
            of.push(tap_of(cx.module(), &mut taps, p)?);
        }
        let mut values: Vec<ValueId> = taps.iter().map(|t| t.value).collect();
        values.sort();
        values.dedup();
        let run = FloatRun::new(cx.module(), cx.env(), &values)?;
        let samples = observe(cx.module(), &run, &mut taps)?;
        cx.count("samples", samples as u64);
        cx.count("activations", points.len() as u64);
        if samples == 1 {
            cx.note("static scales come from a single sample; more make them fit other inputs");
        }
        let mut patch = Patch::new(cx.module());
        for (p, tap) in points.iter().zip(of) {
            let found = finish(cx, &mut patch, p, &taps[tap])?;
            for layer in &p.layers {
                remark(cx, (layer, p.role), &found, &taps[tap], samples);
            }
        }
        if cx.apply(patch)? {
            self.correct_biases(cx, &run)?;
        }
        Ok(())
    }
}

/// A static fake quantization without parameters.
struct Point {
    node: NodeId,
    source: ValueId,
    pre_scale: Option<ValueId>,
    qtype: QuantType,
    calibrator: Calibrator,
    /// Locations of the layers that read it.
    layers: Vec<String>,
    /// What it is to them, in front of what is said of it: `q.`, `k.` or `v.` in attention.
    role: &'static str,
}

/// A value that is observed.
struct Tap {
    value: ValueId,
    pre_scale: Option<ValueId>,
    calibrator: Calibrator,
    /// Axis along which elements with the same index share an observer, and its extent.
    channels: Option<(usize, usize)>,
    /// The factors of `pre_scale`.
    factors: Option<Vec<f32>>,
    /// A layer that reads it, for messages.
    layer: String,
    /// One, or one a channel.
    observers: Vec<Observer>,
}

/// What was chosen for a point, or for a channel of it.
struct Chosen {
    scale: f32,
    zero: Option<i8>,
    range: super::Range,
}

impl Calibrate {
    fn points(&self, m: &Module) -> Vec<Point> {
        let g = &m.graph;
        let point = |id: NodeId| {
            let n = g.node(id);
            let Op::FakeQuant(f) = &n.op else { return None };
            if f.dynamic || n.input(1).is_some() {
                return None;
            }
            let layers: Vec<String> = g
                .users(n.output())
                .map(|(u, _)| g.node(u).loc.to_string())
                .collect();
            let scheme = layers.first().map(|l| self.scheme.of_layer(member(l)).0);
            let linear = !g
                .users(n.output())
                .any(|(u, _)| matches!(g.node(u).op, Op::Conv(_)));
            let calibrator = scheme.and_then(|s| s.quantized()).map(|q| q.calibrator(linear));
            let role = |(u, slot): (NodeId, u32)| match g.node(u).op {
                Op::QAttention(_) => ["q.", "k.", "v."].get(slot as usize).copied(),
                _ => None,
            };
            Some(Point {
                node: id,
                role: g.users(n.output()).find_map(role).unwrap_or_default(),
                source: n.input(0)?,
                pre_scale: n.input(3),
                qtype: f.qtype.clone(),
                calibrator: calibrator.unwrap_or(Calibrator::MinMax),
                layers,
            })
        };
        g.node_ids().filter_map(point).collect()
    }

    /// Whether the scheme wants the bias of the layer at `loc` corrected.
    fn corrects(&self, loc: &str) -> bool {
        let q = self.scheme.of_layer(member(loc)).0.quantized();
        q.is_some_and(|q| q.method(bias::NAME).and_then(|m| m.text("layers")) != Some("none"))
    }

    /// Corrects the biases of all convolutions whose parameters are filled in.
    fn correct_biases(&self, cx: &mut PassCx<'_>, run: &FloatRun<'_>) -> Result<(), Diag> {
        let m = cx.module().clone();
        let nodes = m
            .graph
            .node_ids()
            .filter(|id| self.corrects(&m.graph.node(*id).loc));
        let mut layers: Vec<bias::Layer> = nodes.filter_map(|id| bias::Layer::new(&m, id)).collect();
        if layers.is_empty() {
            return Ok(());
        }
        run.each(&mut |_, seen| {
            let Some((v, t)) = seen else { return Ok(()) };
            for l in layers.iter_mut().filter(|l| l.source == v) {
                let bug = Diag::internal(
                    m.graph.node(l.node).loc.to_string(),
                    "an observed activation is no f32",
                );
                l.see(t).ok_or(bug)?;
            }
            Ok(())
        })?;
        let mut patch = Patch::new(&m);
        let mut corrected = 0;
        for l in &layers {
            let n = m.graph.node(l.node);
            let own = l.correction();
            let largest = own.iter().fold(0f32, |a, c| a.max(c.abs()));
            let mut all = own;
            match n.input(2).map(|b| m.const_f32(b)) {
                None => {}
                Some(Some(b)) => all.iter_mut().zip(b).for_each(|(c, b)| *c += b),
                Some(None) => {
                    cx.remark_layer(&n.loc, bias::NAME, "none, its bias is computed at run time");
                    continue;
                }
            }
            cx.remark_layer(&n.loc, bias::NAME, format!("{largest:.3e} at most"));
            let bias = patch.constant_f32(&format!("{}.corrected_bias", n.loc), &[all.len()], &all);
            let ins = [n.input(0), n.input(1), Some(bias)];
            let new = patch
                .node_multi(&m, n.op.clone(), &ins, &n.loc)
                .map_err(edit_diag)?;
            patch.replace(n.output(), new[0]);
            corrected += 1;
        }
        cx.count("corrected biases", corrected);
        cx.apply(patch)?;
        Ok(())
    }
}

/// The tap of a point, made if it is the first.
fn tap_of(m: &Module, taps: &mut Vec<Tap>, p: &Point) -> Result<usize, Diag> {
    let bug = |what: &str| Diag::internal(m.graph.node(p.node).loc.to_string(), what.to_string());
    let channels = match p.qtype.granularity {
        Granularity::Tensor => None,
        Granularity::Axis(a) => {
            let extent = m.graph.ty(p.source).shape.get(a as usize);
            let extent = extent.and_then(|d| usize::try_from(d.as_const()?).ok());
            Some((
                a as usize,
                extent.ok_or_else(|| bug("its channels are not counted"))?,
            ))
        }
        _ => return Err(bug("static scales are those of a tensor or of channels")),
    };
    let same = |t: &Tap| {
        (t.value, t.pre_scale, t.calibrator, t.channels) == (p.source, p.pre_scale, p.calibrator, channels)
    };
    if let Some(i) = taps.iter().position(same) {
        return Ok(i);
    }
    taps.push(Tap {
        value: p.source,
        pre_scale: p.pre_scale,
        calibrator: p.calibrator,
        channels,
        factors: None,
        layer: p.layers.first().cloned().unwrap_or_default(),
        observers: vec![Observer::new(p.calibrator); channels.map_or(1, |c| c.1)],
    });
    Ok(taps.len() - 1)
}

/// The float model: every fake quantization is replaced by what it stands for, attention is over floats. Values keep their
/// ids.
fn float_model(m: &Module) -> Module {
    let mut float = m.clone();
    for id in m.graph.node_ids() {
        let n = m.graph.node(id);
        if let Op::QAttention(o) = &n.op {
            *float.graph.op_mut(id) = o.in_float().into();
        }
        let (Op::FakeQuant(_), Some(source)) = (&n.op, n.input(0)) else {
            continue;
        };
        let plain = match n.input(3) {
            None => source,
            Some(pre) => {
                let ins = vec![Some(source), Some(pre)];
                let ty = m.graph.ty(n.output()).clone();
                let product = float.graph.add_node(Mul {}.into(), ins, vec![ty], n.loc.clone());
                float.graph.node(product).output()
            }
        };
        float.graph.replace_uses(n.output(), plain);
    }
    float.graph.remove_dead();
    float
}

/// Takes a sample's number and a value of it, or nothing at its end.
type Seeing<'f> = dyn FnMut(usize, Option<(ValueId, &Tensor)>) -> Result<(), Diag> + 'f;

/// The float model, ready to run over the samples.
struct FloatRun<'a> {
    prepared: RefCell<Box<dyn Prepared + 'a>>,
    samples: &'a dyn Samples,
}

impl<'a> FloatRun<'a> {
    fn new(m: &Module, env: &Env<'a>, taps: &[ValueId]) -> Result<Self, Diag> {
        let samples = env.samples.ok_or_else(|| {
            Diag::new(Blame::User, "", "static scales need calibration samples").help(
                "give --calib PATH (an .npz, or a folder of .npz or .npy), or use a scheme without `static`",
            )
        })?;
        let executor = env
            .executor
            .ok_or_else(|| Diag::internal("", "calibration has nothing to run the model on"))?;
        let prepared = executor.prepare(&float_model(m), taps).map_err(run_error)?;
        Ok(FloatRun {
            prepared: RefCell::new(prepared),
            samples,
        })
    }

    /// Hands every tapped value of every sample to `f`, with the number of the sample, and then nothing, as the sample's
    /// end; gives the number of samples.
    fn each(&self, f: &mut Seeing<'_>) -> Result<usize, Diag> {
        let mut count = 0;
        self.samples.for_each(&mut |i, inputs| {
            let mut failed: Option<Diag> = None;
            let mut sink = |v: ValueId, t: &Tensor| {
                if failed.is_none() {
                    failed = f(i, Some((v, t))).err();
                }
            };
            let mut prepared = self.prepared.borrow_mut();
            prepared.run(inputs, &mut sink).map_err(run_error)?;
            if let Some(d) = failed {
                return Err(d);
            }
            count += 1;
            f(i, None)
        })?;
        Ok(count)
    }
}

/// Runs the float model over all samples and observes the taps; gives the number of samples.
fn observe(m: &Module, run: &FloatRun<'_>, taps: &mut [Tap]) -> Result<usize, Diag> {
    for t in taps.iter_mut() {
        if let Some(v) = t.pre_scale {
            let factors = m.const_f32(v);
            t.factors = Some(
                factors.ok_or_else(|| Diag::internal(t.layer.clone(), "a pre-scale is no f32 constant"))?,
            );
        }
    }
    let count = run.each(&mut |i, seen| match seen {
        Some((v, t)) => {
            let mut all = taps.iter_mut().filter(|tap| tap.value == v);
            all.try_for_each(|tap| feed(tap, t, i))
        }
        None => {
            let observers = taps.iter_mut().flat_map(|t| &mut t.observers);
            observers.for_each(Observer::end_sample);
            Ok(())
        }
    })?;
    let is_empty = |t: &&Tap| t.observers.iter().any(|o| o.extremes.count == 0);
    match taps.iter().find(is_empty) {
        Some(t) => Err(Diag::new(
            Blame::User,
            t.layer.clone(),
            format!("its input has no element in any of the {count} calibration samples"),
        )
        .help("give samples that are not empty")),
        None => Ok(count),
    }
}

fn run_error(e: EvalError) -> Diag {
    let blame = match e {
        EvalError::Input { .. } => Blame::User,
        EvalError::Unsupported(_) => Blame::Unsupported,
        EvalError::Node { .. } => Blame::User,
    };
    Diag::new(blame, "calibration", e.to_string())
}

fn feed(tap: &mut Tap, t: &Tensor, sample: usize) -> Result<(), Diag> {
    let x: &[f32] = t
        .as_slice()
        .ok_or_else(|| Diag::internal(tap.layer.clone(), "an observed activation is no f32"))?;
    let row = t.shape.last().copied().unwrap_or(1);
    let scaled: Option<Vec<f32>> = tap
        .factors
        .as_ref()
        .map(|f| x.iter().zip(f.iter().cycle()).map(|(x, f)| x * f).collect());
    let x = scaled.as_deref().unwrap_or(x);
    let seen = match (tap.channels, tap.observers.as_mut_slice()) {
        (None, [o]) => o.observe(x, row),
        (Some((axis, _)), all) => {
            let inner: usize = t.shape[axis + 1..].iter().product();
            let mut parts = x.chunks(inner.max(1)).enumerate();
            parts.try_for_each(|(i, part)| all[i % all.len()].observe(part, row))
        }
        (None, _) => return Err(Diag::internal(tap.layer.clone(), "a tensor has one observer")),
    };
    seen.map_err(|_| {
        Diag::new(
            Blame::User,
            tap.layer.clone(),
            format!("its input holds NaN or infinity in calibration sample {sample}"),
        )
        .help("check the sample with the float model: rsqc run --scheme none")
    })
}

/// Adds the parameters of a point to the patch.
fn finish(cx: &mut PassCx<'_>, patch: &mut Patch, p: &Point, tap: &Tap) -> Result<Vec<Chosen>, Diag> {
    let choose = |o: &Observer| {
        let range = o.range(&p.qtype);
        let (scale, zero) = parameters(&range, &p.qtype);
        Chosen {
            scale,
            zero: p.qtype.zero.then_some(zero),
            range,
        }
    };
    let chosen: Vec<Chosen> = tap.observers.iter().map(choose).collect();
    if tap.observers.iter().all(|o| o.extremes.magnitude() == 0.0) {
        let layer = p.layers.first().map_or("", String::as_str);
        cx.note(format!(
            "{layer}: its input is 0 in all calibration samples; its scale says nothing"
        ));
    }
    let m = cx.module();
    let n = m.graph.node(p.node);
    let shape: &[usize] = if tap.channels.is_some() {
        &[chosen.len()]
    } else {
        &[]
    };
    let scales: Vec<f32> = chosen.iter().map(|c| c.scale).collect();
    let s = patch.constant_f32(&format!("{}.scale", n.loc), shape, &scales);
    let mut inputs = vec![Some(p.source), Some(s)];
    if p.qtype.zero {
        let ty = TensorType::new(ScalarType::I8, shape.iter().map(|d| (*d).into()).collect());
        let bytes = chosen.iter().flat_map(|c| c.zero).flat_map(i8::to_le_bytes);
        let c = Const::from_bytes(&format!("{}.zero", n.loc), ty, bytes.collect());
        let c = c.ok_or_else(|| Diag::internal(n.loc.to_string(), "a zero point is one byte"))?;
        inputs.push(Some(patch.constant(c)));
    }
    if p.pre_scale.is_some() {
        inputs.resize(3, None);
        inputs.push(p.pre_scale);
    }
    let new = patch
        .node_multi(m, n.op.clone(), &inputs, &n.loc)
        .map_err(edit_diag)?;
    patch.replace(n.output(), new[0]);
    Ok(chosen)
}

/// What `inspect` shows of a layer's activations; numbers of channels are separated by blanks.
fn remark(cx: &mut PassCx<'_>, (layer, role): (&str, &str), chosen: &[Chosen], tap: &Tap, samples: usize) {
    let mut say = |key: &str, values: Vec<String>| {
        cx.remark_layer(layer, &format!("{role}{key}"), values.join(" "));
    };
    let of_chosen = |f: &dyn Fn(&Chosen) -> String| chosen.iter().map(f).collect::<Vec<String>>();
    let observed = |f: &dyn Fn(&Observer) -> f32| {
        tap.observers
            .iter()
            .map(|o| f(o).to_string())
            .collect::<Vec<String>>()
    };
    say("scale", of_chosen(&|c| c.scale.to_string()));
    if chosen.iter().all(|c| c.zero.is_some()) {
        say("zero", of_chosen(&|c| c.zero.unwrap_or(0).to_string()));
    }
    say("low", of_chosen(&|c| (c.range.low as f32).to_string()));
    say("high", of_chosen(&|c| (c.range.high as f32).to_string()));
    say("min", observed(&|o| o.extremes.min));
    say("max", observed(&|o| o.extremes.max));
    say("calibrator", vec![tap.calibrator.to_string()]);
    say("samples", vec![samples.to_string()]);
    say("clipped", of_chosen(&|c| format!("{:.3e}", c.range.clipped)));
}
