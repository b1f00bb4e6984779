//! The functions of the C interface that run a model.
#![allow(unsafe_code)]

use super::handles::{ModelHandle, c_string, copy_text, guarded, guarded_or};
use super::model_fns::handle;
use super::types::{CSessionOptions, CStepTime, CTensor, DIM_EXPRESSION};
use crate::error::RuntimeError;
use crate::pool::ParallelFor;
use crate::session::{OutputSink, RawInput, Session, SessionOptions};
use rsqc_artifact::manifest::ElemType;
use rsqc_artifact::validate::MAX_RANK;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Behind `rsqc_session`. The cells are touched only while `busy` is held.
struct SessionHandle {
    /// Declared before the model, so that it is dropped first.
    session: UnsafeCell<Session>,
    error: UnsafeCell<CString>,
    busy: AtomicBool,
    profile: bool,
    model: Arc<ModelHandle>,
}

/// Holds the session for one call.
struct Held<'a>(&'a SessionHandle);

impl<'a> Held<'a> {
    /// # Safety
    /// `session` is null or came from `session_new` and is not freed.
    unsafe fn take(session: *mut c_void) -> Result<Held<'a>, RuntimeError> {
        // SAFETY: the caller's contract.
        let handle = unsafe { session.cast::<SessionHandle>().as_ref() };
        let handle = handle.ok_or_else(|| RuntimeError::Invalid("the session is null".into()))?;
        if handle.busy.swap(true, Ordering::Acquire) {
            return Err(RuntimeError::Busy);
        }
        Ok(Held(handle))
    }

    #[allow(clippy::mut_from_ref, reason = "`busy` makes it exclusive")]
    fn session(&self) -> &mut Session {
        // SAFETY: `busy` is held by this call alone.
        unsafe { &mut *self.0.session.get() }
    }

    /// Runs a body and keeps its error text.
    fn call(&self, body: impl FnOnce(&mut Session) -> Result<(), RuntimeError>) -> i32 {
        let result = guarded(|| body(self.session()));
        let (status, text) = match result {
            Ok(()) => (0, CString::default()),
            Err(error) => (error.status(), c_string(&error.to_string())),
        };
        // SAFETY: `busy` is held by this call alone.
        unsafe { *self.0.error.get() = text };
        status
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

/// `session_new` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn session_new(
    model: *mut c_void,
    options: *const CSessionOptions,
    session: *mut *mut c_void,
    error: *mut c_char,
    error_capacity: usize,
) -> i32 {
    let result = guarded(|| {
        // SAFETY: null, or as the header demands.
        let (model, options) = unsafe { (handle(model), options.as_ref()) };
        let model = model.ok_or_else(|| RuntimeError::Invalid("the model is null".into()))?;
        if session.is_null() {
            return Err(RuntimeError::Invalid("the session pointer is null".into()));
        }
        if options.is_some_and(|o| (o.struct_size as usize) < size_of::<CSessionOptions>()) {
            return Err(RuntimeError::Invalid(
                "rsqc_session_options has a wrong struct_size".into(),
            ));
        }
        let mut own = SessionOptions::default();
        if let Some(o) = options {
            own.threads = o.threads as usize;
            match o.spin_us {
                0 => {}
                us => own.spin_us = u32::try_from(us).unwrap_or(0),
            }
            own.parallel_for = o.parallel_for.map(|call| ParallelFor {
                call,
                context: o.parallel_context,
            });
        }
        Ok(Box::new(SessionHandle {
            session: UnsafeCell::new(Session::with_options(&model.model, &own)?),
            error: UnsafeCell::new(CString::default()),
            busy: AtomicBool::new(false),
            profile: options.is_some_and(|o| o.profile != 0),
            model: Arc::clone(model),
        }))
    });
    match result {
        Ok(handle) => {
            // SAFETY: checked for null above.
            unsafe { *session = Box::into_raw(handle).cast() };
            0
        }
        Err(failure) => {
            // SAFETY: the caller gives that many bytes.
            unsafe { copy_text(&failure.to_string(), error, error_capacity) };
            failure.status()
        }
    }
}

