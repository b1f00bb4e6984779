//! Runs passes: checks phases, verifies, checks numerics, times, counts, dumps, diffs, and can stop after edit N.

use crate::check_numeric::{self, Snapshot};
use crate::pass::{Budget, Effect, Env, LayerReport, Pass, PassCx};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::ReferenceExecutor;
use rsqc_ir::{Module, text, verify};
use similar::{ChangeTag, TextDiff};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the manager does beside running passes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ManagerOptions {
    /// Runs the full verifier after each pass.
    pub verify_each: bool,
    /// Evaluates before and after each pass on seeded inputs and enforces its declared effect.
    pub check_numeric: bool,
    /// Seed of those inputs.
    pub seed: u64,
    /// Prints the module after these passes; `all` means after each.
    pub print_after: Vec<String>,
    /// Prints what each pass changed.
    pub diff: bool,
    /// Stops after this many edits, over all passes.
    pub stop_after: Option<u64>,
}

/// What happened in one pass.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// Name.
    pub name: &'static str,
    /// Edits made.
    pub edits: u64,
    /// Wall time of the pass alone.
    pub time: Duration,
    /// What it counted.
    pub counters: BTreeMap<String, u64>,
    /// What it noted.
    pub notes: Vec<String>,
}

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One record a pass, in order.
    pub passes: Vec<PassRecord>,
    /// Decisions by layer, in order.
    pub layers: Vec<LayerReport>,
    /// Whether the edit limit ended the run.
    pub stopped: bool,
    /// Remarks on layers that no pass has reported yet: node, key, value.
    pending: Vec<(String, String, String)>,
}

impl Report {
    /// Edits of all passes.
    pub fn edits(&self) -> u64 {
        self.passes.iter().map(|p| p.edits).sum()
    }
    /// Moves remarks to the layers that they are about, as far as those are reported.
    fn settle_remarks(&mut self) {
        let layers = &mut self.layers;
        self.pending.retain(|(node, key, value)| {
            let mut found = false;
            // A merged layer bears the names of its members; what they share is said once.
            let about = |l: &&mut LayerReport| l.node == *node || l.node.split(" + ").any(|n| n == node);
            for l in layers.iter_mut().filter(about) {
                found = true;
                let remark = (key.clone(), value.clone());
                if !l.extra.contains(&remark) {
                    l.extra.push(remark);
                }
            }
            !found
        });
    }
    /// The sum of a counter over all passes.
    pub fn counter(&self, what: &str) -> u64 {
        self.passes.iter().filter_map(|p| p.counters.get(what)).sum()
    }
    /// A table: pass, edits, time, then counters and notes. Times differ from run to run; nothing else does.
    pub fn table(&self) -> String {
        let mut out = format!("{:<28} {:>8} {:>10}\n", "pass", "edits", "ms");
        for p in &self.passes {
            let ms = p.time.as_secs_f64() * 1e3;
            out += &format!("{:<28} {:>8} {ms:>10.2}\n", p.name, p.edits);
            for (k, n) in &p.counters {
                out += &format!("    {k}: {n}\n");
            }
            for n in &p.notes {
                out += &format!("    {n}\n");
            }
        }
        out
    }
}

/// Runs lists of passes over modules.
pub struct PassManager<'a> {
    env: Env<'a>,
    options: ManagerOptions,
    out: Box<dyn FnMut(&str) + 'a>,
}

impl<'a> PassManager<'a> {
    /// A manager whose dumps and diffs are dropped.
    pub fn new(env: Env<'a>, options: ManagerOptions) -> Self {
        PassManager {
            env,
            options,
            out: Box::new(|_| {}),
        }
    }

    /// Sends dumps and diffs to `out`.
    pub fn output(mut self, out: impl FnMut(&str) + 'a) -> Self {
        self.out = Box::new(out);
        self
    }

