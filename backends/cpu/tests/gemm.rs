//! Matrix products against plain loops: odd shapes, extremes, strides, batches and both schedules, at every level of
//! this machine. int8 sums must be exact, hence equal between levels.

mod common;

use common::{Loaded, Random, build};
use rsqc_cpu::kernels::gemm::{Block, Blocking, Epilogue, Gemm, Piece, Product, Row, emit_gemm, param};
use rsqc_cpu::level::host_levels;
use rsqc_cpu::llvm::{Elem, Emit, Int, Lanes, Ptr, Vector, Worker};
use rsqc_cpu::pack::{self, Matrix};

const EDGES: [usize; 12] = [1, 2, 3, 5, 15, 16, 17, 63, 64, 65, 100, 130];

/// Stores accumulators as they are, row-major, to buffer 2. Batch axes are dense.
struct StoreRaw {
    gemm: Gemm,
}

impl<'c> Epilogue<'c> for StoreRaw {
    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        let (m, n) = (self.gemm.param(e, param::M), self.gemm.param(e, param::N));
        let mut row = e.i64(0);
        for (axis, index) in piece.row.block.batch.iter().enumerate() {
            let at = param::BATCH + axis as u32 * param::PER_BATCH + param::BATCH_EXTENT;
            row = e.add(e.mul(row, self.gemm.param(e, at)), *index);
        }
        let row = e.add(e.mul(row, m), piece.row.m);
        let at = e.at_index(e.buf(2), e.add(e.mul(row, n), piece.n), 4);
        e.store(piece.acc, at, piece.lanes);
    }
}

fn gemm(product: Product, batch_axes: u32) -> Gemm {
    Gemm {
        product,
        a: 0,
        b: 1,
        first_param: 0,
        batch_axes,
        segment_axes: 0,
        max_columns: 64,
    }
}

fn raw_kernel(worker: &Worker, gemm: Gemm) -> Loaded {
    build(worker, |e| emit_gemm(e, &gemm, &mut StoreRaw { gemm }))
}

/// Shape and layout of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    m: usize,
    n: usize,
    k: usize,
    a_row: usize,
    a_k: usize,
    b_k: usize,
    b_n: usize,
    blocking: Blocking,
}

impl Run {
    fn dense(product: Product, m: usize, n: usize, k: usize) -> Run {
        let bytes = if product == Product::Int8 { 1 } else { 4 };
        let blocking = Blocking::rows(product, k as u64);
        Run {
            m,
            n,
            k,
            a_row: k * bytes,
            a_k: bytes,
            b_k: 4 * n,
            b_n: 4,
            blocking,
        }
    }

    /// The right factor in elements of any size.
    fn b<'a, T>(&self, data: &'a [T]) -> Matrix<'a, T> {
        Matrix {
            data,
            k: self.k,
            n: self.n,
            k_stride: self.b_k / 4,
            n_stride: self.b_n / 4,
        }
    }

    fn params(&self) -> Vec<i64> {
        let Blocking {
            row_block,
            panel_group,
        } = self.blocking;
        let sizes = [
            self.m,
            self.n,
            self.k,
            row_block as usize,
            panel_group as usize,
            0,
        ];
        let strides = [self.a_row, self.a_k, 0, self.b_k, self.b_n];
        sizes.into_iter().chain(strides).map(|x| x as i64).collect()
    }

    fn tiles(&self) -> (i64, i64) {
        (0, self.blocking.tiles(1, self.m as u64, self.n as u64) as i64)
    }
}

/// Activations as stored: `code + 128`, with the slack that buffers have.
fn stored(codes: &[i8]) -> Vec<u8> {
    codes
        .iter()
        .map(|&q| (q as u8) ^ 0x80)
        .chain([0xA5; 64])
        .collect()
}

fn reference_i8(a: &[i8], w: &[i8], run: &Run) -> Vec<i32> {
    let mut out = vec![0i32; run.m * run.n];
    for m in 0..run.m {
        for k in 0..run.k {
            let x = i32::from(a[m * run.a_row + k]);
            for n in 0..run.n {
                out[m * run.n + n] += x * i32::from(w[k * run.n + n]);
            }
        }
    }
    out
}

