//! Random modules of the ops that this project compiles, for differential tests. The same seed gives the same module.

use fastrand::Rng;
use rsqc_ir::eval::Tensor;
use rsqc_ir::module::SymbolInfo;
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::{InferCx, Op, elementwise as ew, gather, linalg, nn, norm, reduce, shape};
use rsqc_ir::{Const, Dim, Graph, Module, Port, ScalarType, Symbol, TensorType, ValueId};

/// A random module and the ranges its symbols are drawn from.
pub struct Generator {
    rng: Rng,
    m: Module,
    widths: Vec<i64>,
    /// f32 values of rank 2 or 3 that later ops may use.
    values: Vec<ValueId>,
}

/// Symbols of every generated module; sizes are drawn from `0..=MAX_SYMBOL`.
pub const SYMBOLS: [&str; 2] = ["b", "s"];

/// Largest value of a symbol.
pub const MAX_SYMBOL: i64 = 7;

/// Extents for constant dims: tiny, odd, around a vector and a weight panel.
const WIDTHS: [i64; 12] = [1, 2, 3, 5, 8, 12, 15, 16, 17, 33, 64, 65];

/// Graphs in a row that draw from the same widths: extents are part of kernels, and kernels that several graphs share
/// are generated once.
const NEIGHBOURS: u64 = 50;

/// Widths that a graph draws from.
const DRAWN: usize = 3;

/// What to generate.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// Use the op that only tests know where an activation is drawn.
    pub test_op: bool,
}

/// A random module in phase imported: one to two inputs, `ops` ops, all leaves are outputs.
pub fn module(seed: u64, ops: usize, options: Options) -> Module {
    let mut g = Generator {
        rng: Rng::with_seed(seed),
        m: Module::default(),
        widths: Rng::with_seed(seed / NEIGHBOURS).choose_multiple(WIDTHS, DRAWN),
        values: Vec::new(),
    };
    g.m.name = format!("random-{seed}");
    for s in SYMBOLS {
        g.m.symbols.0.insert(
            Symbol::new(s),
            SymbolInfo {
                lo: 0,
                hi: MAX_SYMBOL,
            },
        );
    }
    g.inputs();
    for _ in 0..ops {
        g.step(options);
    }
    g.finish()
}

/// Random inputs for a module under these symbol values: normal-looking floats, small non-negative integers.
pub fn inputs(m: &Module, values: &dyn Fn(&Symbol) -> Option<i64>, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::with_seed(seed ^ 0x5eed);
    let tensor = |p: &Port, rng: &mut Rng| {
        let ty = m.graph.ty(p.value);
        let shape: Vec<usize> = ty
            .shape
            .iter()
            .map(|d| d.eval(values).expect("symbols are bound") as usize)
            .collect();
        let n: usize = shape.iter().product();
        match ty.storage() {
            ScalarType::I64 => Tensor::new(shape, (0..n).map(|_| rng.i64(0..3)).collect()),
            ScalarType::Bool => Tensor::new(shape, (0..n).map(|_| rng.bool()).collect()),
            _ => Tensor::new(shape, floats(rng, n, 1.0)),
        }
    };
    m.graph.inputs().iter().map(|p| tensor(p, &mut rng)).collect()
}

/// Sums of uniform numbers: bell-shaped, bounded by `3 * scale`.
fn floats(rng: &mut Rng, n: usize, scale: f32) -> Vec<f32> {
    (0..n)
        .map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 2.0 * scale)
        .collect()
}

impl Generator {
    fn width(&mut self) -> Dim {
        Dim::from(self.widths[self.rng.usize(0..DRAWN)])
    }

    fn inputs(&mut self) {
        let w = self.width();
        let shapes = [
            vec![Dim::sym("b"), Dim::sym("s"), w.clone()],
            vec![Dim::sym("s"), w.clone()],
            vec![Dim::sym("b"), w],
        ];
        let n = self.rng.usize(1..=2);
        for i in 0..n {
            let shape = shapes[if i == 0 { self.rng.usize(0..3) } else { 0 }].clone();
            let v = self
                .m
                .graph
                .add_input(&format!("x{i}"), TensorType::new(ScalarType::F32, shape));
            self.values.push(v);
        }
    }

