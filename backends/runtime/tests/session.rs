//! Plans of hand-made kernels, run in this process.
#![allow(unsafe_code)]

mod common;

use common::Plan;
use rsqc_artifact::KernelFn;
use rsqc_artifact::manifest::*;
use rsqc_runtime::{Model, RuntimeError, Session, Tensor};
use std::sync::Arc;

/// Elements of one tile of the kernels below.
const TILE: i64 = 16;

/// `out[i] = a[i] + b[i]`; params: element count.
unsafe extern "C" fn add(bufs: *const *mut u8, params: *const i64, _: *mut u8, begin: i64, end: i64) {
    // SAFETY: the plan passes three f32 buffers of `params[0]` elements.
    unsafe {
        let (a, b, out) = (
            (*bufs).cast::<f32>(),
            (*bufs.add(1)).cast::<f32>(),
            (*bufs.add(2)).cast::<f32>(),
        );
        for i in begin * TILE..(end * TILE).min(*params) {
            *out.add(i as usize) = *a.add(i as usize) + *b.add(i as usize);
        }
    }
}

/// `out[i] = a[i] * 2`, through the thread's scratch; params: element count.
unsafe extern "C" fn double(
    bufs: *const *mut u8,
    params: *const i64,
    scratch: *mut u8,
    begin: i64,
    end: i64,
) {
    // SAFETY: the plan passes two f32 buffers of `params[0]` elements and 64 bytes of scratch.
    unsafe {
        let (a, out) = ((*bufs).cast::<f32>(), (*bufs.add(1)).cast::<f32>());
        assert!(scratch.addr().is_multiple_of(64) && out.addr().is_multiple_of(4));
        for i in begin * TILE..(end * TILE).min(*params) {
            *scratch.cast::<f32>() = *a.add(i as usize);
            *out.add(i as usize) = *scratch.cast::<f32>() * 2.0;
        }
    }
}

/// `out[0] = number of elements > 0` as i64; params: element count; one tile.
unsafe extern "C" fn count(bufs: *const *mut u8, params: *const i64, _: *mut u8, _: i64, _: i64) {
    // SAFETY: the plan passes an f32 buffer of `params[0]` elements and one i64.
    unsafe {
        let a = (*bufs).cast::<f32>();
        let positive = (0..*params).filter(|i| *a.add(*i as usize) > 0.0).count();
        *(*bufs.add(1)).cast::<i64>() = positive as i64;
    }
}

/// `out = the elements > 0`; params: element count; one tile.
unsafe extern "C" fn compress(bufs: *const *mut u8, params: *const i64, _: *mut u8, _: i64, _: i64) {
    // SAFETY: the plan sized `out` by `count`.
    unsafe {
        let (a, mut out) = ((*bufs).cast::<f32>(), (*bufs.add(1)).cast::<f32>());
        for i in 0..*params {
            let x = *a.add(i as usize);
            if x > 0.0 {
                *out = x;
                out = out.add(1);
            }
        }
    }
}

/// Writes 1/3 under the rounding mode in force.
unsafe extern "C" fn third(bufs: *const *mut u8, _: *const i64, _: *mut u8, begin: i64, end: i64) {
    // SAFETY: one f32 a tile.
    unsafe {
        for i in begin..end {
            *(*bufs).cast::<f32>().add(i as usize) =
                std::hint::black_box(1.0f32) / std::hint::black_box(3.0f32);
        }
    }
}

fn model(plan: Plan, kernels: Vec<KernelFn>) -> Arc<Model> {
    Model::from_parts(plan.m, kernels, Arc::new(Vec::<u8>::new())).expect("valid plan")
}

/// out = 2 * (a + b), shapes [n, 3] and [n, 3].
fn two_steps() -> Plan {
    let mut p = Plan::new();
    let n = p.symbol("n", 0, 100_000);
    let three = p.int(3);
    let count = p.mul(n, three);
    let tiles = p.ceil_div(count, TILE);
    let a = p.input("a", ElemType::F32, &[n, three]);
    let b = p.input("b", ElemType::F32, &[n, three]);
    let sum = p.arena(ElemType::F32, &[n, three], (0, 1));
    let out = p.output("out", ElemType::F32, &[n, three]);
    let (k0, k1) = (p.kernel("add", 0), p.kernel("double", 0));
    p.launch(0, k0, &[a, b, sum], &[count], tiles);
    p.launch(0, k1, &[sum, out], &[count], tiles);
    let scratch = p.int(64);
    if let Some(step::Kind::Launch(l)) = &mut p.m.blocks[0].steps[1].kind {
        l.scratch_bytes = Some(scratch);
    }
    p
}

