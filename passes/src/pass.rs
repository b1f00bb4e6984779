//! The pass trait, what a pass declares about itself, and what it sees while it runs.

use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{Executor, Tensor};
use rsqc_ir::target::{CPU_AVX512VNNI, CostModel, TargetDesc};
use rsqc_ir::{EditError, Module, Patch, Phase, Rebuild, ValueId};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What a pass may do to the numbers. `--check-numeric` enforces it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect {
    /// Bit for bit the same results (any NaN equals any NaN).
    Exact,
    /// Results differ by at most this factor of the output's root mean square; NaN and infinities stay where they are.
    /// `Rounding(0.0)` allows only another sign of a zero.
    Rounding(f64),
    /// Results may change: quantization. Not checked.
    Lossy,
}

/// The phases in which a pass may run, and the one the module is in afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Phases {
    /// Earliest phase.
    pub first: Phase,
    /// Latest phase.
    pub last: Phase,
    /// Phase after the pass; `None` leaves it as it is.
    pub then: Option<Phase>,
}

impl Phases {
    /// Runs in `first..=last` and leaves the phase as it is.
    pub const fn within(first: Phase, last: Phase) -> Self {
        Phases {
            first,
            last,
            then: None,
        }
    }
    /// Runs in phase `from` and moves the module to phase `to`.
    pub const fn change(from: Phase, to: Phase) -> Self {
        Phases {
            first: from,
            last: from,
            then: Some(to),
        }
    }
}

/// A rewrite of a module. See the crate documentation for what a pass file contains.
pub trait Pass {
    /// Name on the command line and of its golden test folder, e.g. `fold-constants`.
    fn name(&self) -> &'static str;
    /// What it may do to the numbers.
    fn effect(&self) -> Effect;
    /// When it may run.
    fn phases(&self) -> Phases;
    /// Rewrites the module through `cx`.
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag>;
}

/// Calibration or evaluation samples, given by the driver; read again on each call, so that nothing is held in memory.
pub trait Samples {
    /// Number of samples.
    fn count(&self) -> usize;
    /// Sample `i`: one tensor for each graph input, in order. May read all samples before it: use [`Samples::for_each`] to
    /// see them all.
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag>;
    /// Hands every sample to `f`, in order, one in memory at a time. Stops at the first error, of the data or of `f`.
    fn for_each(&self, f: &mut dyn FnMut(usize, &[Tensor]) -> Result<(), Diag>) -> Result<(), Diag> {
        (0..self.count()).try_for_each(|i| f(i, &self.sample(i)?))
    }
}

/// What passes see of the outside.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// Description of the target.
    pub target: &'a TargetDesc,
    /// Kernel times of the target, if known.
    pub cost: Option<&'a dyn CostModel>,
    /// Runs float graphs, if the driver offers it.
    pub executor: Option<&'a dyn Executor>,
    /// Calibration samples, if given.
    pub samples: Option<&'a dyn Samples>,
}

impl Default for Env<'_> {
    /// The named reference target and nothing else.
    fn default() -> Self {
        Env {
            target: &CPU_AVX512VNNI,
            cost: None,
            executor: None,
            samples: None,
        }
    }
}

/// What was decided for one layer, for the compile summary and `inspect`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerReport {
    /// Location of the node.
    pub node: String,
    /// Op name.
    pub op: String,
    /// What it became, e.g. `w8a8 (dynamic, token)` or `float`.
    pub scheme: String,
    /// Why.
    pub reason: String,
    /// Bytes of its weights before.
    pub bytes_before: u64,
    /// Bytes of its weights after, scales included.
    pub bytes_after: u64,
    /// What passes found out about it later: scale, range, method parameters; by key, in order.
    pub extra: Vec<(String, String)>,
}

/// How many edits may still happen, over all passes of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Edits done.
    pub done: u64,
    /// Stop after this many.
    pub limit: Option<u64>,
    /// Whether an edit was refused.
    pub stopped: bool,
}

/// What a pass may see and do.
pub struct PassCx<'a> {
    module: &'a mut Module,
    env: Env<'a>,
    budget: &'a mut Budget,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) notes: Vec<String>,
    pub(crate) layers: Vec<LayerReport>,
    pub(crate) remarks: Vec<(String, String, String)>,
    /// Values at the start of the pass and what they are now; kept only under `--check-numeric`.
    pub(crate) tracked: Option<BTreeMap<ValueId, ValueId>>,
}

impl<'a> PassCx<'a> {
    pub(crate) fn new(module: &'a mut Module, env: Env<'a>, budget: &'a mut Budget, track: bool) -> Self {
        let tracked = track.then(|| module.graph.value_ids().map(|v| (v, v)).collect());
        PassCx {
            module,
            env,
            budget,
            counters: BTreeMap::new(),
            notes: Vec::new(),
            layers: Vec::new(),
            remarks: Vec::new(),
            tracked,
        }
    }

    /// The module as it is now.
    pub fn module(&self) -> &Module {
        self.module
    }

    /// For what neither patch nor rebuild expresses: checks, symbol ranges, provenance. Values must stay valid.
    pub fn module_mut(&mut self) -> &mut Module {
        self.module
    }

