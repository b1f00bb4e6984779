//! Workers: an LLVM context with one target machine a level; optimisation and encoding of finished kernels.
#![allow(unsafe_code)]

use super::emit::{Emit, Routine};
use crate::level::{Level, LevelFacts};
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::sync::Once;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Scalar clean-up only. Kernels are written as the vector code that is wanted, so nothing here may vectorise, unroll
/// or recognise idioms; `loop-mssa(licm)` moves address arithmetic out of inner loops. Global value numbering finds
/// nothing that `early-cse` leaves: generated code is structured, and what is used again dominates its uses.
const PASSES: &str = "sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
loop-mssa(licm),early-cse<memssa>,simplifycfg,adce";

/// Loop strength reduction, for the inner loops of routines, where an address more or less counts (the baseline's int8
/// tile gains 5 %). In kernels it takes a quarter of the encoder's time and gains nothing, so the encoder does not run it.
const STRENGTH: &str = "loop(loop-reduce)";

/// Why a kernel could not be turned into code.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// LLVM lacks the target, or refused the CPU or feature names.
    #[error("llvm has no machine for level {0}")]
    Machine(Level),
    /// The generated module is malformed: a bug of the generator.
    #[error("generated code does not verify at level {level}: {text}")]
    Verify {
        /// The level.
        level: Level,
        /// LLVM's explanation.
        text: String,
    },
    /// The optimiser failed.
    #[error("llvm passes failed: {0}")]
    Passes(String),
    /// The encoder failed.
    #[error("llvm could not write code: {0}")]
    Encode(String),
}

/// What [`Worker::finish`] produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A relocatable ELF object.
    Object,
    /// Assembly text.
    Asm,
    /// LLVM IR text after optimisation.
    Ir,
}

/// One LLVM context and its target machines. Not shared between threads: every compiling thread has its own.
pub struct Worker {
    context: Context,
    machines: BTreeMap<Level, TargetMachine>,
}

impl Worker {
    /// A worker for all levels.
    ///
    /// # Errors
    /// [`CodegenError::Machine`] when this LLVM was built without x86.
    pub fn new() -> Result<Worker, CodegenError> {
        initialise();
        let triple = TargetTriple::create(TRIPLE);
        let machines = Level::ALL
            .into_iter()
            .map(|level| Ok((level, machine(&triple, level)?)));
        Ok(Worker {
            context: Context::create(),
            machines: machines.collect::<Result<_, _>>()?,
        })
    }

    /// Opens a kernel for `level` whose module holds all that it calls.
    pub fn kernel(&self, level: Level) -> Emit<'_> {
        Emit::new(&self.context, level, false)
    }

    /// Opens a kernel for `level` whose routines are compiled apart: those that [`Emit::routines_outside`] names.
    pub fn kernel_alone(&self, level: Level) -> Emit<'_> {
        Emit::new(&self.context, level, true)
    }

    /// Opens a routine for `level`, with or without fused arithmetic; it is complete.
    pub fn routine(&self, level: Level, routine: &dyn Routine, fused: bool) -> Emit<'_> {
        Emit::of_routine(&self.context, level, routine, fused)
    }

    /// Closes, verifies, optimises and encodes a kernel.
    ///
    /// # Errors
    /// [`CodegenError`]; [`CodegenError::Verify`] means a generator bug.
    pub fn finish(&self, emit: Emit<'_>, output: Output) -> Result<Vec<u8>, CodegenError> {
        let level = emit.level();
        let machine = &self.machines[&level];
        let passes = if emit.has_routines() {
            format!("function({PASSES},{STRENGTH})")
        } else {
            format!("function({PASSES})")
        };
        let module = emit.close();
        module.set_triple(&TargetTriple::create(TRIPLE));
        module.set_data_layout(&machine.get_target_data().get_data_layout());
        module.verify().map_err(|text| CodegenError::Verify {
            level,
            text: text.to_string(),
        })?;
        let options = PassBuilderOptions::create();
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_loop_interleaving(false);
        options.set_loop_unrolling(false);
        module
            .run_passes(&passes, machine, options)
            .map_err(|e| CodegenError::Passes(e.to_string()))?;
        let kind = match output {
            Output::Ir => return Ok(module.print_to_string().to_string().into_bytes()),
            Output::Object => FileType::Object,
            Output::Asm => FileType::Assembly,
        };
        let buffer = machine
            .write_to_memory_buffer(&module, kind)
            .map_err(|e| CodegenError::Encode(e.to_string()))?;
        // LLVM ends every buffer with a NUL that is not part of its contents.
        let bytes = buffer.as_slice();
        Ok(match output {
            Output::Asm => bytes.strip_suffix(&[0]).unwrap_or(bytes).to_vec(),
            _ => bytes.to_vec(),
        })
    }
}

fn machine(triple: &TargetTriple, level: Level) -> Result<TargetMachine, CodegenError> {
    let missing = |_| CodegenError::Machine(level);
    let target = Target::from_triple(triple).map_err(missing)?;
    target
        .create_target_machine(
            triple,
            level.llvm_cpu(),
            level.llvm_features(),
            OptimizationLevel::Aggressive,
            RelocMode::PIC,
            CodeModel::Small,
        )
        .ok_or(CodegenError::Machine(level))
}

/// Registers the x86 target and the fatal-error handler, once a process.
pub(super) fn initialise() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Target::initialize_x86(&InitializationConfig::default());
        // See [`STRENGTH`].
        let arguments = [c"rsqc".as_ptr(), c"-disable-lsr".as_ptr()];
        // SAFETY: the pointers are those of NUL-terminated strings that are never freed, as many as is said; this runs
        // before any thread has created a target machine.
        unsafe { LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null()) };
        // SAFETY: the handler has the signature that LLVM calls, never returns and touches no LLVM state.
        unsafe { inkwell::support::error_handling::install_fatal_error_handler(fatal) };
    });
}

/// LLVM gives up by calling this; without a handler it would abort the process.
extern "C" fn fatal(text: *const c_char) {
    let text = if text.is_null() {
        "no message".into()
    } else {
        // SAFETY: LLVM passes a NUL-terminated string that outlives the call.
        unsafe { CStr::from_ptr(text) }.to_string_lossy()
    };
    eprintln!("error: llvm failed: {text}");
    std::process::exit(1);
}