/// `session_free` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn session_free(session: *mut c_void) {
    if !session.is_null() {
        // SAFETY: came from `session_new`, freed once.
        let handle = unsafe { Box::from_raw(session.cast::<SessionHandle>()) };
        guarded_or((), || drop(handle));
    }
}

/// `error` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn error(session: *mut c_void) -> *const c_char {
    // SAFETY: the header's contract.
    match unsafe { Held::take(session) } {
        // SAFETY: held; the text lives until the session's next call.
        Ok(held) => unsafe { (*held.0.error.get()).as_ptr() },
        Err(RuntimeError::Busy) => c"the session is busy: another thread is running it".as_ptr(),
        Err(_) => c"the session is null".as_ptr(),
    }
}

/// The caller's tensors, whatever the size of its struct.
struct Tensors {
    first: *mut CTensor,
    count: usize,
    stride: usize,
}

impl Tensors {
    /// # Safety
    /// `first` points to `count` structs of the size that the first of them states.
    unsafe fn new(
        first: *mut CTensor,
        count: u32,
        expected: usize,
        what: &str,
    ) -> Result<Self, RuntimeError> {
        let count = count as usize;
        if count != expected {
            return Err(RuntimeError::Invalid(format!(
                "{count} {what}s are given, the model has {expected}"
            )));
        }
        if count == 0 {
            return Ok(Tensors {
                first,
                count,
                stride: 0,
            });
        }
        if first.is_null() {
            return Err(RuntimeError::Invalid(format!("the {what}s are null")));
        }
        // SAFETY: not null and at least one struct.
        let stride = unsafe { (*first).struct_size } as usize;
        if stride < size_of::<CTensor>() || !stride.is_multiple_of(align_of::<CTensor>()) || stride > 4096 {
            return Err(RuntimeError::Invalid(format!(
                "an {what}'s struct_size is {stride}"
            )));
        }
        Ok(Tensors { first, count, stride })
    }

    fn at(&self, index: usize) -> *mut CTensor {
        debug_assert!(index < self.count);
        self.first.wrapping_byte_add(index * self.stride)
    }
}

/// The shape of an input.
///
/// # Safety
/// `tensor` is a readable struct whose `dims` has `rank` elements.
unsafe fn shape<'a>(tensor: *const CTensor, name: &str) -> Result<&'a [i64], RuntimeError> {
    // SAFETY: the caller's contract.
    let t = unsafe { &*tensor };
    if t.rank as usize > MAX_RANK || (t.rank > 0 && t.dims.is_null()) {
        return Err(RuntimeError::Invalid(format!(
            "input '{name}' has no dims, or rank {}",
            t.rank
        )));
    }
    if t.rank == 0 {
        return Ok(&[]);
    }
    // SAFETY: `rank` elements, as the header demands.
    Ok(unsafe { std::slice::from_raw_parts(t.dims, t.rank as usize) })
}

/// Refuses strides other than those of a dense tensor.
///
/// # Safety
/// `tensor` is readable, and `strides` null or as long as `dims`.
unsafe fn check_dense(tensor: *const CTensor, dims: &[i64], name: &str) -> Result<(), RuntimeError> {
    // SAFETY: a readable struct.
    let strides = unsafe { (*tensor).strides };
    if strides.is_null() || dims.contains(&0) {
        return Ok(());
    }
    let mut dense = 1i64;
    for (axis, dim) in dims.iter().enumerate().rev() {
        // SAFETY: as many strides as dims.
        let stride = unsafe { *strides.add(axis) };
        if *dim != 1 && stride != dense {
            return Err(RuntimeError::Unsupported(format!(
                "'{name}' is not dense (strides must be null or dense)"
            )));
        }
        dense = dense.saturating_mul(*dim);
    }
    Ok(())
}

