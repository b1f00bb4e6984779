//! `mode=block`: the sites of a block share an alpha, and the loss is that of the block's result.
//!
//! A **block** is what lies between two points of the residual stream. The block of a site ends at the first sum, in
//! topological order, of a value that depends on all layers of the site and one that does not, but that the site's
//! activation is itself or is computed from: the residual sum that takes up what the layers added. Sites that end at the
//! same sum are one block: for a decoder {q k v, o} and {gate up, down}. A site without such a sum (the logits) is searched
//! by itself, as in `mode=layer`.
//!
//! For each alpha the module gets a copy of the block: the nodes between its layers and the sum, layers quantized as they
//! would be with that alpha, everything that enters float. The executor then runs all copies beside the float model, so
//! that inner sites see the errors of outer ones. Losses are as in `auto_alpha.rs`, of the sum's result.

use super::auto_alpha::Losses;
use super::loss;
use super::options::Grid;
use super::trials::{Codes, Trials};
use crate::analysis::sites::Site;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::quant::FakeQuant;
use rsqc_ir::quant::QuantType;
use rsqc_ir::{Const, Loc, Module, NodeId, Op, ScalarType, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the float weights of all copies in one run; more blocks than that go through the samples again.
const MAX_BYTES: usize = 1 << 28;

/// A block: its sum and its sites.
struct Block<'g> {
    end: NodeId,
    sites: Vec<usize>,
    grid: &'g Grid,
}

/// A copy of a block under one alpha.
struct Copy {
    block: usize,
    alpha: f64,
    /// Results of the float block and of the copy.
    float: ValueId,
    own: ValueId,
    loss: f64,
}

/// Finds the losses of all sites that lie in blocks and ask for this mode.
pub(super) fn search(
    t: &Trials<'_>,
    grids: &[Option<&Grid>],
    found: &mut [Option<Losses>],
) -> Result<(), Diag> {
    let blocks = blocks(t, grids)?;
    let mut from = 0;
    while from < blocks.len() {
        let mut m = t.data.m.clone();
        let mut copies = Vec::new();
        let (mut bytes, mut to) = (0, from);
        while to < blocks.len() && (to == from || bytes < MAX_BYTES) {
            let points = blocks[to].grid.points();
            for (place, alpha) in points.iter().enumerate() {
                copies.push(copy(t, &mut m, &blocks, to, (place, *alpha), &mut bytes)?);
            }
            to += 1;
        }
        run(t, &m, &mut copies)?;
        for c in copies {
            for site in &blocks[c.block].sites {
                found[*site].get_or_insert_default().push((c.alpha, c.loss));
            }
        }
        from = to;
    }
    Ok(())
}

