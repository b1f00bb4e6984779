//! `lower-to-integer`: fake quantization becomes codes and integer products.
//!
//! Before -> after: `matmul(fake(x), fake(w))` ->
//! ```text
//! m, s  = quant.params(x)                       dynamic: per token or tensor, once for all products that read x
//! q     = quant.quantize(x, m)                  mul rounding; static: m = f32(1 / s) is a constant
//! acc   = quant.matmul(q, codes of w)           exact i32
//! y     = (f32(acc) * s) * scales of w          dynamic
//! y     = f32(acc) * c                          static: c = f32(s * scales of w), rounded once, one a column
//! ```
//! With a zero point `z`, `acc - z * (column sums of w's codes)`, a constant vector, takes the place of `acc`: exact, because
//! `insert-fake-quant` bounds the inner extent.
//!
//! Convolutions likewise: see [`super::integer_conv`].
//!
//! The order of the float epilogue is this one everywhere: row scale first, then column scale (then the bias that
//! follows as an ordinary add). With a float activation, `matmul(x, fake(w))` -> `quant.weight_matmul(x, codes of w) *
//! scales of w`: the scales multiply the finished sum. `gather(fake(table), i)` -> `dequantize(gather(codes, i),
//! gather(scales, i))`.
//! `quant.attention(fake(q), fake(k), fake(v))` with static scales -> `quant.attention(q, k, v)` with the scales as operands.
//! A fake quantization with any other reader becomes quantize and dequantize. A pre-scale of the fake quantization becomes
//! that of `quant.params` and `quant.quantize`.
//!
//! Weight codes: `s = f32(amax / 127)` (f64 quotient rounded once; 1 for an all-zero channel), `q = rne(w / s)` in f64,
//! clamped to +-127. Sound in the sense of quantization: this is the integer form of what `insert-fake-quant` marked;
//! `quant.fake` rounds `x * m` likewise, weights may differ from it where `w / s` is a tie. Hence lossy.

use super::weights::quantize_channels;
use crate::methods::{Matrix, const_matrix};
use crate::pass::{Effect, Pass, PassCx, Phases, edit_diag};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::elementwise::{Cast, Mul, Sub};
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::ops::quant::{Dequantize, DynamicParams, FakeQuant, QMatMul, Quantize, Rounding, WeightMatMul};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Const, Loc, Module, Node, Op, Phase, Rebuild, ScalarType, TensorType, ValueId};
use std::collections::BTreeMap;

/// See the file documentation.
pub struct LowerToInteger;

impl Pass for LowerToInteger {
    fn name(&self) -> &'static str {
        "lower-to-integer"
    }
    fn effect(&self) -> Effect {
        Effect::Lossy
    }
    fn phases(&self) -> Phases {
        Phases::change(Phase::Calibrated, Phase::Quantized)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module().clone();
        let mut l = Lowering {
            m: &m,
            r: Rebuild::new(&m),
            consts: Vec::new(),
            codes: BTreeMap::new(),
        };
        let order = m
            .graph
            .topo_order()
            .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
        for id in order {
            l.node(m.graph.node(id), id)?;
        }
        let (r, consts) = (l.r, l.consts);
        for c in consts {
            cx.module_mut().consts.add(c);
        }
        cx.rebuild(r)?;
        Ok(())
    }
}

pub(super) struct Lowering<'a> {
    pub(super) m: &'a Module,
    pub(super) r: Rebuild,
    /// Constants to add behind those of the module.
    consts: Vec<Const>,
    /// Codes of activations, by (old) fake-quantized value.
    codes: BTreeMap<ValueId, Codes>,
}

/// An activation's codes.
#[derive(Clone)]
pub(super) struct Codes {
    pub codes: ValueId,
    pub scale: Scale,
    /// Zero point: none, one, or one a channel.
    pub zero: Vec<i32>,
}

/// An activation's scale.
#[derive(Clone)]
pub(super) enum Scale {
    /// Computed at run time.
    Dynamic(ValueId),
    /// From calibration.
    Static(f32),
    /// From calibration, one a channel.
    Channels(Vec<f32>),
}

