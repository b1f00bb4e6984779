//! Register loops that do nothing but one kind of multiply-add: what a product can reach at most on one core.
//!
//! Twelve chains run side by side, so that the loop is bound by ports and not by the latency of one instruction. The
//! instructions are those that the register tiles use at that level.
#![allow(dead_code)]

use crate::common::{Loaded, build_levels};
use inkwell::attributes::AttributeLoc;
use inkwell::values::BasicValue as _;
use rsqc_cpu::level::{Level, LevelFacts};
use rsqc_cpu::llvm::{Any, Elem, Emit, Lanes, Vector, Worker};
use std::time::{Duration, Instant};

/// What is multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peak {
    /// u8 x s8 into i32.
    Int8,
    /// bf16 pairs into f32.
    Bf16,
    /// f32.
    F32,
}

const CHAINS: i64 = 12;
const ROUNDS: i64 = 20_000;
/// Bytes between the vectors of the buffer; the first holds the factor, the others the start of each chain.
const SLOT: i64 = 64;

impl Peak {
    /// The instructions of one step of a chain, or nothing where the level or this machine has none.
    pub fn instructions(self, level: Level) -> Option<&'static str> {
        match self {
            Peak::Int8 if level.has_vnni() => Some("vpdpbusd"),
            Peak::Int8 => Some("2 x (v)pmaddwd + 2 x (v)paddd"),
            Peak::Bf16 => has_bf16(level).then_some("vdpbf16ps"),
            Peak::F32 if level.has_fma() => Some("vfmadd"),
            Peak::F32 => Some("mulps + addps"),
        }
    }

    /// Multiply-adds in one lane of one step.
    fn depth(self) -> u32 {
        match self {
            Peak::Int8 => 4,
            Peak::Bf16 => 2,
            Peak::F32 => 1,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16(level: Level) -> bool {
    level == Level::Avx512Vnni && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16(_: Level) -> bool {
    false
}

/// The dot product of pairs of bf16 is beyond the levels' features, so the function that holds it gets one more.
fn allow_bf16(e: &Emit<'_>, inside: Vector<'_>) {
    let block = inside.as_instruction_value().and_then(|load| load.get_parent());
    let function = block
        .and_then(|block| block.get_parent())
        .expect("a load stands in a function");
    let features = format!("{},+avx512bf16", e.level().llvm_features());
    let attribute = inside
        .get_type()
        .get_context()
        .create_string_attribute("target-features", &features);
    function.add_attribute(AttributeLoc::Function, attribute);
}

/// `params[0]` rounds of one step of each chain.
fn emit<'c>(e: &Emit<'c>, peak: Peak) {
    let elem = if peak == Peak::Int8 { Elem::I32 } else { Elem::F32 };
    let lanes = e.level().lanes();
    let load = |slot: i64| e.load(elem, lanes, e.at_const(e.buf(0), slot * SLOT), Lanes::All);
    let mut factor: Any<'c> = load(0).into();
    if peak == Peak::Bf16 {
        allow_bf16(e, factor.into_vector_value());
        let pairs = factor.get_type().into_vector_type().get_context().bf16_type();
        factor = e.load_aligned(pairs.vec_type(2 * lanes), e.buf(0), 64);
    }
    let factor = factor.into_vector_value();
    // Different starts: equal chains would be merged into one.
    let starts: Vec<Any<'c>> = (1..=CHAINS).map(|slot| load(slot).into()).collect();
    let sums = e.fold(e.i64(0), e.param(0), e.i64(1), &starts, |_, sums| {
        let next = |sum: &Any<'c>| -> Any<'c> { step(e, peak, sum.into_vector_value(), factor).into() };
        sums.iter().map(next).collect()
    });
    for (slot, sum) in (1..).zip(&sums) {
        e.store(
            sum.into_vector_value(),
            e.at_const(e.buf(0), slot * SLOT),
            Lanes::All,
        );
    }
}

/// One step. Products that LLVM could move out of the loop take the sum itself as a factor.
fn step<'c>(e: &Emit<'c>, peak: Peak, sum: Vector<'c>, factor: Vector<'c>) -> Vector<'c> {
    match peak {
        Peak::Int8 if e.level().has_vnni() => e.dot_u8_s8(sum, factor, factor),
        Peak::Int8 => {
            let halves = |x| e.bitcast(x, Elem::I16, 2 * e.level().lanes());
            let twice = e.add(factor, factor);
            let product = |factor| e.dot_i16(halves(sum), halves(factor));
            e.add(sum, e.add(product(factor), product(twice)))
        }
        Peak::Bf16 => {
            let name = "llvm.x86.avx512bf16.dpbf16ps.512";
            let arguments = [sum.into(), factor.into(), factor.into()];
            e.intrinsic(name, &[], &arguments).into_vector_value()
        }
        Peak::F32 if e.level().has_fma() => e.fma(factor, factor, sum),
        Peak::F32 => e.fadd(sum, e.fmul(sum, factor)),
    }
}

/// Multiply-adds a second of one core, or nothing where there is no such instruction: the median of `window`.
pub fn measure(worker: &Worker, level: Level, peak: Peak, window: Duration) -> Option<f64> {
    peak.instructions(level)?;
    let kernel: Loaded = build_levels(worker, &[level], |e| emit(e, peak));
    // As floats, the factor is about 1e-30 and sums about 1: they stay so, and nothing is subnormal.
    let value = |word: usize| {
        let exponent = if word < SLOT as usize / 4 {
            0x0d80_0d80
        } else {
            0x3f80_3f80
        };
        exponent + word as u32 % 7
    };
    let mut buffer = Buffer::new((SLOT * (CHAINS + 1)) as usize, value);
    let took = median(window, || {
        kernel.call(level, &[buffer.start()], &[ROUNDS], &mut [0; 16], (0, 1));
    });
    let steps = (CHAINS * ROUNDS) as f64 * f64::from(level.lanes() * peak.depth());
    Some(steps / took.as_secs_f64())
}

/// Memory that starts at a page.
pub struct Buffer(memmap2::MmapMut);

impl Buffer {
    /// So many bytes; word `i` is `value(i)`.
    pub fn new(bytes: usize, value: impl Fn(usize) -> u32) -> Buffer {
        let mut map = memmap2::MmapMut::map_anon(bytes).expect("memory");
        for (i, word) in map.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&value(i).to_le_bytes());
        }
        Buffer(map)
    }

    /// Its first byte.
    pub fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// The median time of a run, of as many as fit into `window`; at least three.
pub fn median(window: Duration, mut run: impl FnMut()) -> Duration {
    run();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed() < window {
        let begin = Instant::now();
        run();
        times.push(begin.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}
