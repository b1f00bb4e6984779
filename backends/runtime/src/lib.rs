//! rsqc-runtime: runs compiled models.
//!
//! The same code serves in two places: inside every artifact, behind the C interface (feature `template`), and
//! inside rsqc's own tools, as a Rust library.
//!
//! - [`Model::from_parts`] loads a plan, its machine code and its weights from memory; [`Session`] runs it.
//! - [`place`] puts buffers into the arena, [`pool`] runs tiles on threads, [`cpu`] knows the processor.
//!
//! ```no_run
//! # fn main() -> Result<(), rsqc_runtime::RuntimeError> {
//! # let (manifest, code, weights) = (rsqc_artifact::Manifest::default(), Vec::new(), Vec::<u8>::new());
//! use rsqc_runtime::{Model, Session, Tensor};
//! let model = Model::from_parts(manifest, &code, std::sync::Arc::new(weights))?;
//! let mut session = Session::new(&model)?;
//! let input = Tensor::from_f32(&[1, 2], &[0.5, 2.0]);
//! let outputs = session.run(&[input.view()])?;
//! # let _ = outputs; Ok(()) }
//! ```
#![deny(missing_docs)]

pub mod abi;
mod binding;
pub mod cpu;
pub mod dylib;
pub mod error;
mod exec;
#[cfg(feature = "template")]
mod image;
mod layout;
pub mod memory;
pub mod model;
pub mod place;
pub mod pool;
pub mod session;
mod shape_plan;
pub mod tensor;
pub mod weights;

pub use dylib::{Artifact, ArtifactFile, ArtifactSession};
pub use error::RuntimeError;
pub use exec::{StepTime, TapSink};
pub use model::{KernelSource, Model};
pub use pool::ParallelFor;
pub use rsqc_artifact::{KernelFn, Level};
pub use session::{Session, SessionOptions};
pub use tensor::{Tensor, TensorView};
pub use weights::SharedBytes;
