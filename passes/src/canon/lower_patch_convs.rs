//! Convolutions whose windows tile the input become products.
//!
//! `conv(x[n, c, H*kh, W*kw], w[o, c, kh, kw]) with stride = kernel, no padding, one group ->
//! transpose(matmul(space_to_depth(x)[n, H*W, c*kh*kw], wT) + b)`, reshaped to `[n, o, H, W]`. Sound because windows do not
//! overlap and cover the input exactly (proven by exact division of the extents), so that each output pixel is the
//! product of one patch with the weights; only the order of the sum may differ. Kernels of one pixel stay convolutions.

use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, Rewritten, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::Conv;
use rsqc_ir::ops::elementwise::Add;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::shape::{Reshape, Transpose};
use rsqc_ir::{Dim, NodeId, Op, Phase, ValueId};

/// See the file documentation.
pub struct LowerPatchConvs;

impl Pass for LowerPatchConvs {
    fn name(&self) -> &'static str {
        "lower-patch-convs"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-5)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut lower)?;
        Ok(())
    }
}

fn is_patch(c: &Conv, kernel: &[i64]) -> bool {
    c.strides == kernel
        && c.group == 1
        && c.pads.iter().all(|p| *p == 0)
        && c.dilations.iter().all(|d| *d == 1)
        && kernel.iter().product::<i64>() > 1
}

fn lower(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Rewritten {
    let node = ed.old().graph.node(id);
    let (Op::Conv(c), [Some(x), Some(w), ..]) = (&node.op, ins) else {
        return Ok(None);
    };
    let (x, w) = (*x, *w);
    let Some(weights) = ed.tensor(w).filter(|t| t.shape.len() >= 3) else {
        return Ok(None);
    };
    let kernel: Vec<i64> = weights.shape[2..].iter().map(|k| *k as i64).collect();
    if !is_patch(c, &kernel) {
        return Ok(None);
    }
    let xs = ed.ty(x).shape.clone();
    let tiles: Option<Vec<Dim>> = xs[2..]
        .iter()
        .zip(&kernel)
        .map(|(d, k)| d.exact_div(&Dim::from(*k)))
        .collect();
    let Some(tiles) = tiles else { return Ok(None) };
    let loc = &node.loc;
    let patches = space_to_depth(ed, id, x, &tiles, &kernel)?;
    let Some(wt) = transposed(&weights) else {
        return Ok(None);
    };
    let wt = ed.constant(wt.to_const(&ed.constant_of(w).map_or("weight".into(), |c| c.name.to_string())));
    let mut y = ed.add(MatMul {}, &[patches, wt], loc)?;
    if let Some(b) = ins.get(2).copied().flatten() {
        y = ed.add(Add {}, &[y, b], loc)?;
    }
    let y = ed.add(Transpose { perm: vec![0, 2, 1] }, &[y], loc)?;
    let shape = ed.old().graph.ty(node.output()).shape.clone();
    Ok(Some(vec![ed.add(Reshape { shape }, &[y], loc)?]))
}

/// `[n, c, T0*k0, T1*k1, ...] -> [n, T0*T1*..., c*k0*k1*...]`.
fn space_to_depth(
    ed: &mut Editor<'_>,
    id: NodeId,
    x: ValueId,
    tiles: &[Dim],
    kernel: &[i64],
) -> Result<ValueId, Diag> {
    let loc = &ed.old().graph.node(id).loc;
    let (n, c) = (ed.ty(x).shape[0].clone(), ed.ty(x).shape[1].clone());
    let mut split = vec![n.clone(), c.clone()];
    for (t, k) in tiles.iter().zip(kernel) {
        split.extend([t.clone(), Dim::from(*k)]);
    }
    let axes = tiles.len() as i64;
    let mut perm = vec![0];
    perm.extend((0..axes).map(|i| 2 + 2 * i));
    perm.push(1);
    perm.extend((0..axes).map(|i| 3 + 2 * i));
    let x = ed.add(Reshape { shape: split }, &[x], loc)?;
    let x = ed.add(Transpose { perm }, &[x], loc)?;
    let rows: Dim = tiles.iter().product();
    let depth = c * Dim::from(kernel.iter().product::<i64>());
    ed.add(
        Reshape {
            shape: vec![n, rows, depth],
        },
        &[x],
        loc,
    )
}

/// `[o, c, k...]` as `[c*k..., o]`.
fn transposed(w: &Tensor) -> Option<Tensor> {
    let o = w.shape[0];
    let depth: usize = w.shape[1..].iter().product();
    let bytes = w.data.to_bytes();
    let size = w.elem().size();
    let mut out = Vec::with_capacity(bytes.len());
    for d in 0..depth {
        for i in 0..o {
            let at = (i * depth + d) * size;
            out.extend_from_slice(&bytes[at..at + size]);
        }
    }
    Tensor::from_bytes(w.elem(), vec![depth, o], &out)
}
