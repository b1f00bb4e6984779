//! The functions of the C interface that open a model and tell about it.
#![allow(unsafe_code)]

use super::export::read_anchor;
use super::handles::{IoInfo, ModelHandle, c_string, copy_text, guarded, guarded_or};
use super::types::{CIo, COptions, CSymbol};
use crate::cpu;
use crate::error::RuntimeError;
use crate::image::{Image, Verify};
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Once};

type Handle = Arc<ModelHandle>;

/// The handle behind an `rsqc_model`, if the pointer is not null.
///
/// # Safety
/// `model` is null or came from `open` and is not closed.
pub unsafe fn handle<'a>(model: *const c_void) -> Option<&'a Handle> {
    // SAFETY: the caller's contract.
    unsafe { model.cast::<Handle>().as_ref() }
}

fn null(what: &str) -> RuntimeError {
    RuntimeError::Invalid(format!("{what} is null"))
}

/// `open` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn open(
    options: *const COptions,
    model: *mut *mut c_void,
    error: *mut c_char,
    error_capacity: usize,
) -> i32 {
    silence_panics();
    // SAFETY: pointers as the header demands.
    let result = guarded(|| unsafe { open_inner(options) });
    match result {
        Ok(handle) if !model.is_null() => {
            // SAFETY: checked for null.
            unsafe { *model = Box::into_raw(Box::new(handle)).cast() };
            0
        }
        Ok(_) => {
            // SAFETY: the caller gives that many bytes.
            unsafe { copy_text("the model pointer is null", error, error_capacity) };
            RuntimeError::Invalid(String::new()).status()
        }
        Err(failure) => {
            // SAFETY: as above.
            unsafe { copy_text(&failure.to_string(), error, error_capacity) };
            failure.status()
        }
    }
}

/// Panics are reported through statuses; the standard library's hook would print. It is private to this library.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// # Safety
/// `options` is null or a readable struct.
unsafe fn open_inner(options: *const COptions) -> Result<Handle, RuntimeError> {
    // SAFETY: null or a readable struct.
    let options = unsafe { options.as_ref() };
    if options.is_some_and(|o| (o.struct_size as usize) < size_of::<COptions>()) {
        return Err(RuntimeError::Invalid(
            "rsqc_options has a wrong struct_size".into(),
        ));
    }
    let verify = Verify::from_code(options.map_or(0, |o| o.verify))?;
    let level = match options.filter(|o| !o.level.is_null()) {
        // SAFETY: not null, so a zero-terminated string.
        Some(o) => Some(cpu::parse_level(
            &unsafe { CStr::from_ptr(o.level) }.to_string_lossy(),
        )?),
        None => cpu::level_from_env()?,
    };
    let (anchor, fields) = read_anchor();
    let image = Image::find(anchor, &fields)?;
    let model = image.load(verify, level)?;
    if let Some((log, o)) = options.and_then(|o| o.log.map(|log| (log, o))) {
        let pending = if model.weights().pending() {
            "checked at first use"
        } else {
            "checked or trusted"
        };
        let text = format!(
            "level {}, {} bytes of weights, {pending}",
            model.level(),
            model.weights().size()
        );
        // SAFETY: the caller's function and context.
        unsafe { log(o.log_context, 2, c_string(&text).as_ptr()) };
    }
    Ok(Arc::new(ModelHandle::new(model, image)))
}

/// `close` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn close(model: *mut c_void) {
    if !model.is_null() {
        // SAFETY: came from `open`, closed once.
        guarded_or((), || drop(unsafe { Box::from_raw(model.cast::<Handle>()) }));
    }
}

/// `input_count` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn input_count(model: *const c_void) -> u32 {
    // SAFETY: the header's contract.
    unsafe { handle(model) }.map_or(0, |h| h.inputs.len() as u32)
}

/// `output_count` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn output_count(model: *const c_void) -> u32 {
    // SAFETY: the header's contract.
    unsafe { handle(model) }.map_or(0, |h| h.outputs.len() as u32)
}

/// `symbol_count` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn symbol_count(model: *const c_void) -> u32 {
    // SAFETY: the header's contract.
    unsafe { handle(model) }.map_or(0, |h| h.symbols.len() as u32)
}

/// # Safety
/// `io` is null or a writable struct.
unsafe fn fill_io(list: Option<&Vec<IoInfo>>, index: u32, io: *mut CIo) -> i32 {
    // SAFETY: null or a writable struct.
    let io = unsafe { io.as_mut() };
    match list.and_then(|l| l.get(index as usize)).zip(io) {
        Some((info, io)) if io.struct_size as usize >= size_of::<CIo>() => {
            info.fill(io);
            0
        }
        _ => null("").status(),
    }
}

/// `input` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn input(model: *const c_void, index: u32, io: *mut CIo) -> i32 {
    // SAFETY: the header's contract.
    unsafe { fill_io(handle(model).map(|h| &h.inputs), index, io) }
}

/// `output` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn output(model: *const c_void, index: u32, io: *mut CIo) -> i32 {
    // SAFETY: the header's contract.
    unsafe { fill_io(handle(model).map(|h| &h.outputs), index, io) }
}

/// `symbol` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn symbol(model: *const c_void, index: u32, symbol: *mut CSymbol) -> i32 {
    // SAFETY: the header's contract.
    let (handle, symbol) = unsafe { (handle(model), symbol.as_mut()) };
    let info = handle.and_then(|h| {
        h.symbols
            .get(index as usize)
            .zip(h.model.manifest().symbols.get(index as usize))
    });
    match info.zip(symbol) {
        Some(((name, info), symbol)) if symbol.struct_size as usize >= size_of::<CSymbol>() => {
            symbol.name = name.as_ptr();
            symbol.lo = info.lo;
            symbol.hi = info.hi;
            0
        }
        _ => null("").status(),
    }
}

/// `level` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn level(model: *const c_void) -> *const c_char {
    // SAFETY: the header's contract.
    unsafe { handle(model) }.map_or(c"".as_ptr(), |h| h.level.as_ptr())
}

/// `manifest` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn manifest(model: *const c_void, length: *mut usize) -> *const u8 {
    // SAFETY: the header's contract.
    let bytes: &[u8] = unsafe { handle(model) }.map_or(&[], |h| h.image.manifest());
    if !length.is_null() {
        // SAFETY: checked for null.
        unsafe { *length = bytes.len() };
    }
    bytes.as_ptr()
}

/// `root` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn root(model: *const c_void) -> *const u8 {
    // SAFETY: the header's contract.
    unsafe { handle(model) }.map_or(std::ptr::null(), |h| h.image.root().as_ptr())
}
