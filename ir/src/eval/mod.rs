//! The reference evaluator, the oracle independent of every backend, and the traits through which passes execute.
//!
//! Ops are computed in their declared type; sums in f64 (or i64) rounded once; transcendentals through f64. Region
//! bodies are executed statement by statement in the statement's type, exactly as generated code does, with the
//! reduction order of [`crate::scalar::ReduceKind`].

mod anchor;
pub mod attention;
pub mod attention8;
pub mod convolution;
mod graph;
pub(crate) mod lanes;
pub mod matmul;
pub mod movement;
pub mod norms;
pub mod points;
pub mod quantization;
pub mod reduction;
pub mod region;
mod tensor;
pub(crate) mod walk;

pub use graph::{ReferenceExecutor, bind_symbols, run};
pub use tensor::{Data, Tensor};

use crate::module::Module;
use crate::types::{Dim, Symbol};
use std::collections::BTreeMap;

/// Why evaluation stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// An input does not fit its declaration.
    #[error("input `{name}`: {message}")]
    Input {
        /// Input name.
        name: String,
        /// What is wrong, with expected and found.
        message: String,
    },
    /// A run-time check failed or a dim has no value.
    #[error("{loc}: {message}")]
    Node {
        /// Node location.
        loc: String,
        /// What is wrong.
        message: String,
    },
    /// An execution was asked for what this executor cannot do.
    #[error("{0}")]
    Unsupported(String),
}

/// What an op sees when it is evaluated: the values of the symbols.
pub struct EvalCx<'a> {
    /// Values of symbols for this run.
    pub symbols: &'a BTreeMap<Symbol, i64>,
}

impl EvalCx<'_> {
    /// The value of a dim.
    pub fn dim(&self, d: &Dim) -> Result<i64, String> {
        d.eval(&|s| self.symbols.get(s).copied())
            .ok_or_else(|| format!("dimension `{d}` has no value"))
    }

    /// The value of an extent: a dim that must not be negative.
    pub fn extent(&self, d: &Dim) -> Result<usize, String> {
        usize::try_from(self.dim(d)?).map_err(|_| format!("dimension `{d}` is negative"))
    }

    /// The values of a shape.
    pub fn shape(&self, s: &[Dim]) -> Result<Vec<usize>, String> {
        s.iter().map(|d| self.extent(d)).collect()
    }
}

/// A value handed to a tap's sink.
pub type Sink<'a> = dyn FnMut(crate::ValueId, &Tensor) + 'a;

/// Executes graphs: the reference evaluator, or compiled code. Passes get one from the driver.
pub trait Executor {
    /// Prepares the main graph of `m` for many runs; every value in `taps` is handed to the sink during runs.
    fn prepare<'a>(
        &'a self,
        m: &Module,
        taps: &[crate::ValueId],
    ) -> Result<Box<dyn Prepared + 'a>, EvalError>;
}

/// A prepared graph.
pub trait Prepared {
    /// Runs once. `inputs` in the order of the graph's inputs; the result in that of its outputs. A tapped value is
    /// handed to `sink` when its step ends and is dead afterwards.
    fn run(&mut self, inputs: &[Tensor], sink: &mut Sink<'_>) -> Result<Vec<Tensor>, EvalError>;
}
