//! Reductions.
#![allow(missing_docs)]

use super::Tensor;

type R = Result<Vec<Tensor>, String>;
pub fn reduce(_x: &Tensor, _kind: crate::ops::reduce::Reduction, _axes: &[i64], _keep: bool) -> R {
    Err("not written".into())
}
pub fn arg_reduce(_x: &Tensor, _max: bool, _axis: usize, _keep: bool, _last: bool) -> R {
    Err("not written".into())
}
pub fn cum_sum(_x: &Tensor, _axis: usize, _exclusive: bool, _reverse: bool) -> R {
    Err("not written".into())
}
