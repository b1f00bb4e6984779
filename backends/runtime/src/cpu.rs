//! What this processor can do, how many threads to use, and the floating-point control word.
#![allow(unsafe_code)]

use crate::error::RuntimeError;
use rsqc_artifact::Level;

/// Whether this machine (processor and operating system) runs code of the level.
pub fn supports(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match level {
            Level::Portable => true,
            Level::Avx2 => avx2,
            Level::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Level::Avx512Vnni => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        level == Level::Portable
    }
}

/// The highest level of this machine.
pub fn best_level() -> Level {
    Level::ALL
        .into_iter()
        .rev()
        .find(|level| supports(*level))
        .unwrap_or(Level::Portable)
}

/// The levels whose code a model opened at `top` may run, best first. Not simply all lower ones: a machine
/// with AVX-512 VNNI may lack the VEX form.
pub fn usable_levels(top: Level) -> Vec<Level> {
    Level::ALL
        .into_iter()
        .rev()
        .filter(|level| *level <= top && supports(*level))
        .collect()
}

/// Parses a level name and checks that this machine has it.
///
/// # Errors
/// [`RuntimeError::Invalid`] for an unknown name, [`RuntimeError::Cpu`] for a level this machine lacks.
pub fn parse_level(name: &str) -> Result<Level, RuntimeError> {
    let level = Level::from_name(name).ok_or_else(|| {
        let known = Level::ALL.map(Level::name).join(", ");
        RuntimeError::Invalid(format!("there is no CPU level '{name}'; the levels are {known}"))
    })?;
    if supports(level) {
        Ok(level)
    } else {
        Err(RuntimeError::Cpu(format!(
            "this processor has no {level}; its best level is {}",
            best_level()
        )))
    }
}

/// The level that the environment variable `RSQC_CPU_LEVEL` asks for, if it is set and not empty.
///
/// # Errors
/// As [`parse_level`].
pub fn level_from_env() -> Result<Option<Level>, RuntimeError> {
    match std::env::var("RSQC_CPU_LEVEL") {
        Ok(name) if !name.is_empty() => parse_level(&name).map(Some),
        _ => Ok(None),
    }
}

/// Most threads of one session.
pub const MAX_THREADS: usize = 256;

/// The default number of threads: affinity mask and cgroup quota, at most one a physical core.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    allowed
        .min(physical_cores().unwrap_or(allowed))
        .clamp(1, MAX_THREADS)
}

/// Distinct cores among the processors of the affinity mask; `None` where the system does not tell.
fn physical_cores() -> Option<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid (empty) set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and its size is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return None;
    }
    let mut siblings = std::collections::BTreeSet::new();
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        if unsafe { libc::CPU_ISSET(cpu, &set) } {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            siblings.insert(std::fs::read_to_string(path).ok()?);
        }
    }
    (!siblings.is_empty()).then_some(siblings.len())
}

/// Round to nearest even, all exceptions masked, no flushing of denormals.
#[cfg(target_arch = "x86_64")]
const DEFAULT_MXCSR: u32 = 0x1F80;

/// Sets the default floating-point environment and restores the caller's when dropped: kernels must not
/// depend on a rounding mode that the caller left behind.
#[derive(Debug)]
pub struct FloatEnv {
    #[cfg(target_arch = "x86_64")]
    saved: u32,
}

impl FloatEnv {
    /// Saves the thread's control word and sets the default.
    #[cfg(target_arch = "x86_64")]
    pub fn set_default() -> FloatEnv {
        let saved = read_mxcsr();
        write_mxcsr(DEFAULT_MXCSR);
        FloatEnv { saved }
    }

    /// Saves the thread's control word and sets the default.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn set_default() -> FloatEnv {
        FloatEnv {}
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for FloatEnv {
    fn drop(&mut self) {
        write_mxcsr(self.saved);
    }
}

/// The control word of this thread.
#[cfg(target_arch = "x86_64")]
pub fn read_mxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores the control word into a local; SSE is baseline on x86-64.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

/// Sets the control word of this thread. Reserved bits are cleared, since they would fault.
#[cfg(target_arch = "x86_64")]
pub fn write_mxcsr(value: u32) {
    let value = value & 0xFFFF;
    // SAFETY: loads the control word from a local without reserved bits.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
}
