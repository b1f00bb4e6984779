//! `calibrate`: static fake quantizations get their scales and zero points.
//!
//! Before -> after: `quant.fake(x) {static}` -> `quant.fake(x, scale, zero)` with constants. The float model, which is the
//! module with its fake quantizations bypassed, runs over all samples through the executor; the values in front of static
//! fake quantizations are tapped and observed one sample at a time. Fake quantizations of one value with one calibrator
//! share an observer. Sound because only parameters that were missing are filled in; lossy because what they belong to is.
//! A vector that multiplies the value first (operand 3) is applied before it is observed.

use super::observer::{Observer, parameters};
use crate::methods::member;
use crate::pass::{Effect, Env, Pass, PassCx, Phases, edit_diag};
use crate::scheme::{Calibrator, Scheme};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{EvalError, Tensor};
use rsqc_ir::ops::elementwise::Mul;
use rsqc_ir::quant::QuantType;
use rsqc_ir::{Const, Module, NodeId, Op, Patch, Phase, ScalarType, TensorType, ValueId};

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
        let of: Vec<usize> = points.iter().map(|p| tap_of(&mut taps, p)).collect();
        let samples = observe(cx.module(), cx.env(), &mut taps)?;
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
        cx.apply(patch)?;
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
    /// The factors of `pre_scale`.
    factors: Option<Vec<f32>>,
    /// A layer that reads it, for messages.
    layer: String,
    observer: Observer,
}

/// What was chosen for a point.
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
}

/// The tap of a point, made if it is the first.
fn tap_of(taps: &mut Vec<Tap>, p: &Point) -> usize {
    let same = |t: &Tap| t.value == p.source && t.pre_scale == p.pre_scale && t.calibrator == p.calibrator;
    if let Some(i) = taps.iter().position(same) {
        return i;
    }
    taps.push(Tap {
        value: p.source,
        pre_scale: p.pre_scale,
        calibrator: p.calibrator,
        factors: None,
        layer: p.layers.first().cloned().unwrap_or_default(),
        observer: Observer::new(p.calibrator),
    });
    taps.len() - 1
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

/// Runs the float model over all samples; gives their number.
fn observe(m: &Module, env: &Env<'_>, taps: &mut [Tap]) -> Result<usize, Diag> {
    let samples = env.samples.ok_or_else(|| {
        Diag::new(Blame::User, "", "static scales need calibration samples").help(
            "give --calib PATH (an .npz, or a folder of .npz or .npy), or use a scheme without `static`",
        )
    })?;
    let executor = env
        .executor
        .ok_or_else(|| Diag::internal("", "calibration has nothing to run the model on"))?;
    for t in taps.iter_mut() {
        if let Some(v) = t.pre_scale {
            let factors = m.const_f32(v);
            t.factors = Some(
                factors.ok_or_else(|| Diag::internal(t.layer.clone(), "a pre-scale is no f32 constant"))?,
            );
        }
    }
    let mut values: Vec<ValueId> = taps.iter().map(|t| t.value).collect();
    values.sort();
    values.dedup();
    let float = float_model(m);
    let mut prepared = executor.prepare(&float, &values).map_err(run_error)?;
    let mut count = 0;
    samples.for_each(&mut |i, inputs| {
        let mut failed: Option<Diag> = None;
        let mut sink = |v: ValueId, t: &Tensor| {
            for tap in taps.iter_mut().filter(|tap| tap.value == v) {
                if let Err(d) = feed(tap, t, i) {
                    failed.get_or_insert(d);
                }
            }
        };
        prepared.run(inputs, &mut sink).map_err(run_error)?;
        if let Some(d) = failed {
            return Err(d);
        }
        taps.iter_mut().for_each(|t| t.observer.end_sample());
        count += 1;
        Ok(())
    })?;
    match taps.iter().find(|t| t.observer.extremes.count == 0) {
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
    let seen = match &tap.factors {
        None => tap.observer.observe(x, row),
        Some(f) => {
            let scaled: Vec<f32> = x.iter().zip(f.iter().cycle()).map(|(x, f)| x * f).collect();
            tap.observer.observe(&scaled, row)
        }
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
fn finish(cx: &mut PassCx<'_>, patch: &mut Patch, p: &Point, tap: &Tap) -> Result<Chosen, Diag> {
    let range = tap.observer.range(&p.qtype);
    let (scale, zero) = parameters(&range, &p.qtype);
    if tap.observer.extremes.magnitude() == 0.0 {
        let layer = p.layers.first().map_or("", String::as_str);
        cx.note(format!(
            "{layer}: its input is 0 in all calibration samples; its scale says nothing"
        ));
    }
    let m = cx.module();
    let n = m.graph.node(p.node);
    let s = patch.constant_f32(&format!("{}.scale", n.loc), &[], &[scale]);
    let mut inputs = vec![Some(p.source), Some(s)];
    if p.qtype.zero {
        let ty = TensorType::new(ScalarType::I8, vec![]);
        let c = Const::from_bytes(&format!("{}.zero", n.loc), ty, zero.to_le_bytes().to_vec());
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
    Ok(Chosen {
        scale,
        zero: p.qtype.zero.then_some(zero),
        range,
    })
}

/// What `inspect` shows of a layer's activations.
fn remark(cx: &mut PassCx<'_>, (layer, role): (&str, &str), c: &Chosen, tap: &Tap, samples: usize) {
    let e = &tap.observer.extremes;
    let mut say = |key: &str, value: String| cx.remark_layer(layer, &format!("{role}{key}"), value);
    say("scale", c.scale.to_string());
    if let Some(z) = c.zero {
        say("zero", z.to_string());
    }
    say("low", (c.range.low as f32).to_string());
    say("high", (c.range.high as f32).to_string());
    say("min", e.min.to_string());
    say("max", e.max.to_string());
    say("calibrator", tap.calibrator.to_string());
    say("samples", samples.to_string());
    say("clipped", format!("{:.3e}", c.range.clipped));
}
