//! Runs kernels of the backend on guarded memory and compares them with the naive interpreter.
#![allow(unsafe_code, dead_code)]

use super::guarded::Guarded;
use super::naive::{Naive, Value};
use memmap2::{Mmap, MmapMut};
use rsqc_artifact::KernelFn;
use rsqc_backend::{Backend, KernelSpec, Launch};
use rsqc_cpu::Cpu;
use rsqc_cpu::level::host_levels;
use rsqc_ir::{Dim, Layout, Symbol};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Values of the symbols of a test.
pub type Symbols = BTreeMap<Symbol, i64>;

/// A compiled kernel.
pub struct Kernel {
    pub launch: Launch,
    code: Mmap,
    entries: Vec<(String, u64)>,
}

impl Kernel {
    /// Compiles a spec for all levels of this machine.
    pub fn new(spec: &KernelSpec) -> Kernel {
        // Kernels of one test call the same routines.
        static CPU: LazyLock<Cpu> = LazyLock::new(Cpu::default);
        let cpu = &*CPU;
        let launch = cpu.select(spec).expect("the backend has a kernel");
        let levels: Vec<String> = host_levels().into_iter().map(|l| l.name().into()).collect();
        let kernels = BTreeMap::from([(launch.kernel.clone(), spec.clone())]);
        let code = cpu.generate(&kernels, &levels).expect("the kernel compiles");
        let mut map = MmapMut::map_anon(code.blob.len()).expect("memory");
        map.copy_from_slice(&code.blob);
        Kernel {
            entries: code.entries[&launch.kernel].clone(),
            code: map.make_exec().expect("executable memory"),
            launch,
        }
    }

    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(l, _)| l.as_str())
    }

    /// Runs all tiles in calls of `step` tiles each, last tiles first.
    pub fn run(&self, level: &str, dim: &dyn Fn(&Dim) -> i64, bufs: &[*mut u8], step: i64) {
        let offset = self
            .entries
            .iter()
            .find(|(l, _)| l == level)
            .expect("a compiled level")
            .1 as usize;
        let params: Vec<i64> = self.launch.params.iter().map(dim).collect();
        let bytes = dim(&self.launch.scratch_bytes) as usize;
        // Scratch ends at a guard page as well; sizes are multiples of 64, so it is aligned.
        assert_eq!(bytes % 64, 0, "scratch is a multiple of 64 bytes");
        let scratch = Guarded::new(&vec![0xa5; bytes], true);
        let tiles = dim(&self.launch.tiles);
        let mut starts: Vec<i64> = (0..tiles).step_by(step.max(1) as usize).collect();
        starts.reverse();
        for first in starts {
            // SAFETY: the mapping holds a kernel of this signature, made for these buffers.
            unsafe {
                let kernel: KernelFn = std::mem::transmute(self.code.as_ptr().add(offset));
                kernel(
                    bufs.as_ptr(),
                    params.as_ptr(),
                    scratch.ptr(),
                    first,
                    (first + step).min(tiles),
                );
            }
        }
    }
}

/// Elements of a tensor under the symbols.
pub fn eval_dim(symbols: &Symbols) -> impl Fn(&Dim) -> i64 + '_ {
    |d| {
        d.eval(&|s| symbols.get(s).copied())
            .unwrap_or_else(|| panic!("`{d}` has no value"))
    }
}

/// Flips codes of offset binary values.
pub fn physical(bytes: &[u8], layout: Option<Layout>) -> Vec<u8> {
    let flip = if layout == Some(Layout::OffsetBinary) {
        0x80
    } else {
        0
    };
    bytes.iter().map(|b| b ^ flip).collect()
}

/// Runs `spec` at every level on logical `inputs` and compares with the interpreter, element by element, by `same`
/// (wanted, got). Operands named in `packed` are given in these physical bytes instead.
pub fn compare(
    spec: &KernelSpec,
    symbols: &Symbols,
    inputs: &[Vec<u8>],
    packed: &BTreeMap<usize, Vec<u8>>,
    same: &dyn Fn(Value, Value) -> bool,
    what: &str,
) {
    let dim = eval_dim(symbols);
    let kernel = Kernel::new(spec);
    let blank: Vec<Vec<u8>> = spec
        .results
        .iter()
        .map(|t| vec![0x5a; dim(&t.bytes()) as usize])
        .collect();
    let mut wanted = blank.clone();
    Naive {
        spec,
        dim: &dim,
        inputs,
        weights: Default::default(),
    }
    .run(&mut wanted);
    for level in kernel.levels() {
        for (at_end, step) in [(true, 1 << 40), (false, 1)] {
            let operands = inputs.iter().enumerate().map(|(n, bytes)| match packed.get(&n) {
                Some(p) => Guarded::new(&[p.clone(), vec![0; 64]].concat(), at_end),
                None => Guarded::new(&physical(bytes, spec.operand_layouts[n]), at_end),
            });
            let operands: Vec<Guarded> = operands.collect();
            let results: Vec<Guarded> = blank.iter().map(|b| Guarded::new(b, at_end)).collect();
            let bufs: Vec<*mut u8> = operands.iter().chain(&results).map(Guarded::ptr).collect();
            kernel.run(level, &dim, &bufs, step);
            for (n, (got, want)) in results.iter().zip(&wanted).enumerate() {
                let ty = spec.results[n].storage();
                let got = physical(got.bytes(), spec.result_layouts[n]);
                for i in 0..want.len() / ty.size() {
                    let (w, g) = (Value::load(ty, want, i as i64), Value::load(ty, &got, i as i64));
                    assert!(
                        same(w, g),
                        "{what}: level {level}, result {n} [{i}]: wanted {w:?} ({}), got {g:?} ({}); kernel {}",
                        w.float(),
                        g.float(),
                        kernel.launch.kernel,
                    );
                }
            }
        }
    }
}
