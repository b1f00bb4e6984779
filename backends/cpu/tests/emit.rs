//! The emit layer: every operation gives the same bits as Rust's at every level of this machine.

mod common;

use common::{Random, build};
use rsqc_cpu::level::{Level, host_levels};
use rsqc_cpu::llvm::{Any, Elem, Emit, Lanes, Output, Parameter, Routine, Vector, Worker};
use rsqc_cpu::relocate::{RelocateError, merge, merge_with};
use std::collections::BTreeMap;
use std::sync::Arc;

/// out[i] = f(x[i]) for params[0] floats, in vectors of 16 with a partial last one.
fn map_kernel<'c>(e: &Emit<'c>, f: &dyn Fn(&Emit<'c>, Vector<'c>) -> Vector<'c>) {
    let (from, to, count) = (e.buf(0), e.buf(1), e.param(0));
    e.for_range(e.tile_begin(), e.tile_end(), e.i64(1), |tile| {
        let start = e.mul(tile, e.i64(16));
        let left = e.imin(e.sub(count, start), e.i64(16));
        let lanes = Lanes::First(left);
        let x = e.load(Elem::F32, 16, e.at_index(from, start, 4), lanes);
        e.store(f(e, x), e.at_index(to, start, 4), lanes);
    });
}

fn specials() -> Vec<f32> {
    let mut random = Random(3);
    let mut values = vec![
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.3,
        -0.3,
        0.999_999_94,
        8_388_607.5,
        -8_388_607.5,
        8_388_608.0,
        8_388_609.0,
        1e30,
        -1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        1e-45,
        4_194_303.5,
    ];
    values.extend(
        (0..1000)
            .map(|_| f32::from_bits(random.bits()))
            .filter(|x| !x.is_nan()),
    );
    values.extend((0..1000).map(|_| random.unit() * 1000.0));
    values
}

type Op = (
    &'static str,
    for<'a, 'c> fn(&'a Emit<'c>, Vector<'c>) -> Vector<'c>,
    fn(f32) -> f32,
);

#[test]
fn float_operations_match_rust() {
    let ops: [Op; 7] = [
        ("round_even", |e, x| e.round_even(x), f32::round_ties_even),
        ("floor", |e, x| e.floor(x), f32::floor),
        ("ceil", |e, x| e.ceil(x), f32::ceil),
        ("trunc", |e, x| e.trunc(x), f32::trunc),
        ("sqrt", |e, x| e.sqrt(e.fabs(x)), |x| x.abs().sqrt()),
        ("muladd", |e, x| e.fadd(e.fmul(x, x), x), |x| x * x + x),
        (
            "round_to_i32",
            |e, x| e.to_f32(e.round_to_i32(x)),
            |x| {
                if x.abs() < 2_147_483_648.0 {
                    x.round_ties_even() + 0.0
                } else {
                    -2_147_483_648.0
                }
            },
        ),
    ];
    let worker = Worker::new().expect("llvm has x86");
    let mut input = specials();
    for (name, op, reference) in ops {
        let kernel = build(&worker, |e| map_kernel(e, &op));
        for level in host_levels() {
            let mut output = vec![7.0f32; input.len() + 1];
            let bufs = [input.as_mut_ptr().cast(), output.as_mut_ptr().cast()];
            let tiles = input.len().div_ceil(16) as i64;
            kernel.call(level, &bufs, &[input.len() as i64], &mut [0; 16], (0, tiles));
            for (x, y) in input.iter().zip(&output) {
                assert_eq!(
                    reference(*x).to_bits(),
                    y.to_bits(),
                    "{name} of {x:e} at {level}: {y:e}"
                );
            }
            assert_eq!(output.last(), Some(&7.0), "{name} wrote past its end at {level}");
        }
    }
}

#[test]
fn partial_bytes_and_loops() {
    // Doubles params[0] bytes, in vectors of 16, widening and narrowing; and counts what it did in a carried loop.
    let worker = Worker::new().expect("llvm has x86");
    let kernel = build(&worker, |e| {
        let (from, to, count) = (e.buf(0), e.buf(1), e.param(0));
        let seen = e.fold(e.i64(0), count, e.i64(16), &[e.i64(0).into()], |start, seen| {
            let left = e.imin(e.sub(count, start), e.i64(16));
            let x = e.sext(
                e.load(Elem::I8, 16, e.at(from, start), Lanes::First(left)),
                Elem::I32,
            );
            e.store(
                e.narrow(e.add(x, x), Elem::I8),
                e.at(to, start),
                Lanes::First(left),
            );
            vec![e.add(seen[0].into_int_value(), left).into()]
        });
        e.store_scalar(seen[0].into_int_value(), e.buf(2));
    });
    for level in host_levels() {
        for count in [0usize, 1, 15, 16, 17, 100] {
            let mut input: Vec<i8> = (0..count).map(|i| i as i8 - 40).collect();
            let mut output = vec![99i8; count + 16];
            let mut seen = -1i64;
            let bufs = [
                input.as_mut_ptr().cast(),
                output.as_mut_ptr().cast(),
                (&raw mut seen).cast(),
            ];
            kernel.call(level, &bufs, &[count as i64], &mut [0; 16], (0, 1));
            assert_eq!(seen, count as i64);
            let expected: Vec<i8> = input.iter().map(|x| x.wrapping_mul(2)).chain([99; 16]).collect();
            assert_eq!(output, expected, "{count} bytes at {level}");
        }
    }
}

#[test]
fn sixteen_partial_sums_are_combined_8_4_2_1() {
    let worker = Worker::new().expect("llvm has x86");
    let kernel = build(&worker, |e| {
        let x = e.load(Elem::F32, 16, e.buf(0), Lanes::All);
        e.store_scalar(e.reduce_sum(x), e.buf(1));
    });
    let mut random = Random(9);
    for _ in 0..50 {
        let mut x: Vec<f32> = (0..16).map(|i| random.unit() * 10f32.powi(i % 7)).collect();
        let mut expected = x.clone();
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                expected[i] += expected[i + width];
            }
        }
        for level in host_levels() {
            let mut sum = 0f32;
            let bufs = [x.as_mut_ptr().cast(), (&raw mut sum).cast()];
            kernel.call(level, &bufs, &[], &mut [0; 16], (0, 1));
            assert_eq!(sum.to_bits(), expected[0].to_bits());
        }
    }
}

