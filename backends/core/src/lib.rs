//! rsqc-backend: what a backend is, and how a lowered module becomes a plan.
//!
//! A lowered module holds [`Region`](rsqc_ir::region::Region)s and nothing else that computes. A [`Backend`] says for
//! each region which kernel runs it and with which parameters ([`Backend::select`]), packs constants, and generates
//! the machine code of all distinct kernels at once ([`Backend::generate`]).
//!
//! **Kernel ABI**: `k(bufs, params, scratch, tile_begin, tile_end)`; `bufs[i]` is operand `i`, then the results in
//! order; `params` are the values of [`Launch::params`]; a call computes the tiles `[tile_begin, tile_end)` of
//! [`Launch::tiles`]; which tile writes which output is fixed.
#![deny(missing_docs)]

mod exprs;
mod kernel;
mod plan;

pub use kernel::{DimSlot, KernelSpec, Params};
pub use plan::{Plan, build_plan};

use rsqc_ir::diag::Diag;
use rsqc_ir::target::TargetDesc;
use rsqc_ir::{Const, Dim, Layout};
use std::collections::BTreeMap;

/// How a region is launched.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Readable kernel name: `<act>_<out>_<weight>_<op>_<tile>_<hash>` without the level.
    pub kernel: String,
    /// Run-time parameters in slot order.
    pub params: Vec<Dim>,
    /// Number of tiles.
    pub tiles: Dim,
    /// Scratch bytes each thread needs.
    pub scratch_bytes: Dim,
    /// Multiply-accumulates of the whole launch (0 if none).
    pub macs: Dim,
    /// Bytes read and written.
    pub bytes: Dim,
    /// Estimated nanoseconds on one thread of the named target; 0 = unknown.
    pub cost_ns: Dim,
}

/// Machine code of kernels: one position-independent blob.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// Position-independent bytes, 64-byte aligned entries.
    pub blob: Vec<u8>,
    /// For each kernel name: (level, offset), lowest level first.
    pub entries: BTreeMap<String, Vec<(String, u64)>>,
}

/// A text form of generated code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextForm {
    /// LLVM IR.
    LlvmIr,
    /// Assembly.
    Asm,
    /// PTX.
    Ptx,
}

/// A code generator. Object-safe; listed in the driver's backend list.
pub trait Backend: Send + Sync {
    /// Name, e.g. `cpu`.
    fn name(&self) -> &'static str;
    /// The target that kernel choice and scheduling are made for (named, never the host's).
    fn target(&self) -> &TargetDesc;
    /// The kernel for a region, or why there is none (blame `Unsupported`).
    fn select(&self, spec: &KernelSpec) -> Result<Launch, Diag>;
    /// The same backend, but every sum of float products has one order and one rounding an operation: its results have the
    /// same bits at every level. What is observed while compiling is computed with it, so that an artifact does not
    /// depend on the machine that compiled it.
    fn reproducible(&self) -> Box<dyn Backend>;
    /// The bytes of a constant in a physical layout.
    fn pack(&self, c: &Const, layout: Layout) -> Result<Vec<u8>, Diag>;
    /// Machine code for all kernels (name -> spec), for these levels. Same input, same bytes.
    fn generate(&self, kernels: &BTreeMap<String, KernelSpec>, levels: &[String]) -> Result<Code, Diag>;
    /// The generated code as text: one self-contained module a kernel and level, with all that it calls.
    fn text(
        &self,
        kernels: &BTreeMap<String, KernelSpec>,
        levels: &[String],
        form: TextForm,
    ) -> Result<String, Diag>;
}
