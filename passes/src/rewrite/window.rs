//! Where the graph is cut into windows for equality saturation.
//!
//! A window is a connected set of at most [`MAX_NODES`] nodes whose ops occur in rules. Edges are joined in the order of
//! how few users their value has, so that private values bind first and tables shared by all layers are what gets cut.
//! Residual sums (two computed operands of the same type, several users) are never joined with their users: the chain of
//! layers ends there.

use super::language::attr_names;
use rsqc_ir::{Graph, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// Most nodes of a window.
pub(super) const MAX_NODES: usize = 200;

/// A window: its nodes in topological order.
pub(super) struct Window {
    pub nodes: Vec<NodeId>,
}

/// Windows of two nodes or more, ordered by first node, and how many edges were cut because a window was full.
pub(super) fn windows(g: &Graph, order: &[NodeId]) -> (Vec<Window>, u64) {
    let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let clear: Vec<bool> = order.iter().map(|n| is_transparent(g, *n)).collect();
    let mut edges: Vec<(usize, usize, usize)> = Vec::new();
    for (to, n) in order.iter().enumerate().filter(|(i, _)| clear[*i]) {
        for v in g.node(*n).inputs.iter().flatten() {
            let Some((p, _)) = g.def_node(*v) else { continue };
            let from = place[&p];
            if clear[from] && !is_residual(g, *v) {
                edges.push((g.use_count(*v), from, to));
            }
        }
    }
    edges.sort_unstable();
    let mut parent: Vec<usize> = (0..order.len()).collect();
    let mut size = vec![1usize; order.len()];
    let mut cut = 0;
    for (_, a, b) in edges {
        let (a, b) = (find(&mut parent, a), find(&mut parent, b));
        if a == b {
            continue;
        }
        if size[a] + size[b] > MAX_NODES {
            cut += 1;
            continue;
        }
        let (low, high) = (a.min(b), a.max(b));
        parent[high] = low;
        size[low] += size[high];
    }
    let mut groups: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
    for i in (0..order.len()).filter(|i| clear[*i]) {
        groups.entry(find(&mut parent, i)).or_default().push(order[i]);
    }
    let all = groups.into_values().filter(|n| n.len() > 1);
    (all.map(|nodes| Window { nodes }).collect(), cut)
}

fn find(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

/// Whether rules can see through a node: plain tensors, one result, all operands given, an op that terms carry.
fn is_transparent(g: &Graph, n: NodeId) -> bool {
    let node = g.node(n);
    attr_names(node.op.name()).is_some()
        && node.outputs.len() == 1
        && node
            .inputs
            .iter()
            .all(|v| v.is_some_and(|v| g.ty(v).elem.plain().is_some()))
}

fn is_residual(g: &Graph, v: ValueId) -> bool {
    let Some((n, _)) = g.def_node(v) else { return false };
    let node = g.node(n);
    let whole = |i: usize| {
        node.input(i)
            .is_some_and(|x| g.const_id(x).is_none() && g.ty(x) == g.ty(v))
    };
    matches!(node.op, Op::Add(_)) && g.use_count(v) >= 2 && whole(0) && whole(1)
}