/// Writes shape and rank of an output.
///
/// # Safety
/// `tensor` is writable, and `dims` null or `rank` elements long.
unsafe fn write_dims(tensor: *mut CTensor, dims: &[i64], name: &str) -> Result<(), RuntimeError> {
    // SAFETY: a writable struct.
    let t = unsafe { &mut *tensor };
    if !t.dims.is_null() {
        if (t.rank as usize) < dims.len() {
            let (rank, room) = (dims.len(), t.rank);
            return Err(RuntimeError::Invalid(format!(
                "output '{name}' has rank {rank}, its dims have room for {room}"
            )));
        }
        // SAFETY: room for `rank` elements.
        unsafe { std::ptr::copy_nonoverlapping(dims.as_ptr(), t.dims, dims.len()) };
    }
    t.rank = dims.len() as u32;
    Ok(())
}

/// Gives the caller's buffers to the run.
struct CallerOutputs<'a> {
    tensors: Tensors,
    /// Memory in use: inputs, then outputs placed so far.
    used: Vec<(usize, usize, bool)>,
    model: &'a ModelHandle,
}

impl OutputSink for CallerOutputs<'_> {
    fn place(&mut self, index: usize, dims: &[i64], bytes: usize) -> Result<*mut u8, RuntimeError> {
        let io = &self.model.model.manifest().outputs[index];
        let invalid = |text: &str| RuntimeError::Invalid(format!("output '{}' {text}", io.name));
        let tensor = self.tensors.at(index);
        // SAFETY: a struct of the caller's array.
        let t = unsafe { *tensor };
        if t.dtype != io.elem as u32 {
            return Err(invalid(&format!(
                "is {}, not of type {}",
                io.elem().name(),
                t.dtype
            )));
        }
        // SAFETY: as above.
        unsafe { write_dims(tensor, dims, &io.name)? };
        if t.capacity < bytes as u64 {
            let name = io.name.clone();
            return Err(RuntimeError::TooSmall {
                name,
                needed: bytes as u64,
                capacity: t.capacity,
            });
        }
        // SAFETY: as above.
        unsafe { check_dense(tensor, dims, &io.name)? };
        let data: *mut u8 = t.data.cast();
        if bytes == 0 {
            // Kernels get a valid address all the same; nothing is written there.
            return Ok(std::ptr::dangling_mut::<u64>().cast());
        }
        if data.is_null() || !data.addr().is_multiple_of(io.elem().size()) {
            return Err(invalid("is null or not aligned to its elements"));
        }
        let (begin, end) = (data.addr(), data.addr().saturating_add(bytes));
        if let Some((_, _, input)) = self.used.iter().find(|(b, e, _)| begin < *e && *b < end) {
            return Err(invalid(if *input {
                "overlaps an input"
            } else {
                "overlaps another output"
            }));
        }
        self.used.push((begin, end, false));
        Ok(data)
    }
}

/// `run` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn run(
    session: *mut c_void,
    inputs: *const CTensor,
    input_count: u32,
    outputs: *mut CTensor,
    output_count: u32,
    state: *mut c_void,
) -> i32 {
    // SAFETY: the header's contract.
    let held = match unsafe { Held::take(session) } {
        Ok(held) => held,
        Err(error) => return error.status(),
    };
    let (model, profile) = (&*held.0.model, held.0.profile);
    held.call(|session| {
        if !state.is_null() {
            return Err(RuntimeError::Unsupported("state, in this version".into()));
        }
        let m = model.model.manifest();
        // SAFETY: the header's contract.
        let given = unsafe { Tensors::new(inputs.cast_mut(), input_count, m.inputs.len(), "input")? };
        // SAFETY: the header's contract.
        let tensors = unsafe { Tensors::new(outputs, output_count, m.outputs.len(), "output")? };
        let mut raw = Vec::with_capacity(given.count);
        let mut used = Vec::with_capacity(given.count + tensors.count);
        for (i, io) in m.inputs.iter().enumerate() {
            let tensor = given.at(i);
            // SAFETY: a struct of the caller's array.
            let (t, dims) = unsafe { (*tensor, shape(tensor, &io.name)?) };
            // SAFETY: as above.
            unsafe { check_dense(tensor, dims, &io.name)? };
            let elem = ElemType::try_from(t.dtype.min(255) as i32).map_err(|_| {
                RuntimeError::Invalid(format!("input '{}' has the unknown type {}", io.name, t.dtype))
            })?;
            let data: *const u8 = t.data.cast_const().cast();
            let len = usize::try_from(t.capacity).unwrap_or(usize::MAX);
            let bytes = crate::tensor::dense_bytes(elem, dims).unwrap_or(0);
            if bytes > 0 {
                used.push((data.addr(), data.addr().saturating_add(bytes), true));
            }
            raw.push(RawInput {
                elem,
                dims,
                data,
                len,
            });
        }
        let mut sink = CallerOutputs { tensors, used, model };
        session.run_raw(&raw, &mut sink, None, profile)
    })
}

