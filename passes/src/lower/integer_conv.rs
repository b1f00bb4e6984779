//! The part of `lower-to-integer` that makes convolutions integer.
//!
//! Before -> after: `conv(fake(x), fake(w), b)` ->
//! ```text
//! acc   = quant.conv(codes of x, codes of w, z)   exact i32, padding has code z
//! acc   = acc - z * (sums of the filters' codes)  only with a zero point: padding then contributes 0
//! y     = (f32(acc) * s) * scales of w + b        dynamic, s one a sample or one
//! y     = f32(acc) * c + b                        static: c = f32(s * scales of w), one a filter
//! ```
//! Where the channels of x have scales and zero points of their own, w is multiplied by the scales before it becomes codes
//! (c is then the scales of these), and z in the second line is that of each weight's channel.

use super::lower_to_integer::{Codes, Lowering, Scale};
use super::weights::quantize_channels;
use crate::methods::{InputChannels, Matrix};
use crate::pass::edit_diag;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::conv::{Conv, QConv};
use rsqc_ir::ops::elementwise::{Add, Cast, Mul, Sub};
use rsqc_ir::ops::shape::Reshape;
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Dim, Loc, Node, ScalarType, TensorType, ValueId};

impl Lowering<'_> {
    /// The result of a convolution of fake-quantized operands; `None` if these codes have no integer form.
    pub(super) fn conv(
        &mut self,
        n: &Node,
        o: &Conv,
        xq: &QuantType,
        wq: &QuantType,
    ) -> Result<Option<ValueId>, Diag> {
        let whole = wq.granularity == Granularity::Tensor;
        let constant = |v| self.fake_node(v).is_some_and(|(_, f)| !f.dynamic);
        let fits = (whole || wq.granularity == Granularity::Axis(0))
            && match xq.granularity {
                Granularity::Axis(0) | Granularity::Tensor => true,
                Granularity::Axis(1) => n.input(0).is_some_and(constant),
                _ => false,
            };
        let (Some(x), Some((shape, mut w)), true) = (n.input(0), self.filters(n), fits) else {
            return Ok(None);
        };
        let Some(of) = InputChannels::new(&shape, o.group) else {
            return Ok(None);
        };
        let loc = &n.loc;
        let x = self.activation(x, loc)?;
        let per_filter = w.n.max(1);
        if let Scale::Channels(s) = &x.scale {
            for (i, v) in w.data.iter_mut().enumerate() {
                *v = (f64::from(*v) * f64::from(s[of.of(i)])) as f32;
            }
        }
        let channel = |i: usize| if whole { 0 } else { i / per_filter };
        let q = quantize_channels(&w, channel, if whole { 1 } else { w.k });
        let ty = TensorType {
            elem: wq.clone().into(),
            shape: shape.iter().map(|d| (*d).into()).collect(),
        };
        let codes = self.constant(&format!("{}.codes", w.name), ty, q.bytes())?;
        let mut ins = vec![x.codes, codes];
        let shifted = x.zero.iter().any(|z| *z != 0);
        if shifted {
            ins.push(self.padding(&x, loc)?);
        }
        let op = QConv {
            strides: o.strides.clone(),
            dilations: o.dilations.clone(),
            pads: o.pads.clone(),
            group: o.group,
        };
        let spatial = o.strides.len();
        // One number a filter broadcasts over the positions behind its axis.
        let mut columns = vec![1usize; spatial + 1];
        columns[0] = w.k;
        let mut acc = self.emit(op, &ins, loc)?[0];
        if shifted {
            let mut shift = vec![0i32; w.k];
            for (i, c) in q.codes.iter().enumerate() {
                let zero = match x.zero.as_slice() {
                    [one] => *one,
                    each => each[of.of(i)],
                };
                shift[i / per_filter] += zero * i32::from(*c);
            }
            let ty = TensorType::new(ScalarType::I32, columns.iter().map(|d| (*d).into()).collect());
            let bytes = shift.iter().flat_map(|v| v.to_le_bytes()).collect();
            let shift = self.constant(&format!("{}.shift", w.name), ty, bytes)?;
            acc = self.emit(Sub {}, &[acc, shift], loc)?[0];
        }
        let mut y = self.emit(Cast { to: ScalarType::F32 }, &[acc], loc)?[0];
        let name = format!("{}.scales", w.name);
        let of_filters: &[usize] = if whole { &[] } else { &columns };
        match x.scale {
            // They are in the weights already.
            Scale::Channels(_) => {
                let c = self.f32s(&name, of_filters, &q.scales)?;
                y = self.emit(Mul {}, &[y, c], loc)?[0];
            }
            Scale::Static(s) => {
                let product = |w: &f32| (f64::from(s) * f64::from(*w)) as f32;
                let all: Vec<f32> = q.scales.iter().map(product).collect();
                let c = self.f32s(&name, of_filters, &all)?;
                y = self.emit(Mul {}, &[y, c], loc)?[0];
            }
            Scale::Dynamic(s) => {
                let s = self.of_samples(s, spatial, loc)?;
                let ws = self.f32s(&name, of_filters, &q.scales)?;
                y = self.emit(Mul {}, &[y, s], loc)?[0];
                y = self.emit(Mul {}, &[y, ws], loc)?[0];
            }
        }
        if let Some(bias) = n.input(2) {
            let bias = self.r.get(self.m, bias);
            let shape = columns.iter().map(|d| (*d).into()).collect();
            let bias = self.emit(Reshape { shape }, &[bias], loc)?[0];
            y = self.emit(Add {}, &[y, bias], loc)?[0];
        }
        Ok(Some(y))
    }

    /// The code that stands for 0, as a constant: a scalar, or one a channel.
    fn padding(&mut self, x: &Codes, loc: &Loc) -> Result<ValueId, Diag> {
        let bug = |_| Diag::internal(loc.to_string(), "a zero point is no 8-bit code");
        let zero: Vec<i8> = x
            .zero
            .iter()
            .map(|z| i8::try_from(*z))
            .collect::<Result<_, _>>()
            .map_err(bug)?;
        let shape = match x.scale {
            Scale::Channels(_) => vec![zero.len().into()],
            _ => vec![],
        };
        let bytes = zero.iter().flat_map(|z| z.to_le_bytes()).collect();
        self.constant(
            &format!("{loc}.zero"),
            TensorType::new(ScalarType::I8, shape),
            bytes,
        )
    }

    /// Shape and elements of the constant filters behind the fake quantization that is operand 1, a row each.
    fn filters(&self, n: &Node) -> Option<(Vec<usize>, Matrix)> {
        let (f, _) = self.fake_node(n.input(1)?)?;
        let w = f.input(0).filter(|_| f.input(3).is_none())?;
        let c = self.m.const_of(w)?;
        let shape = c.ty.static_shape()?;
        let (k, n) = (*shape.first()?, shape[1..].iter().product());
        let matrix = Matrix {
            k,
            n,
            name: c.name.to_string(),
            data: self.m.const_f32(w)?,
        };
        Some((shape, matrix))
    }

    /// Scales of samples `[n]` as `[n, 1, 1...]`; a single scale as it is.
    fn of_samples(&mut self, s: ValueId, spatial: usize, loc: &Loc) -> Result<ValueId, Diag> {
        let mut shape = self.r.graph.ty(s).shape.clone();
        if shape.is_empty() {
            return Ok(s);
        }
        shape.resize(spatial + 2, Dim::one());
        let ins = vec![Some(s)];
        let out = self.r.node(self.m, Reshape { shape }.into(), ins, loc);
        Ok(out.map_err(edit_diag)?[0])
    }
}
