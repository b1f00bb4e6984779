//! Normalizations.
#![allow(missing_docs)]

use super::Tensor;

type R = Result<Vec<Tensor>, String>;
pub fn layer_norm(_x: &Tensor, _g: &Tensor, _b: Option<&Tensor>, _eps: f32) -> R {
    Err("not written".into())
}
pub fn rms_norm(_x: &Tensor, _g: &Tensor, _eps: f32) -> R {
    Err("not written".into())
}
pub fn softmax(_x: &Tensor, _axis: usize, _log: bool) -> R {
    Err("not written".into())
}
