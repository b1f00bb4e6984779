//! The instruction set levels of x86-64 kernels, in fallback order.

/// An instruction set level. Ordered: a kernel without code for a level falls back to a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Baseline x86-64 (SSE2).
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX2 and AVX-VNNI (VEX-coded dot products).
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
}

impl Level {
    /// All levels, weakest first.
    pub const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::AvxVnni, Level::Avx512Vnni];

    /// The name used in manifests, file names and `RSQC_CPU_LEVEL`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512Vnni => "avx512vnni",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Level> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Position in [`Level::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
