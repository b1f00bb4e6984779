//! Real artifacts: the template with hand-assembled kernels, loaded, called, damaged.

#[path = "../../../backends/runtime/tests/common/mod.rs"]
mod common;

use common::Plan;
use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSymbol};
use rsqc::template::TEMPLATE;
use rsqc_artifact::container;
use rsqc_artifact::manifest::*;
use rsqc_runtime::{Artifact, ArtifactSession, Level, RuntimeError, SessionOptions, Tensor, cpu};
use std::path::{Path, PathBuf};
use std::process::Command;

/// x86-64 kernels, each at a multiple of 64 bytes. Arguments: rdi buffers, rsi parameters, rcx and r8 tiles.
fn code() -> Vec<u8> {
    // out[i] = a[i] + b[i], 16 elements a tile: load the three addresses and n; scale the range by 16 and clip it to
    // n; movss, addss, movss, inc, loop.
    let add: &[u8] = b"\x4c\x8b\x0f\x4c\x8b\x57\x08\x4c\x8b\x5f\x10\x48\x8b\x06\x48\xc1\xe1\x04\x49\xc1\xe0\x04\x49\x39\xc0\
        \x4c\x0f\x4f\xc0\x4c\x39\xc1\x7d\x17\xf3\x41\x0f\x10\x04\x89\xf3\x41\x0f\x58\x04\x8a\xf3\x41\x0f\x11\x04\x8b\
        \x48\xff\xc1\xeb\xe4\xc3";
    // *(i64 *)out = how many of the n elements of a are above 0: comiss and inc, from the end.
    let count: &[u8] =
        b"\x4c\x8b\x0f\x4c\x8b\x57\x08\x48\x8b\x0e\x31\xc0\x0f\x57\xc9\x48\xff\xc9\x78\x10\xf3\x41\x0f\x10\
        \x04\x89\x0f\x2f\xc1\x76\xf0\x48\xff\xc0\xeb\xeb\x49\x89\x02\xc3";
    // out[tile] = 1.0f / 3.0f under the rounding mode in force: cvtsi2ss twice, divss, movss.
    let third: &[u8] =
        b"\x4c\x8b\x1f\x4c\x39\xc1\x7d\x21\xb8\x01\x00\x00\x00\xf3\x0f\x2a\xc0\xb8\x03\x00\x00\x00\xf3\x0f\
        \x2a\xc8\xf3\x0f\x5e\xc1\xf3\x41\x0f\x11\x04\x8b\x48\xff\xc1\xeb\xda\xc3";
    // out[i] = a[i] for n elements of 4 bytes.
    let copy: &[u8] =
        b"\x4c\x8b\x0f\x4c\x8b\x5f\x08\x48\x8b\x0e\x48\xff\xc9\x78\x0a\x41\x8b\x04\x89\x41\x89\x04\x8b\xeb\
        \xf1\xc3";
    let mut blob = Vec::new();
    for kernel in [add, count, third, copy] {
        blob.extend_from_slice(kernel);
        blob.resize(blob.len().next_multiple_of(64), 0xCC);
    }
    blob
}

const ADD: u64 = 0;
const COUNT: u64 = 64;
const THIRD: u64 = 128;
const COPY: u64 = 192;

/// A folder of its own for each test, removed with the value.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, plan: &Plan, weights: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    container::write(TEMPLATE, &plan.m, &code(), weights, &mut bytes).expect("writes");
    std::fs::write(path, &bytes).expect("room on disk");
    bytes
}

/// out[n] = a[n] + b[n].
fn add_plan() -> Plan {
    let mut p = Plan::new();
    let n = p.symbol("n", 0, 1_000_000);
    let (a, b) = (
        p.input("a", ElemType::F32, &[n]),
        p.input("b", ElemType::F32, &[n]),
    );
    let out = p.output("out", ElemType::F32, &[n]);
    let k = p.kernel("f32_add", ADD);
    let tiles = p.ceil_div(n, 16);
    p.launch(0, k, &[a, b, out], &[n], tiles);
    p
}

