//! Descriptions of targets: plain data, and the cost model that passes ask.

use crate::region::Region;

/// A target as passes see it. Golden tests use fixed, named ones, never the host's.
#[derive(Clone, PartialEq, Debug)]
pub struct TargetDesc {
    /// Name, e.g. `cpu-avx512vnni`.
    pub name: &'static str,
    /// Level or architecture name.
    pub level: &'static str,
    /// Lanes of a 32-bit vector.
    pub f32_lanes: u32,
    /// Whether int8 dot products exist in hardware.
    pub int8_dot: bool,
    /// Private level-2 cache, bytes.
    pub l2_bytes: u64,
    /// Whether activations of integer products are stored as u8 with 128 added.
    pub offset_binary: bool,
    /// Row-block schedule: bytes of f32 scratch a block may take.
    pub row_block_bytes: u64,
}

/// The reference server CPU: AVX-512 VNNI, 1 MB of L2.
pub const CPU_AVX512VNNI: TargetDesc = TargetDesc {
    name: "cpu-avx512vnni",
    level: "avx512vnni",
    f32_lanes: 16,
    int8_dot: true,
    l2_bytes: 1 << 20,
    offset_binary: true,
    row_block_bytes: 256 << 10,
};

/// A plain x86-64 CPU.
pub const CPU_PORTABLE: TargetDesc = TargetDesc {
    name: "cpu-portable",
    level: "portable",
    f32_lanes: 4,
    int8_dot: false,
    l2_bytes: 256 << 10,
    offset_binary: true,
    row_block_bytes: 128 << 10,
};

/// Estimated kernel times of a target.
pub trait CostModel {
    /// Nanoseconds for a region at the given symbol values; `None` = there is no kernel for it.
    fn kernel_ns(&self, region: &Region, env: &dyn Fn(&crate::types::Symbol) -> Option<i64>) -> Option<f64>;
}
