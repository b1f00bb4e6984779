//! Plans with random damage, past all digests: loading and running them is an error or works, never a panic and
//! never an access outside the buffers by the runtime itself (the kernels here touch nothing).
#![allow(unsafe_code)]

mod common;

use common::Plan;
use rsqc_artifact::KernelFn;
use rsqc_artifact::manifest::*;
use rsqc_runtime::{Model, Session, Tensor};
use std::sync::Arc;

unsafe extern "C" fn nothing(_: *const *mut u8, _: *const i64, _: *mut u8, _: i64, _: i64) {}

/// A plan with every kind of step.
fn everything() -> Manifest {
    let mut p = Plan::new();
    let (n, k) = (p.symbol("n", 0, 300), p.symbol("k", 0, 300));
    let i = p.symbol("i", 0, 10);
    let (one, two, four) = (p.int(1), p.int(2), p.int(4));
    let twice = p.mul(n, two);
    let x = p.input("x", ElemType::F32, &[n]);
    let y = p.input("y", ElemType::F32, &[twice]);
    let w = p.buffer(
        buffer::Kind::Weight(WeightRange {
            offset: 64,
            length: 64,
        }),
        ElemType::F32,
        &[four],
        (0, 99),
    );
    let out = p.output("out", ElemType::F32, &[n]);
    let late_out = p.output("late", ElemType::F32, &[k]);
    let host = p.buffer(buffer::Kind::Host(Unit {}), ElemType::I64, &[two], (0, 3));
    let a = p.arena(ElemType::F32, &[n, two], (1, 20));
    let half = p.arena(ElemType::F32, &[n], (2, 20));
    let late = p.arena(ElemType::F32, &[k], (4, 20));
    let kernel = p.kernel("nothing", 0);
    let tiles = p.ceil_div(n, 16);
    p.launch(0, kernel, &[x, w, host], &[n, twice], one);
    p.launch(0, kernel, &[x, y, a], &[n], tiles);
    let offset = p.mul(n, four);
    p.step(
        0,
        step::Kind::Alias(Alias {
            buffer: half,
            of: a,
            byte_offset: Some(offset),
        }),
    );
    let symbol = p.symbol_of(k);
    p.step(
        0,
        step::Kind::Bind(Bind {
            buffer: host,
            index: 1,
            symbol,
        }),
    );
    let op = CmpOp::Le.into();
    p.step(
        0,
        step::Kind::Check(Check {
            a: k,
            b: n,
            op,
            message: "m".into(),
            node: "n".into(),
        }),
    );
    let (body, then_block, other) = (p.block(), p.block(), p.block());
    let index_symbol = Some(p.symbol_of(i));
    let while_cond = Some(Plan::cond(i, CmpOp::Lt, four));
    p.step(
        0,
        step::Kind::Loop(Loop {
            trips: two,
            body,
            index_symbol,
            while_cond,
        }),
    );
    let cond = Some(Plan::cond(k, CmpOp::Eq, n));
    p.step(
        body,
        step::Kind::Branch(If {
            cond,
            then_block,
            else_block: Some(other),
        }),
    );
    p.launch(then_block, kernel, &[half, late], &[k, i], k);
    let bytes = p.m.buffers[late as usize].bytes;
    p.step(
        other,
        step::Kind::Copy(Copy {
            dst: late_out,
            src: late,
            bytes,
        }),
    );
    p.launch(0, kernel, &[a, out], &[], tiles);
    let bytes = p.m.buffers[out as usize].bytes;
    p.step(
        0,
        step::Kind::Copy(Copy {
            dst: out,
            src: half,
            bytes,
        }),
    );
    p.m
}

/// Loads and runs a plan; true if it ran to the end.
fn attempt(m: Manifest) -> bool {
    // A plan may loop as often as it says; that is not what is tested here.
    let constants = m.exprs.iter().filter_map(|e| match e.node {
        Some(expr::Node::Constant(c)) => Some(c),
        _ => None,
    });
    if constants.max().is_some_and(|c| c > 1000) || m.symbols.iter().any(|s| s.hi > 1000) {
        return false;
    }
    let kernels: Vec<KernelFn> = m.kernels.iter().map(|_| nothing as KernelFn).collect();
    let Ok(model) = Model::from_parts(m, kernels, Arc::new(vec![0u8; 256])) else {
        return false;
    };
    let mut session = Session::with_threads(&model, 1).expect("no threads needed");
    let mut ran = false;
    for n in [0i64, 3, 40] {
        let inputs: Vec<Tensor> = (model.manifest().inputs.iter().enumerate())
            .map(|(i, io)| {
                let dims = vec![if i == 0 { n } else { 2 * n }; io.dims.len().min(4)];
                let elements: i64 = dims.iter().product();
                Tensor {
                    elem: io.elem(),
                    data: vec![0; elements as usize * io.elem().size()],
                    dims,
                }
            })
            .collect();
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        ran |= session.run(&views).is_ok();
        let taps: Vec<u32> = (0..model.manifest().buffers.len() as u32).collect();
        for tap in taps {
            let _ = session.run_with_taps(&views, &[tap], &mut |_, _, _| {});
        }
    }
    ran
}

#[test]
fn the_plan_itself_runs() {
    assert!(attempt(everything()));
}

#[test]
fn flipped_bits_never_panic() {
    let good = encode(&everything());
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let (mut decoded, mut ran) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % bytes.len();
            bytes[at] ^= 1 << (random() % 8);
        }
        if let Ok(m) = decode(&bytes) {
            decoded += 1;
            ran += u32::from(attempt(m));
        }
    }
    assert!(decoded > 1000 && ran > 100, "{decoded} decoded, {ran} ran");
}

#[test]
fn cut_manifests_never_panic() {
    let good = encode(&everything());
    for end in 0..good.len() {
        if let Ok(m) = decode(&good[..end]) {
            attempt(m);
        }
    }
}
