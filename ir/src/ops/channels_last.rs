//! Convolution and pooling with channels last: the forms that kernels read, made by a pass from those of
//! [`super::conv`].

use super::conv::{Conv, Pool, PoolKind, codes};
use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, convolution};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{op_attrs, op_struct};

/// `[n, spatial..., c]` as `[n, c, spatial...]`.
fn first(x: &TensorType) -> Result<TensorType, String> {
    let Some((c, lead)) = x.shape.split_last().filter(|(_, lead)| !lead.is_empty()) else {
        return Err(format!("{x} has no channels"));
    };
    let mut shape = vec![lead[0].clone(), c.clone()];
    shape.extend(lead[1..].iter().cloned());
    Ok(TensorType {
        elem: x.elem.clone(),
        shape,
    })
}

/// `[n, c, spatial...]` as `[n, spatial..., c]`.
fn last(mut shape: Vec<Dim>) -> Vec<Dim> {
    let c = shape.remove(1);
    shape.push(c);
    shape
}

op_struct! {
    /// Convolution with channels last: x `[n, spatial..., c]`, w `[kernel..., c/group, o]`, result `[n, spatial..., o]`.
    /// Floats give their own type; 8-bit codes give exact i32 sums, and optional operand 2 is the code (of x's storage
    /// type: a scalar, or one a channel) that their padding has, 0 if absent.
    ConvLast {
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
impl OpDef for ConvLast {
    op_attrs!("conv.last", strides, dilations, pads, group);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 3)?;
        let (x, w) = (need(ins, 0)?, need(ins, 1)?);
        let zero = ins.get(2).copied().flatten();
        let elem = match x.elem.plain() {
            Some(t) if t.is_float() && w.elem == x.elem && zero.is_none() => t,
            _ => {
                codes(x, x.shape.last(), w, zero)?;
                ScalarType::I32
            }
        };
        let rank = w.rank();
        if rank < 3 {
            return Err(format!("{w} is no filter"));
        }
        let mut filter = vec![w.shape[rank - 1].clone(), w.shape[rank - 2].clone()];
        filter.extend(w.shape[..rank - 2].iter().cloned());
        let filter = TensorType {
            elem: w.elem.clone(),
            shape: filter,
        };
        let shape = last(self.window().shape(&first(x)?, &filter)?);
        Ok(vec![TensorType::new(elem, shape)])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        convolution::conv_last(self, need(ins, 0)?, need(ins, 1)?, ins.get(2).copied().flatten())
    }
}

impl ConvLast {
    /// The same window with channels first.
    pub(crate) fn window(&self) -> Conv {
        Conv {
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            group: self.group,
        }
    }
}

op_struct! {
    /// Sliding-window pool over the spatial axes of `[n, spatial..., c]`.
    PoolLast {
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
impl OpDef for PoolLast {
    op_attrs!("pool.last", kind, kernel, strides, dilations, pads, ceil);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: last(self.window().shape(&first(x)?)?),
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        convolution::pool_last(self, cx, need(ins, 0)?)
    }
}

impl PoolLast {
    /// The same window with channels first.
    pub(crate) fn window(&self) -> Pool {
        Pool {
            kind: self.kind,
            kernel: self.kernel.clone(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            ceil: self.ceil,
        }
    }
}