    fn pick(&mut self) -> ValueId {
        // Recent values are likelier, so that chains grow.
        let n = self.values.len();
        let back = (self.rng.f32() * self.rng.f32() * n as f32) as usize;
        self.values[n - 1 - back.min(n - 1)]
    }

    fn shape(&self, v: ValueId) -> Vec<Dim> {
        self.m.graph.ty(v).shape.clone()
    }

    fn constant(&mut self, shape: Vec<usize>, scale: f32) -> ValueId {
        let n = shape.iter().product();
        let t = Tensor::new(shape, floats(&mut self.rng, n, scale));
        let c: Const = t.to_const(&format!("c{}", self.m.consts.len()));
        let ty = c.ty.clone();
        let id = self.m.consts.add(c);
        self.m.graph.add_const(id, ty)
    }

    /// Adds a node if the op accepts the operands.
    fn node(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> Option<ValueId> {
        let op = op.into();
        let types: Vec<_> = ins.iter().map(|v| Some(self.m.graph.ty(*v))).collect();
        let out = op
            .infer(
                &InferCx {
                    symbols: &self.m.symbols,
                },
                &types,
            )
            .ok()?;
        let loc = format!("n{}", self.m.graph.node_count()).into();
        let id = self
            .m
            .graph
            .add_node(op, ins.iter().map(|v| Some(*v)).collect(), out, loc);
        Some(self.m.graph.node(id).output())
    }

    fn keep(&mut self, v: Option<ValueId>) {
        self.values.extend(v);
    }

    fn step(&mut self, options: Options) {
        let x = self.pick();
        let v = match self.rng.u32(0..16) {
            0 | 1 => self.unary(x, options),
            2 | 3 => self.binary(x),
            4 | 5 => self.linear(x),
            6 => self.layer_norm(x),
            7 => self.reduction(x),
            8 => self.transpose(x),
            9 => self.reshape(x),
            10 => self.slice(x),
            11 => self.concat(x),
            12 => self.attention(x),
            13 | 14 => self.window(x),
            _ => self.gather(x),
        };
        self.keep(v);
    }

    fn unary(&mut self, x: ValueId, options: Options) -> Option<ValueId> {
        if options.test_op {
            return self.node(rsqc_ir::ops::test_only::TestMish {}, &[x]);
        }
        let kinds: [Op; 8] = [
            ew::Gelu {
                kind: ew::GeluKind::Erf,
            }
            .into(),
            ew::Gelu {
                kind: ew::GeluKind::Tanh,
            }
            .into(),
            ew::Silu {}.into(),
            ew::Relu {}.into(),
            ew::Tanh {}.into(),
            ew::Sigmoid {}.into(),
            ew::Abs {}.into(),
            ew::Neg {}.into(),
        ];
        let i = self.rng.usize(0..kinds.len());
        self.node(kinds[i].clone(), &[x])
    }

    fn binary(&mut self, x: ValueId) -> Option<ValueId> {
        let same: Vec<ValueId> = self
            .values
            .iter()
            .copied()
            .filter(|v| self.shape(*v) == self.shape(x))
            .collect();
        let y = if self.rng.bool() {
            same[self.rng.usize(0..same.len())]
        } else {
            let last = self.shape(x).last().and_then(|d| d.as_const()).unwrap_or(1);
            self.constant(vec![last as usize], 1.0)
        };
        let kinds: [Op; 5] = [
            ew::Add {}.into(),
            ew::Sub {}.into(),
            ew::Mul {}.into(),
            ew::Max {}.into(),
            ew::Min {}.into(),
        ];
        let i = self.rng.usize(0..kinds.len());
        self.node(kinds[i].clone(), &[x, y])
    }

    fn linear(&mut self, x: ValueId) -> Option<ValueId> {
        let k = self.shape(x).last()?.as_const()? as usize;
        let n = self.width().as_const()? as usize;
        let w = self.constant(vec![k, n], 1.0 / (k as f32).sqrt());
        let y = self.node(linalg::MatMul {}, &[x, w])?;
        if self.rng.bool() {
            let b = self.constant(vec![n], 0.3);
            return self.node(ew::Add {}, &[y, b]);
        }
        Some(y)
    }

    fn layer_norm(&mut self, x: ValueId) -> Option<ValueId> {
        let n = self.shape(x).last()?.as_const()? as usize;
        let (g, b) = (self.constant(vec![n], 1.0), self.constant(vec![n], 0.2));
        match self.rng.u32(0..3) {
            0 => self.node(norm::RmsNorm { eps: 1e-5 }, &[x, g]),
            1 => self.node(
                norm::Softmax {
                    axis: self.shape(x).len() - 1,
                    log: false,
                },
                &[x],
            ),
            _ => self.node(norm::LayerNorm { eps: 1e-5 }, &[x, g, b]),
        }
    }

    fn reduction(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.shape(x).len();
        let kinds = [
            reduce::Reduction::Sum,
            reduce::Reduction::Mean,
            reduce::Reduction::Max,
            reduce::Reduction::L2,
        ];
        let kind = kinds[self.rng.usize(0..kinds.len())];
        let r = self.node(
            reduce::Reduce {
                kind,
                axes: vec![rank as i64 - 1],
                keep: true,
            },
            &[x],
        )?;
        self.node(ew::Add {}, &[x, r])
    }

    fn transpose(&mut self, x: ValueId) -> Option<ValueId> {
        let mut perm: Vec<i64> = (0..self.shape(x).len() as i64).collect();
        let n = perm.len();
        // The last axis stays: later ops want a constant width there.
        self.rng.shuffle(&mut perm[..n - 1]);
        self.node(shape::Transpose { perm }, &[x])
    }

    fn reshape(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        if s.len() == 3 {
            let merged = vec![s[0].clone() * s[1].clone(), s[2].clone()];
            return self.node(shape::Reshape { shape: merged }, &[x]);
        }
        let w = s.last()?.as_const()?;
        let half = (w % 2 == 0).then(|| vec![s[0].clone(), Dim::from(2i64), Dim::from(w / 2)])?;
        self.node(shape::Reshape { shape: half }, &[x])
    }

    fn slice(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        let w = s.last()?.as_const()?;
        // The result has one of the graph's widths again, where one is small enough.
        let fits: Vec<i64> = self.widths.iter().copied().filter(|n| *n <= w).collect();
        let len = match fits.as_slice() {
            [] => self.rng.i64(1..=w),
            fits => fits[self.rng.usize(0..fits.len())],
        };
        let start = [0, (w - len) / 2, w - len][self.rng.usize(0..3)];
        let mut starts = vec![Dim::zero(); s.len()];
        let mut sizes = s.clone();
        *starts.last_mut()? = Dim::from(start);
        *sizes.last_mut()? = Dim::from(len);
        self.node(
            shape::Slice {
                starts,
                sizes,
                steps: vec![1; s.len()],
            },
            &[x],
        )
    }

    fn concat(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        let fits = |v: &ValueId| {
            let t = self.shape(*v);
            t.len() == s.len() && t[..t.len() - 1] == s[..s.len() - 1]
        };
        let others: Vec<ValueId> = self.values.iter().copied().filter(fits).collect();
        let y = others[self.rng.usize(0..others.len())];
        self.node(shape::Concat { axis: s.len() - 1 }, &[x, y])
    }

    fn attention(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        if s.len() != 3 {
            return None;
        }
        let (heads, d) = (self.rng.i64(1..=3), [1, 4, 8, 16, 17][self.rng.usize(0..5)]);
        let k = s[2].as_const()? as usize;
        let project = |g: &mut Self| -> Option<ValueId> {
            let w = g.constant(vec![k, (heads * d) as usize], 1.0 / (k as f32).sqrt());
            let y = g.node(linalg::MatMul {}, &[x, w])?;
            let split = vec![s[0].clone(), s[1].clone(), Dim::from(heads), Dim::from(d)];
            let y = g.node(shape::Reshape { shape: split }, &[y])?;
            g.node(
                shape::Transpose {
                    perm: vec![0, 2, 1, 3],
                },
                &[y],
            )
        };
        let (q, k, v) = (project(self)?, project(self)?, project(self)?);
        let causal = self.rng.bool().then(Dim::zero);
        let op = nn::Attention {
            scale: 1.0 / (d as f32).sqrt(),
            causal,
            empty_row: nn::EmptyRow::Zero,
        };
        let y = self.node(op, &[q, k, v])?;
        let y = self.node(
            shape::Transpose {
                perm: vec![0, 2, 1, 3],
            },
            &[y],
        )?;
        self.node(
            shape::Reshape {
                shape: vec![s[0].clone(), s[1].clone(), Dim::from(heads * d)],
            },
            &[y],
        )
    }

    /// A convolution or a pool: over the second axis with the last as channels, or over both as a picture of one or two
    /// channels. Channels go first for it and last again behind it.
    fn window(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        let w = s.last()?.as_const()?;
        if s.len() != 3 {
            return None;
        }
        let picture = self.rng.bool();
        let perm = |p: &[i64]| shape::Transpose { perm: p.to_vec() };
        let (channels, x) = if picture {
            let channels = 1 + i64::from(w % 2 == 0);
            let split = vec![
                s[0].clone(),
                s[1].clone(),
                Dim::from(channels),
                Dim::from(w / channels),
            ];
            let split = self.node(shape::Reshape { shape: split }, &[x])?;
            (channels, self.node(perm(&[0, 2, 1, 3]), &[split])?)
        } else {
            (w, self.node(perm(&[0, 2, 1]), &[x])?)
        };
        let axes = 1 + usize::from(picture);
        let y = self.windowed(x, channels, axes)?;
        if !picture {
            return self.node(perm(&[0, 2, 1]), &[y]);
        }
        let y = self.node(perm(&[0, 2, 3, 1]), &[y])?;
        let s = self.shape(y);
        let merged = vec![s[0].clone(), s[1].clone(), s[2].clone() * s[3].clone()];
        self.node(shape::Reshape { shape: merged }, &[y])
    }

    /// A window over `axes` spatial axes, padded so that no extent becomes negative.
    fn windowed(&mut self, x: ValueId, channels: i64, axes: usize) -> Option<ValueId> {
        let mut draw = |range: std::ops::RangeInclusive<i64>| -> Vec<i64> {
            (0..axes).map(|_| self.rng.i64(range.clone())).collect()
        };
        let (kernel, strides, dilations) = (draw(1..=3), draw(1..=2), draw(1..=2));
        let mut pads = vec![0; 2 * axes];
        for i in 0..axes {
            let total = dilations[i] * (kernel[i] - 1);
            pads[i] = self.rng.i64(0..=total);
            pads[axes + i] = total - pads[i];
        }
        if self.rng.u32(0..3) == 0 {
            let kinds = [PoolKind::Max, PoolKind::Average, PoolKind::AverageWithPad];
            let pool = Pool {
                kind: kinds[self.rng.usize(0..kinds.len())],
                kernel,
                strides,
                dilations,
                pads,
                ceil: false,
            };
            return self.node(pool, &[x]);
        }
        let group = if self.rng.bool() { channels } else { 1 };
        let out = group * self.rng.i64(1..=3);
        let mut shape = vec![out as usize, (channels / group) as usize];
        shape.extend(kernel.iter().map(|k| *k as usize));
        let fan_in: usize = shape[1..].iter().product();
        let mut ins = vec![x, self.constant(shape, 1.0 / (fan_in as f32).sqrt())];
        if self.rng.bool() {
            ins.push(self.constant(vec![out as usize], 0.3));
        }
        let conv = Conv {
            strides,
            dilations,
            pads,
            group,
        };
        self.node(conv, &ins)
    }

    /// A lookup in a small table, added to `x` where the shapes allow it.
    fn gather(&mut self, x: ValueId) -> Option<ValueId> {
        let s = self.shape(x);
        let w = s.last()?.as_const()? as usize;
        let table = self.constant(vec![3, w], 1.0);
        let ids = TensorType::new(ScalarType::I64, s[..s.len() - 1].to_vec());
        let name = format!("ids{}", self.m.graph.inputs().len());
        let ids = self.m.graph.add_input(&name, ids);
        let rows = self.node(gather::Gather { axis: 0 }, &[table, ids])?;
        self.node(ew::Add {}, &[x, rows])
    }

    fn finish(mut self) -> Module {
        let g: &mut Graph = &mut self.m.graph;
        let leaves: Vec<ValueId> = self.values.iter().copied().filter(|v| !g.is_used(*v)).collect();
        let outputs = leaves
            .iter()
            .enumerate()
            .map(|(i, v)| Port {
                name: format!("y{i}"),
                value: *v,
            })
            .collect();
        g.set_outputs(outputs);
        g.remove_dead();
        self.m
    }
}
