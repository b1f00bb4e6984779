//! The cheapest graph of a saturated window, with shared classes charged once.
//!
//! Bottom up, each class takes the node whose *set* of classes below it is cheapest (greedy DAG extraction); a few
//! rounds of local search then look at all roots together, so that a subterm that stays for another consumer is not
//! computed again inside a fused one. Ties go to the node that was there before, then to the smallest in term order:
//! the result depends on nothing but the graph.

use super::language::{Graph, Head, Term};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// Cost of a node that was not in the graph before, beside one that was: breaks ties only.
const NEW: u64 = 1;

/// Rounds of local search.
const ROUNDS: usize = 4;

/// Cost of one node of an op: proportional to passes over memory, with transcendentals above.
fn op_cost(op: &str) -> u64 {
    let c = match op {
        "reshape" => 2,
        "slice" => 5,
        "concat" => 8,
        "transpose" => 12,
        "reduce" => 15,
        "pow" | "exp" | "erf" | "tanh" | "sigmoid" => 20,
        "silu" | "gelu" => 22,
        "rms_norm" | "layer_norm" | "rope" => 18,
        "softmax" => 25,
        _ => 10,
    };
    c * 16
}

/// For each class that a root needs, the chosen node.
pub(super) type Choice = BTreeMap<Id, Term>;

/// The set of classes below a choice with their costs.
#[derive(Clone)]
struct Best {
    node: Term,
    total: u64,
    below: BTreeMap<Id, u64>,
}

struct Extractor<'a> {
    g: &'a Graph,
    original: &'a BTreeSet<Term>,
    best: BTreeMap<Id, Best>,
}

/// Chooses a node for every class below `roots`; empty if no acyclic choice was found. `original` are the canonical nodes of the graph before rewriting.
pub(super) fn extract(g: &Graph, roots: &[Id], original: &BTreeSet<Term>) -> Choice {
    let mut e = Extractor {
        g,
        original,
        best: BTreeMap::new(),
    };
    e.settle();
    let mut choice: Choice = e.best.iter().map(|(id, b)| (*id, b.node.clone())).collect();
    // Improvements found late can close a cycle through classes that were settled early: then nothing is chosen.
    if e.total(&choice, roots).is_none() {
        return Choice::new();
    }
    e.improve(&mut choice, roots);
    choice
}

impl Extractor<'_> {
    fn node_cost(&self, t: &Term) -> u64 {
        match &t.head {
            Head::Op(name) => op_cost(name) + if self.original.contains(t) { 0 } else { NEW },
            Head::Leaf(_) | Head::Attr(_) => 0,
        }
    }

    fn classes(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.g.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    fn nodes(&self, id: Id) -> Vec<Term> {
        let canonical = |t: &Term| Term {
            head: t.head.clone(),
            args: t.args.iter().map(|a| self.g.find(*a)).collect(),
        };
        let mut nodes: Vec<Term> = self.g[id].nodes.iter().map(canonical).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Repeats until no class finds a cheaper node. Each improvement lowers a total, so this ends.
    fn settle(&mut self) {
        let classes: Vec<(Id, Vec<Term>)> = self
            .classes()
            .into_iter()
            .map(|id| (id, self.nodes(id)))
            .collect();
        loop {
            let mut changed = false;
            for (id, nodes) in &classes {
                for n in nodes {
                    let Some(new) = self.candidate(*id, n) else {
                        continue;
                    };
                    if self.best.get(id).is_none_or(|b| new.total < b.total) {
                        self.best.insert(*id, new);
                        changed = true;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn candidate(&self, id: Id, n: &Term) -> Option<Best> {
        let mut below = BTreeMap::new();
        for c in &n.args {
            below.extend(self.best.get(c)?.below.iter().map(|(k, v)| (*k, *v)));
        }
        if below.contains_key(&id) {
            return None;
        }
        below.insert(id, self.node_cost(n));
        Some(Best {
            node: n.clone(),
            total: below.values().sum(),
            below,
        })
    }

    /// Cost of all classes that the roots need under a choice; `None` if it is cyclic.
    fn total(&self, choice: &Choice, roots: &[Id]) -> Option<u64> {
        let mut state: BTreeMap<Id, bool> = BTreeMap::new();
        let mut stack: Vec<(Id, bool)> = roots.iter().map(|r| (*r, false)).collect();
        let mut sum = 0;
        while let Some((id, leaving)) = stack.pop() {
            if leaving {
                state.insert(id, true);
                continue;
            }
            match state.get(&id) {
                Some(true) => continue,
                Some(false) => return None,
                None => {}
            }
            let n = choice.get(&id)?;
            sum += self.node_cost(n);
            state.insert(id, false);
            stack.push((id, true));
            stack.extend(
                n.args
                    .iter()
                    .filter(|a| state.get(a) != Some(&true))
                    .map(|a| (*a, false)),
            );
        }
        Some(sum)
    }

    fn improve(&self, choice: &mut Choice, roots: &[Id]) {
        let Some(mut cost) = self.total(choice, roots) else {
            return;
        };
        for _ in 0..ROUNDS {
            let mut better = false;
            for id in self.needed(choice, roots) {
                for n in self.nodes(id) {
                    if choice.get(&id) == Some(&n) || !n.args.iter().all(|a| choice.contains_key(a)) {
                        continue;
                    }
                    let Some(old) = choice.insert(id, n) else { continue };
                    match self.total(choice, roots) {
                        Some(c) if c < cost => {
                            cost = c;
                            better = true;
                        }
                        _ => {
                            choice.insert(id, old);
                        }
                    }
                }
            }
            if !better {
                return;
            }
        }
    }

    fn needed(&self, choice: &Choice, roots: &[Id]) -> Vec<Id> {
        let mut seen = BTreeSet::new();
        let mut stack = roots.to_vec();
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                stack.extend(choice.get(&id).into_iter().flat_map(|n| n.args.iter().copied()));
            }
        }
        seen.into_iter().collect()
    }
}
