//! Gathers: data-dependent access maps. A gather by one constant index is a slice.

use super::LowerCx;
use crate::fuse::builder::RegionBuilder;
use crate::fuse::edit::term;
use rsqc_ir::diag::Diag;
use rsqc_ir::region::{Access, Gather};
use rsqc_ir::{Dim, ValueId};

pub(super) fn gather(cx: &mut LowerCx<'_>, axis: usize) -> Result<Vec<ValueId>, Diag> {
    let ((x, t), (i, it)) = (cx.input(0)?, cx.input(1)?);
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&out.shape, 0);
    let s = t.strides();
    // Result axes: those of x before `axis`, the index tensor's, those of x behind.
    let behind = axis + it.rank();
    let mut access = Access::linear(
        (0..axis)
            .map(|a| (a as u32, s[a].clone()))
            .chain((axis + 1..t.rank()).map(|a| ((behind + a - axis - 1) as u32, s[a].clone()))),
    );
    let constant = cx.old_input(1).and_then(|v| cx.m.const_scalar(v));
    if let Some(c) = constant {
        let c = c as i64;
        let at = if c < 0 {
            t.shape[axis].clone() + c.into()
        } else {
            c.into()
        };
        access.offset = at * s[axis].clone();
    } else {
        let at = Access::linear(
            it.strides()
                .into_iter()
                .enumerate()
                .map(|(a, s)| ((axis + a) as u32, s)),
        );
        access.gathers.push(Gather {
            operand: b.operand(i, at),
            stride: s[axis].clone(),
            limit: t.shape[axis].clone(),
        });
    }
    let y = b.load(x, access, t.storage());
    b.store_all(y, out);
    cx.emit(b)
}

pub(super) fn gather_elements(cx: &mut LowerCx<'_>, axis: usize) -> Result<Vec<ValueId>, Diag> {
    let ((x, t), (i, it)) = (cx.input(0)?, cx.input(1)?);
    let mut b = RegionBuilder::new(&it.shape, 0);
    let index = b.operand(i, b.dense(0..it.rank()));
    let s = t.strides();
    let mut access = Access::linear(
        (0..t.rank())
            .filter(|a| *a != axis)
            .map(|a| (a as u32, s[a].clone())),
    );
    access.gathers.push(Gather {
        operand: index,
        stride: s[axis].clone(),
        limit: t.shape[axis].clone(),
    });
    let y = b.load(x, access, t.storage());
    b.store_all(y, cx.result(0));
    cx.emit(b)
}

pub(super) fn gather_nd(cx: &mut LowerCx<'_>, batch: usize) -> Result<Vec<ValueId>, Diag> {
    let ((x, t), (i, it)) = (cx.input(0)?, cx.input(1)?);
    let out = cx.result(0);
    let mut b = RegionBuilder::new(&out.shape, 0);
    let s = t.strides();
    let points = it.rank() - 1;
    let k = it.shape[points].as_const().unwrap_or(0) as usize;
    let tails = (batch + k..t.rank()).map(|a| ((points + a - batch - k) as u32, s[a].clone()));
    let mut access = Access::linear((0..batch).map(|a| (a as u32, s[a].clone())).chain(tails));
    let istrides = it.strides();
    for j in 0..k {
        let mut at = Access {
            terms: (0..points).map(|a| term(a as u32, istrides[a].clone())).collect(),
            ..Access::scalar()
        };
        at.terms.retain(|t| !t.stride.is(0));
        at.offset = Dim::from(j);
        access.gathers.push(Gather {
            operand: b.operand(i, at),
            stride: s[batch + j].clone(),
            limit: t.shape[batch + j].clone(),
        });
    }
    let y = b.load(x, access, t.storage());
    b.store_all(y, out);
    cx.emit(b)
}
