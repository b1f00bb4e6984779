//! Measures the int8 and f32 matrix products of one level, or prints their code:
//!
//! ```text
//! cargo run --release -p rsqc-cpu --example gemm -- bench [M N K]
//! cargo run --release -p rsqc-cpu --example gemm -- asm LEVEL int8|f32
//! ```
//!
//! `bench` runs one thread and divides by the machine's own peak, measured in the same process by a loop of
//! independent multiply-add instructions on registers.

#[path = "../tests/common/mod.rs"]
mod common;
mod peak;

use common::build;
use peak::Peak;
use rsqc_cpu::kernels::gemm::{Blocking, Epilogue, Gemm, Piece, Product, emit_gemm, param};
use rsqc_cpu::level::{Level, host_levels};
use rsqc_cpu::llvm::{Elem, Emit, Lanes, Output, Worker};
use rsqc_cpu::pack::{self, Matrix};
use std::time::{Duration, Instant};

/// Dequantizes (int8) and stores floats.
struct Store(Gemm);

impl<'c> Epilogue<'c> for Store {
    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        let mut x = piece.acc;
        if let Some(scales) = piece.scales {
            x = e.fmul(e.to_f32(x), e.load(Elem::F32, 16, scales, Lanes::All));
        }
        let at = e.add(e.mul(piece.row.m, self.0.param(e, param::N)), piece.n);
        e.store(x, e.at_index(e.buf(2), at, 4), piece.lanes);
    }
}

fn gemm(product: Product) -> Gemm {
    Gemm {
        product,
        a: 0,
        b: 1,
        first_param: 0,
        batch_axes: 0,
        segment_axes: 0,
        max_columns: 64,
    }
}

/// Shortest of many runs.
fn time(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(400) {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed());
    }
    best
}

fn bench(worker: &Worker, (m, n, k): (usize, usize, usize)) {
    for product in [Product::Int8, Product::Mixed, Product::F32] {
        let g = gemm(product);
        let kernel = build(worker, |e| emit_gemm(e, &g, &mut Store(g)));
        let size = if product == Product::Int8 { 1 } else { 4 };
        let mut a = vec![0u8; m * k * size + 64];
        let mut b = match product {
            Product::Int8 | Product::Mixed => pack::pack_i8(Matrix::row_major(&vec![1; k * n], k, n), &[0.5]),
            _ => pack::pack_f32(Matrix::row_major(&vec![1.0; k * n], k, n)),
        }
        .expect("a valid matrix");
        b.extend([0; 64]);
        let shift = b.as_ptr().align_offset(64);
        b.rotate_right(shift);
        let mut out = vec![0f32; m * n];
        let blocking = Blocking::rows(product, k as u64);
        let sizes = [
            m,
            n,
            k,
            blocking.row_block as usize,
            blocking.panel_group as usize,
            0,
        ];
        let params: Vec<i64> = sizes
            .into_iter()
            .chain([k * size, size, 0, 0, 0])
            .map(|x| x as i64)
            .collect();
        let tiles = blocking.tiles(1, m as u64, n as u64) as i64;
        for level in host_levels() {
            let bufs = [a.as_mut_ptr(), b[shift..].as_mut_ptr(), out.as_mut_ptr().cast()];
            let took = time(|| kernel.call(level, &bufs, &params, &mut [0; 16], (0, tiles)));
            let rate = (m * n * k) as f64 / took.as_secs_f64();
            let what = if product == Product::Int8 {
                Peak::Int8
            } else {
                Peak::F32
            };
            let peak = peak::measure(worker, level, what, Duration::from_millis(100));
            let share = peak.map_or(String::new(), |peak| {
                format!("{:5.1} % of {:.0}", 100.0 * rate / peak, peak / 1e9)
            });
            println!(
                "{product:?} {m}x{n}x{k} {level}: {:.1} us, {:.1} G mul-add/s {share}",
                took.as_secs_f64() * 1e6,
                rate / 1e9
            );
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let worker = Worker::new().expect("llvm has x86");
    match args.as_slice() {
        ["bench"] => bench(&worker, (128, 1536, 384)),
        ["bench", sizes @ ..] if sizes.len() == 3 => {
            let size = |i: usize| sizes[i].parse().expect("sizes are numbers");
            bench(&worker, (size(0), size(1), size(2)));
        }
        ["asm", level, product] => {
            let level = Level::from_name(level).expect("a level's name");
            let g = gemm(if *product == "int8" {
                Product::Int8
            } else {
                Product::F32
            });
            let e = worker.kernel(level);
            emit_gemm(&e, &g, &mut Store(g));
            let text = worker.finish(e, Output::Asm).expect("the kernel compiles");
            print!("{}", String::from_utf8_lossy(&text));
        }
        _ => eprintln!("bench [M N K] | asm LEVEL int8|f32"),
    }
}
