//! rsqc-artifact: the format of compiled models.
//!
//! An artifact is one shared library: a prelinked *template* (the runtime) with three segments appended, which
//! hold the machine code, the manifest and the weights. This crate defines
//! - [`manifest`]: the plan and its report data (`manifest.proto`),
//! - [`expr`]: the size expressions of a plan, [`level`]: instruction set levels,
//! - [`mod@validate`]: every rule that a plan obeys,
//! - [`container`]: writing, reading and checking the file,
//! - [`C_HEADER`]: the C interface of an artifact.
//!
//! It knows nothing of the compiler nor of the runtime; both depend on it.
#![deny(missing_docs)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod container;
pub mod error;
pub mod expr;
pub mod level;
pub mod manifest;
pub mod validate;

pub use error::ArtifactError;
pub use level::Level;
pub use manifest::Manifest;
pub use validate::validate;

/// The C function type of a kernel.
///
/// Arguments: `bufs[i]` the base address of argument `i` (byte offset included), `params[i]` the value of
/// parameter `i`, `scratch` this thread's scratch (64-byte aligned, at least the launch's `scratch_bytes`), and
/// the half-open range of tiles to compute. Arena buffers and weights are 64-byte aligned with at least 64
/// readable bytes behind them (writable too in the arena); the caller's inputs and outputs have no such slack.
pub type KernelFn = unsafe extern "C" fn(
    bufs: *const *mut u8,
    params: *const i64,
    scratch: *mut u8,
    tile_begin: i64,
    tile_end: i64,
);

/// The header of the C interface, as text.
pub const C_HEADER: &str = include_str!("../include/rsqc_model.h");

/// Alignment of arena buffers, weights and scratch, in bytes; also the slack behind them.
pub const ALIGN: usize = 64;
