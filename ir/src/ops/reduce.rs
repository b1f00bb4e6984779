//! Reductions and scans.

use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, reduction};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{attr_words, op_attrs, op_struct};

/// What a reduction computes over its axes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reduction {
    /// Sum.
    Sum,
    /// Sum divided by the number of elements.
    Mean,
    /// Largest.
    Max,
    /// Smallest.
    Min,
    /// Product.
    Prod,
    /// Sum of squares.
    SumSquare,
    /// Square root of the sum of squares.
    L2,
    /// Sum of absolute values.
    L1,
}
attr_words!(Reduction { Sum = "sum", Mean = "mean", Max = "max", Min = "min", Prod = "prod", SumSquare = "sum_square", L2 = "l2", L1 = "l1" });

op_struct! {
    /// Combines elements over `axes` (ascending, without repetition; empty = no axis).
    Reduce {
        /// What is computed.
        kind: Reduction,
        /// Axes.
        axes: Vec<i64>,
        /// Whether reduced axes stay with extent 1.
        keep: bool,
    }
}
impl OpDef for Reduce {
    op_attrs!("reduce", kind, axes, keep);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        let ok = self.axes.windows(2).all(|w| w[0] < w[1])
            && self.axes.iter().all(|a| (0..x.rank() as i64).contains(a));
        if !ok || x.elem.plain().is_none() {
            return Err(format!("axes {:?} do not fit {x}", self.axes));
        }
        Ok(vec![TensorType {
            elem: x.elem.clone(),
            shape: reduced(&x.shape, &self.axes, self.keep),
        }])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        reduction::reduce(need(ins, 0)?, self.kind, &self.axes, self.keep)
    }
}

fn reduced(shape: &[Dim], axes: &[i64], keep: bool) -> Vec<Dim> {
    let mut out = Vec::new();
    for (i, d) in shape.iter().enumerate() {
        match axes.contains(&(i as i64)) {
            false => out.push(d.clone()),
            true if keep => out.push(Dim::one()),
            true => {}
        }
    }
    out
}

op_struct! {
    /// Index (i64) of the largest or smallest element along `axis`; the first one wins unless `last`.
    ArgReduce {
        /// Whether the largest is wanted (otherwise the smallest).
        max: bool,
        /// Axis.
        axis: usize,
        /// Whether the axis stays with extent 1.
        keep: bool,
        /// Whether the last of equal elements wins.
        last: bool,
    }
}
impl OpDef for ArgReduce {
    op_attrs!("arg_reduce", max, axis, keep, last);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        if self.axis >= x.rank() {
            return Err(format!("axis {} is outside rank {}", self.axis, x.rank()));
        }
        Ok(vec![TensorType::new(
            ScalarType::I64,
            reduced(&x.shape, &[self.axis as i64], self.keep),
        )])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        reduction::arg_reduce(need(ins, 0)?, self.max, self.axis, self.keep, self.last)
    }
}

op_struct! {
    /// Running sums along `axis`.
    CumSum {
        /// Axis.
        axis: usize,
        /// Whether an element's own value is left out of its sum.
        exclusive: bool,
        /// Whether sums run from the end.
        reverse: bool,
    }
}
impl OpDef for CumSum {
    op_attrs!("cum_sum", axis, exclusive, reverse);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 1)?;
        let x = need(ins, 0)?;
        if self.axis >= x.rank() {
            return Err(format!("axis {} is outside rank {}", self.axis, x.rank()));
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        reduction::cum_sum(need(ins, 0)?, self.axis, self.exclusive, self.reverse)
    }
}
