//! Cutting a body into phases.
//!
//! The statements that a reduction combines need a loop over the row before anything that uses its result: a body with
//! `n` reductions in sequence takes up to `n + 1` loops. A statement belongs to the phase that follows the last
//! reduction it depends on; all reductions and stores of a phase share one loop. A value that a later phase needs again
//! is computed again if that is a matter of a few operations, and kept in scratch for the length of the row if not.

use rsqc_ir::ScalarType;
use rsqc_ir::region::Region;
use rsqc_ir::scalar::{ReduceKind, ScalarOp};

/// The most operations that are done again rather than kept.
const CHEAP: u32 = 4;

/// Statements from which on a loop exists once, and not once for whole vectors and once for the last one: what a vector
/// costs then hides the branches around its loads and stores, and such code takes long to generate.
pub const LARGE: usize = 16;

/// Operations that a load with one address a lane counts as.
const SCATTERED: u32 = 8;

/// What is done in one loop over the row, and before it.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// Statements that are the same along the row, evaluated before the loop.
    pub uniform: Vec<usize>,
    /// Values loaded from scratch instead of computed: indices into [`RowPlan::kept`].
    pub reload: Vec<usize>,
    /// Statements evaluated in the loop.
    pub varying: Vec<usize>,
    /// Values to keep: indices into [`RowPlan::kept`].
    pub keep: Vec<usize>,
    /// Reductions accumulated in the loop.
    pub reduce: Vec<(usize, ReduceKind)>,
    /// Stores done in the loop.
    pub store: Vec<usize>,
    /// Whether there is one loop for whole vectors and the rest.
    pub one_loop: bool,
}

/// The phases of a body.
#[derive(Clone, Debug)]
pub struct RowPlan {
    /// In order.
    pub phases: Vec<Phase>,
    /// Stores of row-uniform values, done once a row at its end.
    pub uniform_stores: Vec<usize>,
    /// Statements whose values are kept in scratch, with their types.
    pub kept: Vec<(usize, ScalarType)>,
}

struct Planner<'a> {
    region: &'a Region,
    varying: Vec<bool>,
    level: Vec<usize>,
    cost: Vec<u32>,
    /// Whether the anchor's accumulator is more than a load.
    contracts: bool,
    /// First phase that computes a statement.
    computed: Vec<Option<usize>>,
    kept: Vec<(usize, ScalarType)>,
}

impl RowPlan {
    /// Plans a region; evaluating the anchor's accumulator counts as `anchor_cost` operations.
    pub fn new(region: &Region, anchor_cost: u32) -> RowPlan {
        let body = &region.body;
        let row = region.row();
        let varying = body.varying(&|op| match op {
            ScalarOp::Operand(n) => region.varies_in_row(*n),
            ScalarOp::Index(a) => row.contains(a),
            _ => !row.is_empty(),
        });
        let mut level: Vec<usize> = Vec::with_capacity(body.stmts.len());
        for s in &body.stmts {
            let of_args = s.args.iter().map(|a| level[a.index()]).max().unwrap_or(0);
            level.push(of_args + usize::from(matches!(s.op, ScalarOp::Reduce(_))));
        }
        let mut planner = Planner {
            region,
            contracts: anchor_cost > 1,
            cost: vec![0; varying.len()],
            computed: vec![None; varying.len()],
            varying,
            level,
            kept: Vec::new(),
        };
        planner.costs(anchor_cost);
        planner.plan()
    }
}

impl Planner<'_> {
    /// How many operations computing each statement from memory takes.
    fn costs(&mut self, anchor_cost: u32) {
        for i in 0..self.varying.len() {
            let mut seen = vec![false; i + 1];
            let mut stack = vec![i];
            while let Some(s) = stack.pop() {
                if !self.varying[s] || std::mem::replace(&mut seen[s], true) {
                    continue;
                }
                let stmt = &self.region.body.stmts[s];
                stack.extend(stmt.args.iter().map(|a| a.index()));
                self.cost[i] += match &stmt.op {
                    ScalarOp::Anchor => anchor_cost,
                    ScalarOp::Operand(n) if !self.region.operands[*n as usize].is_linear() => SCATTERED,
                    _ => 1,
                };
            }
        }
    }

    fn plan(mut self) -> RowPlan {
        let live = self.live();
        let stmts = &self.region.body.stmts;
        let last = (0..stmts.len())
            .filter(|i| live[*i])
            .map(|i| self.level[i])
            .max()
            .unwrap_or(0);
        let mut phases: Vec<Phase> = vec![Phase::default(); last + 1];
        let mut uniform_stores = Vec::new();
        for (n, s) in self.region.stores.iter().enumerate() {
            let row = self.region.row();
            if row.clone().any(|a| s.access.uses(a)) || self.varying[s.value.index()] {
                phases[self.level[s.value.index()]].store.push(n);
            } else {
                uniform_stores.push(n);
            }
        }
        for (i, s) in stmts.iter().enumerate().filter(|(i, _)| live[*i]) {
            match s.op {
                ScalarOp::Reduce(kind) => phases[self.level[i] - 1].reduce.push((i, kind)),
                _ if !self.varying[i] => phases[self.level[i]].uniform.push(i),
                _ => {}
            }
        }
        for (p, phase) in phases.iter_mut().enumerate() {
            self.fill(p, phase);
            // A contraction in place is a loop of its own, whose loads must not branch.
            let contracts = |i: &usize| self.contracts && stmts[*i].op == ScalarOp::Anchor;
            phase.one_loop = phase.varying.len() >= LARGE && !phase.varying.iter().any(contracts);
        }
        // What is kept is known only now; each value is kept by the phase that computes it first.
        for (slot, (s, _)) in self.kept.iter().enumerate() {
            let first = self.computed[*s].expect("only computed values are kept");
            phases[first].keep.push(slot);
        }
        RowPlan {
            phases,
            uniform_stores,
            kept: self.kept,
        }
    }

    fn live(&self) -> Vec<bool> {
        let stmts = &self.region.body.stmts;
        let mut live = vec![false; stmts.len()];
        let mut stack: Vec<usize> = self.region.stores.iter().map(|s| s.value.index()).collect();
        while let Some(i) = stack.pop() {
            if !std::mem::replace(&mut live[i], true) {
                stack.extend(stmts[i].args.iter().map(|a| a.index()));
            }
        }
        live
    }

    /// Finds the statements that the reductions and stores of phase `p` need.
    fn fill(&mut self, p: usize, phase: &mut Phase) {
        let stmts = &self.region.body.stmts;
        let reduced = phase.reduce.iter().map(|(i, _)| stmts[*i].args[0].index());
        let stored = phase.store.iter().map(|n| self.region.stores[*n].value.index());
        let mut stack: Vec<usize> = reduced.chain(stored).collect();
        let mut seen = vec![false; stmts.len()];
        while let Some(i) = stack.pop() {
            if !self.varying[i] || std::mem::replace(&mut seen[i], true) {
                continue;
            }
            if self.computed[i].is_some_and(|first| first < p) && self.cost[i] > CHEAP {
                let slot = self.kept.iter().position(|(s, _)| *s == i).unwrap_or_else(|| {
                    self.kept.push((i, stmts[i].ty));
                    self.kept.len() - 1
                });
                phase.reload.push(slot);
                continue;
            }
            phase.varying.push(i);
            self.computed[i].get_or_insert(p);
            stack.extend(stmts[i].args.iter().map(|a| a.index()));
        }
        phase.varying.sort_unstable();
        phase.reload.sort_unstable();
    }
}