fn ramp(n: i64, start: f32) -> Tensor {
    let values: Vec<f32> = (0..n * 3).map(|i| start + i as f32).collect();
    Tensor::from_f32(&[n, 3], &values)
}

#[test]
fn runs_many_shapes_on_any_number_of_threads() {
    let model = model(two_steps(), vec![add, double]);
    for threads in [1, 2, 5] {
        let mut session = Session::with_threads(&model, threads).expect("threads");
        for n in [0, 1, 5, 6, 1000, 33, 1, 2, 3, 4, 7, 8, 9, 10, 1000, 0] {
            let out = session
                .run(&[ramp(n, 1.0).view(), ramp(n, 10.0).view()])
                .expect("runs");
            let expected: Vec<f32> = (0..n * 3).map(|i| 2.0 * (11 + 2 * i) as f32).collect();
            assert_eq!(
                (out[0].dims.as_slice(), out[0].to_f32()),
                (&[n, 3][..], Some(expected))
            );
        }
    }
}

#[test]
fn wrong_inputs_are_explained() {
    let model = model(two_steps(), vec![add, double]);
    let mut session = Session::with_threads(&model, 1).expect("threads");
    let mut fail = |a: &Tensor, b: &Tensor| {
        session
            .run(&[a.view(), b.view()])
            .expect_err("must fail")
            .to_string()
    };
    let good = ramp(4, 0.0);
    assert_eq!(
        fail(&good, &ramp(5, 0.0)),
        "input 'b', dimension 0: expected n = 4, found 5"
    );
    let wide = Tensor::from_f32(&[4, 4], &[0.0; 16]);
    assert_eq!(fail(&wide, &good), "input 'a', dimension 1: expected 3, found 4");
    let flat = Tensor::from_f32(&[12], &[0.0; 12]);
    assert_eq!(
        fail(&flat, &good),
        "input 'a' has 1 dimensions [12], expected 2: [n, 3]"
    );
    let integer = Tensor::from_i64(&[4, 3], &[0; 12]);
    assert_eq!(fail(&good, &integer), "input 'b' has type i64, expected f32");
    let big = Tensor::from_f32(&[100_001, 3], &vec![0.0; 300_003]);
    assert_eq!(
        fail(&big, &good),
        "input 'a', dimension 0: expected n in 0..100000, n is 100001"
    );
    let short = Tensor {
        dims: vec![5, 3],
        ..good.clone()
    };
    assert!(fail(&short, &good).contains("60 bytes, 48 are given"));
    let negative = Tensor {
        dims: vec![-1, 3],
        ..good.clone()
    };
    assert!(fail(&negative, &good).contains("impossible shape"));
    assert!(session.run(&[good.view()]).is_err());
    assert!(session.run(&[good.view(), good.view()]).is_ok());
}

#[test]
fn dimension_expressions_are_solved_and_checked() {
    let mut p = Plan::new();
    let past = p.symbol("past", 0, 64);
    let n = p.symbol("n", 0, 64);
    let (one, two) = (p.int(1), p.int(2));
    let doubled = p.mul(n, two);
    let odd = p.add(doubled, one);
    let total = p.add(past, n);
    let mask = p.input("mask", ElemType::F32, &[total]);
    let _cache = p.input("cache", ElemType::F32, &[past]);
    let _odd = p.input("odd", ElemType::F32, &[odd]);
    let out = p.output("out", ElemType::F32, &[total]);
    let k = p.kernel("double", 0);
    let tiles = p.ceil_div(total, TILE);
    p.launch(0, k, &[mask, out], &[total], tiles);
    let scratch = p.int(4);
    if let Some(step::Kind::Launch(l)) = &mut p.m.blocks[0].steps[0].kind {
        l.scratch_bytes = Some(scratch);
    }
    let model = model(p, vec![double]);
    let mut session = Session::with_threads(&model, 1).expect("threads");
    let t = |n: usize| Tensor::from_f32(&[n as i64], &vec![1.0; n]);
    let out = session
        .run(&[t(5).view(), t(3).view(), t(5).view()])
        .expect("past 3, n 2");
    assert_eq!(out[0].to_f32(), Some(vec![2.0; 5]));
    let error = session
        .run(&[t(6).view(), t(3).view(), t(5).view()])
        .expect_err("3 + 2 is not 6");
    assert!(
        error.to_string().contains("'mask', dimension 0") || error.to_string().contains("'odd'"),
        "{error}"
    );
    assert!(
        session.run(&[t(5).view(), t(3).view(), t(4).view()]).is_err(),
        "2n+1 is never 4"
    );
}

