//! `merge-linears`: the q, k, v products of attention become one.
//!
//! Before -> after: `matmul(x, wq) + bq, matmul(x, wk) + bk, matmul(x, wv) + bv` ->
//! `y = matmul(x, [wq | wk | wv]) + [bq | bk | bv]` and three slices of `y` along the last axis. Exact: every column of a
//! product is a sum of its own, taken in the same order. Only products merge whose results reach an attention through
//! movement and rotary embedding: there the slices vanish into access maps. Products with an epilogue of their own (gate and
//! up of a gated MLP) stay apart. Layers for which the scheme differs stay apart too; `merge-linears` runs before weights
//! are quantized, and per-channel scales do not mix.

use crate::pass::{Effect, Pass, PassCx, Phases, edit_diag};
use crate::scheme::{LayerScheme, Scheme};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::Add;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::shape::Slice;
use rsqc_ir::types::ScalarType;
use rsqc_ir::{Const, Dim, Loc, Module, NodeId, Op, Phase, Rebuild, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Movement steps between a product and its attention.
const MAX_STEPS: usize = 12;

/// See the file documentation.
pub struct MergeLinears {
    /// What each layer becomes.
    pub scheme: Scheme,
}

/// A product that may merge.
struct Linear {
    node: NodeId,
    weight: ValueId,
    columns: usize,
    /// The bias and the sum with it, if that is all that follows.
    bias: Option<(ValueId, NodeId)>,
    /// The value that the slice replaces.
    result: ValueId,
}

impl Pass for MergeLinears {
    fn name(&self) -> &'static str {
        "merge-linears"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Canonical, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module().clone();
        let order = m
            .graph
            .topo_order()
            .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
        let groups = self.groups(&m, &order);
        let mut r = Rebuild::new(&m);
        let mut consts = m.consts.len() as u32;
        let mut new_consts = Vec::new();
        let mut gone: BTreeSet<NodeId> = BTreeSet::new();
        let mut first: BTreeMap<NodeId, &Vec<Linear>> = BTreeMap::new();
        for g in groups.iter().take_while(|_| cx.permit()) {
            gone.extend(g.iter().map(|l| l.node));
            gone.extend(g.iter().filter_map(|l| l.bias.map(|(_, n)| n)));
            first.insert(g[0].node, g);
        }
        for id in order {
            if let Some(g) = first.get(&id) {
                let mut constant = |r: &mut Rebuild, c: Const| {
                    let v = r.graph.add_const(rsqc_ir::ConstId(consts), c.ty.clone());
                    new_consts.push(c);
                    consts += 1;
                    v
                };
                merge(&m, &mut r, g, &mut constant)?;
            } else if !gone.contains(&id) {
                r.copy(&m, id);
            }
        }
        cx.count("products merged", gone.len() as u64);
        for c in new_consts {
            cx.module_mut().consts.add(c);
        }
        cx.install(r)?;
        Ok(())
    }
}

impl MergeLinears {
    /// Products by the value they share, in order; only groups of two or more.
    fn groups(&self, m: &Module, order: &[NodeId]) -> Vec<Vec<Linear>> {
        let mut all: BTreeMap<(ValueId, &LayerScheme), Vec<Linear>> = BTreeMap::new();
        for id in order {
            let n = m.graph.node(*id);
            if let (Op::MatMul(_), Some(x)) = (&n.op, n.input(0))
                && let Some(l) = linear(m, *id)
                && feeds_attention(m, l.result)
            {
                // Layers of different schemes have different weight types.
                let scheme = self.scheme.of_layer(&n.loc).0;
                all.entry((x, scheme)).or_default().push(l);
            }
        }
        all.into_values()
            .filter(|g| g.len() > 1 && g.iter().all(|l| l.bias.is_some() == g[0].bias.is_some()))
            .collect()
    }
}

/// A product of a computed tensor of rank 2 or more with a constant f32 matrix.
fn linear(m: &Module, id: NodeId) -> Option<Linear> {
    let n = m.graph.node(id);
    let (x, weight) = (n.input(0)?, n.input(1)?);
    let c = m.const_of(weight)?;
    let [_, columns] = <[usize; 2]>::try_from(c.ty.static_shape()?).ok()?;
    let f32s = c.ty.elem.plain() == Some(ScalarType::F32);
    if !f32s || m.graph.const_id(x).is_some() || m.graph.ty(x).rank() < 2 {
        return None;
    }
    let y = n.output();
    let bias = bias_of(m, y, columns);
    Some(Linear {
        node: id,
        weight,
        columns,
        result: bias.map_or(y, |(_, add)| m.graph.node(add).output()),
        bias,
    })
}