/// out[n] = a[n] + w[n], with `count` weights of `n` elements added one after the other.
fn weight_plan(n: i64, count: u64) -> Plan {
    let mut p = Plan::new();
    let len = p.int(n);
    let tiles = p.int((n + 15) / 16);
    let a = p.input("a", ElemType::F32, &[len]);
    let out = p.output("out", ElemType::F32, &[len]);
    let k = p.kernel("f32_add", ADD);
    let length = n as u64 * 4;
    for i in 0..count {
        let range = WeightRange {
            offset: i * length.next_multiple_of(64),
            length,
        };
        let w = p.buffer(buffer::Kind::Weight(range), ElemType::F32, &[len], (0, 99));
        p.launch(0, k, &[if i == 0 { a } else { out }, w, out], &[len], tiles);
    }
    p
}

fn floats(n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|i| i as f32 * scale).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32(&[values.len() as i64], values)
}

#[test]
fn the_template_needs_libc_only_and_exports_one_function() {
    let aligned = TEMPLATE.to_vec();
    let file = ElfFile64::<LittleEndian>::parse(&*aligned).expect("a shared library");
    let mut needed: Vec<String> = Vec::new();
    let sections = file.elf_section_table();
    let (dynamic, strings) = sections
        .dynamic(LittleEndian, &*aligned)
        .expect("readable")
        .expect("a dynamic section");
    let strings = sections
        .strings(LittleEndian, &*aligned, strings)
        .expect("strings");
    let mut init_bytes = 0;
    for entry in dynamic {
        let value = entry.d_val(LittleEndian);
        match entry.d_tag(LittleEndian) {
            elf::DT_NEEDED => {
                let name = strings.get(u32::try_from(value).expect("small")).expect("a name");
                needed.push(String::from_utf8_lossy(name).into_owned());
            }
            elf::DT_TEXTREL => panic!("text relocations"),
            elf::DT_INIT_ARRAYSZ => init_bytes = value,
            _ => {}
        }
    }
    needed.sort();
    assert!(
        needed
            .iter()
            .all(|n| n == "libc.so.6" || n.starts_with("ld-linux")),
        "{needed:?}"
    );
    assert!(init_bytes <= 16, "constructors of our own: {init_bytes} bytes");
    let exports: Vec<&str> = file
        .dynamic_symbols()
        .filter(|s| s.is_definition())
        .map(|s| s.name().expect("a name"))
        .collect();
    assert_eq!(exports, ["rsqc_model_api"]);
    let text = String::from_utf8_lossy(TEMPLATE);
    let own = env!("CARGO_MANIFEST_DIR");
    let root = Path::new(own)
        .ancestors()
        .nth(2)
        .and_then(Path::to_str)
        .expect("a folder");
    assert!(
        !text.contains(root) && !text.contains("/.cargo/"),
        "a builder's path"
    );
    let floor = text.split("GLIBC_2.").skip(1).filter_map(|t| {
        t.split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|minor| minor.parse::<u32>().ok())
    });
    assert!(
        floor.max().is_some_and(|minor| minor <= 36),
        "needs a newer C library than wanted"
    );
    assert!(TEMPLATE.len() < 1_500_000, "{} bytes", TEMPLATE.len());
    let header = object::elf::FileHeader64::<LittleEndian>::parse(&*aligned).expect("an ELF header");
    assert!(
        header
            .section_headers(LittleEndian, &*aligned)
            .expect("sections")
            .iter()
            .all(|s| s.sh_type(LittleEndian) != elf::SHT_SYMTAB),
        "not stripped"
    );
}

