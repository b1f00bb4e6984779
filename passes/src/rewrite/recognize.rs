//! Equality saturation over windows: norms, activations, softmax, rotary embedding, movement.
//!
//! Before: the dozen nodes an exporter writes for one LayerNorm, GELU, ... After: `layer_norm`, `rms_norm`, `gelu`, `silu`,
//! `softmax`, `rope`, and as few transposes and reshapes as the rules find. Each window becomes an e-graph, the rules of
//! [`super::rules`] run at most 10 iterations or 10,000 e-nodes, the cheapest graph is taken out, and roots whose term
//! changed are built anew. Sound because each rule is an equation (see README.md) and types must agree; numbers change by
//! rounding. A root is kept as it is if its new term would read a value that is not computed yet, so no cycle can form.

use super::extract::{Choice, extract};
use super::language::{Fact, Facts, Graph, Head, Leaf, Term};
use super::rule::compile;
use super::rules;
use super::window::{Window, windows};
use crate::pass::{Effect, Pass, PassCx, PassOptions, Phases};
use crate::sweep::{Editor, splat_of, sweep};
use egg::{Id, Rewrite, Runner, SimpleScheduler, StopReason};
use rsqc_ir::diag::Diag;
use rsqc_ir::{Loc, Module, NodeId, Op, Phase, ScalarType, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// See the file documentation.
pub struct RecognizePatterns {
    /// Most iterations a window.
    pub iterations: usize,
    /// Most e-nodes a window.
    pub nodes: usize,
}

impl Default for RecognizePatterns {
    fn default() -> Self {
        RecognizePatterns {
            iterations: 10,
            nodes: 10_000,
        }
    }
}

impl RecognizePatterns {
    /// From the options of a pass list: `iterations`, `nodes`.
    pub fn from_options(o: &mut PassOptions) -> Result<Self, Diag> {
        let d = RecognizePatterns::default();
        Ok(RecognizePatterns {
            iterations: o.take("iterations", d.iterations)?,
            nodes: o.take("nodes", d.nodes)?,
        })
    }
}

impl Pass for RecognizePatterns {
    fn name(&self) -> &'static str {
        "recognize-patterns"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-4)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let rules: Vec<Rewrite<Term, Facts>> = rules::all().map(compile).collect();
        let m = cx.module();
        let order = m
            .graph
            .topo_order()
            .map_err(|n| Diag::internal(m.graph.node(n).loc.to_string(), "the graph is cyclic"))?;
        let (found, cut) = windows(&m.graph, &order);
        let mut counts: BTreeMap<&str, u64> =
            BTreeMap::from([("windows", found.len() as u64), ("window edges cut", cut)]);
        let mut plan = Plan::default();
        for w in &found {
            plan.add(self.solve(m, w, &rules, &mut counts));
        }
        for (k, n) in counts {
            cx.count(k, n);
        }
        sweep(cx, &mut |ed, id, _| Ok(plan.rewrite(ed, id).map(|v| vec![v])))?;
        Ok(())
    }
}

/// A window with its chosen graph.
struct Solved {
    choice: Choice,
    leaves: Vec<(Leaf, Fact)>,
    facts: Facts,
    /// Class of each node's result.
    class_of: BTreeMap<NodeId, Id>,
    /// The nodes that computed a class before, and their terms.
    before: BTreeMap<Id, Vec<(Term, NodeId)>>,
    roots: Vec<NodeId>,
}

