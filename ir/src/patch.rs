//! Edits of a graph: [`Patch`], local and applied atomically, and [`Rebuild`], a new graph made from an old one.

use crate::graph::{ConstId, Graph, Layout, Loc, NodeId, Port, ValueDef, ValueId};
use crate::module::{Const, Module};
use crate::ops::{InferCx, Op};
use crate::types::TensorType;
use std::collections::BTreeMap;

/// An edit that was refused; the module is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EditError {
    /// An op does not accept its operands.
    #[error("{loc}: {op}: {message}")]
    Infer {
        /// Location of the new node.
        loc: String,
        /// Op name.
        op: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A replacement has another type than what it replaces.
    #[error("value %{old} of type {old_ty} cannot be replaced by %{new} of type {new_ty}")]
    Type {
        /// Replaced value.
        old: u32,
        /// Its type.
        old_ty: String,
        /// Replacement.
        new: u32,
        /// Its type.
        new_ty: String,
    },
    /// The patch was made for another state of the graph.
    #[error("the patch is stale: the graph has changed since it was made")]
    Stale,
    /// Applying it would make the graph cyclic.
    #[error("the patch would make the graph cyclic at node {0}")]
    Cycle(u32),
}

enum New {
    Node {
        op: Op,
        inputs: Vec<Option<ValueId>>,
        types: Vec<TensorType>,
        loc: Loc,
    },
    Const {
        id: ConstId,
        ty: TensorType,
    },
}

/// A local edit: new nodes and constants, and which values they replace. Nothing happens until [`Patch::apply`].
pub struct Patch {
    base_value: u32,
    base_const: usize,
    next_value: u32,
    new: Vec<New>,
    new_types: BTreeMap<ValueId, TensorType>,
    consts: Vec<Const>,
    replace: Vec<(ValueId, ValueId)>,
    layouts: Vec<(ValueId, Option<Layout>)>,
}

impl Patch {
    /// An empty patch for the module's main graph as it is now.
    pub fn new(m: &Module) -> Self {
        let base_value = m.graph.value_bound();
        Patch {
            base_value,
            base_const: m.consts.len(),
            next_value: base_value,
            new: Vec::new(),
            new_types: BTreeMap::new(),
            consts: Vec::new(),
            replace: Vec::new(),
            layouts: Vec::new(),
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.layouts.is_empty()
    }

    /// The replacements `(old, new)` in the order they were asked for.
    pub fn replacements(&self) -> &[(ValueId, ValueId)] {
        &self.replace
    }

    /// The type of an old or new value.
    pub fn ty<'a>(&'a self, m: &'a Module, v: ValueId) -> &'a TensorType {
        self.new_types.get(&v).unwrap_or_else(|| m.graph.ty(v))
    }

    fn fresh(&mut self, ty: TensorType) -> ValueId {
        let v = ValueId(self.next_value);
        self.next_value += 1;
        self.new_types.insert(v, ty);
        v
    }

    /// Adds a node with inferred result types; gives its results.
    pub fn node_multi(
        &mut self,
        m: &Module,
        op: Op,
        inputs: &[Option<ValueId>],
        loc: &Loc,
    ) -> Result<Vec<ValueId>, EditError> {
        let types = {
            let ins: Vec<Option<&TensorType>> = inputs.iter().map(|v| v.map(|v| self.ty(m, v))).collect();
            op.infer(&InferCx { symbols: &m.symbols }, &ins)
                .map_err(|message| EditError::Infer {
                    loc: loc.to_string(),
                    op: op.name(),
                    message,
                })?
        };
        let out = types.iter().map(|t| self.fresh(t.clone())).collect();
        self.new.push(New::Node {
            op,
            inputs: inputs.to_vec(),
            types,
            loc: loc.clone(),
        });
        Ok(out)
    }

    /// Adds a node with one result.
    pub fn node(
        &mut self,
        m: &Module,
        op: impl Into<Op>,
        inputs: &[ValueId],
        loc: &Loc,
    ) -> Result<ValueId, EditError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().map(|v| Some(*v)).collect();
        Ok(self.node_multi(m, op.into(), &inputs, loc)?[0])
    }

    /// Adds a constant.
    pub fn constant(&mut self, c: Const) -> ValueId {
        let ty = c.ty.clone();
        let id = ConstId((self.base_const + self.consts.len()) as u32);
        self.consts.push(c);
        self.new.push(New::Const { id, ty: ty.clone() });
        self.fresh(ty)
    }

