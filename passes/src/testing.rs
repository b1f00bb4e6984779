//! What tests of this crate share: building modules in code, seeded random inputs, comparing evaluations.

use crate::manager::{ManagerOptions, PassManager};
use crate::pass::{Env, Pass};
use rsqc_ir::eval::{self, Data, Tensor};
use rsqc_ir::graph::Port;
use rsqc_ir::ops::InferCx;
use rsqc_ir::verify::region::check_structure;
use rsqc_ir::{Const, Dim, Module, Op, Phase, ScalarType, Symbol, TensorType, ValueId};

/// A small generator (xorshift64*), seeded.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A module under construction.
pub(crate) struct Net {
    pub(crate) m: Module,
    rng: Rng,
}

pub(crate) fn dims(shape: &[i64]) -> Vec<Dim> {
    shape.iter().map(|d| Dim::from(*d)).collect()
}

/// Dims from words: numbers or symbol names.
pub(crate) fn sym(words: &[&str]) -> Vec<Dim> {
    words
        .iter()
        .map(|w| w.parse::<i64>().map_or_else(|_| Dim::sym(w), Dim::from))
        .collect()
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Net {
            m: Module {
                name: "test".into(),
                phase: Phase::Canonical,
                ..Module::default()
            },
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn input(&mut self, ty: ScalarType, shape: Vec<Dim>) -> ValueId {
        let name = format!("x{}", self.m.graph.inputs().len());
        self.m.graph.add_input(&name, TensorType::new(ty, shape))
    }

    pub(crate) fn f32(&mut self, words: &[&str]) -> ValueId {
        self.input(ScalarType::F32, sym(words))
    }

    /// A random f32 constant.
    pub(crate) fn weight(&mut self, shape: &[usize]) -> ValueId {
        let t = Tensor::new(shape.to_vec(), self.rng.floats(shape.iter().product()));
        self.constant(&t)
    }

    pub(crate) fn constant(&mut self, t: &Tensor) -> ValueId {
        let c: Const = t.to_const(&format!("c{}", self.m.consts.len()));
        let ty = c.ty.clone();
        let id = self.m.consts.add(c);
        self.m.graph.add_const(id, ty)
    }

    pub(crate) fn ty(&self, v: ValueId) -> &TensorType {
        self.m.graph.ty(v)
    }

    pub(crate) fn try_op(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let op = op.into();
        let types: Vec<Option<&TensorType>> = ins.iter().map(|v| Some(self.ty(*v))).collect();
        let out = op.infer(
            &InferCx {
                symbols: &self.m.symbols,
            },
            &types,
        )?;
        let loc = format!("n{}", self.m.graph.node_count());
        let id = self.m.graph.add_node(
            op,
            ins.iter().map(|v| Some(*v)).collect(),
            out,
            loc.as_str().into(),
        );
        Ok(self.m.graph.node(id).outputs.clone())
    }

    pub(crate) fn op(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> ValueId {
        self.try_op(op, ins).expect("operands fit")[0]
    }

    pub(crate) fn finish(mut self, outputs: &[ValueId]) -> Module {
        self.m.graph.set_outputs(
            outputs
                .iter()
                .enumerate()
                .map(|(i, v)| Port {
                    name: format!("y{i}"),
                    value: *v,
                })
                .collect(),
        );
        self.m
    }
}

/// Random inputs where each symbol has the given value. Integers lie in `0..int_bound`.
pub(crate) fn inputs(m: &Module, symbols: &[(&str, i64)], int_bound: usize, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let env = |s: &Symbol| symbols.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
    m.graph
        .inputs()
        .iter()
        .map(|p| {
            let t = m.graph.ty(p.value);
            let shape: Vec<usize> = t
                .shape
                .iter()
                .map(|d| d.eval(&env).expect("every symbol is given") as usize)
                .collect();
            let n = shape.iter().product();
            let data = match t.storage() {
                ScalarType::F32 => Data::F32(rng.floats(n)),
                ScalarType::I64 => Data::I64((0..n).map(|_| rng.below(int_bound) as i64).collect()),
                ScalarType::I32 => Data::I32((0..n).map(|_| rng.below(int_bound) as i32).collect()),
                ScalarType::Bool => Data::Bool((0..n).map(|_| rng.below(4) > 0).collect()),
                other => panic!("no random {other}"),
            };
            Tensor { shape, data }
        })
        .collect()
}

/// Runs passes; regions of the result must be well formed.
pub(crate) fn run_passes(m: &Module, passes: &[Box<dyn Pass>]) -> Module {
    let mut out = m.clone();
    let mut manager = PassManager::new(Env::default(), ManagerOptions::default());
    for p in passes {
        manager
            .run(&mut out, std::slice::from_ref(p))
            .unwrap_or_else(|d| panic!("{d}"));
        check_regions(&out, p.name());
    }
    out
}

/// Checks the structure of every region.
pub(crate) fn check_regions(m: &Module, after: &str) {
    for id in m.graph.node_ids() {
        let n = m.graph.node(id);
        let Op::Region(o) = &n.op else { continue };
        let ins: Vec<Option<ScalarType>> = n
            .inputs
            .iter()
            .map(|v| v.map(|v| m.graph.ty(v).storage()))
            .collect();
        let outs: Vec<ScalarType> = o.types.iter().map(TensorType::storage).collect();
        let errors = check_structure(&o.region, &ins, &outs);
        assert!(
            errors.is_empty(),
            "after {after}: {}: {errors:?}\n{:#?}",
            n.loc,
            o.region
        );
    }
}

/// Largest difference of two tensors relative to the root mean square of `a`; infinite where one is NaN and the other not.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape, b.shape);
    let (x, y) = (a.to_f64(), b.to_f64());
    let finite: Vec<f64> = x.iter().copied().filter(|v| v.is_finite()).collect();
    let rms = (finite.iter().map(|v| v * v).sum::<f64>() / finite.len().max(1) as f64).sqrt();
    x.iter()
        .zip(&y)
        .map(|(a, b)| {
            if a == b || a.is_nan() && b.is_nan() {
                0.0
            } else if a.is_finite() && b.is_finite() {
                (a - b).abs() / rms.max(1e-12)
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}

/// Whether both modules give the same outputs (up to `tolerance`) for random inputs at each set of symbol values.
pub(crate) fn same(a: &Module, b: &Module, shapes: &[&[(&str, i64)]], tolerance: f64) -> Result<(), String> {
    for (i, s) in shapes.iter().enumerate() {
        let ins = inputs(a, s, 5, i as u64 + 1);
        let x = eval::run(a, &ins).map_err(|e| format!("before, at {s:?}: {e}"))?;
        let y = eval::run(b, &ins).map_err(|e| format!("after, at {s:?}: {e}"))?;
        for (n, (x, y)) in x.iter().zip(&y).enumerate() {
            let d = difference(x, y);
            if d > tolerance {
                return Err(format!("output {n} at {s:?} differs by {d}"));
            }
        }
    }
    Ok(())
}

/// Asserts [`same`].
pub(crate) fn assert_same(a: &Module, b: &Module, shapes: &[&[(&str, i64)]], tolerance: f64) {
    if let Err(e) = same(a, b, shapes, tolerance) {
        panic!("{e}");
    }
}

/// Number of region nodes.
pub(crate) fn region_count(m: &Module) -> usize {
    m.graph
        .node_ids()
        .filter(|n| matches!(m.graph.node(*n).op, Op::Region(_)))
        .count()
}
