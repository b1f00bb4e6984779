//! The typed dataflow graph. The only file that names petgraph, which mirrors the operand lists for traversal.

use crate::ops::Op;
use crate::types::TensorType;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

/// A node's id. Ids are never reused within a graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// A value's id. Ids are never reused within a graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub u32);

/// A constant's id in the module's store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConstId(pub u32);

/// Id of a sub-graph of the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GraphId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
impl NodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
impl ConstId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a node comes from: the name of the model's node (escaped by the frontend).
pub type Loc = Arc<str>;

/// What defines a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueDef {
    /// The graph's input of this number.
    Input(u32),
    /// Result number `.1` of a node.
    Node(NodeId, u32),
    /// A constant.
    Const(ConstId),
    /// Removed.
    Dead,
}

/// A value: its type, definition and users.
#[derive(Clone, Debug)]
pub struct Value {
    /// Type.
    pub ty: TensorType,
    /// Definition.
    pub def: ValueDef,
    /// Physical form, set by the layout pass: `None` is dense row-major signed codes.
    pub layout: Option<Layout>,
    /// `(node, operand slot)` of each use, sorted.
    users: BTreeSet<(NodeId, u32)>,
}

/// Physical form of a value that differs from dense row-major.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layout {
    /// Codes stored with 128 added (u8), as x86's `vpdpbusd` wants activations.
    OffsetBinary,
    /// A constant `[K, N]` weight packed for GEMM by the backend (the one packed form of DESIGN 6).
    PackedWeight,
}

impl Layout {
    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Layout::OffsetBinary => "offset_binary",
            Layout::PackedWeight => "packed_weight",
        }
    }
    /// The layout of this name.
    pub fn parse(s: &str) -> Option<Self> {
        [Layout::OffsetBinary, Layout::PackedWeight]
            .into_iter()
            .find(|l| l.name() == s)
    }
}

/// A node: operation, ordered operands, results.
#[derive(Clone, Debug)]
pub struct Node {
    /// Operation with its attributes.
    pub op: Op,
    /// Operands in order; `None` is an optional operand left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Results in order.
    pub outputs: Vec<ValueId>,
    /// Location.
    pub loc: Loc,
}

impl Node {
    /// Operand `i`; `None` if absent.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    /// The first result.
    pub fn output(&self) -> ValueId {
        self.outputs[0]
    }
}

