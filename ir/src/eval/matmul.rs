//! Matrix products.
#![allow(missing_docs)]

use super::Tensor;

pub fn matmul(_a: &Tensor, _b: &Tensor) -> Result<Vec<Tensor>, String> {
    Err("not written".into())
}