/// Blocks in the order of their sums; sites that ask for other grids are other blocks.
fn blocks<'g>(t: &Trials<'_>, grids: &[Option<&'g Grid>]) -> Result<Vec<Block<'g>>, Diag> {
    let m = t.data.m;
    let order = m
        .graph
        .topo_order()
        .map_err(|n| crate::pass::edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
    let mut all: Vec<Block<'g>> = Vec::new();
    for (i, site) in t.data.sites.iter().enumerate() {
        let Some(grid) = grids[i].filter(|g| g.blocks) else {
            continue;
        };
        let Some(end) = residual_sum(m, &order, site) else {
            continue;
        };
        match all.iter_mut().find(|b| b.end == end && b.grid == grid) {
            Some(b) => b.sites.push(i),
            None => all.push(Block {
                end,
                sites: vec![i],
                grid,
            }),
        }
    }
    Ok(all)
}

/// Values that `v` is computed from, itself included.
fn ancestors(m: &Module, v: ValueId) -> BTreeSet<ValueId> {
    let mut seen = BTreeSet::from([v]);
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        let Some((id, _)) = m.graph.def_node(v) else {
            continue;
        };
        stack.extend(
            m.graph
                .node(id)
                .inputs
                .iter()
                .flatten()
                .filter(|i| seen.insert(**i)),
        );
    }
    seen
}

/// Nodes that depend on one of `layers`, with these themselves.
fn dependents(m: &Module, order: &[NodeId], layers: &[NodeId]) -> BTreeSet<NodeId> {
    let mut all = BTreeSet::new();
    for id in order {
        let mut inputs = m.graph.node(*id).inputs.iter().flatten();
        let reads = inputs.any(|v| m.graph.def_node(*v).is_some_and(|(d, _)| all.contains(&d)));
        if reads || layers.contains(id) {
            all.insert(*id);
        }
    }
    all
}

/// The sum that ends the block of a site.
pub(super) fn residual_sum(m: &Module, order: &[NodeId], site: &Site) -> Option<NodeId> {
    let before = ancestors(m, site.x);
    let behind = dependents(m, order, &site.layers);
    let depends = |v: ValueId| m.graph.def_node(v).is_some_and(|(d, _)| behind.contains(&d));
    let ends = |id: &&NodeId| {
        let n = m.graph.node(**id);
        let (Op::Add(_), Some(a), Some(b)) = (&n.op, n.input(0), n.input(1)) else {
            return false;
        };
        let is_skip = |v: ValueId| m.graph.const_id(v).is_none() && before.contains(&v);
        let sum = (depends(a) && is_skip(b)) || (depends(b) && is_skip(a));
        let reached = || ancestors(m, n.output());
        sum && {
            let reached = reached();
            site.layers
                .iter()
                .all(|l| reached.contains(&m.graph.node(*l).output()))
        }
    };
    order.iter().find(ends).copied()
}

fn add_const(m: &mut Module, c: Const) -> ValueId {
    let ty = c.ty.clone();
    let id = m.consts.add(c);
    m.graph.add_const(id, ty)
}

/// Adds the copy of a block for one alpha to `m`; counts the bytes of its weights.
fn copy(
    t: &Trials<'_>,
    m: &mut Module,
    blocks: &[Block<'_>],
    block: usize,
    (place, alpha): (usize, f64),
    bytes: &mut usize,
) -> Result<Copy, Diag> {
    let original = t.data.m;
    let b = &blocks[block];
    let order = original
        .graph
        .topo_order()
        .map_err(|n| crate::pass::edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
    let site_of = |id: NodeId| {
        b.sites
            .iter()
            .copied()
            .find(|s| t.data.sites[*s].layers.contains(&id))
    };
    let layers: Vec<NodeId> = b
        .sites
        .iter()
        .flat_map(|s| t.data.sites[*s].layers.clone())
        .collect();
    let end = original.graph.node(b.end).output();
    let needed = ancestors(original, end);
    let behind = dependents(original, &order, &layers);
    let mut copied: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut coded: BTreeMap<(ValueId, String), ValueId> = BTreeMap::new();
    for id in order {
        let n = original.graph.node(id);
        if !behind.contains(&id) || !n.outputs.iter().any(|v| needed.contains(v)) {
            continue;
        }
        let of = |v: &Option<ValueId>| v.map(|v| copied.get(&v).copied().unwrap_or(v));
        let mut inputs: Vec<Option<ValueId>> = n.inputs.iter().map(of).collect();
        if let Some(site) = site_of(id) {
            let bug = || Diag::internal(n.loc.to_string(), "a layer of a block has no candidates");
            let x = inputs.first().copied().flatten().ok_or_else(bug)?;
            let (x, w) = quantized(t, m, (site, place, alpha), id, x, &mut coded).ok_or_else(bug)?;
            *bytes += t.matrix(id).map_or(0, |w| 4 * w.len());
            inputs[0] = Some(x);
            inputs[1] = Some(w);
        }
        let types = n.outputs.iter().map(|v| original.graph.ty(*v).clone()).collect();
        let new = m.graph.add_node(n.op.clone(), inputs, types, n.loc.clone());
        let made = m.graph.node(new).outputs.clone();
        copied.extend(n.outputs.iter().copied().zip(made));
    }
    Ok(Copy {
        block,
        alpha,
        float: end,
        own: copied.get(&end).copied().unwrap_or(end),
        loss: 0.0,
    })
}

/// Fake quantizations of `x / s` and `s W` for a layer; layers that say the same of x share one.
fn quantized(
    t: &Trials<'_>,
    m: &mut Module,
    (site, place, alpha): (usize, usize, f64),
    layer: NodeId,
    x: ValueId,
    coded: &mut BTreeMap<(ValueId, String), ValueId>,
) -> Option<(ValueId, ValueId)> {
    let loc = t.data.m.graph.node(layer).loc.clone();
    let inverse = t.inverse(site, alpha);
    let a = t.activation(site, place, &inverse, layer)?;
    let key = (x, format!("{} {:?}", a.qtype, a.codes));
    let fake_x = match coded.get(&key) {
        Some(f) => *f,
        None => {
            let factors = Tensor::new(vec![inverse.len()], inverse.clone());
            let factors = add_const(m, factors.to_const(&format!("{loc}.smooth {alpha}")));
            let mut inputs = vec![Some(x), None, None, Some(factors)];
            if let Codes::Static(scale, zero, _, _) = a.codes {
                let scale = Tensor::new(vec![], vec![scale]).to_const(&format!("{loc}.scale {alpha}"));
                inputs[1] = Some(add_const(m, scale));
                if a.qtype.zero {
                    let name = format!("{loc}.zero {alpha}");
                    let ty = TensorType::new(ScalarType::I8, vec![]);
                    let c = Const::from_bytes(&name, ty, (zero as i8).to_le_bytes().to_vec())?;
                    inputs[2] = Some(add_const(m, c));
                }
            }
            let dynamic = !matches!(a.codes, Codes::Static(..));
            let f = fake(m, inputs, a.qtype, dynamic, &loc);
            coded.insert(key, f);
            f
        }
    };
    let w = t.matrix(layer)?;
    let scaled: Vec<f32> = w
        .rows()
        .into_iter()
        .zip(&inverse)
        .flat_map(|(row, f)| row.iter().map(|v| v / f).collect::<Vec<f32>>())
        .collect();
    let scaled = Tensor::new(w.shape().to_vec(), scaled).to_const(&format!("{loc}.weight {alpha}"));
    let scaled = add_const(m, scaled);
    let codes = QuantType::int8(t.weight_granularity(layer)?);
    let fake_w = fake(m, vec![Some(scaled)], codes, true, &loc);
    Some((fake_x, fake_w))
}

fn fake(m: &mut Module, inputs: Vec<Option<ValueId>>, qtype: QuantType, dynamic: bool, loc: &Loc) -> ValueId {
    let ty = inputs[0].map(|v| m.graph.ty(v).clone());
    let op = FakeQuant { qtype, dynamic };
    let node = m
        .graph
        .add_node(op.into(), inputs, ty.into_iter().collect(), loc.clone());
    m.graph.node(node).output()
}

/// Runs all samples through a module with copies.
fn run(t: &Trials<'_>, m: &Module, copies: &mut [Copy]) -> Result<(), Diag> {
    let mut taps: Vec<ValueId> = copies.iter().flat_map(|c| [c.float, c.own]).collect();
    taps.sort();
    taps.dedup();
    t.data.each_sample(m, taps, &mut |seen| {
        for c in copies.iter_mut() {
            let (Some(y), Some(own)) = (seen.get(&c.float), seen.get(&c.own)) else {
                continue;
            };
            let n = y.shape.last().copied().unwrap_or(1);
            let (Some(a), Some(b)) = (y.as_slice::<f32>(), own.as_slice::<f32>()) else {
                continue;
            };
            if a.is_empty() {
                continue;
            }
            let together = loss::rows_together(&y.shape);
            let norms = loss::inverse_norms(a, n * together);
            let ones = vec![1f32; n];
            for (r, (a, b)) in a.chunks_exact(n).zip(b.chunks_exact(n)).enumerate() {
                c.loss += loss::root_differences(a, b, &ones, 1.0, norms[r / together]);
            }
        }
    })
}
