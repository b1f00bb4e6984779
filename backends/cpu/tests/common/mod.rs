//! Loads a blob into executable memory and calls its kernels.
#![allow(unsafe_code, dead_code)]

pub mod attention;
pub mod codes;
pub mod guarded;
pub mod kernel;
pub mod naive;
pub mod random_region;

use memmap2::{Mmap, MmapMut};
use rsqc_artifact::KernelFn;
use rsqc_cpu::level::{Level, host_levels};
use rsqc_cpu::llvm::{Emit, Output, Worker};
use rsqc_cpu::relocate::{Blob, merge};
use std::collections::BTreeMap;

/// Executable kernels.
pub struct Loaded {
    code: Mmap,
    blob: Blob,
}

/// One kernel at all levels of this machine.
pub fn build<'w>(worker: &'w Worker, generate: impl Fn(&Emit<'w>)) -> Loaded {
    build_levels(worker, &host_levels(), generate)
}

/// One kernel at some levels.
pub fn build_levels<'w>(worker: &'w Worker, levels: &[Level], generate: impl Fn(&Emit<'w>)) -> Loaded {
    let objects: BTreeMap<_, _> = levels
        .iter()
        .map(|&level| {
            let emit = worker.kernel(level);
            generate(&emit);
            let object = worker.finish(emit, Output::Object).expect("the kernel compiles");
            (("kernel".to_owned(), level), object)
        })
        .collect();
    let blob = merge(&objects).expect("kernels are self-contained");
    let mut code = MmapMut::map_anon(blob.bytes.len()).expect("memory");
    code.copy_from_slice(&blob.bytes);
    Loaded {
        code: code.make_exec().expect("executable memory"),
        blob,
    }
}

impl Loaded {
    /// Calls the kernel for tiles `0..tiles`; `bufs` must be what the kernel expects.
    pub fn call(
        &self,
        level: Level,
        bufs: &[*mut u8],
        params: &[i64],
        scratch: &mut [u64],
        tiles: (i64, i64),
    ) {
        let offset = self.blob.entries[&("kernel".to_owned(), level)] as usize;
        let align = scratch.as_ptr().align_offset(64);
        let scratch = &mut scratch[align..];
        // SAFETY: the mapping holds a kernel of this signature at its entry offset, and the test passes the buffers
        // that it was generated for.
        unsafe {
            let kernel: KernelFn = std::mem::transmute(self.code.as_ptr().add(offset));
            kernel(
                bufs.as_ptr(),
                params.as_ptr(),
                scratch.as_mut_ptr().cast(),
                tiles.0,
                tiles.1,
            );
        }
    }
}

/// A small fixed random source.
pub struct Random(pub u64);

impl Random {
    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 ^ (self.0 >> 13) as u32
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.bits() as usize % limit
    }

    /// A float in -1..1.
    pub fn unit(&mut self) -> f32 {
        self.bits() as f32 / 2_147_483_648.0 - 1.0
    }
}
