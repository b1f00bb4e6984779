//! What the driver gives to passes that run models: an [`Executor`] on compiled code, and calibration [`Samples`] read from
//! files.

use crate::compiler::{self, Clock, CompileOptions};
use crate::data::calib::CalibSet;
use crate::data::inputs::Spec;
use crate::data::text::{Limits, Tokenizer};
use crate::data::{Array, DataError};
use crate::error::Failure;
use crate::inprocess::run_session;
use crate::program::{from_tensor, to_tensor};
use crate::specs::scalar_type;
use rsqc_backend::Backend;
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::{EvalError, Executor, Prepared, Sink, Tensor};
use rsqc_ir::{Module, Phase, Port, ValueId};
use rsqc_passes::manager::{ManagerOptions, PassManager, Report};
use rsqc_passes::pass::{Env, Samples};
use rsqc_passes::scheme::Scheme;
use rsqc_passes::{lower, pipeline};
use rsqc_runtime::Session;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Compiles float graphs at this machine's best level (or the one that the environment forces) and runs them in this
/// process. Tapped values become outputs of the compiled graph. Float products are not fused with their sums, which
/// makes them slower, but gives the same bits at every level: what passes learn from values must not depend on the
/// machine.
pub struct CompiledExecutor<'a> {
    /// Generates the code.
    pub backend: &'a dyn Backend,
    /// Threads; 0 = one a physical core.
    pub threads: usize,
}

impl Executor for CompiledExecutor<'_> {
    fn prepare<'a>(&'a self, m: &Module, taps: &[ValueId]) -> Result<Box<dyn Prepared + 'a>, EvalError> {
        let failed = |f: Failure| EvalError::Unsupported(f.text);
        let backend = self.backend.reproducible();
        let mut m = m.clone();
        let mut outputs = m.graph.outputs().to_vec();
        let own = outputs.len();
        let is_taken = |name: &str, all: &[Port]| all.iter().any(|p| p.name == name);
        for v in taps {
            let mut name = format!("tap {}", v.0);
            while is_taken(&name, &outputs) {
                name.push('\'');
            }
            outputs.push(Port { name, value: *v });
        }
        m.graph.set_outputs(outputs);
        let float = Scheme::parse("none").map_err(|d| EvalError::Unsupported(d.to_string()))?;
        let o = CompileOptions::native(float).map_err(failed)?;
        let passes = match m.phase {
            Phase::Imported => pipeline::pipeline(&o.scheme),
            Phase::Canonical => lower::passes(&o.scheme),
            p => {
                let what = format!(
                    "a module in phase `{}` is not compiled as a float model",
                    p.name()
                );
                return Err(EvalError::Unsupported(what));
            }
        };
        let env = Env {
            target: backend.target(),
            ..Env::default()
        };
        PassManager::new(env, ManagerOptions::default())
            .run(&mut m, &passes)
            .map_err(|d| EvalError::Unsupported(d.to_string()))?;
        let mut listener = |_| {};
        let mut clock = Clock::new(&mut listener);
        let path = Path::new("the float model");
        let compiled = compiler::assemble(&m, Report::default(), path, &o, backend.as_ref(), &mut clock)
            .map_err(failed)?;
        drop(m);
        let model = compiled.load().map_err(failed)?;
        let session = Session::with_threads(&model, self.threads).map_err(run_error)?;
        Ok(Box::new(CompiledGraph {
            session,
            own,
            taps: taps.to_vec(),
        }))
    }
}

fn run_error(e: rsqc_runtime::RuntimeError) -> EvalError {
    EvalError::Node {
        loc: "the float model".into(),
        message: e.to_string(),
    }
}

struct CompiledGraph {
    session: Session,
    /// Outputs of the graph itself; taps follow.
    own: usize,
    taps: Vec<ValueId>,
}

impl Prepared for CompiledGraph {
    fn run(&mut self, inputs: &[Tensor], sink: &mut Sink<'_>) -> Result<Vec<Tensor>, EvalError> {
        let arrays: Vec<Array> = inputs.iter().map(from_tensor).collect();
        let out = run_session(&mut self.session, &arrays).map_err(run_error)?;
        let mut own = Vec::with_capacity(self.own);
        for (i, t) in out.into_iter().enumerate() {
            let shape = t.dims.iter().map(|d| *d as usize).collect();
            let tensor =
                Tensor::from_bytes(scalar_type(t.elem), shape, &t.data).ok_or_else(|| EvalError::Node {
                    loc: "the float model".into(),
                    message: "a result's bytes do not fit its shape".into(),
                })?;
            match i.checked_sub(self.own) {
                None => own.push(tensor),
                Some(tap) => sink(self.taps[tap], &tensor),
            }
        }
        Ok(own)
    }
}

/// Calibration samples from files, one in memory at a time.
pub struct CalibSamples {
    set: RefCell<CalibSet>,
}

impl CalibSamples {
    /// Opens the files for an imported model; what they hold is checked, but arrays are not read yet. Texts need a
    /// tokenizer.
    pub fn open(paths: &[PathBuf], tokenizer: Option<&Path>, m: &Module) -> Result<Self, Failure> {
        let tokenizer = match tokenizer {
            Some(file) => Some(Tokenizer::open(file, Limits::of(m))?),
            None => None,
        };
        Ok(CalibSamples {
            set: RefCell::new(CalibSet::open(paths, Spec::inputs(&m.graph), tokenizer)?),
        })
    }

    /// Arrays and files that are no input of the model.
    pub fn ignored(&self) -> Vec<String> {
        self.set.borrow().ignored().to_vec()
    }
}

/// Why a walk over the samples ends early.
enum Stop {
    Data(DataError),
    Pass(ControlFlow<Tensors, Diag>),
}

type Tensors = Vec<Tensor>;

impl From<DataError> for Stop {
    fn from(e: DataError) -> Self {
        Stop::Data(e)
    }
}

impl CalibSamples {
    fn walk(
        &self,
        f: &mut dyn FnMut(usize, Tensors) -> Result<(), ControlFlow<Tensors, Diag>>,
    ) -> Result<Option<Tensors>, Diag> {
        let mut i = 0;
        let walked = self.set.borrow_mut().for_each(|sample: Vec<Array>| {
            let tensors = sample.iter().map(to_tensor).collect::<Result<Tensors, Failure>>();
            let tensors = tensors
                .map_err(|e| Stop::Pass(ControlFlow::Continue(Diag::internal("calibration data", e.text))))?;
            i += 1;
            f(i - 1, tensors).map_err(Stop::Pass)
        });
        match walked {
            Ok(()) => Ok(None),
            Err(Stop::Pass(ControlFlow::Break(found))) => Ok(Some(found)),
            Err(Stop::Pass(ControlFlow::Continue(d))) => Err(d),
            Err(Stop::Data(e)) => Err(Diag::new(Blame::User, "calibration data", e.to_string())),
        }
    }
}

impl Samples for CalibSamples {
    fn count(&self) -> usize {
        self.set.borrow().len()
    }

    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        let found = self.walk(&mut |k, t| {
            if k == i {
                Err(ControlFlow::Break(t))
            } else {
                Ok(())
            }
        })?;
        found.ok_or_else(|| Diag::internal("calibration data", format!("there is no sample {i}")))
    }

    fn for_each(&self, f: &mut dyn FnMut(usize, &[Tensor]) -> Result<(), Diag>) -> Result<(), Diag> {
        self.walk(&mut |i, t| f(i, &t).map_err(ControlFlow::Continue))
            .map(|_| ())
    }
}
