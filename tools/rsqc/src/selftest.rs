//! Self-test vectors: a stored run of the weakest level that this machine can run, replayed later at every level.

use crate::compiler::Compiled;
use crate::error::Failure;
use crate::specs;
use rsqc_artifact::manifest as pb;
use rsqc_ir::{ScalarType, Symbol};
use rsqc_runtime::{Level, Model, Session, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What happened when the vectors were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Tested {
    /// Vectors stored.
    pub vectors: usize,
    /// Levels that replayed them here.
    pub levels: Vec<String>,
}

impl std::fmt::Display for Tested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.vectors {
            0 => f.write_str("none stored: this machine runs none of the levels"),
            n => write!(f, "{n} vectors, passed at {}", self.levels.join(" ")),
        }
    }
}

/// Largest |difference| / max |expected| that a float model's other levels may show (products in another order), and a
/// quantized one's: a rounding difference of an activation moves its code by one step.
const FLOAT_BOUND: f64 = 1e-4;
const QUANTIZED_BOUND: f64 = 0.1;

/// Values given to the symbols of the vectors, clamped to their ranges.
const SYMBOL_VALUES: [&[i64]; 2] = [&[1, 5, 3], &[2, 3, 4]];

/// Runs the model at its weakest level, stores inputs and outputs, and replays them at the others.
pub fn add_vectors(c: &mut Compiled) -> Result<Tested, Failure> {
    let runnable: Vec<Level> = c
        .manifest
        .levels
        .iter()
        .filter_map(|l| Level::from_name(l))
        .filter(|l| rsqc_runtime::cpu::supports(*l))
        .collect();
    let Some(weakest) = runnable.first().copied() else {
        return Ok(Tested {
            vectors: 0,
            levels: vec![],
        });
    };
    let load = |level: Level| {
        Model::from_parts_at(c.manifest.clone(), &c.code, c.weights.clone(), Some(level))
            .map_err(|e| Failure::error(e.to_string()))
    };
    let reference = load(weakest)?;
    let mut tests = Vec::new();
    for (k, values) in SYMBOL_VALUES.iter().enumerate() {
        tests.push(vector(&reference, values, k as u64, weakest)?);
    }
    drop(reference);
    for level in &runnable {
        let model = load(*level)?;
        for t in &tests {
            replay(&model, t).map_err(|why| {
                Failure::error(format!(
                    "self-test at level {}: {why}\n  help: this is a defect of rsqc; please report it",
                    level.name()
                ))
            })?;
        }
    }
    let tested = Tested {
        vectors: tests.len(),
        levels: runnable.iter().map(|l| l.name().to_string()).collect(),
    };
    c.manifest.selftests = tests;
    Ok(tested)
}

fn vector(model: &Arc<Model>, values: &[i64], seed: u64, level: Level) -> Result<pb::SelfTest, Failure> {
    let m = model.manifest();
    let symbols: Vec<i64> = m
        .symbols
        .iter()
        .enumerate()
        .map(|(i, s)| values[i % values.len()].clamp(s.lo, s.hi.max(s.lo)))
        .collect();
    let env: BTreeMap<Symbol, i64> = m
        .symbols
        .iter()
        .map(|s| Symbol::new(&s.name))
        .zip(symbols.iter().copied())
        .collect();
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let inputs = specs::inputs(m)
        .iter()
        .map(|s| {
            let dims =
                s.ty.shape
                    .iter()
                    .map(|d| d.eval(&|n| env.get(n).copied()))
                    .collect::<Option<Vec<i64>>>();
            let dims = dims.ok_or_else(|| {
                Failure::error(format!("input `{}` has a size that nothing determines", s.name))
            })?;
            Ok(random_tensor(s.ty.storage(), dims, &mut random))
        })
        .collect::<Result<Vec<Tensor>, Failure>>()?;
    let outputs = run(model, &inputs).map_err(Failure::error)?;
    let quantized = m
        .layers
        .iter()
        .any(|l| l.weight_bytes_after < l.weight_bytes_before);
    Ok(pb::SelfTest {
        name: format!("vector {seed}"),
        symbols,
        inputs: inputs.iter().map(to_test).collect(),
        outputs: outputs.iter().map(to_test).collect(),
        bound: if quantized { QUANTIZED_BOUND } else { FLOAT_BOUND },
        exact: false,
        level: level.name().into(),
    })
}

/// Floats in -1..1; integers and bools 0 or 1, which are legal indices almost everywhere.
fn random_tensor(ty: ScalarType, dims: Vec<i64>, state: &mut u64) -> Tensor {
    let n: i64 = dims.iter().product();
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state >> 40
    };
    let mut data = Vec::new();
    for _ in 0..n {
        let r = next();
        let x = r as f32 / (1u32 << 23) as f32 - 1.0;
        match ty {
            ScalarType::F32 => data.extend(x.to_le_bytes()),
            ScalarType::F64 => data.extend(f64::from(x).to_le_bytes()),
            ScalarType::F16 => data.extend(half::f16::from_f32(x).to_le_bytes()),
            ScalarType::BF16 => data.extend(half::bf16::from_f32(x).to_le_bytes()),
            t => {
                data.push((r & 1) as u8);
                data.resize(data.len() + t.size() - 1, 0);
            }
        }
    }
    Tensor {
        elem: specs::elem_type(ty),
        dims,
        data,
    }
}

fn run(model: &Arc<Model>, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut session = Session::with_threads(model, 1).map_err(|e| e.to_string())?;
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    session.run(&views).map_err(|e| e.to_string())
}

fn to_test(t: &Tensor) -> pb::TestTensor {
    pb::TestTensor {
        elem: t.elem as i32,
        dims: t.dims.iter().map(|d| *d as u64).collect(),
        data: t.data.clone(),
    }
}

fn from_test(t: &pb::TestTensor) -> Tensor {
    Tensor {
        elem: t.elem(),
        dims: t.dims.iter().map(|d| *d as i64).collect(),
        data: t.data.clone(),
    }
}

/// Replays a stored vector; says what differs.
fn replay(model: &Arc<Model>, t: &pb::SelfTest) -> Result<(), String> {
    let inputs: Vec<Tensor> = t.inputs.iter().map(from_test).collect();
    compare(t, &run(model, &inputs)?, model.level().name())
}

/// Compares outputs with a stored vector: equal bits at the level that made it, within its bound elsewhere.
pub fn compare(t: &pb::SelfTest, outputs: &[Tensor], level: &str) -> Result<(), String> {
    for (i, (want, got)) in t.outputs.iter().map(from_test).zip(outputs).enumerate() {
        if want.dims != got.dims {
            return Err(format!(
                "{}: output {i} has shape {:?}, expected {:?}",
                t.name, got.dims, want.dims
            ));
        }
        if want.data == got.data {
            continue;
        }
        let (w, g) = (values(&want), values(got));
        let scale = w
            .iter()
            .filter(|x| x.is_finite())
            .fold(0.0, |m: f64, x| m.max(x.abs()));
        let worst = crate::metrics::max_abs_diff(&w, &g);
        // A NaN on one side only makes `worst` NaN, which is no agreement.
        if t.exact || level == t.level || worst.is_nan() || worst > t.bound * scale {
            return Err(format!(
                "{}: output {i} differs by {worst:.3e} where the largest value is {scale:.3e}",
                t.name
            ));
        }
    }
    Ok(())
}

fn values(t: &Tensor) -> Vec<f64> {
    crate::inprocess::from_runtime(t.clone()).to_f64()
}
