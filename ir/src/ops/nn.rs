//! Transformer ops that recognition puts together again.

use super::elementwise::broadcast;
use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, attention};
use crate::types::{Dim, TensorType};
use crate::{attr_words, op_attrs, op_struct};

op_struct! {
    /// Rotary position embedding (Su et al. 2021): `x * cos + rotate(x) * sin` on the last axis d. cos and sin broadcast
    /// to x. Half form: `rotate(x)[i] = -x[i + d/2]` for i < d/2, else `x[i - d/2]`; interleaved: pairs (2i, 2i + 1).
    Rope {
        /// Whether pairs are neighbours.
        interleaved: bool,
    }
}
impl OpDef for Rope {
    op_attrs!("rope", interleaved);
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 3, 3)?;
        let (x, c, s) = (need(ins, 0)?, need(ins, 1)?, need(ins, 2)?);
        let even = x
            .shape
            .last()
            .and_then(|d| d.as_const())
            .is_some_and(|d| d % 2 == 0);
        let fits = |t: &TensorType| broadcast(&x.shape, &t.shape, cx.symbols).is_ok_and(|r| r == x.shape);
        if !even || !fits(c) || !fits(s) {
            return Err(format!(
                "rope needs an even constant last extent and tables that broadcast to {x}, found {c} and {s}"
            ));
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        attention::rope(need(ins, 0)?, need(ins, 1)?, need(ins, 2)?, self.interleaved)
    }
}

/// What softmax gives for a row that is masked out completely by -inf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EmptyRow {
    /// NaN.
    Nan,
    /// Zeros.
    Zero,
}
attr_words!(EmptyRow { Nan = "nan", Zero = "zero" });

op_struct! {
    /// `softmax(scale * q k^T + mask) v`. q `[b, h, s, d]`, k `[b, g, t, d]`, v `[b, g, t, e]` with h a multiple of g (query
    /// head i uses key head i / (h/g)); optional mask broadcasts to `[b, h, s, t]`: f32 is added, bool keeps where true
    /// (others are -inf). With `causal`, key t is kept only if `t <= s + causal`. Result `[b, h, s, e]`.
    Attention {
        /// Factor on the products.
        scale: f32,
        /// Causal offset (length of the past), if causal.
        causal: Option<Dim>,
        /// Rows without a key.
        empty_row: EmptyRow,
    }
}
impl OpDef for Attention {
    op_attrs!("attention", scale, causal, empty_row);
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 3, 4)?;
        Ok(vec![attention_type(cx, ins)?])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        attention::attention(self, cx, ins, None)
    }
}

/// The result type of an attention with these queries, keys, values and mask.
pub(super) fn attention_type(cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<TensorType, String> {
    let (q, k, v) = (need(ins, 0)?, need(ins, 1)?, need(ins, 2)?);
    let fits = q.rank() == 4
        && k.rank() == 4
        && v.rank() == 4
        && q.shape[0] == k.shape[0]
        && k.shape[..3] == v.shape[..3]
        && q.shape[3] == k.shape[3]
        && q.shape[1].exact_div(&k.shape[1]).is_some();
    if !fits {
        return Err(format!("attention operands do not fit: q {q}, k {k}, v {v}"));
    }
    let scores = [
        q.shape[0].clone(),
        q.shape[1].clone(),
        q.shape[2].clone(),
        k.shape[2].clone(),
    ];
    if let Some(m) = ins.get(3).copied().flatten()
        && broadcast(&scores, &m.shape, cx.symbols)? != scores
    {
        return Err(format!("mask {m} does not broadcast to {scores:?}"));
    }
    let mut shape = q.shape.clone();
    shape[3] = v.shape[3].clone();
    Ok(TensorType {
        elem: q.elem.clone(),
        shape,
    })
}
