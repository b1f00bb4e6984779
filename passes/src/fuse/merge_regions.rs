//! `merge-regions`: fusion.
//!
//! Walks the regions in order; each tries, until nothing changes, to
//! 1. take in a pointwise producer that nobody else reads ([`super::inline`]), unless that repeats transcendental work;
//! 2. become the epilogue of a producer with an anchor or reductions ([`super::epilogue`]), the latest first;
//! 3. take in a pointwise producer that others read too: with its store, if points correspond one to one, or, if it is
//!    cheap, by computing it again.
//!
//! Before -> after: `g = region{contract}; h = region{gelu(g + bias)}; m, s = region{params(h)}; q = region{quantize(h, m)}`
//! -> `q, s = region{contract; gelu; params; quantize}`. Exact: every statement is executed on the same values as before,
//! reductions over the same row in the same order. Two anchors never meet in one region.

use super::edit::Loop;
use super::epilogue::merge_epilogue;
use super::inline::{inline_producer, is_pointwise, point, readers, reduces};
use super::working::Working;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::Phase;
use rsqc_ir::diag::Diag;
use rsqc_ir::region::{Anchor, Region};
use rsqc_ir::scalar::ScalarOp;
use rsqc_ir::types::Ranges;

/// Statements a region may grow to.
const MAX_STATEMENTS: usize = 400;
/// Operands a region may grow to.
const MAX_OPERANDS: usize = 24;
/// Statements (leaves not counted) of a producer that is computed again instead of stored.
const CHEAP: usize = 4;

/// See the file documentation.
pub struct MergeRegions;

impl Pass for MergeRegions {
    fn name(&self) -> &'static str {
        "merge-regions"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Fused, Phase::Fused)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let mut w = Working::new(cx.module())?;
        'all: for c in 0..w.len() {
            while let Some(step) = next_step(&w, c) {
                if !cx.permit() {
                    break 'all;
                }
                match step {
                    Step::Merge(p, merged) => {
                        w.merge(p, c, merged);
                        cx.count("regions merged", 1);
                    }
                    Step::Repeat(new) => {
                        w.set(c, Some(new));
                        cx.count("producers repeated", 1);
                    }
                }
            }
        }
        let r = w.rebuild(cx.module())?;
        cx.install(r)?;
        Ok(())
    }
}

enum Step {
    /// Producer and consumer become this.
    Merge(usize, Loop),
    /// The consumer becomes this; the producer stays.
    Repeat(Loop),
}

/// The next change that involves consumer `c`.
fn next_step(w: &Working, c: usize) -> Option<Step> {
    let consumer = w.get(c)?;
    if consumer.region.anchor != Anchor::None {
        return None;
    }
    let producers = w.producers(c);
    let pointwise = |p: &&usize| w.get(**p).is_some_and(|l| is_pointwise(&l.region));
    let own = |p: usize| {
        w.get(p)
            .is_some_and(|l| l.outputs.iter().all(|v| !w.needed_beside(*v, c)))
    };
    for p in producers.iter().filter(pointwise).filter(|p| own(**p)) {
        if let Some(l) = absorb(w, *p, c) {
            return Some(Step::Merge(*p, l));
        }
    }
    for p in &producers {
        if let Some(l) = continue_producer(w, *p, c) {
            return Some(Step::Merge(*p, l));
        }
    }
    for p in producers.iter().filter(pointwise).filter(|p| !own(**p)) {
        if let Some(l) = absorb_with_stores(w, *p, c) {
            return Some(Step::Merge(*p, l));
        }
        if let Some(l) = repeat(w, *p, c) {
            return Some(Step::Repeat(l));
        }
    }
    None
}

/// Whether a merged region is still of a reasonable size.
fn acceptable(l: &Loop) -> bool {
    l.region.body.stmts.len() <= MAX_STATEMENTS && l.inputs.len() <= MAX_OPERANDS
}

fn pruned(w: &Working, mut l: Loop, p: usize, c: usize) -> Option<Loop> {
    let inner = |v| {
        // A value that only the two of them read is not stored.
        w.users(v).iter().any(|u| *u != p && *u != c) || w.is_output(v)
    };
    l.prune(&inner);
    acceptable(&l).then_some(l)
}