fn check_i8(kernel: &Loaded, a: &[i8], w: &[i8], run: Run) {
    let mut packed = pack::pack_i8(Matrix::row_major(w, run.k, run.n), &[0.5]).expect("a valid matrix");
    let packed = aligned(&mut packed);
    let expected = reference_i8(a, w, &run);
    let mut a = stored(a);
    for level in host_levels() {
        let mut out = vec![-77i32; run.m * run.n + 16];
        let bufs = [a.as_mut_ptr(), packed.ptr(), out.as_mut_ptr().cast()];
        kernel.call(level, &bufs, &run.params(), &mut [0; 16], run.tiles());
        assert!(out[..run.m * run.n] == expected, "{run:?} at {level}");
        assert!(
            out[run.m * run.n..].iter().all(|&x| x == -77),
            "{run:?} wrote past the end at {level}"
        );
    }
}

/// A copy that starts 64-byte aligned, as weights do.
struct Aligned {
    words: Vec<u64>,
    start: usize,
}

fn aligned(bytes: &mut [u8]) -> Aligned {
    let mut words = vec![0u64; bytes.len() / 8 + 17];
    let start = words.as_ptr().align_offset(64);
    for (word, chunk) in words[start..].iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(eight);
    }
    Aligned { words, start }
}

impl Aligned {
    fn ptr(&self) -> *mut u8 {
        self.words[self.start..].as_ptr().cast_mut().cast()
    }
}

#[test]
fn int8_sums_are_exact_for_odd_shapes() {
    let worker = Worker::new().expect("llvm has x86");
    let kernel = raw_kernel(&worker, gemm(Product::Int8, 0));
    let mut random = Random(1);
    let lengths = [1, 3, 4, 5, 64, 65, 383, 384, 385];
    for i in 0..150 {
        let m = if i % 5 == 0 {
            EDGES[random.below(12)]
        } else {
            1 + random.below(14)
        };
        let (n, k) = (EDGES[random.below(12)], lengths[random.below(9)]);
        let mut run = Run::dense(Product::Int8, m, n, k);
        run.a_row += random.below(3);
        if i % 3 == 0 {
            run.blocking = Blocking {
                row_block: 1 + random.below(20) as u32,
                panel_group: 1,
            };
        }
        let a: Vec<i8> = (0..m * run.a_row).map(|_| random.bits() as i8).collect();
        let w: Vec<i8> = (0..k * n).map(|_| random.bits() as i8).collect();
        check_i8(&kernel, &a, &w, run);
    }
}

#[test]
fn int8_extremes_do_not_saturate() {
    let worker = Worker::new().expect("llvm has x86");
    let kernel = raw_kernel(&worker, gemm(Product::Int8, 0));
    for (x, y) in [
        (-127, -127),
        (127, 127),
        (-128, -128),
        (127, -128),
        (-128, 127),
        (-127, 127),
    ] {
        for k in [1, 3, 64, 385, 4095] {
            let run = Run::dense(Product::Int8, 7, 65, k);
            check_i8(&kernel, &vec![x; 7 * k], &vec![y; k * 65], run);
        }
    }
}

#[test]
fn empty_products() {
    let worker = Worker::new().expect("llvm has x86");
    let kernel = raw_kernel(&worker, gemm(Product::Int8, 0));
    check_i8(&kernel, &[], &[], Run::dense(Product::Int8, 3, 5, 0));
    check_i8(&kernel, &[], &[0; 20], Run::dense(Product::Int8, 0, 5, 4));
    check_i8(&kernel, &[0; 12], &[], Run::dense(Product::Int8, 3, 0, 4));
}