/// The constant vector that is added to `y` and the addition, if nothing else reads `y`.
fn bias_of(m: &Module, y: ValueId, columns: usize) -> Option<(ValueId, NodeId)> {
    let mut users = m.graph.users(y);
    let (add, slot) = users.next()?;
    if users.next().is_some() || m.graph.is_output(y) {
        return None;
    }
    let n = m.graph.node(add);
    let other = match n.op {
        Op::Add(_) => n.input(1 - slot as usize)?,
        _ => return None,
    };
    let shape = m.const_of(other)?.ty.static_shape()?;
    (shape == [columns] && m.const_f32(other).is_some()).then_some((other, add))
}

/// Whether `v` reaches q, k or v of an attention through movement and rotary embedding.
fn feeds_attention(m: &Module, v: ValueId) -> bool {
    let mut front = vec![v];
    for _ in 0..MAX_STEPS {
        let mut next = Vec::new();
        for (node, slot) in front.iter().flat_map(|v| m.graph.users(*v)) {
            let n = m.graph.node(node);
            match n.op {
                Op::Attention(_) if slot < 3 => return true,
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) | Op::Concat(_) => {
                    next.push(n.output());
                }
                Op::Rope(_) if slot == 0 => next.push(n.output()),
                _ => {}
            }
        }
        front = next;
    }
    false
}

/// Columns of f32 matrices (or vectors, as one row) side by side.
fn side_by_side(m: &Module, parts: &[(ValueId, usize)], rows: usize) -> Option<Vec<f32>> {
    let data: Vec<Vec<f32>> = parts
        .iter()
        .map(|(v, _)| m.const_f32(*v))
        .collect::<Option<_>>()?;
    let mut out = Vec::new();
    for row in 0..rows {
        for (d, (_, n)) in data.iter().zip(parts) {
            out.extend_from_slice(&d[row * n..(row + 1) * n]);
        }
    }
    Some(out)
}

/// Emits the merged product of a group and the slices that replace its results.
fn merge(
    m: &Module,
    r: &mut Rebuild,
    g: &[Linear],
    constant: &mut dyn FnMut(&mut Rebuild, Const) -> ValueId,
) -> Result<(), Diag> {
    let locs: Vec<&str> = g.iter().map(|l| &*m.graph.node(l.node).loc).collect();
    let loc: Loc = locs.join(" + ").as_str().into();
    let bug = |what: &str| Diag::internal(loc.to_string(), what.to_string());
    let node = m.graph.node(g[0].node);
    let x = node.input(0).ok_or_else(|| bug("operand 0 is missing"))?;
    let k = m.graph.ty(g[0].weight).static_shape().map_or(0, |s| s[0]);
    let total: usize = g.iter().map(|l| l.columns).sum();
    let weights: Vec<(ValueId, usize)> = g.iter().map(|l| (l.weight, l.columns)).collect();
    let w = side_by_side(m, &weights, k).ok_or_else(|| bug("a weight is not f32"))?;
    let w = constant(
        r,
        Tensor::new(vec![k, total], w).to_const(&format!("{loc}.weight")),
    );
    let x = r.get(m, x);
    let mut y = r
        .node(m, MatMul {}.into(), vec![Some(x), Some(w)], &loc)
        .map_err(edit_diag)?[0];
    let biases: Vec<(ValueId, usize)> = g.iter().filter_map(|l| Some((l.bias?.0, l.columns))).collect();
    if !biases.is_empty() {
        let b = side_by_side(m, &biases, 1).ok_or_else(|| bug("a bias is not f32"))?;
        let b = constant(r, Tensor::new(vec![total], b).to_const(&format!("{loc}.bias")));
        y = r
            .node(m, Add {}.into(), vec![Some(y), Some(b)], &loc)
            .map_err(edit_diag)?[0];
    }
    let ty: TensorType = r.graph.ty(y).clone();
    let mut at = 0usize;
    for l in g {
        let mut starts = vec![Dim::zero(); ty.rank()];
        let mut sizes = ty.shape.clone();
        starts[ty.rank() - 1] = at.into();
        sizes[ty.rank() - 1] = l.columns.into();
        let op = Slice {
            starts,
            sizes,
            steps: vec![1; ty.rank()],
        };
        let s = r
            .node(m, op.into(), vec![Some(y)], &m.graph.node(l.node).loc)
            .map_err(edit_diag)?[0];
        r.set(l.result, s);
        at += l.columns;
    }
    Ok(())
}