#[test]
fn an_artifact_runs() {
    let dir = folder();
    let path = dir.path().join("add.so");
    write(&path, &add_plan(), &[]);
    let artifact = Artifact::open(&path).expect("opens");
    assert_eq!(artifact.manifest().model_name, "hand-made");
    assert_eq!(
        artifact.level(),
        cpu::level_from_env()
            .expect("known")
            .unwrap_or(cpu::best_level())
            .name()
    );
    for threads in [1, 2, 4] {
        let mut session = ArtifactSession::with_threads(&artifact, threads).expect("threads");
        for n in [0usize, 1, 15, 16, 17, 100, 99_999, 5] {
            let (a, b) = (floats(n, 0.5), floats(n, 3.0));
            let out = session
                .run(&[tensor(&a).view(), tensor(&b).view()])
                .expect("runs");
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(out[0].to_f32(), Some(expected), "{n}");
        }
        let error = session
            .run(&[tensor(&[1.0]).view(), tensor(&[1.0, 2.0]).view()])
            .expect_err("n differs");
        assert_eq!(
            error.to_string(),
            "input 'b', dimension 0: expected n = 1, found 2"
        );
        assert_eq!(
            session
                .infer(&[tensor(&[1.0]).view(), tensor(&[1.0]).view()])
                .expect("fits"),
            [[Some(1)]]
        );
    }
    let profiled = SessionOptions {
        threads: 1,
        spin_us: 0,
        parallel_for: None,
    };
    let mut session = ArtifactSession::new(&artifact, &profiled, true).expect("a session");
    session
        .run(&[tensor(&[1.0]).view(), tensor(&[2.0]).view()])
        .expect("runs");
    assert_eq!(session.step_times().expect("profiled").len(), 1);
}

