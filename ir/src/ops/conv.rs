//! Convolution and pooling.

use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, convolution};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{attr_words, op_attrs, op_struct};

/// Extent of a sliding-window result: `floor((x + before + after - (dilation*(k-1)+1)) / stride) + 1`, or rounded up.
pub fn window_extent(x: &Dim, k: i64, stride: i64, dilation: i64, pads: (i64, i64), ceil: bool) -> Dim {
    let span = x.clone() + Dim::from(pads.0 + pads.1 - (dilation * (k - 1) + 1));
    let s = Dim::from(stride);
    (if ceil {
        span.ceil_div(&s)
    } else {
        span.floor_div(&s)
    }) + Dim::one()
}

op_struct! {
    /// ONNX Conv, channels first: x `[n, c, spatial...]`, w `[o, c/group, kernel...]`, optional bias `[o]`.
    Conv {
        /// Strides, one a spatial axis.
        strides: Vec<i64>,
        /// Dilations, one a spatial axis.
        dilations: Vec<i64>,
        /// Padding: all begins, then all ends.
        pads: Vec<i64>,
        /// Channel groups.
        group: i64,
    }
}
impl OpDef for Conv {
    op_attrs!("conv", strides, dilations, pads, group);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 3)?;
        let (x, w) = (need(ins, 0)?, need(ins, 1)?);
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: self.shape(x, w)?,
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        convolution::conv(
            self,
            cx,
            need(ins, 0)?,
            need(ins, 1)?,
            ins.get(2).copied().flatten(),
        )
    }
}

impl Conv {
    /// Result shape, channels first.
    pub(crate) fn shape(&self, x: &TensorType, w: &TensorType) -> Result<Vec<Dim>, String> {
        let n = self.strides.len();
        if x.rank() != n + 2
            || w.rank() != n + 2
            || self.dilations.len() != n
            || self.pads.len() != 2 * n
            || self.group < 1
        {
            return Err(format!("{n} spatial axes do not fit {x} and {w}"));
        }
        if self.strides.iter().chain(&self.dilations).any(|v| *v < 1) || self.pads.iter().any(|p| *p < 0) {
            return Err("strides and dilations must be positive, pads not negative".into());
        }
        if w.shape[1].clone() * Dim::from(self.group) != x.shape[1] {
            return Err(format!(
                "{} channels in {} groups do not fit weights {w}",
                x.shape[1], self.group
            ));
        }
        let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
        for i in 0..n {
            let k = w.shape[i + 2]
                .as_const()
                .ok_or("kernel extents must be constants")?;
            shape.push(window_extent(
                &x.shape[i + 2],
                k,
                self.strides[i],
                self.dilations[i],
                (self.pads[i], self.pads[n + i]),
                false,
            ));
        }
        Ok(shape)
    }
}

op_struct! {
    /// Exact integer convolution of 8-bit codes, shapes as [`Conv`]: i32 sums of products. Optional operand 2: the code
    /// (of x's storage type: a scalar, or one a channel) that padding has, 0 if absent. Scales and the correction for a
    /// zero point, `- zero * sum of the filter's codes`, are applied elsewhere; with `zero` as the padding's code that
    /// correction makes the contribution of padding 0.
    QConv {
        /// Strides, one a spatial axis.
        strides: Vec<i64>,
        /// Dilations, one a spatial axis.
        dilations: Vec<i64>,
        /// Padding: all begins, then all ends.
        pads: Vec<i64>,
        /// Channel groups.
        group: i64,
    }
}
impl OpDef for QConv {
    op_attrs!("quant.conv", strides, dilations, pads, group);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 3)?;
        let (x, w) = (need(ins, 0)?, need(ins, 1)?);
        codes(x, x.shape.get(1), w, ins.get(2).copied().flatten())?;
        Ok(vec![TensorType::new(ScalarType::I32, self.window().shape(x, w)?)])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        convolution::qconv(
            self,
            cx,
            need(ins, 0)?,
            need(ins, 1)?,
            ins.get(2).copied().flatten(),
        )
    }
}

impl QConv {
    /// The float convolution with the same window.
    pub(crate) fn window(&self) -> Conv {
        Conv {
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            group: self.group,
        }
    }
}

/// Whether these can be the operands of an integer convolution; `channels` is x's extent along them.
pub(crate) fn codes(
    x: &TensorType,
    channels: Option<&Dim>,
    w: &TensorType,
    zero: Option<&TensorType>,
) -> Result<(), String> {
    let int = |t: &TensorType| t.storage().size() == 1 && t.storage().is_int();
    if !int(x) || !int(w) {
        return Err(format!(
            "an integer convolution needs 8-bit codes, found {x} and {w}"
        ));
    }
    match zero {
        Some(z)
            if z.elem.plain() != Some(x.storage())
                || !(z.rank() == 0 || z.rank() == 1 && z.shape.first() == channels) =>
        {
            Err(format!("padding of type {z} for codes {x}"))
        }
        _ => Ok(()),
    }
}

/// What a pool computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    /// Largest element; padding never wins.
    Max,
    /// Mean over the elements that exist.
    Average,
    /// Mean over the window, padding counted as 0.
    AverageWithPad,
}
attr_words!(PoolKind { Max = "max", Average = "average", AverageWithPad = "average_with_pad" });

op_struct! {
    /// Sliding-window pool over the spatial axes of `[n, c, spatial...]`.
    Pool {
        /// What is computed.
        kind: PoolKind,
        /// Window extents.
        kernel: Vec<i64>,
        /// Strides.
        strides: Vec<i64>,
        /// Dilations.
        dilations: Vec<i64>,
        /// Padding: all begins, then all ends.
        pads: Vec<i64>,
        /// Whether the result extent rounds up.
        ceil: bool,
    }
}
impl OpDef for Pool {
    op_attrs!("pool", kind, kernel, strides, dilations, pads, ceil);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: self.shape(x)?,
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        convolution::pool(self, cx, need(ins, 0)?)
    }
}

impl Pool {
    /// Result shape, channels first.
    pub(crate) fn shape(&self, x: &TensorType) -> Result<Vec<Dim>, String> {
        let n = self.kernel.len();
        if x.rank() != n + 2
            || self.strides.len() != n
            || self.dilations.len() != n
            || self.pads.len() != 2 * n
        {
            return Err(format!("{n} spatial axes do not fit {x}"));
        }
        if self
            .strides
            .iter()
            .chain(&self.dilations)
            .chain(&self.kernel)
            .any(|v| *v < 1)
            || self.pads.iter().any(|p| *p < 0)
        {
            return Err("kernel, strides and dilations must be positive, pads not negative".into());
        }
        let mut shape = x.shape[..2].to_vec();
        for i in 0..n {
            let pads = (self.pads[i], self.pads[n + i]);
            shape.push(window_extent(
                &x.shape[i + 2],
                self.kernel[i],
                self.strides[i],
                self.dilations[i],
                pads,
                self.ceil,
            ));
        }
        Ok(shape)
    }
}
