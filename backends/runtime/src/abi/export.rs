//! The anchor and the one exported function.
#![allow(unsafe_code)]

use super::types::{API_VERSION, Api};
use super::{model_fns as model, session_fns as session};
use rsqc_artifact::container::ANCHOR_MAGIC;

/// Found by its magic and filled in by the artifact writer; the first field must occur once in the template.
#[repr(C, align(64))]
pub struct Anchor {
    magic: [u8; 16],
    fields: [u64; 6],
}

/// The anchor of this image; empty in a bare template.
// SAFETY: the name is unique; the version script keeps it private to the library.
#[unsafe(no_mangle)]
pub static RSQC_ANCHOR: Anchor = Anchor {
    magic: ANCHOR_MAGIC,
    fields: [0; 6],
};

/// The anchor's address and the fields that the writer put there.
pub(super) fn read_anchor() -> (usize, [u64; 6]) {
    let anchor = &raw const RSQC_ANCHOR;
    // SAFETY: the static is initialised. Volatile, since the file on disk differs from what was compiled.
    let fields = unsafe { (&raw const (*anchor).fields).read_volatile() };
    (anchor.addr(), fields)
}

static TABLE: Api = Api {
    struct_size: size_of::<Api>() as u32,
    version: API_VERSION,
    open: model::open,
    close: model::close,
    input_count: model::input_count,
    output_count: model::output_count,
    symbol_count: model::symbol_count,
    input: model::input,
    output: model::output,
    symbol: model::symbol,
    level: model::level,
    manifest: model::manifest,
    root: model::root,
    session_new: session::session_new,
    session_free: session::session_free,
    error: session::error,
    infer: session::infer,
    run: session::run,
    step_times: session::step_times,
    memory: session::memory,
    state_new: session::state_new,
    state_clone: session::state_clone,
    state_truncate: session::state_truncate,
    state_reset: session::state_reset,
    state_free: session::state_free,
};

/// The table of the interface; null for a version that this library does not have.
// SAFETY: the name is unique: artifacts export it and nothing else, and are loaded with RTLD_LOCAL.
#[unsafe(no_mangle)]
pub extern "C" fn rsqc_model_api(version: u32) -> *const Api {
    if version == API_VERSION {
        &raw const TABLE
    } else {
        std::ptr::null()
    }
}
