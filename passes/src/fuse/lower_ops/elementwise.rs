//! Elementwise ops: the op's own scalar program at every point, operands broadcast by strides of 0.

use super::LowerCx;
use crate::fuse::builder::{RegionBuilder, broadcast_access};
use rsqc_ir::diag::Diag;
use rsqc_ir::scalar::BodyId;
use rsqc_ir::{Op, ValueId};

pub(super) fn elementwise(cx: &mut LowerCx<'_>, op: &Op) -> Result<Vec<ValueId>, Diag> {
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&out.shape, 0);
    let n = cx.m.graph.node(cx.id).inputs.len();
    let mut args: Vec<BodyId> = Vec::new();
    for i in 0..n {
        let (v, t) = cx.input(i)?;
        args.push(b.load(v, broadcast_access(&t.shape, &out.shape), t.storage()));
    }
    let y = op
        .scalar(&mut b.b, &args)
        .ok_or_else(|| cx.unsupported(format!("`{}` has no region form", op.name())))?;
    b.store_all(y, out);
    cx.emit(b)
}
