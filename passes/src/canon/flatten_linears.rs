//! `reshape(f(matmul(reshape(x, [-1, k]), W)), [b, s, n]) -> f(matmul(x, W))`, f a chain of elementwise ops.
//!
//! Before: exporters flatten the leading axes around Gemm. After: the product on the original rank, so that the pair of
//! reshapes is gone. Sound because a product with a two-dimensional right side treats leading axes alike, row by row, in
//! the same order, and every op of the chain is elementwise with operands that only vary along the last axis. Done only
//! if the final shape is proven to be x's with the last extent replaced, and if nothing else reads the chain.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, is_elementwise, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::{Dim, Loc, NodeId, Op, TensorType, ValueId};

/// See the file documentation.
pub struct FlattenLinears;

/// Longest chain followed between product and reshape.
const CHAIN: usize = 16;

impl Pass for FlattenLinears {
    fn name(&self) -> &'static str {
        "flatten-linears"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(flatten(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

/// A link of the chain: an elementwise op, its operands, and which of them comes from the link below.
struct Link {
    op: Op,
    operands: Vec<ValueId>,
    at: Vec<usize>,
    loc: Loc,
}

fn flatten(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let Op::Reshape(_) = node.op else { return None };
    let want = ed.old().graph.ty(node.output()).clone();
    let mut links = Vec::new();
    let mut v = ins[0]?;
    let (x, w, loc) = loop {
        if !ed.single_use(v) || links.len() > CHAIN {
            return None;
        }
        let def = ed.def(v)?;
        if matches!(def.op, Op::MatMul(_)) {
            break (def.input(0)?, def.input(1)?, def.loc.clone());
        }
        let link = link(ed, v)?;
        v = link.operands[link.at[0]];
        links.push(link);
    };
    let source = ed.def(x)?;
    let source = matches!(source.op, Op::Reshape(_))
        .then(|| source.input(0))
        .flatten()?;
    if !flattens(ed, source, x, w, &want.shape) {
        return None;
    }
    let mut shape = ed.ty(source).shape.clone();
    *shape.last_mut()? = ed.ty(w).shape[1].clone();
    let lead = shape.clone();
    let ty = TensorType {
        elem: ed.ty(x).elem.clone(),
        shape,
    };
    let mut y = ed.try_add(MatMul {}, &[source, w], &ty, &loc)?;
    for mut l in links.into_iter().rev() {
        for i in &l.at {
            l.operands[*i] = y;
        }
        let elem = ed.try_infer(&l.op, &l.operands)?.elem;
        y = ed.try_add(
            l.op,
            &l.operands,
            &TensorType {
                elem,
                shape: lead.clone(),
            },
            &l.loc,
        )?;
    }
    (ed.ty(y) == &want).then_some(y)
}

/// The elementwise op that defines `v`, all of whose other operands vary along the last axis at most.
fn link(ed: &Editor<'_>, v: ValueId) -> Option<Link> {
    let n = ed.def(v)?;
    let operands: Vec<ValueId> = n.inputs.iter().copied().collect::<Option<_>>()?;
    let types: Vec<&TensorType> = operands.iter().map(|v| ed.ty(*v)).collect();
    if !is_elementwise(&n.op, &types) {
        return None;
    }
    let wide: Vec<usize> = (0..operands.len()).filter(|i| types[*i].rank() >= 2).collect();
    let first = operands[*wide.first()?];
    let one_source = wide.iter().all(|i| operands[*i] == first) && ed.ty(first).shape == ed.ty(v).shape;
    one_source.then(|| Link {
        op: n.op.clone(),
        at: wide,
        loc: n.loc.clone(),
        operands,
    })
}

/// Whether `flat` is `source` with leading axes merged and `result` splits them again behind a product with `w`.
fn flattens(ed: &Editor<'_>, source: ValueId, flat: ValueId, w: ValueId, result: &[Dim]) -> bool {
    let (s, f, w) = (&ed.ty(source).shape, &ed.ty(flat).shape, &ed.ty(w).shape);
    f.len() == 2
        && w.len() == 2
        && s.len() >= 2
        && s.last() == f.last()
        && result.len() == s.len()
        && result[..s.len() - 1] == s[..s.len() - 1]
}
