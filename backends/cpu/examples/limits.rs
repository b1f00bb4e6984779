//! What one core of this machine can do at most: multiply-adds from registers, bytes read from each level of memory.
//!
//! ```text
//! cargo run --release -p rsqc-cpu --example limits -- [LEVEL] [--json]
//! ```
//!
//! The code is generated through the same layer as the kernels, at the best level of this machine or the one named.

#[path = "../tests/common/mod.rs"]
mod common;
mod peak;

use peak::{Buffer, Peak};
use rsqc_cpu::level::{Level, LevelFacts, host_levels};
use rsqc_cpu::llvm::{Any, Emit, Worker};
use std::time::Duration;

/// How long each figure is measured.
const WINDOW: Duration = Duration::from_millis(60);

/// Bytes that one turn of the reading loop takes: eight vectors of the widest level, eight cache lines.
const TURN: usize = 512;

/// Bytes of the cache of so many levels, as Linux tells them.
fn cache(level: &str) -> Option<usize> {
    let folder = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
    let text = |index: usize, name| std::fs::read_to_string(folder.join(format!("index{index}/{name}"))).ok();
    let found = (0..8).find(|&index| {
        text(index, "level").is_some_and(|l| l.trim() == level)
            && text(index, "type").is_some_and(|t| t.trim() != "Instruction")
    })?;
    let size = text(found, "size")?;
    let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
    Some(kib * 1024)
}

/// What is read over and over.
struct Set {
    from: &'static str,
    bytes: usize,
    /// Size of the cache; none for memory.
    holds: Option<usize>,
}

/// Half of a cache that is one core's own, a quarter of the shared one, and for memory four times the last cache.
fn working_sets() -> Vec<Set> {
    let l1 = cache("1").unwrap_or(32 << 10);
    let l2 = cache("2").unwrap_or(1 << 20);
    let l3 = cache("3").filter(|l3| *l3 >= 8 * l2);
    let set = |from, bytes: usize, holds| Set {
        from,
        bytes: bytes / TURN * TURN,
        holds,
    };
    let mut sets = vec![set("L1", l1 / 2, Some(l1)), set("L2", l2 / 2, Some(l2))];
    sets.extend(l3.map(|l3| set("L3", l3 / 4, Some(l3))));
    let beyond = (4 * l3.unwrap_or(l2)).clamp(64 << 20, 1 << 30);
    sets.push(set("memory", beyond, None));
    sets
}

/// Reads `params[1]` bytes `params[0]` times.
fn reading(e: &Emit<'_>) {
    let lanes = e.level().lanes();
    let vectors = TURN as i64 / i64::from(lanes * 4);
    let elem = rsqc_cpu::llvm::Elem::I32;
    // Sums in eight registers, so that additions are no chain that binds.
    let zeros: Vec<Any<'_>> = vec![e.vector_type(elem, lanes).const_zero().into(); 8];
    let sums = e.fold(e.i64(0), e.param(0), e.i64(1), &zeros, |_, sums| {
        e.fold(e.i64(0), e.param(1), e.i64(TURN as i64), sums, |at, sums| {
            let from = e.at(e.buf(0), at);
            let mut next = sums.to_vec();
            for v in 0..vectors {
                let from = e.at_const(from, v * i64::from(lanes) * 4);
                let x = e.load_aligned(e.vector_type(elem, lanes), from, lanes * 4);
                let slot = &mut next[v as usize % 8];
                *slot = e.add(slot.into_vector_value(), x.into_vector_value()).into();
            }
            next
        })
    });
    let sums = sums.iter().map(|sum| sum.into_vector_value());
    let sum = sums.reduce(|a, b| e.add(a, b)).expect("eight sums");
    e.store(sum, e.buf(1), rsqc_cpu::llvm::Lanes::All);
}

/// Bytes a second from each working set.
fn bandwidths(worker: &Worker, level: Level) -> Vec<(Set, f64)> {
    let kernel = common::build_levels(worker, &[level], reading);
    let mut out = Buffer::new(64, |_| 0);
    let rate = |set: Set| {
        let bytes = set.bytes;
        let mut buffer = Buffer::new(bytes, |i| i as u32);
        // About 8 MiB a call: long beside the clock, short beside the window.
        let passes = ((8 << 20) / bytes).max(1);
        let params = [passes as i64, bytes as i64];
        let took = peak::median(WINDOW, || {
            kernel.call(
                level,
                &[buffer.start(), out.start()],
                &params,
                &mut [0; 16],
                (0, 1),
            );
        });
        (set, (passes * bytes) as f64 / took.as_secs_f64())
    };
    working_sets().into_iter().map(rate).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let json = args.iter().any(|a| a == "--json");
    let named = args.iter().find(|a| !a.starts_with("--"));
    let level = match named {
        None => host_levels()[0],
        Some(name) => match Level::from_name(name).filter(|level| level.on_host()) {
            Some(level) => level,
            None => {
                eprintln!("error: this machine has no level `{name}`");
                std::process::exit(2);
            }
        },
    };
    let worker = Worker::new().expect("llvm has x86");
    let peaks = [("int8", Peak::Int8), ("bf16", Peak::Bf16), ("f32", Peak::F32)].map(|(name, what)| {
        let rate = peak::measure(&worker, level, what, WINDOW);
        (name, what.instructions(level).unwrap_or("none"), rate)
    });
    let bandwidths = bandwidths(&worker, level);
    if json {
        let peaks = peaks.map(|(name, how, rate)| {
            let rate = rate.map_or("null".into(), |rate| format!("{:.3}", rate / 1e9));
            format!("{{\"what\":\"{name}\",\"instructions\":\"{how}\",\"gmacs\":{rate}}}")
        });
        let reads: Vec<String> = bandwidths
            .iter()
            .map(|(set, rate)| {
                let (from, bytes, rate) = (set.from, set.bytes, rate / 1e9);
                let holds = set.holds.map_or("null".into(), |holds| holds.to_string());
                format!("{{\"from\":\"{from}\",\"bytes\":{bytes},\"holds\":{holds},\"gb_per_s\":{rate:.3}}}")
            })
            .collect();
        let (peaks, reads) = (peaks.join(","), reads.join(","));
        println!("{{\"level\":\"{level}\",\"peaks\":[{peaks}],\"reads\":[{reads}]}}");
        return;
    }
    for (name, how, rate) in peaks {
        let rate = rate.map_or("none".into(), |rate| format!("{:.1} GMAC/s", rate / 1e9));
        println!("{name:8} {rate:>14}  {how}, {level}");
    }
    for (set, rate) in bandwidths {
        println!(
            "{:8} {:>9.1} GB/s  reading {} KiB",
            set.from,
            rate / 1e9,
            set.bytes >> 10
        );
    }
}
