//! The graph of regions while they are being fused: values keep the ids of the module's graph, regions move freely, and
//! the result is one rebuilt graph. Linear in the graph, apart from searches that a window of the order bounds.

use super::edit::Loop;
use super::lower_ops::add_region;
use rsqc_ir::diag::Diag;
use rsqc_ir::module::SymbolTable;
use rsqc_ir::{Module, Op, Rebuild, ValueId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// See the file documentation. Loops are numbered in a topological order of the module.
pub struct Working {
    loops: Vec<Option<Loop>>,
    /// First and last number of the loops that were merged into this one.
    spans: Vec<(usize, usize)>,
    def: BTreeMap<ValueId, usize>,
    users: BTreeMap<ValueId, BTreeSet<usize>>,
    outputs: BTreeSet<ValueId>,
    /// Bounds of symbols.
    pub symbols: SymbolTable,
}

impl Working {
    /// The regions of a module; an internal error if it holds anything else.
    pub fn new(m: &Module) -> Result<Self, Diag> {
        let order = m
            .graph
            .topo_order()
            .map_err(|n| Diag::internal(m.graph.node(n).loc.to_string(), "the graph is cyclic"))?;
        let mut w = Working {
            loops: vec![None; order.len()],
            spans: (0..order.len()).map(|i| (i, i)).collect(),
            def: BTreeMap::new(),
            users: BTreeMap::new(),
            outputs: m.graph.outputs().iter().map(|p| p.value).collect(),
            symbols: m.symbols.clone(),
        };
        for (i, id) in order.into_iter().enumerate() {
            let n = m.graph.node(id);
            let inputs: Option<Vec<ValueId>> = n.inputs.iter().copied().collect();
            let (Op::Region(o), Some(inputs)) = (&n.op, inputs) else {
                return Err(Diag::internal(n.loc.to_string(), "only regions can be fused"));
            };
            w.set(
                i,
                Some(Loop {
                    region: (*o.region).clone(),
                    inputs,
                    outputs: n.outputs.clone(),
                    types: o.types.clone(),
                    loc: n.loc.clone(),
                }),
            );
        }
        Ok(w)
    }

    /// How many numbers there are; some may be free.
    pub fn len(&self) -> usize {
        self.loops.len()
    }

    /// The loop of this number.
    pub fn get(&self, i: usize) -> Option<&Loop> {
        self.loops.get(i).and_then(Option::as_ref)
    }

    /// Replaces a loop.
    pub fn set(&mut self, i: usize, l: Option<Loop>) {
        if let Some(old) = self.loops[i].take() {
            for v in &old.inputs {
                if let Some(u) = self.users.get_mut(v) {
                    u.remove(&i);
                }
            }
            for v in &old.outputs {
                if self.def.get(v) == Some(&i) {
                    self.def.remove(v);
                }
            }
        }
        if let Some(l) = &l {
            for v in &l.inputs {
                self.users.entry(*v).or_default().insert(i);
            }
            for v in &l.outputs {
                self.def.insert(*v, i);
            }
        }
        self.loops[i] = l;
    }

    /// Merges loop `p` into loop `c`, which becomes `merged`.
    pub fn merge(&mut self, p: usize, c: usize, merged: Loop) {
        self.set(p, None);
        self.set(c, Some(merged));
        let (a, b) = (self.spans[p], self.spans[c]);
        self.spans[c] = (a.0.min(b.0), a.1.max(b.1));
    }

    /// The loop that computes a value.
    pub fn def(&self, v: ValueId) -> Option<usize> {
        self.def.get(&v).copied()
    }

    /// The loops that read a value.
    pub fn users(&self, v: ValueId) -> Vec<usize> {
        self.users
            .get(&v)
            .map_or_else(Vec::new, |u| u.iter().copied().collect())
    }

    /// Whether a value is a graph output or read by a loop other than `except`.
    pub fn needed_beside(&self, v: ValueId, except: usize) -> bool {
        self.outputs.contains(&v) || self.users.get(&v).is_some_and(|u| u.iter().any(|i| *i != except))
    }

    /// Whether a value is a graph output.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// Loops whose results loop `i` reads, the latest first.
    pub fn producers(&self, i: usize) -> Vec<usize> {
        let all: BTreeSet<usize> = self.get(i).map_or_else(BTreeSet::new, |l| {
            l.inputs.iter().filter_map(|v| self.def(*v)).collect()
        });
        all.into_iter().rev().collect()
    }

    /// Whether `c` depends on `p` through some other loop, so that merging the two would make the graph cyclic.
    pub fn depends_around(&self, c: usize, p: usize) -> bool {
        let mut stack: Vec<usize> = self.producers(c).into_iter().filter(|i| *i != p).collect();
        let mut seen: BTreeSet<usize> = stack.iter().copied().collect();
        while let Some(i) = stack.pop() {
            if i == p {
                return true;
            }
            // What ends before p begins cannot depend on it.
            if self.spans[i].1 < self.spans[p].0 {
                continue;
            }
            for j in self.producers(i) {
                if seen.insert(j) {
                    stack.push(j);
                }
            }
        }
        false
    }

    /// The rebuilt graph: loops in dependency order, lowest number first.
    pub fn rebuild(self, m: &Module) -> Result<Rebuild, Diag> {
        let mut r = Rebuild::new(m);
        let mut missing: Vec<usize> = vec![0; self.loops.len()];
        let mut ready = BinaryHeap::new();
        for (i, slot) in missing.iter_mut().enumerate() {
            *slot = self.producers(i).len();
            if self.get(i).is_some() && *slot == 0 {
                ready.push(Reverse(i));
            }
        }
        let mut loops = self.loops;
        let mut left = loops.iter().flatten().count();
        while let Some(Reverse(i)) = ready.pop() {
            let Some(mut l) = loops[i].take() else { continue };
            left -= 1;
            let outputs = l.outputs.clone();
            for v in &mut l.inputs {
                *v = r.get(m, *v);
            }
            for (old, new) in outputs.iter().zip(add_region(&mut r, l)) {
                r.set(*old, new);
            }
            let next: BTreeSet<usize> = outputs
                .iter()
                .flat_map(|v| self.users.get(v).into_iter().flatten().copied())
                .collect();
            for j in next {
                missing[j] -= 1;
                if missing[j] == 0 {
                    ready.push(Reverse(j));
                }
            }
        }
        if left > 0 {
            return Err(Diag::internal("", "fusion made the graph cyclic"));
        }
        Ok(r)
    }
}
