//! rsqc-cpu: x86-64 code for regions, through LLVM.
//!
//! - [`level`]: instruction set levels; [`llvm`]: the layer that generators write to;
//! - [`pack`]: packed forms of constant matrices; [`kernels`]: the kernel generators;
//! - [`select`]: which kernel runs a region; [`backend`]: the [`Backend`](rsqc_backend::Backend) made of all this;
//! - [`isa`]: which instructions a level may hold, and the proof;
//! - [`cache`]: what has been generated already;
//! - [`relocate`]: from LLVM's objects to one position-independent blob, without a linker.
//!
//! Every kernel is `void(void **bufs, const i64 *params, void *scratch, i64 tile_begin, i64 tile_end)`.

pub mod backend;
pub mod cache;
pub mod isa;
pub mod kernels;
pub mod level;
pub mod llvm;
pub mod pack;
pub mod relocate;
pub mod select;

pub use backend::Cpu;