/// A named graph input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Name in the model (any text).
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A typed dataflow graph in SSA form.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: StableDiGraph<Node, u32>,
    values: Vec<Value>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares the next input.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let n = self.inputs.len() as u32;
        let value = self.add_value(ty, ValueDef::Input(n));
        self.inputs.push(Port {
            name: name.into(),
            value,
        });
        value
    }

    /// A value that stands for a constant of the module's store.
    pub fn add_const(&mut self, id: ConstId, ty: TensorType) -> ValueId {
        self.add_value(ty, ValueDef::Const(id))
    }

    /// Appends a node whose result types are known.
    pub fn add_node(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        types: Vec<TensorType>,
        loc: Loc,
    ) -> NodeId {
        let id = NodeId(
            self.nodes
                .add_node(Node {
                    op,
                    inputs: Vec::new(),
                    outputs: Vec::new(),
                    loc,
                })
                .index() as u32,
        );
        let outputs: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(i, t)| self.add_value(t, ValueDef::Node(id, i as u32)))
            .collect();
        self.nodes[ix(id)].outputs = outputs;
        self.set_inputs(id, inputs);
        id
    }

    fn add_value(&mut self, ty: TensorType, def: ValueDef) -> ValueId {
        self.values.push(Value {
            ty,
            def,
            layout: None,
            users: BTreeSet::new(),
        });
        ValueId(self.values.len() as u32 - 1)
    }

    /// Replaces all operands of a node.
    pub fn set_inputs(&mut self, id: NodeId, inputs: Vec<Option<ValueId>>) {
        let old = std::mem::take(&mut self.nodes[ix(id)].inputs);
        for (slot, v) in old.into_iter().enumerate() {
            self.unlink(id, slot as u32, v);
        }
        for (slot, v) in inputs.iter().enumerate() {
            self.link(id, slot as u32, *v);
        }
        self.nodes[ix(id)].inputs = inputs;
    }

    fn link(&mut self, id: NodeId, slot: u32, v: Option<ValueId>) {
        let Some(v) = v else { return };
        self.values[v.index()].users.insert((id, slot));
        if let ValueDef::Node(src, _) = self.values[v.index()].def {
            self.nodes.add_edge(ix(src), ix(id), slot);
        }
    }

    fn unlink(&mut self, id: NodeId, slot: u32, v: Option<ValueId>) {
        let Some(v) = v else { return };
        self.values[v.index()].users.remove(&(id, slot));
        if let ValueDef::Node(src, _) = self.values[v.index()].def {
            let edge = self
                .nodes
                .edges_connecting(ix(src), ix(id))
                .find(|e| *e.weight() == slot)
                .map(|e| petgraph::visit::EdgeRef::id(&e));
            if let Some(e) = edge {
                self.nodes.remove_edge(e);
            }
        }
    }

    /// Makes every user (and graph output) of `old` use `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for (node, slot) in std::mem::take(&mut self.values[old.index()].users) {
            self.values[old.index()].users.insert((node, slot));
            self.unlink(node, slot, Some(old));
            self.nodes[ix(node)].inputs[slot as usize] = Some(new);
            self.link(node, slot, Some(new));
        }
        for p in &mut self.outputs {
            if p.value == old {
                p.value = new;
            }
        }
    }

    /// Removes a node none of whose results is used. Returns whether it was removed.
    pub fn remove_node(&mut self, id: NodeId) -> bool {
        let outs = self.node(id).outputs.clone();
        if outs.iter().any(|v| self.is_used(*v)) {
            return false;
        }
        self.set_inputs(id, Vec::new());
        self.nodes.remove_node(ix(id));
        for v in outs {
            self.values[v.index()].def = ValueDef::Dead;
        }
        true
    }

    /// Declares the outputs.
    pub fn set_outputs(&mut self, outputs: Vec<Port>) {
        self.outputs = outputs;
    }

    /// Inputs in order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Outputs in order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Whether a node with this id exists.
    pub fn has_node(&self, id: NodeId) -> bool {
        self.nodes.contains_node(ix(id))
    }

    /// The node with this id. Panics if it was removed: ids come from this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[ix(id)]
    }

    /// The node's op, to change attributes in place (types must stay valid).
    pub fn op_mut(&mut self, id: NodeId) -> &mut Op {
        &mut self.nodes[ix(id)].op
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// Sets a value's physical form.
    pub fn set_layout(&mut self, id: ValueId, layout: Option<Layout>) {
        self.values[id.index()].layout = layout;
    }

    /// Overwrites a value's type (dimension unification, specialisation).
    pub fn set_type(&mut self, id: ValueId, ty: TensorType) {
        self.values[id.index()].ty = ty;
    }

    /// Number of value ids ever given out; the next value gets this id.
    pub fn value_bound(&self) -> u32 {
        self.values.len() as u32
    }

    /// All value ids that are alive, ascending.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> {
        self.values
            .iter()
            .enumerate()
            .filter(|(_, v)| v.def != ValueDef::Dead)
            .map(|(i, _)| ValueId(i as u32))
    }

    /// `(node, operand slot)` of each use, ascending.
    pub fn users(&self, id: ValueId) -> impl Iterator<Item = (NodeId, u32)> {
        self.values[id.index()].users.iter().copied()
    }

    /// Number of operand slots that use a value (graph outputs not counted).
    pub fn use_count(&self, id: ValueId) -> usize {
        self.values[id.index()].users.len()
    }

    /// Whether a value is a graph output.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.iter().any(|p| p.value == id)
    }

    /// Whether a node or a graph output uses a value.
    pub fn is_used(&self, id: ValueId) -> bool {
        self.use_count(id) > 0 || self.is_output(id)
    }

    /// The defining node and result number.
    pub fn def_node(&self, id: ValueId) -> Option<(NodeId, u32)> {
        match self.values[id.index()].def {
            ValueDef::Node(n, r) => Some((n, r)),
            _ => None,
        }
    }

    /// The op that defines a value.
    pub fn def_op(&self, id: ValueId) -> Option<&Op> {
        self.def_node(id).map(|(n, _)| &self.node(n).op)
    }

    /// The constant that a value stands for.
    pub fn const_id(&self, id: ValueId) -> Option<ConstId> {
        match self.values[id.index()].def {
            ValueDef::Const(c) => Some(c),
            _ => None,
        }
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.node_count()
    }

    /// Node ids, ascending.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.node_indices().map(|i| NodeId(i.index() as u32))
    }

    /// Nodes in a topological order; among those that are ready the smallest id comes first.
    pub fn topo_order(&self) -> Result<Vec<NodeId>, NodeId> {
        let mut missing: Vec<usize> =
            vec![0; self.nodes.node_indices().next_back().map_or(0, |i| i.index() + 1)];
        let mut ready = BinaryHeap::new();
        for i in self.nodes.node_indices() {
            missing[i.index()] = self.nodes.edges_directed(i, petgraph::Incoming).count();
            if missing[i.index()] == 0 {
                ready.push(Reverse(i));
            }
        }
        let mut order = Vec::with_capacity(self.node_count());
        while let Some(Reverse(i)) = ready.pop() {
            order.push(NodeId(i.index() as u32));
            for j in self.nodes.neighbors_directed(i, petgraph::Outgoing) {
                missing[j.index()] -= 1;
                if missing[j.index()] == 0 {
                    ready.push(Reverse(j));
                }
            }
        }
        match self.nodes.node_indices().find(|i| missing[i.index()] > 0) {
            Some(i) => Err(NodeId(i.index() as u32)),
            None => Ok(order),
        }
    }

    /// Removes nodes whose results nobody needs, transitively. Returns how many.
    pub fn remove_dead(&mut self) -> usize {
        let mut stack: Vec<NodeId> = self.node_ids().collect();
        let mut removed = 0;
        while let Some(id) = stack.pop() {
            if !self.has_node(id) || self.node(id).outputs.iter().any(|v| self.is_used(*v)) {
                continue;
            }
            let producers: Vec<NodeId> = self
                .node(id)
                .inputs
                .iter()
                .flatten()
                .filter_map(|v| self.def_node(*v))
                .map(|(n, _)| n)
                .collect();
            removed += usize::from(self.remove_node(id));
            stack.extend(producers);
        }
        removed
    }
}

fn ix(id: NodeId) -> NodeIndex {
    NodeIndex::new(id.index())
}
