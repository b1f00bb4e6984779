//! Elementwise evaluation: a scalar body at every point of a broadcast shape.

use super::tensor::{Data, Native, each};
use super::{EvalCx, Tensor, lanes, walk};
use crate::scalar::{Body, BodyId, ScalarOp, check_body};
use rayon::prelude::*;
use std::ops::Range;

/// Points handled at once: small enough that all columns stay in the cache.
const BLOCK: usize = 4096;

/// The value of statement `root` at every point of the broadcast of the operands' shapes.
pub fn broadcast_eval(cx: &EvalCx<'_>, body: &Body, root: BodyId, ins: &[&Tensor]) -> Result<Tensor, String> {
    check_body(body)?;
    let mut shape = Vec::new();
    for t in ins {
        shape = walk::broadcast_shape(&shape, &t.shape)?;
    }
    let strides = ins
        .iter()
        .map(|t| walk::broadcast_strides(&t.shape, &shape))
        .collect::<Result<Vec<_>, _>>()?;
    let n = walk::count(&shape)?;
    let blocks = (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .map(|b| {
            let range = b * BLOCK..((b + 1) * BLOCK).min(n);
            let operand = |i: u32| {
                let (t, s) = ins
                    .get(i as usize)
                    .zip(strides.get(i as usize))
                    .ok_or_else(|| format!("operand {i} does not exist"))?;
                Ok(column(t, &shape, s, range.clone()))
            };
            block(cx, body, root, range.len(), &operand)
        })
        .collect::<Result<Vec<Data>, String>>()?;
    let data = join(blocks).unwrap_or_else(|| lanes::zeros(body.stmt(root).ty, 0));
    Ok(Tensor { shape, data })
}

/// The elements of `t` at the points `range`.
fn column(t: &Tensor, shape: &[usize], strides: &[i64], range: Range<usize>) -> Data {
    each!(&t.data, v => {
        if t.shape == shape {
            return Native::wrap(v[range].to_vec());
        }
        let mut out = Vec::with_capacity(range.len());
        walk::offsets(shape, strides, 0, range, &mut |a| out.push(v[a as usize]));
        Native::wrap(out)
    })
}

fn block(
    cx: &EvalCx<'_>,
    body: &Body,
    root: BodyId,
    n: usize,
    operand: &dyn Fn(u32) -> Result<Data, String>,
) -> Result<Data, String> {
    let mut cols: Vec<Data> = Vec::with_capacity(body.stmts.len());
    for s in &body.stmts {
        let col = match &s.op {
            ScalarOp::Operand(i) => operand(*i)?,
            ScalarOp::Const(c) => lanes::constant(c, n),
            ScalarOp::Dim(d) => Data::I64(vec![cx.dim(d)?; n]),
            ScalarOp::Anchor | ScalarOp::Index(_) | ScalarOp::Reduce(_) => {
                return Err(format!("`{}` has no meaning outside a region", s.op.name()));
            }
            op => {
                let args: Vec<&Data> = s.args.iter().map(|a| &cols[a.index()]).collect();
                lanes::apply(op, &args, s.ty)?
            }
        };
        if col.elem() != s.ty {
            return Err(format!("an operand has type {}, expected {}", col.elem(), s.ty));
        }
        cols.push(col);
    }
    Ok(cols.swap_remove(root.index()))
}

/// Columns of one type, one behind the other; `None` if there is none.
pub(crate) fn join(blocks: Vec<Data>) -> Option<Data> {
    let total = blocks.iter().map(Data::len).sum();
    let first = blocks.first()?;
    each!(first, f => {
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&f[..0]);
        for b in &blocks {
            out.extend_from_slice(Native::slice(b)?);
        }
        Some(Native::wrap(out))
    })
}
