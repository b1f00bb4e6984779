//! Execution of a region, statement by statement in each statement's own type, exactly as generated code does.
//!
//! Rows are handled in batches. A statement whose value is the same at all points of a row is computed once a row, so
//! that a store of a row-uniform value also happens for rows without points. An operand without elements that is read
//! through a clamped or gathered access (`limit` 0) gives 0.

use super::tensor::{Data, Native, Tensor, each};
use super::{EvalCx, anchor, lanes, walk};
use crate::ops::region::RegionOp;
use crate::region::{Access, Anchor, Region};
use crate::scalar::{Body, ScalarOp};
use crate::verify::region::check_structure;
use rayon::prelude::*;
use std::ops::Range;

/// Points in a batch of rows.
const BATCH: usize = 8192;
/// Batches computed before their results are stored.
const WAVE: usize = 32;

/// How one axis contributes to an address.
enum Step {
    Stride(i64),
    /// Contribution of each index, and whether it was clamped.
    Table(Vec<(i64, bool)>),
}

impl Step {
    fn at(&self, i: usize) -> i64 {
        match self {
            Step::Stride(s) => i as i64 * s,
            Step::Table(t) => t[i].0,
        }
    }
    fn clamped(&self, i: usize) -> bool {
        matches!(self, Step::Table(t) if t[i].1)
    }
}

/// An access with all dims evaluated.
struct Resolved {
    base: i64,
    steps: Vec<Step>,
    /// Operand, stride, limit.
    gathers: Vec<(usize, i64, i64)>,
}

impl Resolved {
    fn new(cx: &EvalCx<'_>, a: &Access, extents: &[usize]) -> Result<Self, String> {
        let mut steps: Vec<Step> = extents.iter().map(|_| Step::Stride(0)).collect();
        for t in &a.terms {
            let axis = t.axis as usize;
            let stride = cx.dim(&t.stride)?;
            match (&t.clamp, &mut steps[axis]) {
                (None, Step::Stride(s)) => *s += stride,
                (None, Step::Table(table)) => {
                    for (i, e) in table.iter_mut().enumerate() {
                        e.0 += i as i64 * stride;
                    }
                }
                (Some(c), step) => {
                    let (shift, limit) = (cx.dim(&c.shift)?, cx.dim(&c.limit)?);
                    let entry = |i: usize| {
                        let wanted = (i as i64).saturating_add(shift);
                        let got = wanted.min(limit - 1).max(0);
                        (step.at(i) + got * stride, step.clamped(i) || got != wanted)
                    };
                    let table = (0..extents[axis]).map(entry).collect();
                    *step = Step::Table(table);
                }
            }
        }
        let gathers = a
            .gathers
            .iter()
            .map(|g| Ok((g.operand as usize, cx.dim(&g.stride)?, cx.dim(&g.limit)?)))
            .collect::<Result<_, String>>()?;
        Ok(Resolved {
            base: cx.dim(&a.offset)?,
            steps,
            gathers,
        })
    }

    /// Calls `f(axis contributions, was clamped)` at each point.
    fn points(&self, space: &Space, extents: &[usize], range: Range<usize>, f: &mut dyn FnMut(i64, bool)) {
        if range.is_empty() {
            return;
        }
        let shape: Vec<usize> = space.axes.iter().map(|a| extents[*a]).collect();
        let mut idx = walk::unravel(range.start, &shape);
        let mut left = range.len();
        let rest: Vec<usize> = (0..extents.len()).filter(|a| !space.axes.contains(a)).collect();
        let mut base = self.base;
        let mut base_clamped = false;
        for a in rest.into_iter().filter(|a| extents[*a] > 0) {
            base += self.steps[a].at(space.fixed[a]);
            base_clamped |= self.steps[a].clamped(space.fixed[a]);
        }
        let Some(last) = shape.len().checked_sub(1) else {
            f(base, base_clamped);
            return;
        };
        loop {
            let (mut addr, mut clamped) = (base, base_clamped);
            for (a, i) in space.axes[..last].iter().zip(&idx) {
                addr += self.steps[*a].at(*i);
                clamped |= self.steps[*a].clamped(*i);
            }
            let n = (shape[last] - idx[last]).min(left);
            let step = &self.steps[space.axes[last]];
            for i in idx[last]..idx[last] + n {
                f(addr + step.at(i), clamped || step.clamped(i));
            }
            left -= n;
            if left == 0 {
                return;
            }
            idx[last] = 0;
            for a in (0..last).rev() {
                idx[a] += 1;
                if idx[a] < shape[a] {
                    break;
                }
                idx[a] = 0;
            }
        }
    }
}

