//! Helpers of the tests: random numbers and tensors, graphs of one node.
#![allow(dead_code)]

use rsqc_ir::eval::{Data, EvalError, Tensor, run};
use rsqc_ir::ops::{InferCx, Op};
use rsqc_ir::{Graph, Module, Port, TensorType};

/// A small generator (SplitMix64), so that tests are the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        ((self.bits() >> 40) as f32) / (1u64 << 23) as f32 - 1.0
    }
    pub fn f32s(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor::new(
            shape.to_vec(),
            (0..n).map(|_| 4.0 * self.unit()).collect::<Vec<f32>>(),
        )
    }
    pub fn i8s(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor::new(
            shape.to_vec(),
            (0..n)
                .map(|_| (self.below(255) as i32 - 127) as i8)
                .collect::<Vec<i8>>(),
        )
    }
    pub fn i64s(&mut self, shape: &[usize], lo: i64, hi: i64) -> Tensor {
        let n = shape.iter().product();
        let v = (0..n).map(|_| lo + self.below((hi - lo) as usize) as i64);
        Tensor::new(shape.to_vec(), v.collect::<Vec<i64>>())
    }
    /// A shape of `rank` extents in 1..=max.
    pub fn shape(&mut self, rank: usize, max: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + self.below(max)).collect()
    }
}

pub fn f32t(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::new(shape.to_vec(), v.to_vec())
}

pub fn f32s(t: &Tensor) -> &[f32] {
    t.as_slice::<f32>().expect("an f32 tensor")
}

pub fn i64v(t: &Tensor) -> &[i64] {
    t.as_slice::<i64>().expect("an i64 tensor")
}

/// The plain type of a tensor.
pub fn type_of(t: &Tensor) -> TensorType {
    TensorType::new(t.elem(), t.shape.iter().map(|d| (*d).into()).collect())
}

/// A module of one node over inputs of these types.
pub fn module_of(op: Op, types: &[TensorType]) -> Result<Module, String> {
    let mut m = Module::default();
    let mut g = Graph::new();
    let ins: Vec<_> = types
        .iter()
        .enumerate()
        .map(|(i, t)| Some(g.add_input(&format!("x{i}"), t.clone())))
        .collect();
    let refs: Vec<Option<&TensorType>> = types.iter().map(Some).collect();
    let results = op.infer(&InferCx { symbols: &m.symbols }, &refs)?;
    let node = g.add_node(op, ins, results, "node".into());
    let outs = g.node(node).outputs.clone();
    g.set_outputs(
        outs.iter()
            .enumerate()
            .map(|(i, v)| Port {
                name: format!("y{i}"),
                value: *v,
            })
            .collect(),
    );
    m.graph = g;
    Ok(m)
}

/// Runs one op on tensors through the executor.
pub fn run_op(op: impl Into<Op>, ins: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let types: Vec<TensorType> = ins.iter().map(|t| type_of(t)).collect();
    run_typed(op, ins, &types)
}

/// Runs one op on tensors of given (perhaps quantized) types.
pub fn run_typed(op: impl Into<Op>, ins: &[&Tensor], types: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let m = module_of(op.into(), types)?;
    let ins: Vec<Tensor> = ins.iter().map(|t| (*t).clone()).collect();
    run(&m, &ins).map_err(|e: EvalError| e.to_string())
}

/// The only result of an op.
pub fn one(op: impl Into<Op>, ins: &[&Tensor]) -> Tensor {
    let mut out = run_op(op, ins).expect("the op runs");
    assert_eq!(out.len(), 1);
    out.remove(0)
}

/// Element `idx` as f64.
pub fn at(t: &Tensor, idx: &[usize]) -> f64 {
    let linear = idx.iter().zip(&t.shape).fold(0, |a, (i, d)| a * d + i);
    t.to_f64()[linear]
}

/// All index tuples of a shape.
pub fn points(shape: &[usize]) -> Vec<Vec<usize>> {
    let n: usize = shape.iter().product();
    (0..n)
        .map(|mut i| {
            let mut idx = vec![0; shape.len()];
            for a in (0..shape.len()).rev() {
                idx[a] = i % shape[a];
                i /= shape[a];
            }
            idx
        })
        .collect()
}

/// Whether two tensors are equal bit for bit (NaN equals NaN of the same bits).
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.shape == b.shape && a.elem() == b.elem() && Data::to_bytes(&a.data) == Data::to_bytes(&b.data)
}
