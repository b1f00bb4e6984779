//! Something that runs: an artifact, a model compiled in this process, or a model on the reference evaluator.

use crate::data::Array;
use crate::data::inputs::Spec;
use crate::error::Failure;
use rsqc_ir::eval::{Executor, Prepared, Tensor};

/// A runnable model.
pub trait Program {
    /// Inputs in order.
    fn inputs(&self) -> &[Spec];
    /// Names of the outputs in order.
    fn outputs(&self) -> &[String];
    /// Runs once; arrays in the order of the inputs and outputs.
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>, Failure>;
}

/// A module on any [`Executor`].
pub struct ModuleProgram<'a> {
    inputs: Vec<Spec>,
    outputs: Vec<String>,
    prepared: Box<dyn Prepared + 'a>,
}

impl<'a> ModuleProgram<'a> {
    /// Prepares the main graph of `m`.
    pub fn new(m: &rsqc_ir::Module, executor: &'a dyn Executor) -> Result<Self, Failure> {
        Ok(ModuleProgram {
            inputs: Spec::inputs(&m.graph),
            outputs: m.graph.outputs().iter().map(|p| p.name.clone()).collect(),
            prepared: executor
                .prepare(m, &[])
                .map_err(|e| Failure::error(e.to_string()))?,
        })
    }
}

impl Program for ModuleProgram<'_> {
    fn inputs(&self) -> &[Spec] {
        &self.inputs
    }
    fn outputs(&self) -> &[String] {
        &self.outputs
    }
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>, Failure> {
        let tensors = inputs.iter().map(to_tensor).collect::<Result<Vec<_>, _>>()?;
        let out = self
            .prepared
            .run(&tensors, &mut |_, _| {})
            .map_err(|e| Failure::error(e.to_string()))?;
        Ok(out.iter().map(from_tensor).collect())
    }
}

/// An array as the evaluator takes it.
pub fn to_tensor(a: &Array) -> Result<Tensor, Failure> {
    Tensor::from_bytes(a.ty, a.shape.clone(), &a.data)
        .ok_or_else(|| Failure::error("an array's bytes do not fit its shape"))
}

/// An array from the evaluator.
pub fn from_tensor(t: &Tensor) -> Array {
    Array {
        ty: t.elem(),
        shape: t.shape.clone(),
        data: t.data.to_bytes(),
    }
}