/// f32 product with sums in f64, and the sums of magnitudes for the error bound.
fn check_f32(kernel: &Loaded, product: Product, random: &mut Random, run: Run, scratch: &mut [u64]) {
    let extent =
        |rows: usize, stride: usize, columns: usize, step: usize| (rows * stride + columns * step) / 4 + 1;
    let mut a: Vec<f32> = (0..extent(run.m, run.a_row, run.k, run.a_k))
        .map(|_| random.unit())
        .collect();
    let mut b: Vec<f32> = (0..extent(run.k, run.b_k, run.n, run.b_n))
        .map(|_| random.unit())
        .collect();
    let at_b = |k: usize, n: usize| (k * run.b_k + n * run.b_n) / 4;
    let codes: Vec<i8> = b.iter().map(|x| (x * 128.5) as i8).collect();
    if product == Product::Mixed {
        b = codes.iter().map(|q| f32::from(*q)).collect();
    }
    let packed = match product {
        Product::F32 => Some(pack::pack_f32(run.b(&b))),
        Product::Mixed => Some(pack::pack_i8(run.b(&codes), &[0.5])),
        _ => None,
    };
    let packed = packed.map(|p| aligned(&mut p.expect("a valid matrix")));
    for level in host_levels() {
        let mut out = vec![-77f32; run.m * run.n + 16];
        let b_ptr = packed.as_ref().map_or(b.as_mut_ptr().cast(), Aligned::ptr);
        let bufs = [a.as_mut_ptr().cast(), b_ptr, out.as_mut_ptr().cast()];
        kernel.call(level, &bufs, &run.params(), scratch, run.tiles());
        for m in 0..run.m {
            for n in 0..run.n {
                let products = (0..run.k)
                    .map(|k| f64::from(a[(m * run.a_row + k * run.a_k) / 4]) * f64::from(b[at_b(k, n)]));
                let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
                let error = (f64::from(out[m * run.n + n]) - sum).abs();
                let bound = size * run.k as f64 * f64::from(f32::EPSILON);
                assert!(
                    error <= bound,
                    "{run:?} at {level}: row {m} column {n} is off by {error:e}"
                );
            }
        }
        assert!(
            out[run.m * run.n..].iter().all(|&x| x == -77.0),
            "{run:?} wrote past the end at {level}"
        );
    }
}

#[test]
fn float_products_stay_within_the_bound() {
    let worker = Worker::new().expect("llvm has x86");
    let mut random = Random(5);
    let mut scratch = vec![0u64; 400 * 32 + 16];
    for product in [Product::F32, Product::F32Dynamic, Product::Mixed] {
        let kernel = raw_kernel(&worker, gemm(product, 0));
        for i in 0..60 {
            let (m, n) = (random.below(27), EDGES[random.below(12)]);
            let k = [0, 1, 2, 3, 64, 65, 383, 384][random.below(8)];
            let mut run = Run::dense(product, m, n, k);
            match i % 3 {
                // B transposed: K adjoins.
                1 => (run.b_k, run.b_n) = (4, 4 * k + 8),
                // A transposed: rows adjoin; B with gaps everywhere.
                2 => (run.a_row, run.a_k, run.b_k, run.b_n) = (4, 4 * m, 12 * n + 4, 12),
                _ => {}
            }
            run.blocking.row_block = [4, 96][i % 2];
            check_f32(&kernel, product, &mut random, run, &mut scratch);
        }
    }
}

#[test]
fn batches_have_their_own_strides() {
    // A is [2, 3, m, k]; B is [3, k, n], shared by the outer axis: its stride there is 0.
    let worker = Worker::new().expect("llvm has x86");
    let kernel = raw_kernel(&worker, gemm(Product::F32Dynamic, 2));
    let (m, n, k) = (7, 19, 11);
    let mut random = Random(8);
    let mut a: Vec<f32> = (0..6 * m * k).map(|_| (random.below(17) as f32) - 8.0).collect();
    let mut b: Vec<f32> = (0..3 * k * n).map(|_| (random.below(17) as f32) - 8.0).collect();
    let run = Run::dense(Product::F32Dynamic, m, n, k);
    let mut params = run.params();
    let batch = [2, 3 * m * k * 4, 0, 3, m * k * 4, k * n * 4];
    params.extend(batch.map(|x| x as i64));
    for level in host_levels() {
        let mut out = vec![0f32; 6 * m * n];
        let bufs = [
            a.as_mut_ptr().cast(),
            b.as_mut_ptr().cast(),
            out.as_mut_ptr().cast(),
        ];
        let tiles = run.blocking.tiles(6, m as u64, n as u64) as i64;
        let mut scratch = vec![0u64; k * 32 + 16];
        // In two calls, as two threads would.
        kernel.call(level, &bufs, &params, &mut scratch, (2, tiles));
        kernel.call(level, &bufs, &params, &mut scratch, (0, 2));
        for (i, got) in out.iter().enumerate() {
            let (batch, row, column) = (i / (m * n), i / n % m, i % n);
            let products =
                (0..k).map(|k_| a[(batch * m + row) * k + k_] * b[(batch % 3 * k + k_) * n + column]);
            assert_eq!(*got, products.sum::<f32>(), "element {i} at {level}");
        }
    }
}