#[test]
fn levels_are_forced_or_refused() {
    let dir = folder();
    let path = dir.path().join("add.so");
    write(&path, &add_plan(), &[]);
    for level in Level::ALL {
        let opened = Artifact::open_at(&path, Some(level.name()));
        match opened {
            Ok(artifact) => assert_eq!(artifact.level(), level.name()),
            Err(RuntimeError::Cpu(_)) => assert!(!cpu::supports(level)),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(
        Artifact::open_at(&path, Some("mmx")),
        Err(RuntimeError::Invalid(_))
    ));
}

#[test]
fn sizes_that_are_computed_in_the_run() {
    // k = count(x > 0); out = the first k elements of x.
    let mut p = Plan::new();
    let (n, k) = (p.symbol("n", 0, 100_000), p.symbol("k", 0, 100_000));
    let one = p.int(1);
    let x = p.input("x", ElemType::F32, &[n]);
    let found = p.buffer(buffer::Kind::Host(Unit {}), ElemType::I64, &[one], (0, 1));
    let out = p.output("out", ElemType::F32, &[k]);
    let (count, copy) = (p.kernel("count", COUNT), p.kernel("copy", COPY));
    p.launch(0, count, &[x, found], &[n], one);
    let symbol = p.symbol_of(k);
    p.step(
        0,
        step::Kind::Bind(Bind {
            buffer: found,
            index: 0,
            symbol,
        }),
    );
    p.launch(0, copy, &[x, out], &[k], one);
    let dir = folder();
    let path = dir.path().join("late.so");
    write(&path, &p, &[]);
    let mut session =
        ArtifactSession::with_threads(&Artifact::open(&path).expect("opens"), 2).expect("threads");
    for values in [vec![3.0, -1.0, 2.0], vec![-1.0; 9], vec![], vec![1.0; 70_000]] {
        let out = session.run(&[tensor(&values).view()]).expect("runs");
        let k = values.iter().filter(|v| **v > 0.0).count();
        assert_eq!(out[0].to_f32().as_deref(), Some(&values[..k]));
    }
    assert_eq!(session.infer(&[tensor(&[1.0]).view()]).expect("fits"), [[None]]);
}

#[test]
fn two_artifacts_and_many_threads_in_one_process() {
    let dir = folder();
    let mut artifacts = Vec::new();
    for scale in [1.0, 10.0] {
        let path = dir.path().join(format!("w{scale}.so"));
        write(&path, &weight_plan(1000, 1), &[&bytes_of(&floats(1000, scale))]);
        artifacts.push((scale, Artifact::open(&path).expect("opens")));
    }
    assert_ne!(artifacts[0].1.root(), artifacts[1].1.root());
    std::thread::scope(|scope| {
        for i in 0..64 {
            let (scale, artifact) = &artifacts[i % 2];
            scope.spawn(move || {
                let mut session = ArtifactSession::with_threads(artifact, 1 + i % 3).expect("threads");
                for _ in 0..5 {
                    let out = session.run(&[tensor(&floats(1000, 1.0)).view()]).expect("runs");
                    assert_eq!(out[0].to_f32(), Some(floats(1000, 1.0 + scale)));
                }
            });
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_hostile_rounding_mode_changes_nothing() {
    let mut p = Plan::new();
    let n = p.int(1000);
    let out = p.output("out", ElemType::F32, &[n]);
    let k = p.kernel("third", THIRD);
    p.launch(0, k, &[out], &[], n);
    let dir = folder();
    let path = dir.path().join("third.so");
    write(&path, &p, &[]);
    let artifact = Artifact::open(&path).expect("opens");
    let before = cpu::read_mxcsr();
    cpu::write_mxcsr(0x1F80 | 0x4000);
    let result = ArtifactSession::with_threads(&artifact, 3).and_then(|mut s| s.run(&[]));
    let kept = cpu::read_mxcsr();
    cpu::write_mxcsr(before);
    assert_eq!(kept & 0x6000, 0x4000);
    assert_eq!(result.expect("runs")[0].to_f32(), Some(vec![1.0 / 3.0; 1000]));
}

#[test]
fn damage_is_found_before_anything_runs() {
    let dir = folder();
    let path = dir.path().join("good.so");
    let good = write(
        &path,
        &weight_plan(1000, 2),
        &[&bytes_of(&floats(1000, 1.0)), &bytes_of(&floats(1000, 2.0))],
    );
    let index = container::read(&good).expect("reads").tail().index;
    let bad = dir.path().join("bad.so");
    let mut number = 0;
    let mut flip = |at: u64, unchecked: bool| {
        let mut bytes = good.clone();
        bytes[at as usize] ^= 1 << (at % 8);
        // A new name each time: the loader knows a library it has loaded by its inode and name.
        number += 1;
        let bad = bad.with_extension(format!("{number}.so"));
        std::fs::write(&bad, &bytes).expect("room on disk");
        assert!(Artifact::open(&bad).is_err(), "byte {at}, checked by the tools");
        if unchecked {
            let error = Artifact::open_unchecked(&bad, None)
                .expect_err("the runtime finds it")
                .to_string();
            assert!(
                error.contains("damaged") || error.contains("version"),
                "byte {at}: {error}"
            );
        }
        std::fs::remove_file(&bad).expect("was written");
    };
    for at in (0..index.anchor_offset).step_by(20_011) {
        flip(at, false);
    }
    for field in 0..6 {
        flip(index.anchor_offset + 16 + 8 * field, true);
    }
    for (begin, len) in [index.manifest, index.code, index.weights] {
        for at in [0, 1, len / 2, len - 1] {
            flip(begin + at, true);
        }
    }
    for back in [1, 20, 33, 41, 50, 60, 70, 100, 130, 200, 230] {
        flip(good.len() as u64 - back, true);
    }
}

#[test]
fn truncation_is_an_error_and_not_a_signal() {
    let dir = folder();
    let weights = bytes_of(&floats(100_000, 1.0));
    let good = write(&dir.path().join("good.so"), &weight_plan(100_000, 1), &[&weights]);
    let index = container::read(&good).expect("reads").tail().index;
    // The template's own pages are touched by the loader itself; what rsqc appended is the runtime's to probe.
    let mut cuts = vec![
        good.len() as u64 - 1,
        good.len() as u64 - 64,
        good.len() as u64 - 300,
    ];
    for (begin, len) in [index.manifest, index.code, index.weights] {
        cuts.extend([
            begin - 1,
            begin,
            begin + 1,
            begin + len - 1,
            begin + len,
            begin + len + 1,
        ]);
    }
    for (number, cut) in cuts.into_iter().enumerate() {
        let path = dir.path().join(format!("cut{number}.so"));
        std::fs::write(&path, &good[..cut as usize]).expect("room on disk");
        assert!(Artifact::open(&path).is_err(), "{cut}");
        assert!(Artifact::open_unchecked(&path, None).is_err(), "{cut}");
    }
}

#[test]
fn large_weights_are_checked_at_first_use() {
    // Four weights of 10 MB: above the limit, so that open checks none of them.
    let n = 2_500_000usize;
    let weights: Vec<Vec<u8>> = (0..4).map(|i| bytes_of(&floats(n, i as f32))).collect();
    let slices: Vec<&[u8]> = weights.iter().map(Vec::as_slice).collect();
    let dir = folder();
    let path = dir.path().join("large.so");
    let good = write(&path, &weight_plan(n as i64, 4), &slices);
    let x = tensor(&vec![0.0; n]);
    let mut session =
        ArtifactSession::with_threads(&Artifact::open_unchecked(&path, None).expect("opens"), 2)
            .expect("threads");
    for _ in 0..2 {
        let out = session.run(&[x.view()]).expect("intact");
        assert_eq!(out[0].to_f32(), Some(floats(n, 6.0)));
    }
    let index = container::read(&good).expect("reads").tail().index;
    let mut bytes = good;
    bytes[(index.weights.0 + 35_000_000) as usize] ^= 1;
    let bad = dir.path().join("bad.so");
    std::fs::write(&bad, &bytes).expect("room on disk");
    let artifact = Artifact::open_unchecked(&bad, None).expect("not looked at yet");
    let mut session = ArtifactSession::with_threads(&artifact, 2).expect("threads");
    for _ in 0..2 {
        let error = session.run(&[x.view()]).expect_err("the last weight is damaged");
        assert!(
            matches!(&error, RuntimeError::Corrupt(text) if text.contains("weight chunk")),
            "{error}"
        );
    }
    assert!(Artifact::open(&bad).is_err(), "the tools check everything first");
}

#[test]
fn other_files_are_refused() {
    let dir = folder();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("room on disk");
        (
            Artifact::open(&path).expect_err("tools"),
            Artifact::open_unchecked(&path, None).expect_err("loader"),
        )
    };
    let (_, bare) = refused("bare.so", TEMPLATE);
    assert!(bare.to_string().contains("bare template"), "{bare}");
    refused("empty.so", b"");
    refused("text.so", b"#!/bin/sh\nexit 0\n");
    assert!(matches!(Artifact::open(dir.path()), Err(RuntimeError::Io(_))));
    assert!(matches!(
        Artifact::open(&dir.path().join("missing")),
        Err(RuntimeError::Io(_))
    ));
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("a workspace")
        .to_path_buf()
}

/// Compiles a C program, or `None` (with a message) if there is no compiler.
fn compile_c(source: &str, program: &Path) -> Option<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I"]);
    command
        .arg(root().join("backends/artifact/include"))
        .arg(root().join(source))
        .arg("-o")
        .arg(program)
        .arg("-ldl");
    match command.output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(())
        }
        Err(error) => {
            eprintln!("skipped: no C compiler ({compiler}: {error})");
            None
        }
    }
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn callers_in_c_and_python_agree() {
    let dir = folder();
    let artifact = dir.path().join("add.so");
    write(&artifact, &add_plan(), &[]);
    let Some(()) = compile_c("tools/rsqc/tests/c/abi.c", &dir.path().join("abi")) else {
        return;
    };
    assert_eq!(
        stdout(Command::new(dir.path().join("abi")).arg(&artifact)),
        "ok\n"
    );
    compile_c("examples/c/run_model.c", &dir.path().join("run_model")).expect("the compiler is there");
    let told = stdout(
        Command::new(dir.path().join("run_model"))
            .arg(&artifact)
            .arg("n=23"),
    );
    assert!(told.contains(
        "symbol n: 0..1000000, here 23\ninput a: f32 [n]\ninput b: f32 [n]\noutput out: f32 [n]\n"
    ));
    let result = told.lines().last().expect("a result").to_owned();
    assert!(result.starts_with("result 0: [23] checksum "), "{told}");
    let header = root().join("backends/artifact/include/rsqc_model.h");
    let cxx = Command::new("c++")
        .args(["-x", "c++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .arg(header)
        .output();
    match cxx {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!("skipped: no C++ compiler ({error})"),
    }
    let python = std::env::var("RSQC_PYTHON").unwrap_or_else(|_| "python3".into());
    let numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    if !numpy.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no numpy");
        return;
    }
    let script = root().join("examples/python/run_model.py");
    let told = stdout(Command::new(python).arg(script).arg(&artifact).arg("n=23"));
    assert_eq!(told.lines().last(), Some(result.as_str()), "{told}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let dir = folder();
    let weights = bytes_of(&floats(1000, 1.0));
    let first = write(&dir.path().join("a.so"), &weight_plan(1000, 1), &[&weights]);
    let second = write(&dir.path().join("b.so"), &weight_plan(1000, 1), &[&weights]);
    assert_eq!(first, second);
}
