//! `lower-to-integer`: fake quantization becomes codes and integer products.
//!
//! Before -> after: `matmul(fake(x), fake(w))` ->
//! ```text
//! m, s  = quant.params(x)                       per token, once for all products that read x
//! q     = quant.quantize(x, m)                  mul rounding
//! acc   = quant.matmul(q, codes of w)           exact i32
//! y     = (f32(acc) * s) * scales of w
//! ```
//! The order of the float epilogue is this one everywhere: row scale first, then column scale (then the bias that
//! follows as an ordinary add). `gather(fake(table), i)` -> `dequantize(gather(codes, i), gather(scales, i))`.
//! A fake quantization with any other reader becomes quantize and dequantize. A pre-scale of the fake quantization becomes
//! that of `quant.params` and `quant.quantize`.
//!
//! Weight codes: `s = f32(amax / 127)` (f64 quotient rounded once; 1 for an all-zero channel), `q = rne(w / s)` in f64,
//! clamped to +-127. Sound in the sense of quantization: this is the integer form of what `insert-fake-quant` marked;
//! `quant.fake` rounds `x * m` likewise, weights may differ from it where `w / s` is a tie. Hence lossy.

use crate::methods::{Matrix, const_matrix};
use crate::pass::{Effect, Pass, PassCx, Phases, edit_diag};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::elementwise::{Cast, Mul};
use rsqc_ir::ops::gather::Gather;
use rsqc_ir::ops::quant::{Dequantize, DynamicParams, FakeQuant, QMatMul, Quantize, Rounding};
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

/// A fake quantization.
struct Fake {
    source: ValueId,
    pre_scale: Option<ValueId>,
    qtype: QuantType,
}

struct Lowering<'a> {
    m: &'a Module,
    r: Rebuild,
    /// Constants to add behind those of the module.
    consts: Vec<Const>,
    /// Codes and scales of activations, by (new) value and pre-scale.
    codes: BTreeMap<(ValueId, Option<ValueId>), (ValueId, ValueId)>,
}