/// The row-block schedule: dequantized rows go to scratch; when a block is done, each row is divided by its largest
/// magnitude. The row's own factor is loaded once a row.
struct RowBlock<'c> {
    gemm: Gemm,
    factor: Option<Vector<'c>>,
}

impl<'c> RowBlock<'c> {
    fn row(&self, e: &Emit<'c>, local: Int<'c>) -> Ptr<'c> {
        let bytes = e.mul(e.div_ceil(self.gemm.param(e, param::N), e.i64(64)), e.i64(256));
        e.at(e.at(e.scratch(), self.gemm.scratch_end(e)), e.mul(local, bytes))
    }
}

impl<'c> Epilogue<'c> for RowBlock<'c> {
    fn begin_row(&mut self, e: &Emit<'c>, row: &Row<'_, 'c>) {
        let factor: rsqc_cpu::llvm::Float<'c> = e.load_scalar(Elem::F32, e.at_index(e.buf(3), row.m, 4));
        self.factor = Some(e.splat(factor, 16));
    }

    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        let scales = e.load(Elem::F32, 16, piece.scales.expect("int8 has scales"), Lanes::All);
        let x = e.fmul(
            e.fmul(e.to_f32(piece.acc), self.factor.expect("a row began")),
            scales,
        );
        e.store(
            x,
            e.at_index(self.row(e, piece.row.local), piece.n, 4),
            Lanes::All,
        );
    }

    fn end_block(&mut self, e: &Emit<'c>, block: &Block<'c>) {
        let n = self.gemm.param(e, param::N);
        e.for_range(e.i64(0), block.rows, e.i64(1), |local| {
            let row = self.row(e, local);
            let zero = e.i32s(&[0; 16]);
            let max = e.fold(e.i64(0), n, e.i64(16), &[zero.into()], |at, max| {
                let lanes = Lanes::First(e.imin(e.sub(n, at), e.i64(16)));
                let x: Vector<'c> = e.fabs(e.load(Elem::F32, 16, e.at_index(row, at, 4), lanes));
                vec![
                    e.vmax(max[0].into_vector_value(), e.bitcast(x, Elem::I32, 16))
                        .into(),
                ]
            });
            let max: Int<'c> = e.reduce(max[0].into_vector_value(), |a, b| e.vmax(a, b));
            let max = e.bitcast(e.splat(max, 16), Elem::F32, 16);
            let out = e.at_index(e.buf(2), e.mul(e.add(block.m, local), n), 4);
            e.for_range(e.i64(0), n, e.i64(16), |at| {
                let lanes = Lanes::First(e.imin(e.sub(n, at), e.i64(16)));
                let x = e.load(Elem::F32, 16, e.at_index(row, at, 4), lanes);
                e.store(e.fdiv(x, max), e.at_index(out, at, 4), lanes);
            });
        });
    }
}