impl RecognizePatterns {
    fn solve(
        &self,
        m: &Module,
        w: &Window,
        rules: &[Rewrite<Term, Facts>],
        counts: &mut BTreeMap<&'static str, u64>,
    ) -> Solved {
        let mut enc = Encoder::new(m);
        for n in &w.nodes {
            enc.node(m, *n);
        }
        let inside: BTreeSet<NodeId> = w.nodes.iter().copied().collect();
        let leaves_window = |n: &NodeId| {
            let v = m.graph.node(*n).output();
            m.graph.is_output(v) || m.graph.users(v).any(|(u, _)| !inside.contains(&u))
        };
        let roots: Vec<NodeId> = w.nodes.iter().copied().filter(|n| leaves_window(n)).collect();
        let runner = Runner::<Term, Facts, ()>::new(Facts::default())
            .with_egraph(enc.graph)
            .with_iter_limit(self.iterations)
            .with_node_limit(self.nodes)
            // No clock may decide what is found; the other two limits end the run.
            .with_time_limit(Duration::from_secs(1 << 40))
            .with_scheduler(SimpleScheduler)
            .run(rules);
        match runner.stop_reason {
            Some(StopReason::IterationLimit(_)) => *counts.entry("iteration limit reached").or_insert(0) += 1,
            Some(StopReason::NodeLimit(_)) => *counts.entry("node limit reached").or_insert(0) += 1,
            _ => {}
        }
        let g = runner.egraph;
        let find = |t: &Term| Term {
            head: t.head.clone(),
            args: t.args.iter().map(|a| g.find(*a)).collect(),
        };
        let mut before: BTreeMap<Id, Vec<(Term, NodeId)>> = BTreeMap::new();
        let mut original = BTreeSet::new();
        for (n, (t, id)) in &enc.terms {
            original.insert(find(t));
            before.entry(g.find(*id)).or_default().push((find(t), *n));
        }
        let class_of: BTreeMap<NodeId, Id> = enc.terms.iter().map(|(n, (_, id))| (*n, g.find(*id))).collect();
        let root_ids: Vec<Id> = roots.iter().map(|n| class_of[n]).collect();
        let choice = extract(&g, &root_ids, &original);
        if choice.is_empty() {
            *counts.entry("windows left alone (cyclic choice)").or_insert(0) += 1;
        }
        let facts = g.analysis;
        Solved {
            choice,
            leaves: facts.leaves.clone(),
            facts,
            class_of,
            before,
            roots,
        }
    }
}

/// Puts nodes of the graph into an e-graph.
struct Encoder {
    graph: Graph,
    ids: BTreeMap<ValueId, Id>,
    terms: BTreeMap<NodeId, (Term, Id)>,
}

impl Encoder {
    fn new(m: &Module) -> Self {
        let facts = Facts {
            symbols: m.symbols.clone(),
            ..Facts::default()
        };
        Encoder {
            graph: Graph::new(facts),
            ids: BTreeMap::new(),
            terms: BTreeMap::new(),
        }
    }

    fn value(&mut self, m: &Module, v: ValueId) -> Id {
        if let Some(id) = self.ids.get(&v) {
            return *id;
        }
        let fact = Fact {
            ty: Some(m.graph.ty(v).clone()),
            splat: m.const_of(v).and_then(splat_of),
            attr: None,
        };
        let leaves = &mut self.graph.analysis.leaves;
        leaves.push((Leaf::Value(v), fact));
        let head = Head::Leaf(leaves.len() as u32 - 1);
        let id = self.graph.add(Term {
            head,
            args: Vec::new(),
        });
        self.ids.insert(v, id);
        id
    }

    fn node(&mut self, m: &Module, n: NodeId) {
        let node = m.graph.node(n);
        let mut args: Vec<Id> = node.inputs.iter().flatten().map(|v| self.value(m, *v)).collect();
        for (_, a) in node.op.attrs() {
            let text = self.graph.analysis.intern(&a);
            args.push(self.graph.add(Term {
                head: Head::Attr(text),
                args: Vec::new(),
            }));
        }
        let term = Term {
            head: Head::Op(node.op.name()),
            args,
        };
        let id = self.graph.add(term.clone());
        self.ids.insert(node.output(), id);
        self.terms.insert(n, (term, id));
    }
}

/// What to build at which node.
#[derive(Default)]
struct Plan {
    windows: Vec<Solved>,
    roots: BTreeMap<NodeId, usize>,
    built: BTreeMap<(usize, Id), ValueId>,
}

impl Plan {
    fn add(&mut self, s: Solved) {
        let at = self.windows.len();
        for n in &s.roots {
            if s.changed(*n) {
                self.roots.insert(*n, at);
            }
        }
        self.windows.push(s);
    }

