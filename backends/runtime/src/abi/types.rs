//! The structs of `rsqc_model.h`, field for field.
#![allow(missing_docs, reason = "the header documents each field")]

use std::ffi::{c_char, c_void};

/// The version that this crate offers and asks for.
pub const API_VERSION: u32 = 1;

/// A dimension that is an expression (or, in `infer`, known only after the run).
pub const DIM_EXPRESSION: i64 = i64::MIN;

/// `RSQC_VERIFY_DEFAULT`.
pub const VERIFY_DEFAULT: u32 = 0;
/// `RSQC_VERIFY_ALL`.
pub const VERIFY_ALL: u32 = 1;
/// `RSQC_VERIFY_NONE`.
pub const VERIFY_NONE: u32 = 2;

/// `rsqc_log_fn`.
pub type LogFn = unsafe extern "C" fn(context: *mut c_void, severity: i32, text: *const c_char);

/// `rsqc_parallel_for_fn`.
type ParallelForFn = unsafe extern "C" fn(
    context: *mut c_void,
    count: u32,
    body: unsafe extern "C" fn(*mut c_void, u32),
    argument: *mut c_void,
);

/// `rsqc_options`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct COptions {
    pub struct_size: u32,
    pub verify: u32,
    pub level: *const c_char,
    pub log: Option<LogFn>,
    pub log_context: *mut c_void,
}

/// `rsqc_session_options`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CSessionOptions {
    pub struct_size: u32,
    pub threads: u32,
    pub spin_us: i32,
    pub profile: u32,
    pub parallel_for: Option<ParallelForFn>,
    pub parallel_context: *mut c_void,
}

/// `rsqc_io`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CIo {
    pub struct_size: u32,
    pub dtype: u32,
    pub rank: u32,
    pub flags: u32,
    pub name: *const c_char,
    pub dims: *const i64,
    pub dim_texts: *const *const c_char,
}

/// `rsqc_symbol`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CSymbol {
    pub struct_size: u32,
    pub reserved: u32,
    pub name: *const c_char,
    pub lo: i64,
    pub hi: i64,
}

/// `rsqc_tensor`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CTensor {
    pub struct_size: u32,
    pub dtype: u32,
    pub rank: u32,
    pub reserved: u32,
    pub data: *mut c_void,
    pub capacity: u64,
    pub dims: *mut i64,
    pub strides: *const i64,
}

/// `rsqc_step_time`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CStepTime {
    pub step: u32,
    pub calls: u32,
    pub ns: u64,
}

/// `rsqc_api`. Handles are opaque.
#[repr(C)]
pub struct Api {
    pub struct_size: u32,
    pub version: u32,
    pub open: unsafe extern "C" fn(*const COptions, *mut *mut c_void, *mut c_char, usize) -> i32,
    pub close: unsafe extern "C" fn(*mut c_void),
    pub input_count: unsafe extern "C" fn(*const c_void) -> u32,
    pub output_count: unsafe extern "C" fn(*const c_void) -> u32,
    pub symbol_count: unsafe extern "C" fn(*const c_void) -> u32,
    pub input: unsafe extern "C" fn(*const c_void, u32, *mut CIo) -> i32,
    pub output: unsafe extern "C" fn(*const c_void, u32, *mut CIo) -> i32,
    pub symbol: unsafe extern "C" fn(*const c_void, u32, *mut CSymbol) -> i32,
    pub level: unsafe extern "C" fn(*const c_void) -> *const c_char,
    pub manifest: unsafe extern "C" fn(*const c_void, *mut usize) -> *const u8,
    pub root: unsafe extern "C" fn(*const c_void) -> *const u8,
    pub session_new: unsafe extern "C" fn(
        *mut c_void,
        *const CSessionOptions,
        *mut *mut c_void,
        *mut c_char,
        usize,
    ) -> i32,
    pub session_free: unsafe extern "C" fn(*mut c_void),
    pub error: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    pub infer: unsafe extern "C" fn(*mut c_void, *const CTensor, u32, *mut CTensor, u32) -> i32,
    pub run: unsafe extern "C" fn(*mut c_void, *const CTensor, u32, *mut CTensor, u32, *mut c_void) -> i32,
    pub step_times: unsafe extern "C" fn(*mut c_void, *mut CStepTime, usize, *mut usize) -> i32,
    pub memory: unsafe extern "C" fn(*mut c_void) -> u64,
    pub state_new: unsafe extern "C" fn(*mut c_void, u64, *mut *mut c_void) -> i32,
    pub state_clone: unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> i32,
    pub state_truncate: unsafe extern "C" fn(*mut c_void, u64) -> i32,
    pub state_reset: unsafe extern "C" fn(*mut c_void) -> i32,
    pub state_free: unsafe extern "C" fn(*mut c_void),
}
