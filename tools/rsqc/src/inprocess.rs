//! Compiled code in this process.

use crate::data::Array;
use crate::data::inputs::Spec;
use crate::error::Failure;
use crate::program::Program;
use crate::specs::{self, elem_type, scalar_type};
use rsqc_runtime::{Model, RuntimeError, Session, Tensor, TensorView};
use std::sync::Arc;

/// A model loaded into this process with a session of its own.
pub struct SessionProgram {
    inputs: Vec<Spec>,
    outputs: Vec<String>,
    session: Session,
}

impl SessionProgram {
    /// A session with `threads` threads (0: one a physical core).
    pub fn new(model: &Arc<Model>, threads: usize) -> Result<Self, Failure> {
        let session = Session::with_threads(model, threads).map_err(runtime)?;
        let m = model.manifest();
        Ok(SessionProgram {
            inputs: specs::inputs(m),
            outputs: m.outputs.iter().map(|o| o.name.clone()).collect(),
            session,
        })
    }
}

impl Program for SessionProgram {
    fn inputs(&self) -> &[Spec] {
        &self.inputs
    }
    fn outputs(&self) -> &[String] {
        &self.outputs
    }
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>, Failure> {
        let out = run_session(&mut self.session, inputs).map_err(runtime)?;
        Ok(out.into_iter().map(from_runtime).collect())
    }
}

/// Runs a session on arrays.
pub fn run_session(session: &mut Session, inputs: &[Array]) -> Result<Vec<Tensor>, RuntimeError> {
    let dims: Vec<Vec<i64>> = inputs
        .iter()
        .map(|a| a.shape.iter().map(|d| *d as i64).collect())
        .collect();
    let views: Vec<TensorView<'_>> = inputs
        .iter()
        .zip(&dims)
        .map(|(a, dims)| TensorView {
            elem: elem_type(a.ty),
            dims,
            data: &a.data,
        })
        .collect();
    session.run(&views)
}

/// An array from a runtime tensor.
pub fn from_runtime(t: Tensor) -> Array {
    Array {
        ty: scalar_type(t.elem),
        shape: t.dims.iter().map(|d| *d as usize).collect(),
        data: t.data,
    }
}

fn runtime(e: RuntimeError) -> Failure {
    Failure::error(e.to_string())
}
