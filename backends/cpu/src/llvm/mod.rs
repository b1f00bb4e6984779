//! The thin layer over LLVM that every kernel generator of this crate writes to.
//!
//! A [`Worker`] owns one LLVM context and one target machine a level. [`Worker::kernel`] opens an [`Emit`]: one module
//! with one function of the kernel ABI, positioned in its body. `Emit` offers typed straight-line operations
//! (`math`, `memory`) and structured control flow (`flow`) as methods; [`Worker::finish`] closes, verifies,
//! optimises and encodes it.
//!
//! Numeric rules that hold by construction: no fast-math flag is ever set, so LLVM neither contracts nor reassociates;
//! the loop and SLP vectorisers do not run; `no-builtins` keeps loops from being turned into library calls.
//!
//! Builder calls can only fail when operand types disagree or no block is open, which is a bug of a generator, so these
//! methods panic instead of returning errors.

mod convert;
mod disassemble;
mod emit;
mod flow;
mod machine;
mod math;
mod memory;

pub use disassemble::{DisassembleError, Instruction, reachable};
pub use emit::{Elem, Emit, Parameter, Routine, Subroutine};
pub use flow::Var;
pub use inkwell::values::VectorValue as Vector;
pub use inkwell::values::{BasicValueEnum as Any, FloatValue as Float, IntValue as Int, PointerValue as Ptr};
pub use inkwell::{FloatPredicate as FloatCmp, IntPredicate as IntCmp};
pub use machine::{CodegenError, Output, Worker};
pub use memory::Lanes;

/// The symbol of every kernel's function; names from a model never become symbols.
pub const KERNEL_SYMBOL: &str = "rsqc_kernel";
