//! Lowers modules, compiles them in this process, and compares each step with the evaluator.

use rsqc::compiler::{self, Clock, CompileOptions, Compiled};
use rsqc::executor::CompiledExecutor;
use rsqc::specs::{elem_type, scalar_type};
use rsqc_artifact::Level;
use rsqc_backend::Backend;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{Data, Tensor};
use rsqc_ir::{Module, ScalarType};
use rsqc_passes::lower;
use rsqc_passes::manager::{ManagerOptions, PassManager, Report};
use rsqc_passes::pass::{Env, Samples};
use rsqc_passes::scheme::Scheme;
use rsqc_runtime::{Model, Session, TensorView};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Levels that this machine runs, weakest first.
pub fn levels() -> Vec<Level> {
    Level::ALL
        .into_iter()
        .filter(|l| rsqc_runtime::cpu::supports(*l))
        .collect()
}

/// Options for a scheme and levels, everything verified.
pub fn options(scheme: &str, levels: &[Level]) -> CompileOptions {
    CompileOptions {
        scheme: Scheme::parse(scheme).expect("a scheme that exists"),
        dims: Default::default(),
        levels: levels.iter().map(|l| l.name().to_string()).collect(),
        manager: ManagerOptions {
            verify_each: true,
            ..ManagerOptions::default()
        },
        calib: Vec::new(),
        tokenizer: None,
    }
}

/// The backend of this process: modules share what it has generated.
pub fn backend() -> &'static rsqc_cpu::Cpu {
    static BACKEND: OnceLock<rsqc_cpu::Cpu> = OnceLock::new();
    BACKEND.get_or_init(rsqc_cpu::Cpu::default)
}

/// Runs a scheme's pipeline.
pub fn lower(m: &mut Module, o: &CompileOptions) -> Result<Report, String> {
    compiler::lower(m, Path::new("module"), o, backend()).map_err(|f| f.text)
}

/// Runs a scheme's pipeline; static scales come from one sample.
pub fn lower_on(m: &mut Module, o: &CompileOptions, sample: Vec<Tensor>) -> Result<Report, String> {
    compiler::lower_with(m, Path::new("module"), o, backend(), Some(&One(sample))).map_err(|f| f.text)
}

/// The same from a canonical module on.
pub fn lower_canonical_on(m: &mut Module, o: &CompileOptions, sample: Vec<Tensor>) -> Result<Report, String> {
    let executor = CompiledExecutor {
        backend: backend(),
        threads: 0,
    };
    let samples = One(sample);
    let env = Env {
        executor: Some(&executor),
        samples: Some(&samples),
        ..Env::default()
    };
    PassManager::new(env, o.manager.clone())
        .run(m, &lower::passes(&o.scheme))
        .map_err(|d| d.to_string())
}

/// Calibration data of one sample.
struct One(Vec<Tensor>);

impl Samples for One {
    fn count(&self) -> usize {
        1
    }
    fn sample(&self, _: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0.clone())
    }
}

/// Generates code for a lowered module.
pub fn compile(m: &Module, o: &CompileOptions) -> Result<Compiled, String> {
    compile_by(m, o, backend())
}

/// The same by a given backend.
pub fn compile_by(m: &Module, o: &CompileOptions, backend: &dyn Backend) -> Result<Compiled, String> {
    compiler::assemble(
        m,
        Report::default(),
        Path::new("module"),
        o,
        backend,
        &mut Clock::new(&mut |_| {}),
    )
    .map_err(|f| f.text)
}

/// Loads compiled code at a level.
pub fn load(c: &Compiled, level: Level) -> Arc<Model> {
    Model::from_parts_at(c.manifest.clone(), &c.code, c.weights.clone(), Some(level))
        .expect("a valid plan loads")
}

/// Runs once with a number of threads.
pub fn run(model: &Arc<Model>, threads: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut session = Session::with_threads(model, threads).map_err(|e| e.to_string())?;
    let dims: Vec<Vec<i64>> = inputs
        .iter()
        .map(|t| t.shape.iter().map(|d| *d as i64).collect())
        .collect();
    let bytes: Vec<Vec<u8>> = inputs.iter().map(|t| t.data.to_bytes()).collect();
    let views: Vec<TensorView<'_>> = inputs
        .iter()
        .zip(dims.iter().zip(&bytes))
        .map(|(t, (dims, data))| TensorView {
            elem: elem_type(t.elem()),
            dims,
            data,
        })
        .collect();
    let out = session.run(&views).map_err(|e| e.to_string())?;
    Ok(out
        .iter()
        .map(|t| tensor(scalar_type(t.elem), &t.dims, &t.data))
        .collect())
}

fn tensor(ty: ScalarType, dims: &[i64], bytes: &[u8]) -> Tensor {
    let shape = dims.iter().map(|d| *d as usize).collect();
    Tensor::from_bytes(ty, shape, bytes).expect("a runtime tensor is dense")
}

/// Whether two tensors have the same bits; any NaN equals any NaN.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) => {
            a.shape == b.shape
                && x.iter()
                    .zip(y)
                    .all(|(p, q)| p.to_bits() == q.to_bits() || (p.is_nan() && q.is_nan()))
        }
        _ => a == b,
    }
}

/// Largest difference relative to the largest magnitude of `want`; infinite where only one side is NaN or infinite.
pub fn relative_difference(want: &Tensor, got: &Tensor) -> f64 {
    if want.shape != got.shape {
        return f64::INFINITY;
    }
    let (w, g) = (want.to_f64(), got.to_f64());
    let scale = w
        .iter()
        .filter(|x| x.is_finite())
        .fold(1e-30f64, |m, x| m.max(x.abs()));
    w.iter().zip(&g).fold(0.0, |m: f64, (x, y)| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let d = if same { 0.0 } else { (x - y).abs() / scale };
        m.max(if d.is_nan() { f64::INFINITY } else { d })
    })
}