/// `c` with the pointwise producer `p` inside, which then is gone.
fn absorb(w: &Working, p: usize, c: usize) -> Option<Loop> {
    let (producer, consumer) = (w.get(p)?, w.get(c)?);
    let mut out = consumer.clone();
    for result in 0..producer.outputs.len() {
        if !readers(&out, producer.outputs[result]).is_empty() {
            if transcendental(&producer.region) && repeats(consumer, producer, result, &w.symbols) {
                return None;
            }
            inline_producer(&mut out, producer, result, false, &w.symbols)?;
        }
    }
    pruned(w, out, p, c)
}

/// Whether `c` would compute points of `p` more than once: several operands read it, or an axis outside of `c`'s row repeats
/// it (along the row a repeated value is computed once).
fn repeats(c: &Loop, p: &Loop, result: usize, ranges: &dyn Ranges) -> bool {
    let ks = readers(c, p.outputs[result]);
    let [k] = ks.as_slice() else { return true };
    let mut r = c.region.clone();
    let Some(at) = point(&mut r, *k, &p.region, result, ranges) else {
        return true;
    };
    let row = r.row();
    r.outer().chain(row.clone()).any(|a| {
        let used = at.values().any(|i| i.terms.iter().any(|t| t.axis == a));
        let uniform = row.contains(&a)
            && at
                .values()
                .all(|i| i.terms.iter().all(|t| !row.contains(&t.axis)));
        !used && !uniform && !r.axes[a as usize].extent.is(1)
    })
}

fn transcendental(r: &Region) -> bool {
    r.body
        .stmts
        .iter()
        .any(|s| s.op.is_transcendental() || matches!(s.op, ScalarOp::Div | ScalarOp::Sqrt))
}

/// `p` (anchored or reducing) with `c` behind it.
fn continue_producer(w: &Working, p: usize, c: usize) -> Option<Loop> {
    let (producer, consumer) = (w.get(p)?, w.get(c)?);
    let old = &producer.region;
    if old.anchor == Anchor::None && !reduces(old) || w.depends_around(c, p) {
        return None;
    }
    let merged = merge_epilogue(producer, consumer, &w.symbols)?;
    let out = pruned(w, merged, p, c)?;
    let keeps = match &old.anchor {
        Anchor::None => true,
        Anchor::Contract { .. } => out.region.row_axes == old.row_axes,
        Anchor::Attention(_) => out.region.axes.len() == old.axes.len(),
    };
    keeps.then_some(out)
}

/// `c` with the pointwise producer `p` inside, storing `p`'s results for its other readers.
fn absorb_with_stores(w: &Working, p: usize, c: usize) -> Option<Loop> {
    let (producer, consumer) = (w.get(p)?, w.get(c)?);
    let used: Vec<usize> = (0..producer.outputs.len())
        .filter(|r| !readers(consumer, producer.outputs[*r]).is_empty())
        .collect();
    // Results are computed together; one link gives the points of all.
    let [result] = used.as_slice() else { return None };
    if w.depends_around(c, p) {
        return None;
    }
    let mut out = consumer.clone();
    inline_producer(&mut out, producer, *result, true, &w.symbols)?;
    pruned(w, out, p, c)
}

/// `c` with its own copy of a cheap pointwise producer.
fn repeat(w: &Working, p: usize, c: usize) -> Option<Loop> {
    let (producer, consumer) = (w.get(p)?, w.get(c)?);
    let r = &producer.region;
    let work = r.body.stmts.iter().filter(|s| !s.args.is_empty()).count();
    let cheap = work <= CHEAP && !transcendental(r) && r.operands.len() <= 2;
    if !cheap || r.operands.iter().any(|a| !a.gathers.is_empty()) {
        return None;
    }
    let mut out = consumer.clone();
    for result in 0..producer.outputs.len() {
        if !readers(&out, producer.outputs[result]).is_empty() {
            inline_producer(&mut out, producer, result, false, &w.symbols)?;
        }
    }
    out.prune(&|_| true);
    acceptable(&out).then_some(out)
}