    /// Adds an f32 constant.
    pub fn constant_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
        let ty = TensorType::new(
            crate::types::ScalarType::F32,
            shape.iter().map(|d| (*d).into()).collect(),
        );
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(Const::from_bytes(name, ty, bytes).expect("values fill the shape"))
    }

    /// All uses of `old` become uses of `new`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.replace.push((old, new));
    }

    /// Sets the layout of an old or new value.
    pub fn set_layout(&mut self, v: ValueId, layout: Option<Layout>) {
        self.layouts.push((v, layout));
    }

    /// Checks and applies; on an error the module is unchanged. Nodes that become dead are removed.
    pub fn apply(self, m: &mut Module) -> Result<(), EditError> {
        if m.graph.value_bound() != self.base_value || m.consts.len() != self.base_const {
            return Err(EditError::Stale);
        }
        for (old, new) in &self.replace {
            let (a, b) = (self.ty(m, *old), self.ty(m, *new));
            if a != b {
                return Err(EditError::Type {
                    old: old.0,
                    old_ty: a.to_string(),
                    new: new.0,
                    new_ty: b.to_string(),
                });
            }
        }
        let backup = m.graph.clone();
        for c in self.consts {
            m.consts.add(c);
        }
        for n in self.new {
            match n {
                New::Node {
                    op,
                    inputs,
                    types,
                    loc,
                } => {
                    m.graph.add_node(op, inputs, types, loc);
                }
                New::Const { id, ty } => {
                    m.graph.add_const(id, ty);
                }
            }
        }
        let mut touched = Vec::new();
        for (old, new) in &self.replace {
            // A replacement may itself read what it replaces (e.g. x -> f(x)): those uses stay.
            let keep: Vec<(NodeId, u32)> = m
                .graph
                .users(*old)
                .filter(|(n, _)| is_new_node(m, *n, self.base_value))
                .collect();
            m.graph.replace_uses(*old, *new);
            for (node, slot) in keep {
                let mut inputs = m.graph.node(node).inputs.clone();
                inputs[slot as usize] = Some(*old);
                m.graph.set_inputs(node, inputs);
            }
            touched.extend(m.graph.def_node(*old).map(|(n, _)| n));
        }
        for (v, l) in self.layouts {
            m.graph.set_layout(v, l);
        }
        if let Err(n) = m.graph.topo_order() {
            m.graph = backup;
            return Err(EditError::Cycle(n.0));
        }
        remove_dead_from(&mut m.graph, touched);
        Ok(())
    }
}

fn is_new_node(m: &Module, n: NodeId, base_value: u32) -> bool {
    m.graph.node(n).outputs.first().is_some_and(|v| v.0 >= base_value)
}

/// Removes these nodes if nothing uses them, then their producers likewise.
fn remove_dead_from(g: &mut Graph, mut stack: Vec<NodeId>) {
    while let Some(id) = stack.pop() {
        if g.has_node(id) {
            let producers: Vec<NodeId> = g
                .node(id)
                .inputs
                .iter()
                .flatten()
                .filter_map(|v| g.def_node(*v))
                .map(|(n, _)| n)
                .collect();
            if g.remove_node(id) {
                stack.extend(producers);
            }
        }
    }
}

/// A new main graph built from the old one, with the map from old values to new. For changes of phase, layouts, dead
/// code: whatever touches most of the graph.
pub struct Rebuild {
    /// The graph under construction; inputs are already declared.
    pub graph: Graph,
    map: BTreeMap<ValueId, ValueId>,
}

impl Rebuild {
    /// Starts with the inputs of `m`'s main graph.
    pub fn new(m: &Module) -> Self {
        let mut r = Rebuild {
            graph: Graph::new(),
            map: BTreeMap::new(),
        };
        for p in m.graph.inputs() {
            let v = r.graph.add_input(&p.name, m.graph.ty(p.value).clone());
            r.map.insert(p.value, v);
        }
        r
    }

    /// The new value for an old one; constants are carried over on first use. Panics if a producer was not built yet:
    /// walk in topological order.
    pub fn get(&mut self, m: &Module, old: ValueId) -> ValueId {
        if let Some(v) = self.map.get(&old) {
            return *v;
        }
        match m.graph.value(old).def {
            ValueDef::Const(c) => {
                let v = self.graph.add_const(c, m.graph.ty(old).clone());
                self.graph.set_layout(v, m.graph.value(old).layout);
                self.map.insert(old, v);
                v
            }
            _ => panic!("value %{} is used before it is rebuilt", old.0),
        }
    }

    /// Says what an old value became.
    pub fn set(&mut self, old: ValueId, new: ValueId) {
        self.map.insert(old, new);
    }

    /// Adds a node with inferred types over new values.
    pub fn node(
        &mut self,
        m: &Module,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        loc: &Loc,
    ) -> Result<Vec<ValueId>, EditError> {
        let ins: Vec<Option<&TensorType>> = inputs.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
        let types = op
            .infer(&InferCx { symbols: &m.symbols }, &ins)
            .map_err(|message| EditError::Infer {
                loc: loc.to_string(),
                op: op.name(),
                message,
            })?;
        let id = self.graph.add_node(op, inputs, types, loc.clone());
        Ok(self.graph.node(id).outputs.clone())
    }

    /// Copies an old node as it is (result types kept).
    pub fn copy(&mut self, m: &Module, id: NodeId) {
        let n = m.graph.node(id);
        let inputs = n.inputs.iter().map(|v| v.map(|v| self.get(m, v))).collect();
        let types = n.outputs.iter().map(|v| m.graph.ty(*v).clone()).collect();
        let new = self.graph.add_node(n.op.clone(), inputs, types, n.loc.clone());
        let outs = self.graph.node(new).outputs.clone();
        for (o, v) in n.outputs.iter().zip(outs) {
            self.graph.set_layout(v, m.graph.value(*o).layout);
            self.map.insert(*o, v);
        }
    }

    /// Declares the outputs (old ones, mapped), installs the graph, and gives the value map.
    pub fn finish(mut self, m: &mut Module) -> Result<BTreeMap<ValueId, ValueId>, EditError> {
        let mut outputs = Vec::new();
        for p in m.graph.outputs() {
            let value = self.get(m, p.value);
            let (a, b) = (m.graph.ty(p.value), self.graph.ty(value));
            if a != b {
                return Err(EditError::Type {
                    old: p.value.0,
                    old_ty: a.to_string(),
                    new: value.0,
                    new_ty: b.to_string(),
                });
            }
            outputs.push(Port {
                name: p.name.clone(),
                value,
            });
        }
        self.graph.set_outputs(outputs);
        self.graph.remove_dead();
        m.graph = self.graph;
        Ok(self.map)
    }
}
