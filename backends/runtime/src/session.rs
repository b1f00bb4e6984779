//! A session: the arena, the threads and the shape cache with which one caller at a time runs a model.

use crate::cpu::{FloatEnv, default_threads};
use crate::error::RuntimeError;
use crate::exec::{Exec, StepTime, TapSink, Taps};
use crate::memory::AlignedBuf;
use crate::model::Model;
use crate::pool::{ParallelFor, Pool};
use crate::shape_plan::{ShapePlan, key_of, value};
use crate::tensor::{Tensor, TensorView, dense_bytes};
use crate::{binding, tensor};
use rsqc_artifact::expr::Value;
use rsqc_artifact::manifest::{ElemType, Io};
use std::sync::Arc;
use std::time::Duration;

/// Shape plans that a session keeps.
const CACHED_SHAPES: usize = 8;

/// How a session runs.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Threads, the caller included; 0: one a physical core that this process may use.
    pub threads: usize,
    /// How long idle threads wait actively between two steps of a run, in microseconds.
    pub spin_us: u32,
    /// The caller's own thread pool; `threads` is then the number of its participants.
    pub parallel_for: Option<ParallelFor>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            threads: 0,
            spin_us: 60,
            parallel_for: None,
        }
    }
}

/// An input of a run as raw memory.
#[derive(Clone, Copy, Debug)]
pub struct RawInput<'a> {
    /// Element type.
    pub elem: ElemType,
    /// Extents.
    pub dims: &'a [i64],
    /// First element.
    pub data: *const u8,
    /// Readable bytes.
    pub len: usize,
}

/// Where the outputs of a run go. Called once an output, in order, as soon as its shape is known.
pub trait OutputSink {
    /// Gives memory for output `index`: a pointer to at least `bytes` writable bytes that does not overlap any
    /// other tensor of the run and stays valid until its end.
    ///
    /// # Errors
    /// [`RuntimeError::TooSmall`] lets the remaining outputs be announced before the run fails with it.
    fn place(&mut self, index: usize, dims: &[i64], bytes: usize) -> Result<*mut u8, RuntimeError>;
}

/// Allocates outputs.
#[derive(Default)]
struct Allocate {
    tensors: Vec<Option<Tensor>>,
    elems: Vec<ElemType>,
}

impl OutputSink for Allocate {
    fn place(&mut self, index: usize, dims: &[i64], bytes: usize) -> Result<*mut u8, RuntimeError> {
        let mut data = Vec::new();
        data.try_reserve_exact(bytes)
            .map_err(|_| RuntimeError::NoMemory(format!("{bytes} bytes")))?;
        data.resize(bytes, 0);
        let tensor = Tensor {
            elem: self.elems[index],
            dims: dims.to_vec(),
            data,
        };
        Ok(self.tensors[index].insert(tensor).data.as_mut_ptr())
    }
}

/// One caller's use of a model.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    pool: Pool,
    /// Most recently used first.
    plans: Vec<Arc<ShapePlan>>,
    pub(crate) arena: AlignedBuf,
    pub(crate) scratch: Vec<AlignedBuf>,
    /// Memory of buffers whose size is known late; kept between runs.
    pub(crate) late: Vec<Option<AlignedBuf>>,
    times: Vec<StepTime>,
}