/// count -> bind k -> compress into an output [k], then twice that through a loop of 3 doublings.
fn late_sizes() -> Plan {
    let mut p = Plan::new();
    let n = p.symbol("n", 0, 1000);
    let k = p.symbol("k", 0, 1000);
    let one = p.int(1);
    let input = p.input("x", ElemType::F32, &[n]);
    let found = p.buffer(buffer::Kind::Host(Unit {}), ElemType::I64, &[one], (0, 1));
    let packed = p.arena(ElemType::F32, &[k], (2, 9));
    let out = p.output("out", ElemType::F32, &[k]);
    let (kc, kp, kd) = (
        p.kernel("count", 0),
        p.kernel("compress", 0),
        p.kernel("double", 0),
    );
    p.launch(0, kc, &[input, found], &[n], one);
    let symbol = p.symbol_of(k);
    p.step(
        0,
        step::Kind::Bind(Bind {
            buffer: found,
            index: 0,
            symbol,
        }),
    );
    p.launch(0, kp, &[input, packed], &[n], one);
    let body = p.block();
    let trips = p.int(3);
    p.step(
        0,
        step::Kind::Loop(Loop {
            trips,
            body,
            ..Loop::default()
        }),
    );
    let tiles = p.ceil_div(k, TILE);
    p.launch(body, kd, &[packed, packed], &[k], tiles);
    let scratch = p.int(64);
    if let Some(step::Kind::Launch(l)) = &mut p.m.blocks[body as usize].steps[0].kind {
        l.scratch_bytes = Some(scratch);
    }
    let bytes = p.m.buffers[out as usize].bytes;
    p.step(
        0,
        step::Kind::Copy(Copy {
            dst: out,
            src: packed,
            bytes,
        }),
    );
    p
}

#[test]
fn data_dependent_sizes_and_loops() {
    let model = model(late_sizes(), vec![count, compress, double]);
    let mut session = Session::with_threads(&model, 2).expect("threads");
    for pattern in [
        vec![1.0, -1.0, 2.0, 0.0, 3.0],
        vec![-1.0; 7],
        vec![],
        vec![4.0; 500],
    ] {
        let n = pattern.len() as i64;
        let out = session
            .run(&[Tensor::from_f32(&[n], &pattern).view()])
            .expect("runs");
        let expected: Vec<f32> = pattern.iter().filter(|x| **x > 0.0).map(|x| x * 8.0).collect();
        assert_eq!(out[0].dims, [expected.len() as i64]);
        assert_eq!(out[0].to_f32(), Some(expected));
    }
    assert_eq!(session.infer(&[&[5]]).expect("fits"), vec![vec![None]]);
}