/// An iteration space: some axes of the region run (row-major in this order), the others stand still.
pub(super) struct Space {
    pub(super) axes: Vec<usize>,
    /// Index of every axis of the region; those of `axes` are ignored.
    pub(super) fixed: Vec<usize>,
}

/// A region bound to operands and sizes.
pub(super) struct Nest<'a> {
    pub(super) cx: &'a EvalCx<'a>,
    pub(super) region: &'a Region,
    pub(super) extents: Vec<usize>,
    ins: &'a [Option<&'a Tensor>],
    reads: Vec<Resolved>,
}

impl Nest<'_> {
    pub(super) fn space(&self, axes: impl IntoIterator<Item = u32>) -> Space {
        Space {
            axes: axes.into_iter().map(|a| a as usize).collect(),
            fixed: vec![0; self.extents.len()],
        }
    }

    pub(super) fn count(&self, axes: &[usize]) -> usize {
        axes.iter().map(|a| self.extents[*a]).product()
    }

    /// Whether operand `n` depends on axis `a`, directly or through gathers.
    pub(super) fn uses(&self, n: u32, a: u32) -> bool {
        let access = &self.region.operands[n as usize];
        access.uses(a) || access.gathers.iter().any(|g| self.uses(g.operand, a))
    }

    /// Elements of an operand at the points `range` of a space.
    pub(super) fn read(&self, n: usize, space: &Space, range: Range<usize>) -> Result<Data, String> {
        let t = self
            .ins
            .get(n)
            .copied()
            .flatten()
            .ok_or_else(|| format!("operand {n} is missing"))?;
        let access = &self.reads[n];
        if t.is_empty() && !self.region.operands[n].is_linear() {
            return Ok(lanes::zeros(t.elem(), range.len()));
        }
        let mut at = Vec::with_capacity(range.len());
        access.points(space, &self.extents, range.clone(), &mut |a, _| at.push(a));
        for (index, stride, limit) in &access.gathers {
            let index = lanes::to_i64(&self.read(*index, space, range.clone())?);
            for (a, i) in at.iter_mut().zip(index) {
                let i = if i < 0 { i.saturating_add(*limit) } else { i };
                *a += i.min(limit - 1).max(0) * stride;
            }
        }
        let at = at
            .into_iter()
            .map(|a| usize::try_from(a).ok().filter(|a| *a < t.len()).ok_or(a))
            .collect::<Result<Vec<usize>, i64>>()
            .map_err(|a| format!("operand {n} of {} elements is read at {a}", t.len()))?;
        Ok(lanes::take(&t.data, &at))
    }

    /// Whether each point reads operand `n` through a term that had to be clamped.
    pub(super) fn clamped(&self, n: usize, space: &Space, range: Range<usize>) -> Vec<bool> {
        let mut out = Vec::with_capacity(range.len());
        self.reads[n].points(space, &self.extents, range, &mut |_, c| out.push(c));
        out
    }

    /// Index along `axis` at the points of a space.
    pub(super) fn index(&self, axis: usize, space: &Space, range: Range<usize>) -> Data {
        let mut steps: Vec<Step> = self.extents.iter().map(|_| Step::Stride(0)).collect();
        steps[axis] = Step::Stride(1);
        let r = Resolved {
            base: 0,
            steps,
            gathers: Vec::new(),
        };
        let mut out = Vec::with_capacity(range.len());
        r.points(space, &self.extents, range, &mut |i, _| out.push(i));
        Data::I64(out)
    }

    /// A leaf statement at the points of a space; `anchor` gives the accumulator.
    pub(super) fn leaf(
        &self,
        op: &ScalarOp,
        space: &Space,
        range: Range<usize>,
        anchor: &dyn Fn(Range<usize>) -> Result<Data, String>,
    ) -> Result<Data, String> {
        match op {
            ScalarOp::Operand(n) => self.read(*n as usize, space, range),
            ScalarOp::Anchor => anchor(range),
            ScalarOp::Index(a) => Ok(self.index(*a as usize, space, range)),
            ScalarOp::Dim(d) => Ok(Data::I64(vec![self.cx.dim(d)?; range.len()])),
            ScalarOp::Const(c) => Ok(lanes::constant(c, range.len())),
            op => Err(format!("`{}` is not a leaf", op.name())),
        }
    }
}