#[test]
fn row_blocks_see_whole_rows() {
    let worker = Worker::new().expect("llvm has x86");
    let gemm = gemm(Product::Int8, 0);
    let kernel = build(&worker, |e| {
        emit_gemm(e, &gemm, &mut RowBlock { gemm, factor: None })
    });
    let mut random = Random(12);
    for (m, n, k, row_block) in [
        (1, 1, 1, 96),
        (13, 70, 33, 6),
        (50, 200, 64, 16),
        (20, 130, 5, 96),
    ] {
        let mut run = Run::dense(Product::Int8, m, n, k);
        run.blocking.row_block = row_block;
        let codes: Vec<i8> = (0..m * k).map(|_| random.bits() as i8).collect();
        let w: Vec<i8> = (0..k * n).map(|_| random.bits() as i8).collect();
        let scales: Vec<f32> = (0..n).map(|_| random.unit().abs() + 0.01).collect();
        let mut factors: Vec<f32> = (0..m).map(|_| random.unit().abs() + 0.01).collect();
        let mut packed = pack::pack_i8(Matrix::row_major(&w, k, n), &scales).expect("a valid matrix");
        let packed = aligned(&mut packed);
        let sums = reference_i8(&codes, &w, &run);
        let mut expected = Vec::new();
        for row in 0..m {
            let x: Vec<f32> = (0..n)
                .map(|c| sums[row * n + c] as f32 * factors[row] * scales[c])
                .collect();
            let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
            expected.extend(x.iter().map(|x| (x / max).to_bits()));
        }
        let mut a = stored(&codes);
        for level in host_levels() {
            let mut out = vec![0f32; m * n];
            let bufs = [
                a.as_mut_ptr(),
                packed.ptr(),
                out.as_mut_ptr().cast(),
                factors.as_mut_ptr().cast(),
            ];
            let mut scratch = vec![0u64; row_block as usize * n.next_multiple_of(64) / 2 + 16];
            kernel.call(level, &bufs, &run.params(), &mut scratch, run.tiles());
            let got: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            // 0 / 0 rows do not occur: codes are random.
            assert!(got == expected, "{m} x {n} x {k} at {level}");
        }
    }
}

/// Quantizes rows of floats into scratch before they are multiplied.
struct Staged {
    gemm: Gemm,
}

impl<'c> Epilogue<'c> for Staged {
    fn begin_block(&mut self, e: &Emit<'c>, block: &Block<'c>) -> Option<(Ptr<'c>, Int<'c>)> {
        let k = self.gemm.param(e, param::K);
        let bytes = e.and(e.add(k, e.i64(15)), e.i64(-16));
        e.for_range(e.i64(0), block.rows, e.i64(1), |row| {
            let from = e.at_index(e.buf(0), e.mul(e.add(block.m, row), k), 4);
            let to = e.at(e.scratch(), e.mul(row, bytes));
            e.for_range(e.i64(0), k, e.i64(16), |at| {
                let lanes = Lanes::First(e.imin(e.sub(k, at), e.i64(16)));
                let x = e.load(Elem::F32, 16, e.at_index(from, at, 4), lanes);
                let q = e.narrow(e.round_to_i32(x), Elem::I8);
                let flip = e.narrow(e.i32s(&[128; 16]), Elem::I8);
                e.store(e.xor(q, flip), e.at(to, at), Lanes::All);
            });
        });
        Some((e.scratch(), bytes))
    }

    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        StoreRaw { gemm: self.gemm }.piece(e, piece);
    }
}

#[test]
fn blocks_can_stage_their_rows() {
    let worker = Worker::new().expect("llvm has x86");
    let gemm = gemm(Product::Int8, 0);
    let kernel = build(&worker, |e| emit_gemm(e, &gemm, &mut Staged { gemm }));
    let mut random = Random(13);
    let (m, n, k) = (29, 67, 37);
    let mut run = Run::dense(Product::Int8, m, n, k);
    run.blocking.row_block = 11;
    let codes: Vec<i8> = (0..m * k).map(|_| random.bits() as i8).collect();
    let w: Vec<i8> = (0..k * n).map(|_| random.bits() as i8).collect();
    let mut floats: Vec<f32> = codes.iter().map(|&q| f32::from(q)).collect();
    let mut packed = pack::pack_i8(Matrix::row_major(&w, k, n), &[1.0]).expect("a valid matrix");
    let packed = aligned(&mut packed);
    let expected = reference_i8(&codes, &w, &run);
    for level in host_levels() {
        let mut out = vec![0i32; m * n];
        let bufs = [floats.as_mut_ptr().cast(), packed.ptr(), out.as_mut_ptr().cast()];
        kernel.call(level, &bufs, &run.params(), &mut [0; 200], run.tiles());
        assert!(out == expected, "at {level}");
    }
}