#[test]
fn branches_aliases_checks_and_variants() {
    // n <= 4: out = 2x; else out = x + x, written through an alias of the output's second half as well.
    let mut p = Plan::new();
    let n = p.symbol("n", 0, 100);
    let (two, four, limit) = (p.int(2), p.int(4), p.int(50));
    let x = p.input("x", ElemType::F32, &[n]);
    let out = p.output("out", ElemType::F32, &[two, n]);
    let half = p.arena(ElemType::F32, &[n], (1, 9));
    let (ka, kd) = (p.kernel("add", 0), p.kernel("double", 0));
    p.step(
        0,
        step::Kind::Check(Check {
            a: n,
            b: limit,
            op: CmpOp::Le.into(),
            message: "too long".into(),
            node: "/reshape".into(),
        }),
    );
    let bytes = p.mul(n, four);
    p.step(
        0,
        step::Kind::Alias(Alias {
            buffer: half,
            of: out,
            byte_offset: Some(bytes),
        }),
    );
    let (then_block, other) = (p.block(), p.block());
    let cond = Plan::cond(n, CmpOp::Le, four);
    p.step(
        0,
        step::Kind::Branch(If {
            cond: Some(cond),
            then_block,
            else_block: Some(other),
        }),
    );
    let tiles = p.ceil_div(n, TILE);
    p.launch(then_block, kd, &[x, out], &[n], tiles);
    p.launch(other, ka, &[x, x, out], &[n], tiles);
    p.launch(0, kd, &[x, half], &[n], tiles);
    let scratch = p.int(64);
    for block in &mut p.m.blocks {
        for step in &mut block.steps {
            if let Some(step::Kind::Launch(l)) = &mut step.kind {
                l.scratch_bytes = Some(scratch);
            }
        }
    }
    // The last launch has a variant that only fits n == 0, before the general one.
    let zero = p.int(0);
    if let Some(step::Kind::Launch(l)) = &mut p.m.blocks[0].steps[3].kind {
        let guards = vec![Plan::cond(n, CmpOp::Eq, zero)];
        l.variants.insert(
            0,
            Variant {
                kernel: ka,
                guards,
                ..Variant::default()
            },
        );
    }
    let model = model(p, vec![add, double]);
    let mut session = Session::with_threads(&model, 1).expect("threads");
    for n in [0i64, 3, 5, 40] {
        let x: Vec<f32> = (0..n).map(|i| i as f32 + 0.5).collect();
        let out = session.run(&[Tensor::from_f32(&[n], &x).view()]).expect("runs");
        let twice = || x.iter().map(|v| v * 2.0);
        assert_eq!(out[0].to_f32(), Some(twice().chain(twice()).collect()), "{n}");
    }
    let error = session
        .run(&[Tensor::from_f32(&[60], &[0.0; 60]).view()])
        .expect_err("check fails");
    assert_eq!(
        error.to_string(),
        "node '/reshape': too long (n <= 50 is false: 60 and 50)"
    );
    assert!(matches!(error, RuntimeError::Shape(_)));
}