    /// Runs `passes` in order. On an error the module may be changed, but the message names the pass.
    pub fn run(&mut self, m: &mut Module, passes: &[Box<dyn Pass>]) -> Result<Report, Diag> {
        let mut report = Report::default();
        let mut budget = Budget {
            limit: self.options.stop_after,
            ..Budget::default()
        };
        if self.options.verify_each {
            self.verify(m, "import")?;
        }
        for pass in passes {
            self.run_one(m, pass.as_ref(), &mut budget, &mut report)?;
            if budget.stopped {
                report.stopped = true;
                break;
            }
        }
        Ok(report)
    }

    fn run_one(
        &mut self,
        m: &mut Module,
        pass: &dyn Pass,
        budget: &mut Budget,
        report: &mut Report,
    ) -> Result<(), Diag> {
        check_phase(m, pass)?;
        let before_text = self.options.diff.then(|| text::print(m));
        let numeric = self.options.check_numeric && pass.effect() != Effect::Lossy;
        let snapshot = if numeric {
            Some(Snapshot::take(m, self.options.seed))
        } else {
            None
        };
        let edits_before = budget.done;
        let start = Instant::now();
        let mut cx = PassCx::new(m, self.env, budget, snapshot.is_some());
        let result = pass.run(&mut cx);
        let time = start.elapsed();
        let (counters, mut notes, layers) = (
            std::mem::take(&mut cx.counters),
            std::mem::take(&mut cx.notes),
            std::mem::take(&mut cx.layers),
        );
        let remarks = std::mem::take(&mut cx.remarks);
        let tracked = cx.tracked.take();
        result.map_err(|d| in_pass(pass, d))?;
        if let Some(to) = pass.phases().then
            && !budget.stopped
        {
            m.phase = to;
        }
        if self.options.verify_each {
            self.verify(m, pass.name())?;
        }
        if let (Some(s), Some(map)) = (snapshot, tracked) {
            let note = check_numeric::compare(&s, m, &map, pass.effect(), &ReferenceExecutor);
            notes.extend(note.map_err(|d| in_pass(pass, d))?);
        }
        report.passes.push(PassRecord {
            name: pass.name(),
            edits: budget.done - edits_before,
            time,
            counters,
            notes,
        });
        report.layers.extend(layers);
        report.pending.extend(remarks);
        report.settle_remarks();
        self.dump(m, pass.name(), before_text);
        Ok(())
    }

    fn verify(&self, m: &Module, after: &str) -> Result<(), Diag> {
        let errors = verify::verify(m);
        let Some(first) = errors.first() else {
            return Ok(());
        };
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(Diag::internal(
            first.loc.clone(),
            format!("the module is not valid after `{after}`:\n  {}", all.join("\n  ")),
        ))
    }

    fn dump(&mut self, m: &Module, name: &str, before: Option<String>) {
        if self.options.print_after.iter().any(|p| p == "all" || p == name) {
            let text = format!("// after {name}\n{}", text::print(m));
            (self.out)(&text);
        }
        if let Some(before) = before {
            let text = format!("// changes of {name}\n{}", line_diff(&before, &text::print(m)));
            (self.out)(&text);
        }
    }
}

fn check_phase(m: &Module, pass: &dyn Pass) -> Result<(), Diag> {
    let p = pass.phases();
    if (p.first..=p.last).contains(&m.phase) {
        return Ok(());
    }
    let wanted = if p.first == p.last {
        format!("phase `{}`", p.first.name())
    } else {
        format!("a phase from `{}` to `{}`", p.first.name(), p.last.name())
    };
    let text = format!(
        "pass `{}` needs {wanted}, but the module is `{}`",
        pass.name(),
        m.phase.name()
    );
    Err(Diag::new(Blame::User, m.name.clone(), text))
}

fn in_pass(pass: &dyn Pass, mut d: Diag) -> Diag {
    d.message = format!("pass `{}`: {}", pass.name(), d.message);
    d
}

/// Changed lines with their sign; unchanged ones are left out.
fn line_diff(a: &str, b: &str) -> String {
    let mut out = String::new();
    for c in TextDiff::from_lines(a, b).iter_all_changes() {
        match c.tag() {
            ChangeTag::Delete => out += &format!("-{c}"),
            ChangeTag::Insert => out += &format!("+{c}"),
            ChangeTag::Equal => {}
        }
    }
    out
}
