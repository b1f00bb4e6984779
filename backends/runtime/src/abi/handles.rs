//! What the opaque pointers of the C interface point to, and the guard around every call.
#![allow(unsafe_code)]

use super::types::{CIo, DIM_EXPRESSION};
use crate::error::RuntimeError;
use crate::image::Image;
use crate::model::Model;
use rsqc_artifact::expr::text;
use rsqc_artifact::manifest::{Io, Manifest, expr::Node};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A text for C: zeros inside are dropped.
pub fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// The C form of an input or output.
pub struct IoInfo {
    name: CString,
    dtype: u32,
    flags: u32,
    dims: Vec<i64>,
    _texts: Vec<CString>,
    text_pointers: Vec<*const c_char>,
}

impl IoInfo {
    fn new(m: &Manifest, io: &Io) -> IoInfo {
        let dim = |id: &u32| match m.exprs[*id as usize].node {
            Some(Node::Constant(c)) if c >= 0 => c,
            Some(Node::Symbol(s)) => -1 - i64::from(s),
            _ => DIM_EXPRESSION,
        };
        let texts: Vec<CString> = io
            .dims
            .iter()
            .map(|id| c_string(&text(&m.exprs, &m.symbols, *id)))
            .collect();
        IoInfo {
            name: c_string(&io.name),
            dtype: io.elem as u32,
            flags: io.flags,
            dims: io.dims.iter().map(dim).collect(),
            text_pointers: texts.iter().map(|t| t.as_ptr()).collect(),
            _texts: texts,
        }
    }

    /// Fills the caller's struct, keeping its size.
    pub fn fill(&self, io: &mut CIo) {
        io.dtype = self.dtype;
        io.rank = self.dims.len() as u32;
        io.flags = self.flags;
        io.name = self.name.as_ptr();
        io.dims = self.dims.as_ptr();
        io.dim_texts = self.text_pointers.as_ptr();
    }
}

/// Behind `rsqc_model`.
pub struct ModelHandle {
    pub model: Arc<Model>,
    pub image: Image,
    pub inputs: Vec<IoInfo>,
    pub outputs: Vec<IoInfo>,
    pub symbols: Vec<CString>,
    pub level: CString,
}

// SAFETY: immutable; the raw pointers point into the handle itself.
unsafe impl Send for ModelHandle {}
// SAFETY: as above.
unsafe impl Sync for ModelHandle {}

impl ModelHandle {
    pub fn new(model: Arc<Model>, image: Image) -> ModelHandle {
        let m = model.manifest();
        ModelHandle {
            inputs: m.inputs.iter().map(|io| IoInfo::new(m, io)).collect(),
            outputs: m.outputs.iter().map(|io| IoInfo::new(m, io)).collect(),
            symbols: m.symbols.iter().map(|s| c_string(&s.name)).collect(),
            level: c_string(model.level().name()),
            model,
            image,
        }
    }
}

/// Runs the body of an interface function; a panic becomes an error.
pub fn guarded<T>(body: impl FnOnce() -> Result<T, RuntimeError>) -> Result<T, RuntimeError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        // Dropping a foreign payload could panic again.
        std::mem::forget(payload);
        Err(RuntimeError::Internal(text.unwrap_or_else(|| "a panic".into())))
    })
}

/// As [`guarded`], for functions that cannot report.
pub fn guarded_or<T>(default: T, body: impl FnOnce() -> T) -> T {
    guarded(|| Ok(body())).unwrap_or(default)
}

/// Copies an error text to the caller's buffer.
///
/// # Safety
/// `buffer` is null or has `capacity` writable bytes.
pub unsafe fn copy_text(text: &str, buffer: *mut c_char, capacity: usize) {
    if buffer.is_null() || capacity == 0 {
        return;
    }
    let mut end = text.len().min(capacity - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // SAFETY: `end + 1 <= capacity`.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, end);
        *buffer.add(end) = 0;
    }
}