#[test]
fn taps_and_times() {
    let model = model(two_steps(), vec![add, double]);
    let mut session = Session::with_threads(&model, 2).expect("threads");
    let mut seen = Vec::new();
    let out = session
        .run_with_taps(
            &[ramp(2, 1.0).view(), ramp(2, 1.0).view()],
            &[3, 2],
            &mut |buffer, dims, bytes| {
                seen.push((buffer, dims.to_vec(), bytes.to_vec()));
            },
        )
        .expect("runs");
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].0, &seen[0].1), (2, &vec![2, 3]));
    let sum = Tensor::from_f32(&[2, 3], &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    assert_eq!(seen[0].2, sum.data);
    assert_eq!((seen[1].0, &seen[1].2), (3, &out[0].data));
    assert!(
        session.run_with_taps(&[], &[0], &mut |_, _, _| {}).is_err(),
        "an input is never written"
    );
    let (_, times) = session
        .run_profiled(&[ramp(2, 1.0).view(), ramp(2, 1.0).view()])
        .expect("runs");
    assert_eq!(
        times.iter().map(|t| (t.step, t.calls)).collect::<Vec<_>>(),
        [(0, 1), (1, 1)]
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_hostile_rounding_mode_changes_nothing() {
    use rsqc_runtime::cpu::{read_mxcsr, write_mxcsr};
    let mut p = Plan::new();
    let n = p.int(4000);
    let out = p.output("out", ElemType::F32, &[n]);
    let k = p.kernel("third", 0);
    p.launch(0, k, &[out], &[], n);
    let model = model(p, vec![third]);
    let before = read_mxcsr();
    // Round up, flush denormals, denormals are zero.
    write_mxcsr(0x1F80 | 0x4000 | 0x8000 | 0x40);
    let mut session = Session::with_threads(&model, 4).expect("threads");
    let out = session.run(&[]).expect("runs");
    let kept = read_mxcsr();
    write_mxcsr(before);
    assert_eq!(
        kept & 0xFFC0,
        (0x1F80 | 0x4000 | 0x8000 | 0x40) & 0xFFC0,
        "the caller's mode is restored"
    );
    assert_eq!(out[0].to_f32(), Some(vec![1.0 / 3.0; 4000]));
}

#[test]
fn broken_plans_are_refused() {
    let refuse = |change: fn(&mut Manifest)| {
        let mut m = two_steps().m;
        change(&mut m);
        let kernels: Vec<KernelFn> = vec![add, double];
        let error = Model::from_parts(m, kernels, Arc::new(Vec::<u8>::new()));
        error.expect_err("must be refused").to_string()
    };
    fn launch(m: &mut Manifest) -> &mut Launch {
        match &mut m.blocks[0].steps[0].kind {
            Some(step::Kind::Launch(l)) => l,
            _ => panic!("a launch"),
        }
    }
    assert!(
        refuse(|m| m.version_major = 9).contains("the file has manifest 9.0, this reader knows manifest 1.0")
    );
    assert!(refuse(|m| m.blocks[0].steps[0].kind = None).contains("unknown kind"));
    assert!(refuse(|m| launch(m).args[0].buffer = 99).contains("buffer 99"));
    assert!(refuse(|m| launch(m).args[0].access = 1).contains("constant"));
    assert!(refuse(|m| launch(m).tiles = 99).contains("expression 99"));
    assert!(refuse(|m| launch(m).variants.clear()).contains("no kernel"));
    assert!(refuse(|m| launch(m).variants[0].kernel = 7).contains("kernel 7"));
    assert!(refuse(|m| m.buffers[2].last_step = 0).contains("outside its live range"));
    assert!(refuse(|m| m.buffers[2].bytes = 1000).contains("expression 1000"));
    assert!(refuse(|m| m.buffers[2].elem = 77).contains("element type 77"));
    assert!(refuse(|m| m.inputs[0].buffer = 1).contains("disagree"));
    assert!(refuse(|m| m.blocks.push(Block::default())).contains("never used"));
    assert!(refuse(|m| m.blocks.clear()).contains("no block"));
    assert!(refuse(|m| m.symbols[0].lo = 1 << 40).contains("empty range"));
    assert!(refuse(|m| m.exprs[0].node = None).contains("unknown kind"));
    assert!(refuse(|m| m.exprs[2].node = Some(expr::Node::Add(Pair { a: 2, b: 0 }))).contains("earlier"));
    let state = || {
        Some(step::Kind::State(State {
            buffer: 2,
            op: "append".into(),
        }))
    };
    assert!(refuse(|m| m.buffers[2].kind = Some(buffer::Kind::State(Unit {}))).contains("not supported"));
    let through_alias = refuse(|m| {
        let alias = Alias {
            buffer: 2,
            of: 0,
            byte_offset: None,
        };
        m.blocks[0].steps.insert(
            0,
            Step {
                kind: Some(step::Kind::Alias(alias)),
            },
        );
        m.buffers[2].last_step = 9;
    });
    assert!(through_alias.contains("constant"), "{through_alias}");
    let mut m = two_steps().m;
    m.blocks[0].steps[0].kind = state();
    let kernels: Vec<KernelFn> = vec![add, double];
    assert!(Model::from_parts(m, kernels, Arc::new(Vec::<u8>::new())).is_err());
    assert!(
        refuse(|m| {
            m.blocks[0].steps[0].kind = Some(step::Kind::Loop(Loop {
                trips: 0,
                body: 0,
                ..Loop::default()
            }));
        })
        .contains("used already")
    );
}

#[test]
fn weights_reach_the_kernels_aligned() {
    let mut p = Plan::new();
    let n = p.int(20);
    let offset = 64;
    let x = p.input("x", ElemType::F32, &[n]);
    let range = WeightRange { offset, length: 80 };
    let w = p.buffer(buffer::Kind::Weight(range), ElemType::F32, &[n], (0, 0));
    let out = p.output("out", ElemType::F32, &[n]);
    let k = p.kernel("add", 0);
    let tiles = p.int(2);
    p.launch(0, k, &[x, w, out], &[n], tiles);
    let mut bytes = vec![0u8; 64];
    bytes.extend((0..20).flat_map(|i| (i as f32).to_le_bytes()));
    let kernels: Vec<KernelFn> = vec![add];
    let model = Model::from_parts(p.m.clone(), kernels.clone(), Arc::new(bytes.clone())).expect("valid");
    assert!(model.weights().at(64).addr().is_multiple_of(64));
    let mut session = Session::with_threads(&model, 1).expect("threads");
    let out = session
        .run(&[Tensor::from_f32(&[20], &[1.0; 20]).view()])
        .expect("runs");
    assert_eq!(out[0].to_f32(), Some((1..21).map(|i| i as f32).collect()));
    bytes.truncate(140);
    assert!(
        Model::from_parts(p.m, kernels, Arc::new(bytes)).is_err(),
        "the weight lies outside"
    );
}
