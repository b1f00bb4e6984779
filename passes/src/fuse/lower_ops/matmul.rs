//! Matrix products: the Contract anchor over axes (batch..., m | n | k); the row is n.

use super::LowerCx;
use crate::fuse::builder::{RegionBuilder, broadcast_strides};
use rsqc_ir::diag::Diag;
use rsqc_ir::region::{Access, Anchor};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// Accumulator of products of this type, if backends have one.
pub(super) fn accumulator(t: &TensorType) -> Option<ScalarType> {
    match t.storage() {
        ScalarType::I8 | ScalarType::U8 | ScalarType::I32 => Some(ScalarType::I32),
        ScalarType::F32 | ScalarType::F16 | ScalarType::BF16 => Some(ScalarType::F32),
        _ => None,
    }
}

/// A NumPy matrix operand as `[batch..., r, c]`: rank 1 is a row (`left`) or a column.
fn as_matrix(t: &TensorType, left: bool) -> Vec<Dim> {
    match (t.rank(), left) {
        (1, true) => vec![Dim::one(), t.shape[0].clone()],
        (1, false) => vec![t.shape[0].clone(), Dim::one()],
        _ => t.shape.clone(),
    }
}

pub(super) fn matmul(cx: &mut LowerCx<'_>) -> Result<Vec<ValueId>, Diag> {
    let ((a, at), (w, wt)) = (cx.input(0)?, cx.input(1)?);
    let out = cx.result(0);
    let acc = accumulator(&at)
        .ok_or_else(|| cx.unsupported(format!("matrix products of {} are not supported", at.elem)))?;
    let (ash, wsh) = (as_matrix(&at, true), as_matrix(&wt, false));
    let (m, k) = (ash[ash.len() - 2].clone(), ash[ash.len() - 1].clone());
    let n = wsh[wsh.len() - 1].clone();
    let batch = out.shape[..out.rank() - usize::from(at.rank() > 1) - usize::from(wt.rank() > 1)].to_vec();
    let nb = batch.len() as u32;
    let mut extents = batch.clone();
    extents.extend([m, n.clone()]);
    let mut b = RegionBuilder::new(&extents, 1);
    let kk = b.reduce_axis(&k);
    let operand = |shape: &[Dim], row: u32, column: u32| {
        let lead = shape.len() - 2;
        // Strides of the batch axes count whole matrices.
        let size = shape[lead].clone() * shape[lead + 1].clone();
        let batches = broadcast_strides(&shape[..lead], &batch);
        let terms = (0..).zip(batches.into_iter().map(|s| s * size.clone()));
        Access::linear(terms.chain([(row, shape[lead + 1].clone()), (column, Dim::one())]))
    };
    let lhs = b.operand(a, operand(&ash, nb, kk));
    let rhs = b.operand(w, operand(&wsh, kk, nb + 1));
    b.anchor(Anchor::Contract {
        lhs,
        rhs,
        acc,
        pad: false,
    });
    let y = b.b.anchor(acc);
    let y = b.b.cast(y, out.storage());
    b.store_all(y, out);
    cx.emit(b)
}