impl Lowering<'_> {
    fn node(&mut self, n: &Node, id: rsqc_ir::NodeId) -> Result<(), Diag> {
        let fake = |i: usize| n.input(i).and_then(|v| self.fake(v));
        match (&n.op, fake(0), fake(1)) {
            (Op::MatMul(_), Some(xq), Some(wq))
                if matches!(xq.granularity, Granularity::Token | Granularity::Tensor)
                    && matches!(wq.granularity, Granularity::Axis(1) | Granularity::Tensor) =>
            {
                if let (Some(x), Some(w)) = (n.input(0), self.weight(n, 1)) {
                    let y = self.linear(x, w, wq.granularity == Granularity::Tensor, &n.loc)?;
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            (Op::MatMul(_), None, Some(wq))
                if matches!(wq.granularity, Granularity::Axis(1) | Granularity::Tensor) =>
            {
                if let (Some(x), Some(w)) = (n.input(0), self.weight(n, 1)) {
                    let y = self.weight_only(x, w, wq.granularity == Granularity::Tensor, &n.loc)?;
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            (Op::Gather(g), Some(tq), None) if g.axis == 0 && tq.granularity == Granularity::Token => {
                if let (Some(t), Some(i)) = (self.weight(n, 0), n.input(1)) {
                    let y = self.table(t, tq, i, &n.loc)?;
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            (Op::QAttention(_), Some(_), Some(_)) => {
                if let Some(y) = self.attention(n)? {
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            (Op::Conv(o), Some(xq), Some(wq)) => {
                if let Some(y) = self.conv(n, o, &xq, &wq)? {
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            _ => {}
        }
        match &n.op {
            Op::FakeQuant(f) => self.stand_alone(n, f),
            _ => {
                self.r.copy(self.m, id);
                Ok(())
            }
        }
    }

    /// The fake quantization that defines `v`.
    pub(super) fn fake_node(&self, v: ValueId) -> Option<(&Node, &FakeQuant)> {
        let (id, _) = self.m.graph.def_node(v)?;
        let n = self.m.graph.node(id);
        match &n.op {
            Op::FakeQuant(f) => Some((n, f)),
            _ => None,
        }
    }

    /// Type of the codes of a fake quantization that defines `v`.
    fn fake(&self, v: ValueId) -> Option<QuantType> {
        self.fake_node(v).map(|(_, f)| f.qtype.clone())
    }

    /// The constant matrix behind the fake quantization that is operand `i`.
    fn weight(&self, n: &Node, i: usize) -> Option<Matrix> {
        let (f, _) = self.fake_node(n.input(i)?)?;
        if f.input(3).is_some() {
            return None;
        }
        const_matrix(self.m, f.input(0)?)
    }

    pub(super) fn emit(
        &mut self,
        op: impl Into<Op>,
        ins: &[ValueId],
        loc: &Loc,
    ) -> Result<Vec<ValueId>, Diag> {
        let ins = ins.iter().map(|v| Some(*v)).collect();
        self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)
    }

    pub(super) fn constant(&mut self, name: &str, ty: TensorType, bytes: Vec<u8>) -> Result<ValueId, Diag> {
        let c = Const::from_bytes(name, ty.clone(), bytes)
            .ok_or_else(|| Diag::internal(name, "a quantized constant does not fit its type"))?;
        let id = rsqc_ir::ConstId((self.m.consts.len() + self.consts.len()) as u32);
        self.consts.push(c);
        Ok(self.r.graph.add_const(id, ty))
    }

    pub(super) fn f32s(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<ValueId, Diag> {
        let ty = TensorType::new(ScalarType::F32, shape.iter().map(|d| (*d).into()).collect());
        self.constant(name, ty, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Codes of the fake-quantized value `fake`, made once.
    pub(super) fn activation(&mut self, fake: ValueId, loc: &Loc) -> Result<Codes, Diag> {
        if let Some(c) = self.codes.get(&fake) {
            return Ok(c.clone());
        }
        let bug = |what: &str| Diag::internal(loc.to_string(), what.to_string());
        let (n, f) = self
            .fake_node(fake)
            .ok_or_else(|| bug("an activation is not fake-quantized"))?;
        let (n, f) = (n.clone(), f.clone());
        let x = n.input(0).ok_or_else(|| bug("operand 0 is missing"))?;
        let v = self.r.get(self.m, x);
        let pre = n.input(3).map(|p| self.r.get(self.m, p));
        let qtype = f.qtype.clone();
        let (m, scale, zero) = if f.dynamic {
            let op = DynamicParams { qtype: f.qtype };
            let ins = vec![Some(v)].into_iter().chain(pre.map(Some)).collect();
            let p = self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)?;
            (p[0], Scale::Dynamic(p[1]), Vec::new())
        } else {
            let constant = |i: usize| n.input(i).and_then(|v| self.m.const_of(v));
            let s = constant(1).and_then(|_| self.m.const_f32(n.input(1)?));
            let s = s.ok_or_else(|| bug("a static scale is no constant"))?;
            let zero = match constant(2).map(|c| c.bytes()) {
                _ if !qtype.zero => Vec::new(),
                Some(bytes) => bytes.iter().map(|b| i32::from(b.cast_signed())).collect(),
                None => return Err(bug("a static zero point is no constant")),
            };
            let inverse: Vec<f32> = s.iter().map(|s| 1.0 / s).collect();
            let name = format!("{loc}.multiplier");
            match (qtype.granularity, s.as_slice()) {
                (Granularity::Tensor, [s]) => (self.f32s(&name, &[], &inverse)?, Scale::Static(*s), zero),
                _ => (self.f32s(&name, &[s.len()], &inverse)?, Scale::Channels(s), zero),
            }
        };
        let mut ins = vec![Some(v), Some(m)];
        if qtype.zero {
            ins.push(n.input(2).map(|z| self.r.get(self.m, z)));
        }
        if pre.is_some() {
            ins.resize(3, None);
            ins.push(pre);
        }
        let op = Quantize {
            qtype,
            rounding: Rounding::Mul,
        };
        let codes = self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)?[0];
        let c = Codes { codes, scale, zero };
        self.codes.insert(fake, c.clone());
        Ok(c)
    }

    fn linear(&mut self, x: ValueId, w: Matrix, whole: bool, loc: &Loc) -> Result<ValueId, Diag> {
        let x = self.activation(x, loc)?;
        let q = quantize_channels(
            &w,
            |i| if whole { 0 } else { i % w.n },
            if whole { 1 } else { w.n },
        );
        let granularity = if whole {
            Granularity::Tensor
        } else {
            Granularity::Axis(1)
        };
        let ty = TensorType {
            elem: QuantType::int8(granularity).into(),
            shape: vec![w.k.into(), w.n.into()],
        };
        let wv = self.constant(&format!("{}.codes", w.name), ty, q.bytes())?;
        let mut acc = self.emit(QMatMul {}, &[x.codes, wv], loc)?[0];
        if let Some(zero) = x.zero.first().filter(|z| **z != 0) {
            let ty = TensorType::new(ScalarType::I32, vec![w.n.into()]);
            let mut shift = vec![0i32; w.n];
            for (i, c) in q.codes.iter().enumerate() {
                shift[i % w.n] += zero * i32::from(*c);
            }
            let bytes = shift.iter().flat_map(|v| v.to_le_bytes()).collect();
            let shift = self.constant(&format!("{}.shift", w.name), ty, bytes)?;
            acc = self.emit(Sub {}, &[acc, shift], loc)?[0];
        }
        let f = self.emit(Cast { to: ScalarType::F32 }, &[acc], loc)?[0];
        let shape: &[usize] = if whole { &[] } else { &[w.n] };
        let name = format!("{}.scales", w.name);
        match x.scale {
            Scale::Dynamic(s) => {
                let ws = self.f32s(&name, shape, &q.scales)?;
                let rows = self.emit(Mul {}, &[f, s], loc)?[0];
                Ok(self.emit(Mul {}, &[rows, ws], loc)?[0])
            }
            Scale::Static(s) => {
                let product = |w: &f32| (f64::from(s) * f64::from(*w)) as f32;
                let all: Vec<f32> = q.scales.iter().map(product).collect();
                let c = self.f32s(&name, shape, &all)?;
                Ok(self.emit(Mul {}, &[f, c], loc)?[0])
            }
            Scale::Channels(_) => Err(Diag::internal(
                loc.to_string(),
                "a product's activations have no scales for channels",
            )),
        }
    }

    /// A float activation times codes; `whole`: one scale for all of them.
    fn weight_only(&mut self, x: ValueId, w: Matrix, whole: bool, loc: &Loc) -> Result<ValueId, Diag> {
        let q = if whole {
            quantize_channels(&w, |_| 0, 1)
        } else {
            quantize_channels(&w, |i| i % w.n, w.n)
        };
        let (granularity, shape): (_, &[usize]) = if whole {
            (Granularity::Tensor, &[])
        } else {
            (Granularity::Axis(1), &[w.n])
        };
        let ty = TensorType {
            elem: QuantType::int8(granularity).into(),
            shape: vec![w.k.into(), w.n.into()],
        };
        let x = self.r.get(self.m, x);
        let codes = self.constant(&format!("{}.codes", w.name), ty, q.bytes())?;
        let scales = self.f32s(&format!("{}.scales", w.name), shape, &q.scales)?;
        let sum = self.emit(WeightMatMul {}, &[x, codes], loc)?[0];
        Ok(self.emit(Mul {}, &[sum, scales], loc)?[0])
    }

    /// An attention over codes of operands with static scales; `None` if not all of them have any.
    fn attention(&mut self, n: &Node) -> Result<Option<ValueId>, Diag> {
        let (mut sources, mut scales) = (Vec::new(), Vec::new());
        for i in 0..3 {
            let fake = n.input(i).and_then(|v| self.fake_node(v));
            let Some((f, _)) = fake.filter(|(f, q)| !q.dynamic && !q.qtype.zero && f.input(3).is_none())
            else {
                return Ok(None);
            };
            sources.extend(f.input(0));
            scales.extend(f.input(1));
        }
        if sources.len() < 3 || scales.len() < 3 {
            return Ok(None);
        }
        let mut ins: Vec<Option<ValueId>> = sources.iter().map(|v| Some(self.r.get(self.m, *v))).collect();
        ins.push(n.input(3).map(|v| self.r.get(self.m, v)));
        ins.extend(scales.iter().map(|v| Some(self.r.get(self.m, *v))));
        let out = self
            .r
            .node(self.m, n.op.clone(), ins, &n.loc)
            .map_err(edit_diag)?;
        Ok(out.first().copied())
    }

    fn table(&mut self, t: Matrix, q: QuantType, index: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
        let rows = quantize_channels(&t, |i| i / t.n, t.k);
        let ty = TensorType {
            elem: q.clone().into(),
            shape: vec![t.k.into(), t.n.into()],
        };
        let cv = self.constant(&format!("{}.codes", t.name), ty, rows.bytes())?;
        let sv = self.f32s(&format!("{}.scales", t.name), &[t.k, 1], &rows.scales)?;
        let i = self.r.get(self.m, index);
        let c = self.emit(Gather { axis: 0 }, &[cv, i], loc)?[0];
        let s = self.emit(Gather { axis: 0 }, &[sv, i], loc)?[0];
        Ok(self.emit(Dequantize { qtype: q }, &[c, s], loc)?[0])
    }

    /// A fake quantization as such; dead ones go with the graph's dead code.
    fn stand_alone(&mut self, n: &Node, f: &FakeQuant) -> Result<(), Diag> {
        let q = self.activation(n.output(), &n.loc)?;
        let scale = match q.scale {
            Scale::Dynamic(s) => s,
            Scale::Static(s) => self.f32s(&format!("{}.scale", n.loc), &[], &[s])?,
            Scale::Channels(s) => self.f32s(&format!("{}.scale", n.loc), &[s.len()], &s)?,
        };
        let mut ins = vec![Some(q.codes), Some(scale)];
        if f.qtype.zero {
            ins.push(n.input(2).map(|z| self.r.get(self.m, z)));
        }
        let op = Dequantize {
            qtype: f.qtype.clone(),
        };
        let y = self.r.node(self.m, op.into(), ins, &n.loc).map_err(edit_diag)?[0];
        self.r.set(n.output(), y);
        Ok(())
    }
}
