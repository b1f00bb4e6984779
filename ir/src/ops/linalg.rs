//! Matrix products.

use super::elementwise::broadcast;
use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, matmul};
use crate::types::{Dim, TensorType};
use crate::{op_attrs, op_struct};

/// Result shape of a NumPy matrix product.
pub(crate) fn matmul_shape(cx: &InferCx<'_>, a: &TensorType, b: &TensorType) -> Result<Vec<Dim>, String> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(format!(
            "matmul needs operands of rank 1 or more, found {a} and {b}"
        ));
    }
    let (ka, kb) = (&a.shape[a.rank() - 1], &b.shape[b.rank().saturating_sub(2)]);
    if ka != kb {
        return Err(format!("inner extents `{ka}` and `{kb}` differ ({a} times {b})"));
    }
    let (ba, bb) = (
        &a.shape[..a.rank().saturating_sub(2)],
        &b.shape[..b.rank().saturating_sub(2)],
    );
    let mut shape = broadcast(ba, bb, cx.symbols)?;
    if a.rank() > 1 {
        shape.push(a.shape[a.rank() - 2].clone());
    }
    if b.rank() > 1 {
        shape.push(b.shape[b.rank() - 1].clone());
    }
    Ok(shape)
}

op_struct! {
    /// NumPy matrix product of two tensors of one plain type: `[..., m, k] x [..., k, n]`, leading axes broadcast; rank
    /// 1 operands are a row or a column.
    MatMul {}
}
impl OpDef for MatMul {
    op_attrs!("matmul");
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (a, b) = (need(ins, 0)?, need(ins, 1)?);
        if a.elem != b.elem || a.elem.plain().is_none() {
            return Err(format!(
                "matmul needs two operands of one plain type, found {a} and {b}"
            ));
        }
        Ok(vec![TensorType {
            elem: a.elem.clone(),
            shape: matmul_shape(cx, a, b)?,
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        matmul::matmul(need(ins, 0)?, need(ins, 1)?)
    }
}