impl Session {
    /// A session with default options.
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`].
    pub fn new(model: &Arc<Model>) -> Result<Session, RuntimeError> {
        Session::with_options(model, &SessionOptions::default())
    }

    /// A session with a number of threads (0: default).
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`].
    pub fn with_threads(model: &Arc<Model>, threads: usize) -> Result<Session, RuntimeError> {
        Session::with_options(
            model,
            &SessionOptions {
                threads,
                ..SessionOptions::default()
            },
        )
    }

    /// A session.
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`] if threads cannot be started.
    pub fn with_options(model: &Arc<Model>, options: &SessionOptions) -> Result<Session, RuntimeError> {
        let threads = if options.threads == 0 {
            default_threads()
        } else {
            options.threads
        };
        let spin = Duration::from_micros(u64::from(options.spin_us.min(10_000)));
        let pool = Pool::new(threads, spin, options.parallel_for)?;
        Ok(Session {
            model: Arc::clone(model),
            pool,
            plans: Vec::new(),
            arena: AlignedBuf::new(0)?,
            scratch: Vec::new(),
            late: model.manifest().buffers.iter().map(|_| None).collect(),
            times: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Threads of this session, the caller included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of arena and scratch that the session holds.
    pub fn memory_bytes(&self) -> usize {
        let late: usize = self.late.iter().flatten().map(AlignedBuf::size).sum();
        self.arena.size() + late + self.scratch.iter().map(AlignedBuf::size).sum::<usize>()
    }

    /// Runs the model; allocates the outputs.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] or `Shape` for unfit inputs, and whatever a step reports.
    pub fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, RuntimeError> {
        self.run_with_taps(inputs, &[], &mut |_, _, _| {})
    }

    /// Runs the model and hands the contents of buffers to `sink(buffer, dims, bytes)` when the step that writes
    /// a buffer last has ended. A buffer written in a loop is handed over in each iteration, one written in a
    /// branch perhaps before it too: the last call counts.
    ///
    /// # Errors
    /// As [`Session::run`]; [`RuntimeError::Invalid`] if a tapped buffer does not exist or is never written.
    pub fn run_with_taps(
        &mut self,
        inputs: &[TensorView<'_>],
        taps: &[u32],
        sink: &mut TapSink<'_>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let taps = Taps::new(&self.model, taps, sink)?;
        self.run_allocating(inputs, Some(taps), false)
    }

    /// Runs the model and returns the time of each step too.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_profiled(
        &mut self,
        inputs: &[TensorView<'_>],
    ) -> Result<(Vec<Tensor>, Vec<StepTime>), RuntimeError> {
        let outputs = self.run_allocating(inputs, None, true)?;
        Ok((outputs, self.times.clone()))
    }

    /// Step times of the last profiled run.
    pub fn step_times(&self) -> &[StepTime] {
        &self.times
    }

    fn run_allocating(
        &mut self,
        inputs: &[TensorView<'_>],
        taps: Option<Taps<'_>>,
        profile: bool,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let raw: Vec<RawInput<'_>> = inputs
            .iter()
            .map(|t| RawInput {
                elem: t.elem,
                dims: t.dims,
                data: t.data.as_ptr(),
                len: t.data.len(),
            })
            .collect();
        let outputs = &self.model.manifest().outputs;
        let mut sink = Allocate {
            tensors: outputs.iter().map(|_| None).collect(),
            elems: outputs.iter().map(Io::elem).collect(),
        };
        self.run_raw(&raw, &mut sink, taps, profile)?;
        let tensors: Option<Vec<Tensor>> = sink.tensors.into_iter().collect();
        tensors.ok_or_else(|| RuntimeError::Internal("an output was not produced".into()))
    }

    /// Runs with raw inputs into memory that `sink` gives.
    ///
    /// The input pointers must be readable for their lengths; slices and the C interface's contract see to that.
    pub(crate) fn run_raw(
        &mut self,
        inputs: &[RawInput<'_>],
        sink: &mut dyn OutputSink,
        taps: Option<Taps<'_>>,
        profile: bool,
    ) -> Result<(), RuntimeError> {
        self.check_inputs(inputs)?;
        let dims: Vec<&[i64]> = inputs.iter().map(|i| i.dims).collect();
        let plan = self.plan(&dims)?;
        self.reserve(&plan)?;
        self.pool.set_hot(true)?;
        let _float_env = FloatEnv::set_default();
        let model = Arc::clone(&self.model);
        let mut times = std::mem::take(&mut self.times);
        times.clear();
        let result = Exec::new(
            &model,
            &self.pool,
            &plan,
            &mut self.arena,
            &mut self.scratch,
            &mut self.late,
            inputs,
        )
        .with_taps(taps)
        .with_times(profile.then_some(&mut times))
        .run(sink);
        self.times = times;
        self.pool.set_hot(false)?;
        result
    }

    /// Shapes of the outputs for these input shapes; `None` for a dimension that is only known after the run.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] or `Shape` for unfit input shapes.
    pub fn infer(&mut self, dims: &[&[i64]]) -> Result<Vec<Vec<Option<i64>>>, RuntimeError> {
        let expected = self.model.manifest().inputs.len();
        if dims.len() != expected {
            return Err(wrong_count(dims.len(), expected));
        }
        let plan = self.plan(dims)?;
        let m = self.model.manifest();
        let dim = |id: &u32| match plan.values[*id as usize] {
            Value::Unknown(_) => Ok(None),
            _ => value(m, &plan.values, *id).map(Some),
        };
        m.outputs
            .iter()
            .map(|io| io.dims.iter().map(dim).collect())
            .collect()
    }

    fn check_inputs(&self, inputs: &[RawInput<'_>]) -> Result<(), RuntimeError> {
        let expected = &self.model.manifest().inputs;
        if inputs.len() != expected.len() {
            return Err(wrong_count(inputs.len(), expected.len()));
        }
        for (input, io) in inputs.iter().zip(expected) {
            if input.elem != io.elem() {
                return Err(RuntimeError::Invalid(format!(
                    "input '{}' has type {}, expected {}",
                    io.name,
                    input.elem.name(),
                    io.elem().name()
                )));
            }
            let needed = tensor::dense_bytes(input.elem, input.dims).ok_or_else(|| {
                RuntimeError::Shape(format!(
                    "input '{}' has the impossible shape {:?}",
                    io.name, input.dims
                ))
            })?;
            if input.len < needed {
                return Err(RuntimeError::Invalid(format!(
                    "input '{}' of shape {:?} has {needed} bytes, {} are given",
                    io.name, input.dims, input.len
                )));
            }
            if needed > 0 && (input.data.is_null() || !input.data.addr().is_multiple_of(input.elem.size())) {
                return Err(RuntimeError::Invalid(format!(
                    "input '{}' is not aligned to its elements",
                    io.name
                )));
            }
        }
        Ok(())
    }

    /// The plan for these shapes, from the cache if it is there.
    fn plan(&mut self, dims: &[&[i64]]) -> Result<Arc<ShapePlan>, RuntimeError> {
        let key = key_of(dims);
        if let Some(found) = self.plans.iter().position(|p| p.key == key) {
            self.plans[..=found].rotate_right(1);
        } else {
            let symbols = binding::bind(&self.model, dims)?;
            let plan = ShapePlan::new(&self.model, key, symbols)?;
            self.plans.insert(0, Arc::new(plan));
            self.plans.truncate(CACHED_SHAPES);
        }
        Ok(Arc::clone(&self.plans[0]))
    }

    /// Grows the arena and the scratch to what a plan needs.
    fn reserve(&mut self, plan: &ShapePlan) -> Result<(), RuntimeError> {
        if self.arena.size() < plan.arena_bytes {
            // Free first: both at once may not fit.
            self.arena = AlignedBuf::new(0)?;
            self.arena = AlignedBuf::new(plan.arena_bytes)?;
        }
        reserve_scratch(&mut self.scratch, self.pool.threads(), plan.scratch_bytes)
    }
}

/// Makes sure that each thread has that much scratch.
pub(crate) fn reserve_scratch(
    scratch: &mut Vec<AlignedBuf>,
    threads: usize,
    bytes: usize,
) -> Result<(), RuntimeError> {
    if scratch.len() == threads && scratch.first().is_some_and(|s| s.size() >= bytes) {
        return Ok(());
    }
    scratch.clear();
    for _ in 0..threads {
        scratch.push(AlignedBuf::new(bytes)?);
    }
    Ok(())
}

fn wrong_count(found: usize, expected: usize) -> RuntimeError {
    RuntimeError::Invalid(format!("{found} inputs are given, the model has {expected}"))
}

/// Dense bytes of an output.
pub(crate) fn output_bytes(io: &Io, dims: &[i64]) -> Result<usize, RuntimeError> {
    dense_bytes(io.elem(), dims)
        .ok_or_else(|| RuntimeError::Shape(format!("output '{}' would have the shape {dims:?}", io.name)))
}