impl Lowering<'_> {
    fn node(&mut self, n: &Node, id: rsqc_ir::NodeId) -> Result<(), Diag> {
        let fake = |i: usize| n.input(i).and_then(|v| self.fake(v));
        match (&n.op, fake(0), fake(1)) {
            (Op::MatMul(_), Some(x), Some(w))
                if x.qtype.granularity == Granularity::Token
                    && w.qtype.granularity == Granularity::Axis(1)
                    && w.pre_scale.is_none() =>
            {
                if let Some(w) = const_matrix(self.m, w.source) {
                    let y = self.linear(&x, w, &n.loc)?;
                    self.r.set(n.output(), y);
                    return Ok(());
                }
            }
            (Op::Gather(g), Some(t), None)
                if g.axis == 0 && t.qtype.granularity == Granularity::Token && t.pre_scale.is_none() =>
            {
                if let (Some(c), Some(i)) = (const_matrix(self.m, t.source), n.input(1)) {
                    let y = self.table(c, t.qtype, i, &n.loc)?;
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

    /// The dynamic fake quantization that defines `v`.
    fn fake(&self, v: ValueId) -> Option<Fake> {
        let n = self.m.graph.node(self.m.graph.def_node(v)?.0);
        match &n.op {
            Op::FakeQuant(f) if f.dynamic => Some(Fake {
                source: n.input(0)?,
                pre_scale: n.input(3),
                qtype: f.qtype.clone(),
            }),
            _ => None,
        }
    }

    fn emit(&mut self, op: impl Into<Op>, ins: &[ValueId], loc: &Loc) -> Result<Vec<ValueId>, Diag> {
        let ins = ins.iter().map(|v| Some(*v)).collect();
        self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)
    }

    /// Codes and scales of `x` (a new value) with dynamic parameters.
    fn codes(
        &mut self,
        x: ValueId,
        pre_scale: Option<ValueId>,
        q: QuantType,
        loc: &Loc,
    ) -> Result<(ValueId, ValueId), Diag> {
        let mut ins = vec![x];
        ins.extend(pre_scale);
        let p = self.emit(DynamicParams { qtype: q.clone() }, &ins, loc)?;
        let mut ins = vec![Some(x), Some(p[0])];
        if pre_scale.is_some() {
            ins.extend([None, pre_scale]);
        }
        let op = Quantize {
            qtype: q,
            rounding: Rounding::Mul,
        };
        let codes = self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)?[0];
        Ok((codes, p[1]))
    }

    fn constant(&mut self, name: &str, ty: TensorType, bytes: Vec<u8>) -> Result<ValueId, Diag> {
        let c = Const::from_bytes(name, ty.clone(), bytes)
            .ok_or_else(|| Diag::internal(name, "a quantized constant does not fit its type"))?;
        let id = rsqc_ir::ConstId((self.m.consts.len() + self.consts.len()) as u32);
        self.consts.push(c);
        Ok(self.r.graph.add_const(id, ty))
    }

    /// Codes and scales of an activation, made once.
    fn activation(&mut self, f: &Fake, loc: &Loc) -> Result<(ValueId, ValueId), Diag> {
        let v = self.r.get(self.m, f.source);
        let pre = f.pre_scale.map(|p| self.r.get(self.m, p));
        if let Some(c) = self.codes.get(&(v, pre)) {
            return Ok(*c);
        }
        let made = self.codes(v, pre, f.qtype.clone(), loc)?;
        self.codes.insert((v, pre), made);
        Ok(made)
    }

    fn linear(&mut self, x: &Fake, w: Matrix, loc: &Loc) -> Result<ValueId, Diag> {
        let (codes, s) = self.activation(x, loc)?;
        let (wcodes, wscales) = quantize_channels(&w, false);
        let ty = TensorType {
            elem: QuantType::int8(Granularity::Axis(1)).into(),
            shape: vec![w.k.into(), w.n.into()],
        };
        let wv = self.constant(&format!("{}.codes", w.name), ty, wcodes)?;
        let sty = TensorType::new(ScalarType::F32, vec![w.n.into()]);
        let ws = self.constant(&format!("{}.scales", w.name), sty, wscales)?;
        let acc = self.emit(QMatMul {}, &[codes, wv], loc)?[0];
        let f = self.emit(Cast { to: ScalarType::F32 }, &[acc], loc)?[0];
        let rows = self.emit(Mul {}, &[f, s], loc)?[0];
        Ok(self.emit(Mul {}, &[rows, ws], loc)?[0])
    }

    fn table(&mut self, t: Matrix, q: QuantType, index: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
        let (codes, scales) = quantize_channels(&t, true);
        let ty = TensorType {
            elem: q.clone().into(),
            shape: vec![t.k.into(), t.n.into()],
        };
        let cv = self.constant(&format!("{}.codes", t.name), ty, codes)?;
        let sty = TensorType::new(ScalarType::F32, vec![t.k.into(), 1usize.into()]);
        let sv = self.constant(&format!("{}.scales", t.name), sty, scales)?;
        let i = self.r.get(self.m, index);
        let c = self.emit(Gather { axis: 0 }, &[cv, i], loc)?[0];
        let s = self.emit(Gather { axis: 0 }, &[sv, i], loc)?[0];
        Ok(self.emit(Dequantize { qtype: q }, &[c, s], loc)?[0])
    }

    /// A fake quantization as such; dead ones go with the graph's dead code.
    fn stand_alone(&mut self, n: &Node, f: &FakeQuant) -> Result<(), Diag> {
        let source = n
            .input(0)
            .ok_or_else(|| Diag::internal(n.loc.to_string(), "operand 0 is missing"))?;
        if !f.dynamic {
            return Err(Diag::internal(
                n.loc.to_string(),
                "static fake quantization has no integer form yet",
            ));
        }
        let fake = Fake {
            source,
            pre_scale: n.input(3),
            qtype: f.qtype.clone(),
        };
        let (codes, s) = if self.m.graph.const_id(source).is_some() {
            // A constant may be quantized at several granularities.
            let v = self.r.get(self.m, source);
            let pre = fake.pre_scale.map(|p| self.r.get(self.m, p));
            self.codes(v, pre, fake.qtype, &n.loc)?
        } else {
            self.activation(&fake, &n.loc)?
        };
        let y = self.emit(
            Dequantize {
                qtype: f.qtype.clone(),
            },
            &[codes, s],
            &n.loc,
        )?[0];
        self.r.set(n.output(), y);
        Ok(())
    }
}

/// Codes (i8 bytes, `[k, n]`) and scales (f32 bytes) with one scale a column, or a row.
fn quantize_channels(w: &Matrix, by_row: bool) -> (Vec<u8>, Vec<u8>) {
    let count = if by_row { w.k } else { w.n };
    let channel = |i: usize| if by_row { i / w.n } else { i % w.n };
    let mut amax = vec![0f32; count];
    for (i, v) in w.data.iter().enumerate() {
        let a = &mut amax[channel(i)];
        *a = a.max(v.abs());
    }
    let scales: Vec<f32> = amax
        .iter()
        .map(|a| {
            if *a == 0.0 {
                1.0
            } else {
                // Denormal maxima would give scale 0.
                ((f64::from(*a) / 127.0) as f32).max(f32::MIN_POSITIVE)
            }
        })
        .collect();
    let codes = w
        .data
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let q = (f64::from(*v) / f64::from(scales[channel(i)])).round_ties_even();
            (q.clamp(-127.0, 127.0) as i8).to_le_bytes()[0]
        })
        .collect();
    (codes, scales.iter().flat_map(|s| s.to_le_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_symmetric_and_zero_channels_have_scale_one() {
        let w = Matrix {
            k: 2,
            n: 3,
            name: "w".into(),
            data: vec![1.0, 0.0, -0.5, -2.0, 0.0, 0.25],
        };
        let (codes, scales) = quantize_channels(&w, false);
        let codes: Vec<i8> = codes.iter().map(|b| *b as i8).collect();
        assert_eq!(codes, [64, 0, -127, -127, 0, 64]);
        let s: Vec<f32> = scales
            .chunks(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        assert_eq!(s, [2.0 / 127.0, 1.0, 0.5 / 127.0]);
        let (rows, _) = quantize_channels(&w, true);
        assert_eq!(rows[0] as i8, 127);
        assert_eq!(rows[3] as i8, -127);
    }
}