/// The operands of the anchor.
fn anchor_operands(a: &Anchor) -> Vec<u32> {
    match a {
        Anchor::None => vec![],
        Anchor::Contract { lhs, rhs, .. } => vec![*lhs, *rhs],
        Anchor::Attention(a) => {
            let score = a.score.stmts.iter().filter_map(|s| match s.op {
                ScalarOp::Operand(n) => Some(n),
                _ => None,
            });
            a.operands().chain(score).collect()
        }
    }
}

/// Whether the accumulator differs between points of a row.
fn anchor_varies(r: &Region) -> bool {
    let row = r.row();
    let indexed = match &r.anchor {
        Anchor::Attention(a) => a
            .score
            .stmts
            .iter()
            .any(|s| matches!(s.op, ScalarOp::Index(i) if row.contains(&i))),
        _ => false,
    };
    indexed || anchor_operands(&r.anchor).iter().any(|n| r.varies_in_row(*n))
}

/// For each statement whether its value differs between points of a row.
pub(crate) fn varying(r: &Region) -> Vec<bool> {
    let row = r.row();
    let anchor = anchor_varies(r);
    r.body.varying(&|op| match op {
        ScalarOp::Operand(n) => r.varies_in_row(*n),
        ScalarOp::Index(a) => row.contains(a),
        _ => anchor,
    })
}

/// Executes a region.
pub fn region(op: &RegionOp, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let r = &*op.region;
    let types: Vec<_> = ins.iter().map(|t| t.map(Tensor::elem)).collect();
    let results: Vec<_> = op.types.iter().map(|t| t.storage()).collect();
    if let Some(e) = check_structure(r, &types, &results).into_iter().next() {
        return Err(e);
    }
    let extents = r
        .axes
        .iter()
        .map(|a| cx.extent(&a.extent))
        .collect::<Result<Vec<_>, _>>()?;
    walk::count(&extents)?;
    let resolve = |a: &Access| Resolved::new(cx, a, &extents);
    let reads = r.operands.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    let writes = r
        .stores
        .iter()
        .map(|s| resolve(&s.access))
        .collect::<Result<Vec<_>, _>>()?;
    let nest = Nest {
        cx,
        region: r,
        extents,
        ins,
        reads,
    };
    let mut outs = op
        .types
        .iter()
        .map(|t| Output::new(cx, t))
        .collect::<Result<Vec<_>, String>>()?;
    run_rows(&nest, &writes, &mut outs)?;
    outs.into_iter()
        .enumerate()
        .map(|(i, o)| o.finish().map_err(|e| format!("result {i}: {e}")))
        .collect()
}

fn run_rows(nest: &Nest<'_>, writes: &[Resolved], outs: &mut [Output]) -> Result<(), String> {
    let r = nest.region;
    let varies = varying(r);
    let (all, outer) = (nest.space(r.parallel()), nest.space(r.outer()));
    let rows = nest.count(&outer.axes);
    let len: usize = r.row().map(|a| nest.extents[a as usize]).product();
    let acc_varies = anchor_varies(r);
    let acc = anchor::accumulate(nest, if acc_varies { &all } else { &outer })?;
    let per = (BATCH / len.max(1)).max(1);
    let batches: Vec<Range<usize>> = (0..rows.div_ceil(per))
        .map(|b| b * per..((b + 1) * per).min(rows))
        .collect();
    let job = Job {
        nest,
        varies,
        acc,
        all,
        outer,
        len,
        last_use: last_uses(&r.body, r),
    };
    for wave in batches.chunks(WAVE) {
        let done = wave
            .par_iter()
            .map(|rows| job.batch(rows.clone(), writes))
            .collect::<Result<Vec<_>, String>>()?;
        for (i, at, data) in done.into_iter().flatten() {
            outs[i].put(&at, &data)?;
        }
    }
    Ok(())
}

/// For each statement the number of the last one that reads it; stored ones stay.
fn last_uses(body: &Body, r: &Region) -> Vec<usize> {
    let mut out = vec![0; body.stmts.len()];
    for (i, s) in body.stmts.iter().enumerate() {
        for a in &s.args {
            out[a.index()] = i;
        }
    }
    for s in &r.stores {
        out[s.value.index()] = usize::MAX;
    }
    out
}

/// What every batch of rows needs.
struct Job<'a> {
    nest: &'a Nest<'a>,
    varies: Vec<bool>,
    acc: Option<Data>,
    all: Space,
    outer: Space,
    len: usize,
    last_use: Vec<usize>,
}

/// Addresses and elements for a result.
type Stored = (usize, Vec<i64>, Data);

