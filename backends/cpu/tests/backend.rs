//! The backend as the driver sees it: stable names and bytes, refusals with reasons, packing.

use rsqc_backend::{Backend, KernelSpec, TextForm};
use rsqc_cpu::Cpu;
use rsqc_ir::diag::Blame;
use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Gather, Region, Store};
use rsqc_ir::scalar::BodyBuilder;
use rsqc_ir::{Const, Dim, Layout, ScalarType, TensorType};
use std::collections::BTreeMap;

/// `y = x * factor` over `extents`.
fn scaled(extents: &[Dim], factor: f32) -> KernelSpec {
    let mut b = BodyBuilder::new();
    let x = b.operand(0, ScalarType::F32);
    let f = b.f32(factor);
    let y = b.mul(x, f);
    let ty = TensorType::new(ScalarType::F32, extents.to_vec());
    let access = Access::linear(ty.strides().into_iter().enumerate().map(|(a, s)| (a as u32, s)));
    let axes = extents.iter().enumerate().map(|(n, extent)| Axis {
        name: format!("a{n}").into(),
        kind: AxisKind::Parallel,
        extent: extent.clone(),
    });
    KernelSpec {
        region: Region {
            axes: axes.collect(),
            row_axes: 1,
            operands: vec![access.clone()],
            anchor: Anchor::None,
            body: b.finish().expect("typed"),
            stores: vec![Store { value: y, access }],
        },
        operands: vec![ty.clone()],
        operand_layouts: vec![None],
        results: vec![ty],
        result_layouts: vec![None],
    }
}

fn levels(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).into()).collect()
}

#[test]
fn equal_work_shares_a_kernel() {
    let cpu = Cpu::default();
    let name = |extents: &[&Dim], factor| {
        let extents: Vec<Dim> = extents.iter().copied().cloned().collect();
        cpu.select(&scaled(&extents, factor)).expect("a kernel").kernel
    };
    let (m, n) = (Dim::sym("m"), Dim::sym("n"));
    // Dense axes merge, and one symbol is as good as another.
    assert_eq!(name(&[&m, &n], 2.0), name(&[&n], 2.0));
    assert_ne!(name(&[&n], 2.0), name(&[&n], 3.0));
    assert_ne!(name(&[&n], 2.0), name(&[&Dim::from(64i64)], 2.0));
}

#[test]
fn counts_the_rows_of_a_table_that_are_read() {
    let n = Dim::sym("n");
    let mut spec = scaled(&[n.clone(), Dim::from(64i64)], 2.0);
    let row = |extents: &[i64]| Gather {
        operand: 1,
        stride: Dim::from(extents[1]),
        limit: Dim::from(extents[0]),
    };
    spec.region.operands = vec![
        Access {
            gathers: vec![row(&[1000, 64])],
            ..Access::linear([(1, Dim::from(1i64))])
        },
        Access::linear([(0, Dim::from(1i64))]),
    ];
    let table = TensorType::new(ScalarType::F32, vec![Dim::from(1000i64), Dim::from(64i64)]);
    spec.operands = vec![table, TensorType::new(ScalarType::I64, vec![n])];
    spec.operand_layouts = vec![None, None];
    let bytes = Cpu::default().select(&spec).expect("a kernel").bytes;
    let at = |n: i64| bytes.eval(&|_| Some(n)).expect("one symbol");
    // Rows and results of 256 bytes, indices of 8; the table has 256,000 bytes.
    assert_eq!(at(4), 4 * (256 + 256 + 8));
    assert_eq!(at(100_000), 256_000 + 100_000 * (256 + 8));
}

#[test]
fn the_same_kernels_give_the_same_bytes() {
    let cpu = Cpu::default();
    let specs = (1..6).map(|i| scaled(&[Dim::sym("n")], i as f32));
    let kernels: BTreeMap<String, KernelSpec> = specs
        .map(|s| (cpu.select(&s).expect("a kernel").kernel, s))
        .collect();
    let all = levels(&["avx512vnni", "portable", "avx2", "avxvnni"]);
    let first = cpu.generate(&kernels, &all).expect("code");
    // What has been generated before makes no difference: all of it, nothing, a part of it.
    let used = Cpu::default();
    let part = kernels.clone().into_iter().skip(2).collect();
    used.generate(&part, &levels(&["avx2"])).expect("code");
    for again in [&cpu, &Cpu::default(), &used] {
        let again = again.generate(&kernels, &all).expect("code");
        assert_eq!(first.blob, again.blob);
        assert_eq!(first.entries, again.entries);
    }
    for entries in first.entries.values() {
        // Without integer products AVX-VNNI has nothing to add.
        assert_eq!(entries[1].1, entries[2].1);
        assert_ne!(entries[2].1, entries[3].1);
        let names: Vec<&str> = entries.iter().map(|(l, _)| l.as_str()).collect();
        assert_eq!(names, ["portable", "avx2", "avxvnni", "avx512vnni"]);
        assert!(entries.iter().all(|(_, offset)| offset % 64 == 0));
    }
    let asm = cpu
        .text(&kernels, &levels(&["avx512vnni"]), TextForm::Asm)
        .expect("text");
    assert!(asm.contains("vmulps"), "{asm}");
}

#[test]
fn refusals_say_why() {
    let cpu = Cpu::default();
    let spec = scaled(&[Dim::sym("n")], 2.0);
    let name = cpu.select(&spec).expect("a kernel").kernel;
    let kernels = BTreeMap::from([(name, spec.clone())]);
    let unknown = cpu
        .generate(&kernels, &levels(&["avx9"]))
        .expect_err("no such level");
    assert_eq!(unknown.blame, Blame::User);
    assert!(unknown.message.contains("avx9"));
    let ptx = cpu
        .text(&kernels, &levels(&["avx2"]), TextForm::Ptx)
        .expect_err("no ptx");
    assert_eq!(ptx.blame, Blame::User);
    let renamed = BTreeMap::from([("other".to_owned(), spec)]);
    let wrong = cpu
        .generate(&renamed, &levels(&["avx2"]))
        .expect_err("a wrong name");
    assert_eq!(wrong.blame, Blame::Internal);
    let mut b = BodyBuilder::new();
    let x = b.operand(0, ScalarType::F64);
    b.exp(x);
    let mut spec = scaled(&[Dim::sym("n")], 2.0);
    spec.region.body = b.finish().expect("typed");
    let refused = cpu.select(&spec).expect_err("no f64 exponential");
    assert_eq!(refused.blame, Blame::Unsupported);
    assert!(refused.message.contains("exp"));
}

#[test]
fn constants_are_packed_as_kernels_read_them() {
    let cpu = Cpu::default();
    let matrix = |ty, bytes: Vec<u8>| {
        let ty = TensorType::new(ty, vec![Dim::from(2i64), Dim::from(3i64)]);
        Const::from_bytes("w", ty, bytes).expect("the right length")
    };
    let codes = matrix(ScalarType::I8, vec![1, 2, 3, 0xff, 0x80, 0x7f]);
    let offset = cpu.pack(&codes, Layout::OffsetBinary).expect("codes");
    assert_eq!(offset, [0x81, 0x82, 0x83, 0x7f, 0, 0xff]);
    let packed = cpu.pack(&codes, Layout::PackedWeight).expect("codes");
    let (unpacked, _) = rsqc_cpu::pack::unpack_i8(&packed, 2, 3).expect("a packed matrix");
    assert_eq!(unpacked, [1, 2, 3, -1, -128, 127]);
    let wide = matrix(ScalarType::F64, vec![0; 48]);
    assert!(cpu.pack(&wide, Layout::PackedWeight).is_err());
}
