//! Ops that only move elements, and ops that materialise shapes.

use super::elementwise::broadcast;
use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, movement};
use crate::quant::{Granularity, QuantType};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{op_attrs, op_struct};

op_struct! {
    /// The same elements in row-major order under another shape. Quantized operands: tensor granularity or unchanged
    /// trailing extents.
    Reshape {
        /// New shape; its product equals the operand's.
        shape: Vec<Dim>,
    }
}
impl OpDef for Reshape {
    op_attrs!("reshape", shape);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        let (have, want): (Dim, Dim) = (x.numel(), self.shape.iter().product());
        if have != want && have.as_const().is_some() && want.as_const().is_some() {
            return Err(format!("{have} elements cannot be reshaped to {want}"));
        }
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: self.shape.clone(),
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::reshape(need(ins, 0)?, cx.shape(&self.shape)?)
    }
}

op_struct! {
    /// Result axis `i` is operand axis `perm[i]`.
    Transpose {
        /// Permutation of the axes.
        perm: Vec<i64>,
    }
}
impl OpDef for Transpose {
    op_attrs!("transpose", perm);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.rank() as i64) {
            return Err(format!(
                "perm {:?} is not a permutation of {} axes",
                self.perm,
                x.rank()
            ));
        }
        let shape = self.perm.iter().map(|p| x.shape[*p as usize].clone()).collect();
        let mut elem = x.elem.clone();
        if let Some(q) = x.elem.quant()
            && let Granularity::Axis(a) = q.granularity
            && let Some(to) = self.perm.iter().position(|p| *p == i64::from(a))
        {
            elem = QuantType {
                granularity: Granularity::Axis(to as u32),
                ..q.clone()
            }
            .into();
        }
        Ok(vec![TensorType { elem, shape }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::transpose(need(ins, 0)?, &self.perm)
    }
}

op_struct! {
    /// Broadcast to `shape` (NumPy rules; the result is exactly `shape`).
    Expand {
        /// Result shape.
        shape: Vec<Dim>,
    }
}
impl OpDef for Expand {
    op_attrs!("expand", shape);
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        if broadcast(&x.shape, &self.shape, cx.symbols)? != self.shape {
            return Err(format!("{x} does not broadcast to {:?}", self.shape));
        }
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: self.shape.clone(),
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::expand(need(ins, 0)?, &cx.shape(&self.shape)?)
    }
}

op_struct! {
    /// Operands joined along `axis`; all other extents equal.
    Concat {
        /// Axis.
        axis: usize,
    }
}
impl OpDef for Concat {
    op_attrs!("concat", axis);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        let first = need(ins, 0)?;
        if self.axis >= first.rank() {
            return Err(format!("axis {} is outside rank {}", self.axis, first.rank()));
        }
        let mut shape = first.shape.clone();
        for i in 1..ins.len() {
            let t = need(ins, i)?;
            let same = t.rank() == first.rank()
                && t.elem == first.elem
                && (0..t.rank()).all(|a| a == self.axis || t.shape[a] == first.shape[a]);
            if !same {
                return Err(format!(
                    "operand {i} of type {t} does not fit {first} (concatenation along axis {})",
                    self.axis
                ));
            }
            shape[self.axis] = shape[self.axis].clone() + t.shape[self.axis].clone();
        }
        Ok(vec![TensorType {
            elem: first.elem.clone(),
            shape,
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let ins: Vec<&Tensor> = (0..ins.len()).map(|i| need(ins, i)).collect::<Result<_, _>>()?;
        movement::concat(&ins, self.axis)
    }
}

op_struct! {
    /// Element `i` of result axis `a` is operand index `starts[a] + i * steps[a]`. One entry an axis; steps may be
    /// negative, never 0; all indices lie inside the operand.
    Slice {
        /// First index.
        starts: Vec<Dim>,
        /// Extents of the result.
        sizes: Vec<Dim>,
        /// Steps.
        steps: Vec<i64>,
    }
}
impl OpDef for Slice {
    op_attrs!("slice", starts, sizes, steps);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        let r = x.rank();
        if self.starts.len() != r || self.sizes.len() != r || self.steps.len() != r || self.steps.contains(&0)
        {
            return Err(format!(
                "starts, sizes and steps must have one entry for each of {r} axes, steps not 0"
            ));
        }
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: self.sizes.clone(),
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let starts = self
            .starts
            .iter()
            .map(|d| cx.dim(d))
            .collect::<Result<Vec<_>, _>>()?;
        movement::slice(need(ins, 0)?, &starts, &cx.shape(&self.sizes)?, &self.steps)
    }
}

op_struct! {
    /// Surrounds the operand with the scalar of operand 1: `before[a]` and `after[a]` elements on axis `a` (not negative).
    Pad {
        /// Elements before.
        before: Vec<Dim>,
        /// Elements behind.
        after: Vec<Dim>,
    }
}
impl OpDef for Pad {
    op_attrs!("pad", before, after);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (x, v) = (need(ins, 0)?, need(ins, 1)?);
        if self.before.len() != x.rank()
            || self.after.len() != x.rank()
            || v.elem != x.elem
            || !v.numel().is(1)
        {
            return Err(format!(
                "pad of {x} needs one entry an axis and a single value of its type, found {v}"
            ));
        }
        let shape = (0..x.rank())
            .map(|a| x.shape[a].clone() + self.before[a].clone() + self.after[a].clone())
            .collect();
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape,
        }])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        movement::pad(
            need(ins, 0)?,
            need(ins, 1)?,
            &cx.shape(&self.before)?,
            &cx.shape(&self.after)?,
        )
    }
}

op_struct! {
    /// An i64 tensor whose elements, in row-major order, are dim expressions.
    DimValue {
        /// Elements.
        values: Vec<Dim>,
        /// Shape (static).
        shape: Vec<Dim>,
    }
}
impl OpDef for DimValue {
    op_attrs!("dim", values, shape);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 0, 0)?;
        let n: Dim = self.shape.iter().product();
        if !n.is(self.values.len() as i64) {
            return Err(format!(
                "{} values do not fill shape {:?}",
                self.values.len(),
                self.shape
            ));
        }
        Ok(vec![TensorType::new(ScalarType::I64, self.shape.clone())])
    }
    fn eval(&self, cx: &EvalCx<'_>, _: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let v = self
            .values
            .iter()
            .map(|d| cx.dim(d))
            .collect::<Result<Vec<i64>, _>>()?;
        Ok(vec![Tensor::new(cx.shape(&self.shape)?, v)])
    }
}

op_struct! {
    /// `start + step * i` for i in `0..len`, as i64 of shape `[len]`.
    Iota {
        /// First element.
        start: Dim,
        /// Difference.
        step: Dim,
        /// Number of elements.
        len: Dim,
    }
}
impl OpDef for Iota {
    op_attrs!("iota", start, step, len);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 0, 0)?;
        Ok(vec![TensorType::new(ScalarType::I64, vec![self.len.clone()])])
    }
    fn eval(&self, cx: &EvalCx<'_>, _: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let (s, d, n) = (cx.dim(&self.start)?, cx.dim(&self.step)?, cx.extent(&self.len)?);
        Ok(vec![Tensor::new(
            vec![n],
            (0..n as i64).map(|i| s.wrapping_add(d.wrapping_mul(i))).collect(),
        )])
    }
}
