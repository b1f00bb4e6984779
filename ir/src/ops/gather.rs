//! Data-dependent element movement.

use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, movement};
use crate::types::TensorType;
use crate::{op_attrs, op_struct};

fn check_indices(t: &TensorType) -> Result<(), String> {
    if t.storage().is_int() && t.elem.plain().is_some() {
        Ok(())
    } else {
        Err(format!("indices must be integers, found {t}"))
    }
}

op_struct! {
    /// ONNX Gather: axis `axis` of operand 0 is replaced by the index tensor's axes. Negative indices count from the
    /// end; what is then outside is clamped inside by compiled code and an error in the evaluator.
    Gather {
        /// Gathered axis.
        axis: usize,
    }
}
impl OpDef for Gather {
    op_attrs!("gather", axis);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (x, i) = (need(ins, 0)?, need(ins, 1)?);
        check_indices(i)?;
        if self.axis >= x.rank() {
            return Err(format!("axis {} is outside rank {}", self.axis, x.rank()));
        }
        let shape = x.shape[..self.axis]
            .iter()
            .chain(&i.shape)
            .chain(&x.shape[self.axis + 1..])
            .cloned()
            .collect();
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape,
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::gather(need(ins, 0)?, need(ins, 1)?, self.axis)
    }
}

op_struct! {
    /// ONNX GatherElements: result element = operand 0 with the index along `axis` taken from operand 1.
    GatherElements {
        /// Gathered axis.
        axis: usize,
    }
}
impl OpDef for GatherElements {
    op_attrs!("gather_elements", axis);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (x, i) = (need(ins, 0)?, need(ins, 1)?);
        check_indices(i)?;
        if i.rank() != x.rank() || self.axis >= x.rank() {
            return Err(format!("indices {i} do not fit {x} along axis {}", self.axis));
        }
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: i.shape.clone(),
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::gather_elements(need(ins, 0)?, need(ins, 1)?, self.axis)
    }
}

op_struct! {
    /// ONNX GatherND: the last axis of operand 1 holds index tuples into operand 0, behind `batch_dims` shared axes.
    GatherNd {
        /// Leading axes that both operands share.
        batch_dims: usize,
    }
}
impl OpDef for GatherNd {
    op_attrs!("gather_nd", batch_dims);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (x, i) = (need(ins, 0)?, need(ins, 1)?);
        check_indices(i)?;
        let b = self.batch_dims;
        let k = i
            .shape
            .last()
            .and_then(|d| d.as_const())
            .and_then(|k| usize::try_from(k).ok());
        let k = k.ok_or_else(|| format!("the last extent of the indices must be a constant, found {i}"))?;
        if i.rank() <= b || b + k > x.rank() {
            return Err(format!("index tuples of {k} with {b} batch axes do not fit {x}"));
        }
        let shape = i.shape[..i.rank() - 1]
            .iter()
            .chain(&x.shape[b + k..])
            .cloned()
            .collect();
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape,
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::gather_nd(need(ins, 0)?, need(ins, 1)?, self.batch_dims)
    }
}
