//! rsqc-ir: the language that every part of rsqc speaks. Imports no other rsqc crate.
#![deny(missing_docs)]

pub mod diag;
pub mod eval;
pub mod graph;
pub mod module;
pub mod numeric;
pub mod ops;
pub mod patch;
pub mod quant;
pub mod region;
pub mod scalar;
pub mod side;
pub mod target;
pub mod text;
pub mod types;
pub mod verify;

pub use graph::{ConstId, Graph, GraphId, Layout, Loc, Node, NodeId, Port, ValueDef, ValueId};
pub use module::{Const, Module, Phase};
pub use ops::Op;
pub use patch::{EditError, Patch, Rebuild};
pub use types::{Dim, Elem, ScalarType, Symbol, TensorType};