    fn rewrite(&mut self, ed: &mut Editor<'_>, n: NodeId) -> Option<ValueId> {
        let at = *self.roots.get(&n)?;
        let w = &self.windows[at];
        let mut b = Builder {
            w,
            at,
            built: &mut self.built,
            loc: ed.old().graph.node(n).loc.clone(),
        };
        let new = b.build(ed, w.class_of[&n])?;
        // The declared type may differ from the inferred one by what a run-time check says.
        (ed.ty(new) == ed.old().graph.ty(ed.old().graph.node(n).output())).then_some(new)
    }
}

impl Solved {
    /// The old node that computes exactly what was chosen for a class, from unchanged operands all the way down.
    fn kept(&self, id: Id, known: &mut BTreeMap<Id, Option<NodeId>>) -> Option<NodeId> {
        if let Some(k) = known.get(&id) {
            return *k;
        }
        known.insert(id, None);
        let term = self.choice.get(&id)?;
        let node = self.before.get(&id)?.iter().find(|(t, _)| t == term)?.1;
        let whole = term
            .args
            .iter()
            .all(|a| match self.choice.get(a).map(|t| &t.head) {
                Some(Head::Op(_)) => self.kept(*a, known).is_some(),
                Some(_) => true,
                None => false,
            });
        let answer = whole.then_some(node);
        known.insert(id, answer);
        answer
    }

    fn changed(&self, n: NodeId) -> bool {
        self.kept(self.class_of[&n], &mut BTreeMap::new()) != Some(n)
    }
}

/// Builds chosen terms in the new graph.
struct Builder<'a> {
    w: &'a Solved,
    at: usize,
    built: &'a mut BTreeMap<(usize, Id), ValueId>,
    loc: Loc,
}

impl Builder<'_> {
    fn build(&mut self, ed: &mut Editor<'_>, id: Id) -> Option<ValueId> {
        if let Some(v) = self.built.get(&(self.at, id)) {
            return Some(*v);
        }
        let term = self.w.choice.get(&id)?;
        let v = match &term.head {
            Head::Attr(_) => return None,
            Head::Leaf(i) => self.leaf(ed, *i)?,
            Head::Op(name) => {
                let kept = self.w.kept(id, &mut BTreeMap::new());
                let old = kept.and_then(|n| ed.try_get(ed.old().graph.node(n).output()));
                match old {
                    Some(v) => v,
                    None => self.node(ed, name, id, term)?,
                }
            }
        };
        self.built.insert((self.at, id), v);
        Some(v)
    }

    fn node(&mut self, ed: &mut Editor<'_>, name: &str, id: Id, term: &Term) -> Option<ValueId> {
        let count = super::language::attr_names(name)?.len();
        let (operands, attrs) = term.args.split_at(term.args.len() - count);
        let texts: Option<Vec<Arc<str>>> = attrs
            .iter()
            .map(|a| match &self.w.choice.get(a)?.head {
                Head::Attr(t) => Some(t.clone()),
                _ => None,
            })
            .collect();
        let op: Op = self.w.facts.op(name, &texts?)?;
        let ins: Vec<ValueId> = operands
            .iter()
            .map(|o| self.build(ed, *o))
            .collect::<Option<_>>()?;
        let want = ed.try_infer(&op, &ins)?;
        let loc = match self.w.before.get(&id).and_then(|b| b.first()) {
            Some((_, n)) => ed.old().graph.node(*n).loc.clone(),
            None => self.loc.clone(),
        };
        ed.try_add(op, &ins, &want, &loc)
    }

    fn leaf(&mut self, ed: &mut Editor<'_>, i: u32) -> Option<ValueId> {
        let (leaf, fact) = self.w.leaves.get(i as usize)?;
        match leaf {
            Leaf::Value(v) => ed.try_get(*v),
            Leaf::Splat(s) => {
                let ty = fact.ty.clone()?;
                let elem: ScalarType = ty.elem.plain()?;
                let n = usize::try_from(ty.numel().as_const()?).ok()?;
                let one = rsqc_ir::scalar::ScalarConst::from_f64(elem, *s)
                    .bits
                    .to_le_bytes();
                let bytes = one[..elem.size()].repeat(n);
                Some(ed.constant(rsqc_ir::Const::from_bytes(&format!("{s}"), ty, bytes)?))
            }
        }
    }
}