#[test]
fn libcalls_are_refused_by_name() {
    let worker = Worker::new().expect("llvm has x86");
    let e = worker.kernel(Level::Portable);
    let x = e.load(Elem::F32, 4, e.buf(0), Lanes::All);
    let ty = e.vector_type(Elem::F32, 4);
    let y = e
        .intrinsic("llvm.sin", &[ty.into()], &[x.into()])
        .into_vector_value();
    e.store(y, e.buf(0), Lanes::All);
    let object = worker
        .finish(e, Output::Object)
        .expect("llvm itself does not mind");
    let objects = BTreeMap::from([(("wave".to_owned(), Level::Portable), object)]);
    match merge(&objects) {
        Err(RelocateError::Undefined { kernel, symbol }) => {
            assert_eq!((kernel.as_str(), symbol.as_str()), ("wave", "sinf"));
        }
        other => panic!("{other:?}"),
    }
}

/// Stores its second argument where the first one points.
struct Put;

impl Routine for Put {
    fn symbol(&self) -> String {
        "subroutine_put".into()
    }
    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::Ptr, Parameter::Int]
    }
    fn emit<'c>(&self, e: &Emit<'c>, arguments: &[Any<'c>]) {
        e.store_scalar(arguments[1], arguments[0].into_pointer_value());
    }
}

#[test]
fn a_routine_stands_once_a_level() {
    let worker = Worker::new().expect("llvm has x86");
    let object = |e| worker.finish(e, Output::Object).expect("a kernel");
    let key = |name: &str, level| (name.to_owned(), level);
    let mut kernels = BTreeMap::new();
    let mut routines = BTreeMap::new();
    for level in [Level::Portable, Level::Avx2] {
        for (name, value) in [("one", 1), ("two", 2)] {
            let e = worker.kernel_alone(level);
            let put = e.routine(Arc::new(Put));
            e.call_subroutine(put, &[e.buf(0).into(), e.i64(value).into()]);
            let called: Vec<String> = e.routines_outside().iter().map(|r| r.symbol()).collect();
            assert_eq!(called, ["subroutine_put"]);
            kernels.insert(key(name, level), object(e));
        }
        routines.insert(
            key("subroutine_put", level),
            object(worker.routine(level, &Put, true)),
        );
    }
    let blob = merge_with(&kernels, &routines).expect("everything is there");
    // Both levels store a number with the same instruction, so that everything stands once: routine, one, two.
    assert_eq!(blob.entries[&key("one", Level::Portable)], 64);
    assert_eq!(blob.entries[&key("one", Level::Avx2)], 64);
    assert_eq!(blob.entries[&key("two", Level::Avx2)], 128);
    // The routines of another level are no substitute.
    routines.remove(&key("subroutine_put", Level::Avx2));
    match merge_with(&kernels, &routines) {
        Err(RelocateError::Undefined { kernel, symbol }) => {
            assert_eq!((kernel.as_str(), symbol.as_str()), ("one", "subroutine_put"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_objects_are_errors() {
    let worker = Worker::new().expect("llvm has x86");
    let e = worker.kernel(Level::Portable);
    e.store(e.f32s(1.25, 4), e.buf(0), Lanes::All);
    let object = worker.finish(e, Output::Object).expect("a kernel");
    let key = ("k".to_owned(), Level::Portable);
    for cut in 0..object.len() {
        // Whatever is left must be refused or merged, never panic.
        let _ = merge(&BTreeMap::from([(key.clone(), object[..cut].to_vec())]));
    }
    assert!(merge(&BTreeMap::from([(key, object)])).is_ok());
}

#[test]
fn the_same_kernels_give_the_same_bytes() {
    let make = || {
        let worker = Worker::new().expect("llvm has x86");
        let mut objects = BTreeMap::new();
        for level in Level::ALL {
            for name in ["a", "b"] {
                let e = worker.kernel(level);
                map_kernel(&e, &|e, x| e.fmul(x, e.f32s(1.75, 16)));
                objects.insert(
                    (name.to_owned(), level),
                    worker.finish(e, Output::Object).expect("a kernel"),
                );
            }
        }
        merge(&objects).expect("self-contained")
    };
    let blob = make();
    assert_eq!(blob, make());
    assert!(blob.entries.values().all(|offset| offset % 64 == 0));
    // `a` and `b` are the same code; levels of other vector widths are not.
    let at = |name: &str, level| blob.entries[&(name.to_owned(), level)];
    for level in Level::ALL {
        assert_eq!(at("a", level), at("b", level));
    }
    assert_ne!(at("a", Level::Portable), at("a", Level::Avx512Vnni));
}

#[test]
fn text_output_is_readable() {
    let worker = Worker::new().expect("llvm has x86");
    let text = |output| {
        let e = worker.kernel(Level::Avx512Vnni);
        map_kernel(&e, &|e, x| e.fadd(x, x));
        String::from_utf8(worker.finish(e, output).expect("a kernel")).expect("text")
    };
    assert!(text(Output::Asm).contains("vaddps"));
    assert!(text(Output::Ir).contains("fadd <16 x float>"));
}