    /// The outside world: target, cost model, executor, samples.
    pub fn env(&self) -> &Env<'a> {
        &self.env
    }

    /// Asks for one edit. `false`: the run is to stop here (bisecting); leave the module valid and return.
    pub fn permit(&mut self) -> bool {
        if self.budget.limit.is_some_and(|l| self.budget.done >= l) {
            self.budget.stopped = true;
            return false;
        }
        self.budget.done += 1;
        true
    }

    /// Applies a patch as one edit; an empty one costs nothing. `Ok(false)`: not applied, the run is to stop here.
    pub fn apply(&mut self, patch: Patch) -> Result<bool, Diag> {
        if patch.is_empty() {
            return Ok(true);
        }
        if !self.permit() {
            return Ok(false);
        }
        let replaced: Vec<(ValueId, ValueId)> = match self.tracked {
            Some(_) => patch.replacements().to_vec(),
            None => Vec::new(),
        };
        patch.apply(self.module).map_err(edit_diag)?;
        if let Some(map) = &mut self.tracked {
            for (old, new) in replaced {
                map.values_mut().filter(|v| **v == old).for_each(|v| *v = new);
            }
        }
        Ok(true)
    }

    /// Installs a rebuilt graph as one edit and gives the map from old values to new. `Ok(None)`: not installed, the
    /// run is to stop here.
    pub fn rebuild(&mut self, r: Rebuild) -> Result<Option<BTreeMap<ValueId, ValueId>>, Diag> {
        if !self.permit() {
            return Ok(None);
        }
        self.install(r).map(Some)
    }

    /// Installs a rebuilt graph whose edits were permitted one by one.
    pub fn install(&mut self, r: Rebuild) -> Result<BTreeMap<ValueId, ValueId>, Diag> {
        let map = r.finish(self.module).map_err(edit_diag)?;
        if let Some(t) = &mut self.tracked {
            *t = t.iter().filter_map(|(o, v)| Some((*o, *map.get(v)?))).collect();
        }
        Ok(map)
    }

    /// Adds to a counter of the summary.
    pub fn count(&mut self, what: &str, n: u64) {
        if n > 0 {
            *self.counters.entry(what.to_string()).or_insert(0) += n;
        }
    }

    /// Adds a line to the summary: nothing a pass decides against the user's wish is silent.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Reports what was decided for a layer.
    pub fn report_layer(&mut self, l: LayerReport) {
        self.layers.push(l);
    }

    /// Adds a key and value to the report of the layer at location `node`, whichever pass made it.
    pub fn remark_layer(&mut self, node: &str, key: &str, value: impl Into<String>) {
        self.remarks.push((node.into(), key.into(), value.into()));
    }
}

/// An edit that was refused is a bug of the pass that made it.
pub fn edit_diag(e: EditError) -> Diag {
    match &e {
        EditError::Infer { loc, .. } => Diag::internal(loc.clone(), e.to_string()),
        _ => Diag::internal("", e.to_string()),
    }
}

/// Options of a pass from its text `name:x=1:y=2`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PassOptions {
    pass: String,
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl PassOptions {
    /// Splits `name:x=1:y=2` into the name and its options.
    pub fn parse(text: &str) -> Result<(String, PassOptions), Diag> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default().trim().to_string();
        let mut values = BTreeMap::new();
        for p in parts {
            let (k, v) = p.split_once('=').ok_or_else(|| {
                Diag::new(
                    Blame::User,
                    text,
                    format!("option `{p}` of pass `{name}` has no value"),
                )
                .help("write options as `name:key=value`")
            })?;
            if values
                .insert(k.trim().to_string(), v.trim().to_string())
                .is_some()
            {
                return Err(Diag::new(
                    Blame::User,
                    text,
                    format!("option `{k}` is given twice"),
                ));
            }
        }
        let options = PassOptions {
            pass: name.clone(),
            values,
            known: Vec::new(),
        };
        Ok((name, options))
    }

    /// Takes option `key`, or `default` if it was not given.
    pub fn take<T: FromStr>(&mut self, key: &'static str, default: T) -> Result<T, Diag> {
        self.known.push(key);
        match self.values.remove(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                Diag::new(
                    Blame::User,
                    &self.pass,
                    format!("option `{key}` cannot be `{text}`"),
                )
            }),
        }
    }

    /// An error if options are left over.
    pub fn finish(self) -> Result<(), Diag> {
        let Some(k) = self.values.keys().next() else {
            return Ok(());
        };
        let help = match self.known.as_slice() {
            [] => format!("pass `{}` has no options", self.pass),
            known => format!("options of `{}`: {}", self.pass, known.join(", ")),
        };
        Err(Diag::new(Blame::User, &self.pass, format!("unknown option `{k}`")).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_typed_and_complete() {
        let (name, mut o) = PassOptions::parse("fold:limit=12:deep=true").expect("well formed");
        assert_eq!(name, "fold");
        assert_eq!(o.take("limit", 3u64).expect("a number"), 12);
        assert!(o.take("deep", false).expect("a bool"));
        assert_eq!(o.take("absent", 7i32).expect("default"), 7);
        o.finish().expect("nothing left");

        let (_, mut o) = PassOptions::parse("fold:limit=x").expect("well formed");
        assert!(
            o.take("limit", 3u64)
                .expect_err("not a number")
                .message
                .contains("cannot be `x`")
        );
        let (_, o) = PassOptions::parse("fold:other=1").expect("well formed");
        assert!(
            o.finish()
                .expect_err("unknown")
                .message
                .contains("unknown option `other`")
        );
        assert!(PassOptions::parse("fold:x").is_err());
        assert!(PassOptions::parse("fold:x=1:x=2").is_err());
    }
}
