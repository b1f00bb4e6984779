//! What each instruction set level means for code generation, and which levels this machine has.
//!
//! The levels themselves are named in the artifact format ([`Level`]); here are LLVM's CPU and feature strings, the
//! vector shape that register tiles are built from, and host detection (CPUID and the operating system's register
//! state, through the standard library).

pub use rsqc_artifact::level::Level;

/// Facts of a [`Level`] that code generation needs.
pub trait LevelFacts: Sized {
    /// LLVM's CPU name.
    fn llvm_cpu(self) -> &'static str;
    /// LLVM's feature string.
    fn llvm_features(self) -> &'static str;
    /// How many 32-bit lanes a native vector register has: 4, 8 or 16.
    fn lanes(self) -> u32;
    /// Whether a fused multiply-add instruction exists. Where it does not, `llvm.fma` would become a library call.
    fn has_fma(self) -> bool;
    /// Whether loads and stores of partial vectors are single masked instructions.
    fn has_masks(self) -> bool;
    /// Whether rounding to an integral float is an instruction (SSE4.1 and later).
    fn has_round(self) -> bool;
    /// Whether `vpdpbusd` exists, and so the u8 x s8 dot product is one instruction.
    fn has_vnni(self) -> bool;
    /// Whether this machine can run code of this level.
    fn on_host(self) -> bool;
}

impl LevelFacts for Level {
    fn llvm_cpu(self) -> &'static str {
        match self {
            Level::Portable => "x86-64",
            Level::Avx2 | Level::AvxVnni => "x86-64-v3",
            Level::Avx512Vnni => "x86-64-v4",
        }
    }

    fn llvm_features(self) -> &'static str {
        match self {
            Level::Portable | Level::Avx2 => "",
            Level::AvxVnni => "+avxvnni",
            Level::Avx512Vnni => "+avx512vnni,-prefer-256-bit",
        }
    }

    fn lanes(self) -> u32 {
        match self {
            Level::Portable => 4,
            Level::Avx2 | Level::AvxVnni => 8,
            Level::Avx512Vnni => 16,
        }
    }

    fn has_fma(self) -> bool {
        self != Level::Portable
    }

    fn has_masks(self) -> bool {
        self == Level::Avx512Vnni
    }

    fn has_round(self) -> bool {
        self != Level::Portable
    }

    fn has_vnni(self) -> bool {
        matches!(self, Level::AvxVnni | Level::Avx512Vnni)
    }

    #[cfg(target_arch = "x86_64")]
    fn on_host(self) -> bool {
        let v3 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("movbe")
        };
        match self {
            Level::Portable => true,
            Level::Avx2 => v3(),
            Level::AvxVnni => v3() && is_x86_feature_detected!("avxvnni"),
            Level::Avx512Vnni => {
                v3() && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn on_host(self) -> bool {
        false
    }
}

/// The levels this machine can run, best first. A kernel without code for one falls back to the next.
pub fn host_levels() -> Vec<Level> {
    Level::ALL
        .into_iter()
        .rev()
        .filter(|level| level.on_host())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_last() {
        let levels = host_levels();
        #[cfg(target_arch = "x86_64")]
        assert_eq!(levels.last(), Some(&Level::Portable));
        assert!(levels.windows(2).all(|w| w[0] > w[1]));
    }
}