/// `infer` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn infer(
    session: *mut c_void,
    inputs: *const CTensor,
    input_count: u32,
    outputs: *mut CTensor,
    output_count: u32,
) -> i32 {
    // SAFETY: the header's contract.
    let held = match unsafe { Held::take(session) } {
        Ok(held) => held,
        Err(error) => return error.status(),
    };
    let m = held.0.model.model.manifest();
    held.call(|session| {
        // SAFETY: the header's contract.
        let given = unsafe { Tensors::new(inputs.cast_mut(), input_count, m.inputs.len(), "input")? };
        // SAFETY: the header's contract.
        let wanted = unsafe { Tensors::new(outputs, output_count, m.outputs.len(), "output")? };
        let mut dims = Vec::with_capacity(given.count);
        for (i, io) in m.inputs.iter().enumerate() {
            // SAFETY: a struct of the caller's array.
            dims.push(unsafe { shape(given.at(i), &io.name)? });
        }
        for (i, inferred) in session.infer(&dims)?.iter().enumerate() {
            let dims: Vec<i64> = inferred.iter().map(|d| d.unwrap_or(DIM_EXPRESSION)).collect();
            // SAFETY: a struct of the caller's array.
            unsafe { write_dims(wanted.at(i), &dims, &m.outputs[i].name)? };
        }
        Ok(())
    })
}

/// `step_times` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn step_times(
    session: *mut c_void,
    times: *mut CStepTime,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header's contract.
    let held = match unsafe { Held::take(session) } {
        Ok(held) => held,
        Err(error) => return error.status(),
    };
    held.call(|session| {
        let all = session.step_times();
        if count.is_null() || (times.is_null() && capacity > 0) {
            return Err(RuntimeError::Invalid("a pointer is null".into()));
        }
        for (i, t) in all.iter().take(capacity).enumerate() {
            // SAFETY: `i < capacity`.
            unsafe {
                *times.add(i) = CStepTime {
                    step: t.step,
                    calls: t.calls,
                    ns: t.ns,
                }
            };
        }
        // SAFETY: checked for null.
        unsafe { *count = all.len() };
        Ok(())
    })
}

/// `memory` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn memory(session: *mut c_void) -> u64 {
    // SAFETY: the header's contract.
    unsafe { Held::take(session) }.map_or(0, |held| held.session().memory_bytes() as u64)
}

/// The status of everything about state, in this version.
fn no_state() -> i32 {
    RuntimeError::Unsupported(String::new()).status()
}

/// `state_new` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn state_new(_: *mut c_void, _: u64, _: *mut *mut c_void) -> i32 {
    no_state()
}

/// `state_clone` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn state_clone(_: *const c_void, _: *mut *mut c_void) -> i32 {
    no_state()
}

/// `state_truncate` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn state_truncate(_: *mut c_void, _: u64) -> i32 {
    no_state()
}

/// `state_reset` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn state_reset(_: *mut c_void) -> i32 {
    no_state()
}

/// `state_free` of `rsqc_api`.
///
/// # Safety
/// The pointers are what `rsqc_model.h` demands.
pub unsafe extern "C" fn state_free(_: *mut c_void) {}