impl Job<'_> {
    fn batch(&self, rows: Range<usize>, writes: &[Resolved]) -> Result<Vec<Stored>, String> {
        let body = &self.nest.region.body;
        let points = rows.start * self.len..rows.end * self.len;
        let mut cols: Vec<Option<Data>> = Vec::with_capacity(body.stmts.len());
        let acc = |range: Range<usize>| {
            let acc = self.acc.as_ref().ok_or("the region has no anchor")?;
            Ok(each!(acc, v => Native::wrap(v[range].to_vec())))
        };
        for (i, s) in body.stmts.iter().enumerate() {
            let column = |a: usize, wide: bool| -> Result<std::borrow::Cow<'_, Data>, String> {
                let col = cols[a].as_ref().ok_or("a statement is used after its last use")?;
                Ok(if wide && !self.varies[a] {
                    std::borrow::Cow::Owned(lanes::repeat(col, self.len))
                } else {
                    std::borrow::Cow::Borrowed(col)
                })
            };
            let col = match &s.op {
                ScalarOp::Reduce(kind) => {
                    lanes::reduce(*kind, &*column(s.args[0].index(), true)?, rows.len(), self.len)
                }
                op if op.arity() == 0 && self.varies[i] => {
                    self.nest.leaf(op, &self.all, points.clone(), &acc)?
                }
                op if op.arity() == 0 => self.nest.leaf(op, &self.outer, rows.clone(), &acc)?,
                op => {
                    let args = s
                        .args
                        .iter()
                        .map(|a| column(a.index(), self.varies[i]))
                        .collect::<Result<Vec<_>, _>>()?;
                    let args: Vec<&Data> = args.iter().map(|a| &**a).collect();
                    lanes::apply(op, &args, s.ty)?
                }
            };
            if col.elem() != s.ty {
                return Err(format!("statement {i} has type {}, found {}", s.ty, col.elem()));
            }
            cols.push(Some(col));
            for a in s.args.iter().filter(|a| self.last_use[a.index()] == i) {
                cols[a.index()] = None;
            }
        }
        self.stores(rows, &cols, writes)
    }

    fn stores(
        &self,
        rows: Range<usize>,
        cols: &[Option<Data>],
        writes: &[Resolved],
    ) -> Result<Vec<Stored>, String> {
        let r = self.nest.region;
        let mut out = Vec::new();
        for (i, s) in r.stores.iter().enumerate() {
            let value = s.value.index();
            let col = cols[value].as_ref().ok_or("a stored statement has no value")?;
            let wide = r.row().any(|a| s.access.uses(a)) || self.varies[value];
            let (space, range) = if wide {
                (&self.all, rows.start * self.len..rows.end * self.len)
            } else {
                (&self.outer, rows.clone())
            };
            let mut at = Vec::with_capacity(range.len());
            writes[i].points(space, &self.nest.extents, range, &mut |a, _| at.push(a));
            let data = if wide && !self.varies[value] {
                lanes::repeat(col, self.len)
            } else {
                col.clone()
            };
            out.push((i, at, data));
        }
        Ok(out)
    }
}

/// A result under construction; remembers what was written.
struct Output {
    tensor: Tensor,
    written: Vec<bool>,
}

impl Output {
    fn new(cx: &EvalCx<'_>, t: &crate::types::TensorType) -> Result<Self, String> {
        let shape = cx.shape(&t.shape)?;
        let n = walk::count(&shape)?;
        Ok(Output {
            tensor: Tensor {
                shape,
                data: lanes::zeros(t.storage(), n),
            },
            written: vec![false; n],
        })
    }

    fn put(&mut self, at: &[i64], data: &Data) -> Result<(), String> {
        let n = self.written.len();
        each!(&mut self.tensor.data, out => {
            let data = Native::slice(data).ok_or("a stored value has another type than its result")?;
            for (a, v) in at.iter().zip(data) {
                let a = usize::try_from(*a)
                    .ok()
                    .filter(|a| *a < n)
                    .ok_or_else(|| format!("a result of {n} elements is written at {a}"))?;
                if std::mem::replace(&mut self.written[a], true) {
                    return Err(format!("element {a} of a result is written twice"));
                }
                out[a] = *v;
            }
        });
        Ok(())
    }

    fn finish(self) -> Result<Tensor, String> {
        match self.written.iter().position(|w| !w) {
            Some(i) => Err(format!("element {i} is never written")),
            None => Ok(self.tensor),
        }
    }
}
