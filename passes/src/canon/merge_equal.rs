//! Common subexpressions: nodes with the same op, attributes and operands become one, and so do constants with the same
//! type and bytes.
//!
//! Sound because ops are pure and the constant's hash covers type and content. Of equal nodes the first in topological
//! order stays. Regions are left alone: fusion made them distinct on purpose.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// See the file documentation.
pub struct MergeEqual;

type Key = (&'static str, String, Vec<Option<ValueId>>);

#[derive(Default)]
struct Seen {
    /// The old node that computes this, by what it computes.
    nodes: BTreeMap<Key, NodeId>,
    consts: BTreeMap<[u8; 32], ValueId>,
}

impl Pass for MergeEqual {
    fn name(&self) -> &'static str {
        "merge-equal"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let mut seen = Seen::default();
        sweep(cx, &mut |ed, id, ins| seen.merge(ed, id, ins))?;
        Ok(())
    }
}

impl Seen {
    /// The first constant with the content of `v`, or `v`.
    fn representative(&mut self, ed: &Editor<'_>, v: ValueId) -> ValueId {
        match ed.constant_of(v) {
            Some(c) => *self.consts.entry(c.hash()).or_insert(v),
            None => v,
        }
    }

    fn merge(
        &mut self,
        ed: &mut Editor<'_>,
        id: NodeId,
        ins: &[Option<ValueId>],
    ) -> Result<Option<Vec<ValueId>>, Diag> {
        let node = ed.old().graph.node(id);
        if matches!(node.op, Op::Region(_)) {
            return Ok(None);
        }
        let canonical: Vec<Option<ValueId>> = ins
            .iter()
            .map(|v| v.map(|v| self.representative(ed, v)))
            .collect();
        let key = (
            node.op.name(),
            format!("{:?}", node.op.attrs()),
            canonical.clone(),
        );
        let g = &ed.old().graph;
        if let Some(first) = self.nodes.get(&key) {
            let (a, b) = (&g.node(*first).outputs, &node.outputs);
            // Declared types may be equal by a run-time check only: such nodes stay apart.
            let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| g.ty(*a) == g.ty(*b));
            return Ok(same.then(|| a.iter().map(|v| ed.get(*v)).collect()));
        }
        self.nodes.insert(key, id);
        // A node that only reads another copy of a constant is edited as well: the copy dies.
        Ok((canonical != ins).then(|| ed.node_like(id, canonical)))
    }
}
