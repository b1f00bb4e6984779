//! `use-channels-last`: convolutions and pools read and write `[n, spatial..., c]`.
//!
//! Before -> after: `y = conv(x, w, b)` -> `t = transpose(x); u = conv.last(t, w') + b; y = transpose(u)`, `quant.conv` and
//! `pool` likewise, with constant weights turned to `[kernel..., c, o]`. Transposes sink: an op between two convolutions
//! that works element by element (or quantizes, joins, cuts, pads, reduces) is done on the turned form too, so that its result
//! needs no turning, and transposes are left only where something else reads or writes. Those become access maps when
//! regions are formed.
//!
//! Sound because a transposition commutes with every op it sinks through; only the bias, which a convolution of floats
//! adds before it rounds, is added after, and sums over several axes may change their order. With channels last the sums
//! of a convolution run over adjoining elements, which integer dot products need.

use crate::pass::{Effect, Pass, PassCx, Phases, edit_diag};
use crate::sweep::is_elementwise;
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::channels_last::{ConvLast, PoolLast};
use rsqc_ir::ops::elementwise::Add;
use rsqc_ir::ops::reduce::Reduce;
use rsqc_ir::ops::shape::{Concat, Pad, Reshape, Slice, Transpose};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Const, Dim, Loc, Module, Node, NodeId, Op, Phase, Rebuild, ScalarType, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// See the file documentation.
pub struct UseChannelsLast;

impl Pass for UseChannelsLast {
    fn name(&self) -> &'static str {
        "use-channels-last"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-5)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Quantized, Phase::Quantized)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module().clone();
        let windows = |id: &NodeId| matches!(m.graph.node(*id).op, Op::Conv(_) | Op::QConv(_) | Op::Pool(_));
        if !m.graph.node_ids().any(|id| windows(&id)) {
            return Ok(());
        }
        let mut t = Turning {
            m: &m,
            r: Rebuild::new(&m),
            consts: Vec::new(),
            last: BTreeMap::new(),
            turned: BTreeSet::new(),
        };
        let order = m
            .graph
            .topo_order()
            .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
        let mut count = 0;
        for id in order {
            let n = m.graph.node(id);
            if t.node(n)? {
                count += 1;
            } else {
                for v in n.inputs.iter().flatten() {
                    t.plain(*v, &n.loc)?;
                }
                t.r.copy(&m, id);
            }
        }
        for p in m.graph.outputs() {
            t.plain(p.value, &Loc::from(""))?;
        }
        let (r, consts) = (t.r, t.consts);
        for c in consts {
            cx.module_mut().consts.add(c);
        }
        if cx.rebuild(r)?.is_some() {
            cx.count("nodes with channels last", count);
        }
        Ok(())
    }
}

struct Turning<'a> {
    m: &'a Module,
    r: Rebuild,
    /// Constants to add behind those of the module.
    consts: Vec<Const>,
    /// Turned forms of old values.
    last: BTreeMap<ValueId, ValueId>,
    /// Old values that so far exist in turned form only.
    turned: BTreeSet<ValueId>,
}

