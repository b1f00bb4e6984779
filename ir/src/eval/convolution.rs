//! Convolution and pooling.
#![allow(missing_docs)]

use super::{EvalCx, Tensor};

type R = Result<Vec<Tensor>, String>;
pub fn conv(
    _op: &crate::ops::conv::Conv,
    _cx: &EvalCx<'_>,
    _x: &Tensor,
    _w: &Tensor,
    _b: Option<&Tensor>,
) -> R {
    Err("not written".into())
}
pub fn pool(_op: &crate::ops::conv::Pool, _cx: &EvalCx<'_>, _x: &Tensor) -> R {
    Err("not written".into())
}
