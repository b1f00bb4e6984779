//! Generated code, as text: each level stays within its instruction set, and inner loops are what they should be.

use rsqc_cpu::kernels::gemm::{Epilogue, Gemm, Piece, Product, emit_gemm};
use rsqc_cpu::level::Level;
use rsqc_cpu::llvm::{Emit, Output, Worker};

struct Keep;

impl<'c> Epilogue<'c> for Keep {
    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        e.store(piece.acc, e.at_index(e.buf(2), piece.n, 4), piece.lanes);
    }
}

fn assembly(level: Level, product: Product) -> String {
    let worker = Worker::new().expect("llvm has x86");
    let e = worker.kernel(level);
    emit_gemm(
        &e,
        &Gemm {
            product,
            a: 0,
            b: 1,
            first_param: 0,
            batch_axes: 1,
            segment_axes: 0,
            max_columns: 64,
        },
        &mut Keep,
    );
    String::from_utf8(worker.finish(e, Output::Asm).expect("the kernel compiles")).expect("text")
}

/// The loop body (from its label to its backward jump) with most instructions of a kind.
fn hottest<'a>(text: &'a str, instruction: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.starts_with(".p2align"))
        .collect();
    let labels: Vec<usize> = (0..lines.len())
        .filter(|&i| lines[i].starts_with(".LBB"))
        .collect();
    let blocks = labels.iter().map(|&start| {
        let end =
            (start + 1..lines.len()).find(|&i| lines[i].starts_with(".LBB") || lines[i].starts_with('j'));
        &lines[start + 1..end.unwrap_or(lines.len())]
    });
    blocks
        .max_by_key(|block| count(block, instruction))
        .expect("a kernel has loops")
        .to_vec()
}

fn count(block: &[&str], instruction: &str) -> usize {
    block
        .iter()
        .filter(|line| line.split_whitespace().any(|word| word == instruction))
        .count()
}

/// Instructions that move vectors to or from the stack.
fn spills(block: &[&str]) -> usize {
    block
        .iter()
        .filter(|line| line.contains("rsp") && line.contains("mm"))
        .count()
}

#[test]
fn the_full_int8_tile_keeps_everything_in_registers() {
    let text = assembly(Level::Avx512Vnni, Product::Int8);
    let block = hottest(&text, "vpdpbusd");
    assert_eq!(count(&block, "vpdpbusd"), 24, "{block:#?}");
    assert_eq!(count(&block, "vpbroadcastd"), 6, "{block:#?}");
    assert_eq!(count(&block, "vmovdqa64"), 4, "{block:#?}");
    assert_eq!(spills(&block), 0, "{block:#?}");
}

#[test]
fn full_tiles_do_not_spill() {
    let expected = [
        (Level::Avx512Vnni, Product::F32, "vfmadd231ps", 24),
        (Level::AvxVnni, Product::F32, "vfmadd231ps", 12),
        (Level::Avx2, Product::F32, "vfmadd231ps", 12),
        (Level::Portable, Product::F32, "mulps", 8),
        (Level::Avx512Vnni, Product::Mixed, "vfmadd231ps", 16),
        (Level::AvxVnni, Product::Mixed, "vfmadd231ps", 12),
        (Level::Avx2, Product::Mixed, "vfmadd231ps", 12),
        (Level::Portable, Product::Mixed, "mulps", 8),
        (Level::AvxVnni, Product::Int8, "vpdpbusd", 12),
        (Level::Avx2, Product::Int8, "vpmaddwd", 16),
        (Level::Portable, Product::Int8, "pmaddwd", 16),
    ];
    for (level, product, instruction, times) in expected {
        let text = assembly(level, product);
        let block = hottest(&text, instruction);
        assert_eq!(
            count(&block, instruction),
            times,
            "{level} {product:?}: {block:#?}"
        );
        // The baseline's sixteen registers do not hold the widened bytes of both rows as well; two sums wait in memory.
        let allowed = if (level, product) == (Level::Portable, Product::Int8) {
            6
        } else {
            0
        };
        assert!(spills(&block) <= allowed, "{level} {product:?}: {block:#?}");
    }
}

#[test]
fn levels_stay_within_their_registers() {
    for product in [Product::Int8, Product::Mixed, Product::F32, Product::F32Dynamic] {
        for level in Level::ALL {
            for line in assembly(level, product).lines().map(str::trim) {
                let Some(name) = line.split_whitespace().next() else {
                    continue;
                };
                if name.starts_with('.') || name.ends_with(':') {
                    continue;
                }
                let vex = name.starts_with('v') || name.starts_with('{');
                let evex = line.contains("%zmm") || line.contains("%k") || line.contains("mm16");
                match level {
                    Level::Portable => assert!(!vex && !line.contains("%ymm") && !evex, "{line}"),
                    Level::Avx2 => assert!(!evex && !name.starts_with('{'), "{line}"),
                    Level::AvxVnni => assert!(!evex, "{line}"),
                    Level::Avx512Vnni => {}
                }
                let outside = name.starts_with("call") && !line.contains("subroutine");
                assert!(!outside, "{level}: {line}");
            }
        }
    }
}