/// `[n, c, spatial...]` to `[n, spatial..., c]`.
fn to_last(rank: usize) -> Vec<i64> {
    let rank = rank as i64;
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

/// Its inverse.
fn to_first(rank: usize) -> Vec<i64> {
    let rank = rank as i64;
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// Where axis `a` of `[n, c, spatial...]` is in the turned form.
fn place(a: usize, rank: usize) -> usize {
    match a {
        0 => 0,
        1 => rank - 1,
        a => a - 1,
    }
}

/// Elements of the axes, in turned order.
fn turn<T: Clone>(v: &[T]) -> Vec<T> {
    to_last(v.len()).iter().map(|a| v[*a as usize].clone()).collect()
}

impl Turning<'_> {
    fn emit(&mut self, op: impl Into<Op>, ins: &[ValueId], loc: &Loc) -> Result<Vec<ValueId>, Diag> {
        let ins = ins.iter().map(|v| Some(*v)).collect();
        self.r.node(self.m, op.into(), ins, loc).map_err(edit_diag)
    }

    /// The new value for an old one, turned back if it exists in turned form only.
    fn plain(&mut self, v: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
        if self.turned.remove(&v) {
            let perm = to_first(self.m.graph.ty(v).rank());
            let y = self.emit(Transpose { perm }, &[self.last[&v]], loc)?[0];
            self.r.set(v, y);
        }
        Ok(self.r.get(self.m, v))
    }

    /// The turned form of an old value of rank 3 or more.
    fn last(&mut self, v: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
        if let Some(t) = self.last.get(&v) {
            return Ok(*t);
        }
        let x = self.plain(v, loc)?;
        let perm = to_last(self.m.graph.ty(v).rank());
        let t = self.emit(Transpose { perm }, &[x], loc)?[0];
        self.last.insert(v, t);
        Ok(t)
    }

    /// Whether the value was computed in turned form.
    fn is_turned(&self, v: Option<ValueId>) -> bool {
        v.is_some_and(|v| self.last.contains_key(&v) && self.m.graph.ty(v).rank() > 2)
    }

    /// Says that an old value exists in turned form.
    fn define(&mut self, old: ValueId, turned: ValueId) {
        self.last.insert(old, turned);
        self.turned.insert(old);
    }

    /// Does a node in turned form; `false` if it is to be copied as it is.
    fn node(&mut self, n: &Node) -> Result<bool, Diag> {
        let rank = |v: Option<ValueId>| v.map_or(0, |v| self.m.graph.ty(v).rank());
        let x = n.input(0);
        match &n.op {
            Op::Conv(o) => {
                let is_f32 = x.is_some_and(|v| self.m.graph.ty(v).elem.plain() == Some(ScalarType::F32));
                if !is_f32 {
                    return Ok(false);
                }
                let op = ConvLast {
                    strides: o.strides.clone(),
                    dilations: o.dilations.clone(),
                    pads: o.pads.clone(),
                    group: o.group,
                };
                self.conv(n, op, true)
            }
            Op::QConv(o) => {
                let op = ConvLast {
                    strides: o.strides.clone(),
                    dilations: o.dilations.clone(),
                    pads: o.pads.clone(),
                    group: o.group,
                };
                self.conv(n, op, false)
            }
            Op::Pool(o) => {
                let op = PoolLast {
                    kind: o.kind,
                    kernel: o.kernel.clone(),
                    strides: o.strides.clone(),
                    dilations: o.dilations.clone(),
                    pads: o.pads.clone(),
                    ceil: o.ceil,
                };
                let Some(x) = x else { return Ok(false) };
                let x = self.last(x, &n.loc)?;
                let y = self.emit(op, &[x], &n.loc)?[0];
                self.define(n.output(), y);
                Ok(true)
            }
            Op::Concat(o) if n.inputs.iter().any(|v| self.is_turned(*v)) => {
                let axis = place(o.axis, rank(x));
                self.same(n, Concat { axis }.into())
            }
            Op::Pad(o) if self.is_turned(x) => {
                let (Some(x), Some(v)) = (x, n.input(1)) else {
                    return Ok(false);
                };
                let op = Pad {
                    before: turn(&o.before),
                    after: turn(&o.after),
                };
                let ins = [self.last(x, &n.loc)?, self.plain(v, &n.loc)?];
                let y = self.emit(op, &ins, &n.loc)?[0];
                self.define(n.output(), y);
                Ok(true)
            }
            Op::Slice(o) if self.is_turned(x) => {
                let op = Slice {
                    starts: turn(&o.starts),
                    sizes: turn(&o.sizes),
                    steps: turn(&o.steps),
                };
                self.same(n, op.into())
            }
            Op::Reduce(o) if self.is_turned(x) => self.reduce(n, o),
            Op::Quantize(_) | Op::Dequantize(_) | Op::DynamicParams(_) if self.is_turned(x) => {
                self.quantization(n)
            }
            op if n.inputs.iter().any(|v| self.is_turned(*v)) && self.is_elementwise(op, n) => {
                self.elementwise(n)
            }
            _ => Ok(false),
        }
    }

    /// All operands turned.
    fn same(&mut self, n: &Node, op: Op) -> Result<bool, Diag> {
        let mut ins = Vec::new();
        for v in n.inputs.iter().flatten() {
            ins.push(self.last(*v, &n.loc)?);
        }
        let y = self.emit(op, &ins, &n.loc)?[0];
        self.define(n.output(), y);
        Ok(true)
    }

    fn conv(&mut self, n: &Node, op: ConvLast, float: bool) -> Result<bool, Diag> {
        let (Some(x), Some(w)) = (n.input(0), n.input(1)) else {
            return Ok(false);
        };
        let loc = &n.loc;
        let mut ins = vec![self.last(x, loc)?, self.filters(w, loc)?];
        let third = match n.input(2) {
            Some(v) => Some(self.plain(v, loc)?),
            None => None,
        };
        if let (false, Some(zero)) = (float, third) {
            ins.push(zero);
        }
        let mut y = self.emit(op, &ins, loc)?[0];
        if let (true, Some(bias)) = (float, third) {
            y = self.emit(Add {}, &[y, bias], loc)?[0];
        }
        self.define(n.output(), y);
        Ok(true)
    }

    /// Filters `[o, c, kernel...]` as `[kernel..., c, o]`: a new constant, or a transposition of what is computed.
    fn filters(&mut self, w: ValueId, loc: &Loc) -> Result<ValueId, Diag> {
        let ty = self.m.graph.ty(w).clone();
        let rank = ty.rank();
        let mut perm: Vec<i64> = (2..rank as i64).collect();
        perm.extend([1, 0]);
        let (Some(c), Some(shape)) = (self.m.const_of(w), ty.static_shape()) else {
            let w = self.plain(w, loc)?;
            return Ok(self.emit(Transpose { perm }, &[w], loc)?[0]);
        };
        let elem = match ty.elem.quant() {
            // One scale an output channel: the channel is the last axis now.
            Some(q) if q.granularity == Granularity::Axis(0) => QuantType {
                granularity: Granularity::Axis(rank as u32 - 1),
                ..q.clone()
            }
            .into(),
            _ => ty.elem.clone(),
        };
        let bytes = permuted(c.bytes(), &shape, &perm, ty.storage().size());
        let ty = TensorType {
            elem,
            shape: perm.iter().map(|a| ty.shape[*a as usize].clone()).collect(),
        };
        let c = Const::from_bytes(&format!("{}.channels_last", c.name), ty.clone(), bytes)
            .ok_or_else(|| Diag::internal(loc.to_string(), "turned filters do not fit their type"))?;
        let id = rsqc_ir::ConstId((self.m.consts.len() + self.consts.len()) as u32);
        self.consts.push(c);
        Ok(self.r.graph.add_const(id, ty))
    }

    /// Reduced axes keep their meaning; without them the kept ones must be in the old order.
    fn reduce(&mut self, n: &Node, o: &Reduce) -> Result<bool, Diag> {
        let Some(v) = n.input(0) else { return Ok(false) };
        let rank = self.m.graph.ty(v).rank();
        let mut axes: Vec<i64> = o.axes.iter().map(|a| place(*a as usize, rank) as i64).collect();
        axes.sort_unstable();
        let op = Reduce {
            kind: o.kind,
            axes: axes.clone(),
            keep: o.keep,
        };
        let kept: Vec<i64> = to_last(rank)
            .into_iter()
            .filter(|a| !o.axes.contains(a))
            .collect();
        if !o.keep && !kept.is_sorted() {
            return Ok(false);
        }
        let x = self.last(v, &n.loc)?;
        let y = self.emit(op, &[x], &n.loc)?[0];
        if o.keep {
            self.define(n.output(), y);
        } else {
            self.r.set(n.output(), y);
        }
        Ok(true)
    }

    /// Scales of a whole tensor or of each sample mean the same in turned form, those of channels along another axis;
    /// nothing else is turned.
    fn quantization(&mut self, n: &Node) -> Result<bool, Diag> {
        let Some(v) = n.input(0) else { return Ok(false) };
        let (qtype, pre_scale) = match &n.op {
            Op::Quantize(o) => (&o.qtype, n.input(3)),
            Op::Dequantize(o) => (&o.qtype, None),
            Op::DynamicParams(o) => (&o.qtype, n.input(1)),
            _ => return Ok(false),
        };
        let granularity = match qtype.granularity {
            g @ (Granularity::Tensor | Granularity::Axis(0)) => g,
            Granularity::Axis(a) => Granularity::Axis(place(a as usize, self.m.graph.ty(v).rank()) as u32),
            _ => return Ok(false),
        };
        if pre_scale.is_some() {
            return Ok(false);
        }
        let mut op = n.op.clone();
        match &mut op {
            Op::Quantize(o) => o.qtype.granularity = granularity,
            Op::Dequantize(o) => o.qtype.granularity = granularity,
            Op::DynamicParams(o) => o.qtype.granularity = granularity,
            _ => return Ok(false),
        }
        let mut ins = vec![Some(self.last(v, &n.loc)?)];
        for p in &n.inputs[1..] {
            ins.push(match p {
                Some(p) => Some(self.plain(*p, &n.loc)?),
                None => None,
            });
        }
        let parameters = matches!(n.op, Op::DynamicParams(_));
        let out = self.r.node(self.m, op, ins, &n.loc).map_err(edit_diag)?;
        for (old, new) in n.outputs.iter().zip(out) {
            if parameters {
                self.r.set(*old, new);
            } else {
                self.define(*old, new);
            }
        }
        Ok(true)
    }

    fn is_elementwise(&self, op: &Op, n: &Node) -> bool {
        let types: Vec<&TensorType> = n.inputs.iter().flatten().map(|v| self.m.graph.ty(*v)).collect();
        types.len() == n.inputs.len() && is_elementwise(op, &types)
    }

    fn elementwise(&mut self, n: &Node) -> Result<bool, Diag> {
        let rank = self.m.graph.ty(n.output()).rank();
        let mut ins = Vec::new();
        for v in n.inputs.iter().flatten() {
            ins.push(self.broadcast(*v, rank, &n.loc)?);
        }
        let y = self.emit(n.op.clone(), &ins, &n.loc)?[0];
        self.define(n.output(), y);
        Ok(true)
    }

    /// An operand of an elementwise op of this rank, turned.
    fn broadcast(&mut self, v: ValueId, rank: usize, loc: &Loc) -> Result<ValueId, Diag> {
        let ty = self.m.graph.ty(v).clone();
        if ty.rank() == rank {
            return self.last(v, loc);
        }
        let x = self.plain(v, loc)?;
        // A single number broadcasts as it is.
        if ty.shape.iter().all(|d| d.is(1)) {
            return Ok(x);
        }
        let mut shape = vec![Dim::one(); rank - ty.rank()];
        shape.extend(ty.shape);
        let x = self.emit(Reshape { shape }, &[x], loc)?[0];
        let perm = to_last(rank);
        Ok(self.emit(Transpose { perm }, &[x], loc)?[0])
    }
}

/// Dense elements of `shape`, each of `size` bytes, with axes permuted.
fn permuted(bytes: &[u8], shape: &[usize], perm: &[i64], size: usize) -> Vec<u8> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    let axes: Vec<(usize, usize)> = perm
        .iter()
        .map(|a| (shape[*a as usize], strides[*a as usize]))
        .collect();
    let mut out = Vec::with_capacity(bytes.len());
    for i in 0..shape.iter().product::<usize>() {
        let (mut rest, mut at) = (i, 0);
        for (extent, stride) in axes.iter().rev() {
            at += rest % extent * stride;
            rest /= extent;
        }
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
    }
    out
}
