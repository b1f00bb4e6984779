//! Normalizations over the last axis, and softmax.

use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, norms};
use crate::types::TensorType;
use crate::{op_attrs, op_struct};

fn check_gain(x: &TensorType, ins: &[Option<&TensorType>], i: usize) -> Result<(), String> {
    let Some(g) = ins.get(i).copied().flatten() else {
        return Ok(());
    };
    if g.elem == x.elem && g.shape.as_slice() == x.shape.last().map(std::slice::from_ref).unwrap_or(&[]) {
        return Ok(());
    }
    Err(format!(
        "operand {i} of type {g} must have the last extent of {x}"
    ))
}

op_struct! {
    /// `(x - mean) / sqrt(var + eps) * scale + bias` over the last axis; var is the biased variance. Operands: x,
    /// scale, optional bias.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    }
}
impl OpDef for LayerNorm {
    op_attrs!("layer_norm", eps);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 3)?;
        let x = need(ins, 0)?;
        need(ins, 1)?;
        check_gain(x, ins, 1)?;
        check_gain(x, ins, 2)?;
        Ok(vec![x.clone()])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        norms::layer_norm(
            need(ins, 0)?,
            need(ins, 1)?,
            ins.get(2).copied().flatten(),
            self.eps,
        )
    }
}

op_struct! {
    /// `x / sqrt(mean(x^2) + eps) * gain` over the last axis (Zhang and Sennrich 2019).
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    }
}
impl OpDef for RmsNorm {
    op_attrs!("rms_norm", eps);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let x = need(ins, 0)?;
        check_gain(x, ins, 1)?;
        Ok(vec![x.clone()])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        norms::rms_norm(need(ins, 0)?, need(ins, 1)?, self.eps)
    }
}

op_struct! {
    /// `e^(x - max) / sum e^(x - max)` over `axis`; `log` gives its logarithm.
    Softmax {
        /// Axis.
        axis: usize,
        /// Whether the logarithm is wanted.
        log: bool,
    }
}
impl OpDef for Softmax {
    op_attrs!("softmax", axis, log);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        if self.axis >= x.rank() || !x.elem.plain().is_some_and(|t| t.is_float()) {
            return Err(format!("softmax over axis {} is not defined for {x}", self.axis));
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        norms::softmax(need(ins, 0)?, self.axis, self.log)
    }
}
