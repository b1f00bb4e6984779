//! Edits of a region that keep its meaning: splitting, dropping, collapsing and renumbering axes, dropping operands
//! and results. The algebra is exact: an axis of extent `a*b` is the pair of axes `(a, b)` with strides `(s*b, s)`.

use rsqc_ir::region::{Access, Anchor, AxisKind, Clamp, Region, Term};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, ScalarOp};
use rsqc_ir::{Dim, TensorType, ValueId};
use std::collections::BTreeMap;

/// An index as a function of axes: `offset + sum(axis * stride)`; a clamped term bounds its axis first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Affine {
    /// Constant part.
    pub offset: Dim,
    /// Linear parts.
    pub terms: Vec<Term>,
}

impl Affine {
    /// The constant index.
    pub fn constant(offset: Dim) -> Self {
        Affine {
            offset,
            terms: Vec::new(),
        }
    }
    /// The index of an axis.
    pub fn axis(axis: u32) -> Self {
        Affine {
            offset: Dim::zero(),
            terms: vec![term(axis, Dim::one())],
        }
    }
}

/// An unclamped term.
pub fn term(axis: u32, stride: Dim) -> Term {
    Term {
        axis,
        stride,
        clamp: None,
    }
}

/// Appends the i64 value of an index.
pub fn emit_affine(b: &mut BodyBuilder, a: &Affine) -> BodyId {
    let mut sum: Option<BodyId> = None;
    for t in &a.terms {
        let mut v = b.index(t.axis);
        if let Some(c) = &t.clamp {
            let (shift, last, zero) = (
                b.dim(c.shift.clone()),
                b.dim(c.limit.clone() - Dim::one()),
                b.dim(Dim::zero()),
            );
            let moved = b.add(v, shift);
            let low = b.min(moved, last);
            v = b.max(low, zero);
        }
        if !t.stride.is(1) {
            let s = b.dim(t.stride.clone());
            v = b.mul(v, s);
        }
        sum = Some(match sum {
            Some(s) => b.add(s, v),
            None => v,
        });
    }
    match sum {
        Some(s) if a.offset.is(0) => s,
        Some(s) => {
            let o = b.dim(a.offset.clone());
            b.add(s, o)
        }
        None => b.dim(a.offset.clone()),
    }
}

/// Appends `body` to `b`. `leaf` may replace a leaf statement; gives the new number of each old statement.
pub fn inline_body(
    b: &mut BodyBuilder,
    body: &Body,
    leaf: &mut dyn FnMut(&mut BodyBuilder, &ScalarOp) -> Option<BodyId>,
) -> Vec<BodyId> {
    let mut map: Vec<BodyId> = Vec::with_capacity(body.stmts.len());
    for s in &body.stmts {
        let new = if s.args.is_empty() { leaf(b, &s.op) } else { None };
        map.push(new.unwrap_or_else(|| {
            let args: Vec<BodyId> = s.args.iter().map(|a| map[a.index()]).collect();
            b.push(s.op.clone(), &args, s.ty)
        }));
    }
    map
}

/// Whether a body reads the index of this axis.
fn reads_index(body: &Body, axis: u32) -> bool {
    body.stmts.iter().any(|s| s.op == ScalarOp::Index(axis))
}

/// The score body of an attention anchor.
fn score(r: &Region) -> Option<&Body> {
    match &r.anchor {
        Anchor::Attention(a) => Some(&a.score),
        _ => None,
    }
}

/// Whether any body of the region reads the index of this axis.
pub fn uses_index(r: &Region, axis: u32) -> bool {
    reads_index(&r.body, axis) || score(r).is_some_and(|b| reads_index(b, axis))
}

/// All accesses: operands, then stores.
pub fn accesses(r: &Region) -> impl Iterator<Item = &Access> {
    r.operands.iter().chain(r.stores.iter().map(|s| &s.access))
}

fn accesses_mut(r: &mut Region) -> impl Iterator<Item = &mut Access> {
    r.operands
        .iter_mut()
        .chain(r.stores.iter_mut().map(|s| &mut s.access))
}

/// Replaces the leaves `Index(axis)` of all bodies.
fn rewrite_indices(r: &mut Region, f: &dyn Fn(u32) -> Affine) {
    let rewrite = |body: &Body| {
        let mut b = BodyBuilder::new();
        let map = inline_body(&mut b, body, &mut |b, op| match op {
            ScalarOp::Index(a) => Some(emit_affine(b, &f(*a))),
            _ => None,
        });
        (b.body().clone(), map)
    };
    let (body, map) = rewrite(&r.body);
    r.body = body;
    for s in &mut r.stores {
        s.value = map[s.value.index()];
    }
    if let Anchor::Attention(a) = &mut r.anchor {
        a.score = rewrite(&a.score).0;
    }
}

/// Gives axis `a` the number `map(a)` in accesses, bodies and anchors; terms are sorted again.
pub fn renumber_axes(r: &mut Region, map: &dyn Fn(u32) -> u32) {
    for acc in accesses_mut(r) {
        for t in &mut acc.terms {
            t.axis = map(t.axis);
        }
        acc.terms.sort_by_key(|t| t.axis);
    }
    rewrite_indices(r, &|a| Affine::axis(map(a)));
    if let Anchor::Attention(a) = &mut r.anchor {
        a.key = map(a.key);
        a.inner = map(a.inner);
    }
}

/// Splits axis `axis` into an outer part and an inner one of extent `inner`, which gets the number `axis + 1`. `None` (and
/// the region unchanged) if the extent is no multiple of `inner` or the axis is clamped or an axis of attention's sums.
pub fn split_axis(r: &mut Region, axis: u32, inner: &Dim) -> Option<()> {
    let outer = r.axes[axis as usize].extent.exact_div(inner)?;
    let clamped = accesses(r).any(|a| a.terms.iter().any(|t| t.axis == axis && t.clamp.is_some()));
    let summed = matches!(&r.anchor, Anchor::Attention(a) if a.key == axis || a.inner == axis);
    if clamped || summed {
        return None;
    }
    let in_row = r.row().contains(&axis);
    renumber_axes(r, &|a| if a > axis { a + 1 } else { a });
    let mut part = r.axes[axis as usize].clone();
    part.extent = inner.clone();
    r.axes.insert(axis as usize + 1, part);
    r.axes[axis as usize].extent = outer;
    r.row_axes += u32::from(in_row);
    for acc in accesses_mut(r) {
        if let Some(i) = acc.terms.iter().position(|t| t.axis == axis) {
            let s = acc.terms[i].stride.clone();
            acc.terms[i].stride = s.clone() * inner.clone();
            acc.terms.insert(i + 1, term(axis + 1, s));
        }
    }
    rewrite_indices(r, &|a| {
        let mut idx = Affine::axis(a);
        if a == axis {
            idx.terms[0].stride = inner.clone();
            idx.terms.push(term(axis + 1, Dim::one()));
        }
        idx
    });
    Some(())
}

/// Removes an axis that nothing refers to any more.
fn remove_axis(r: &mut Region, axis: u32) {
    let in_row = r.row().contains(&axis);
    r.row_axes -= u32::from(in_row);
    r.axes.remove(axis as usize);
    renumber_axes(r, &|a| if a > axis { a - 1 } else { a });
}

/// What a clamped index 0 contributes, if it can be decided.
fn clamped_zero(c: &Clamp) -> Option<i64> {
    let (shift, limit) = (c.shift.as_const()?, c.limit.as_const()?);
    Some(shift.clamp(0, (limit - 1).max(0)))
}

/// Removes an axis of extent 1, if its clamps can be decided.
fn drop_unit_axis(r: &mut Region, axis: u32) -> bool {
    let decided = accesses(r).all(|a| {
        a.terms
            .iter()
            .filter(|t| t.axis == axis)
            .all(|t| t.clamp.as_ref().is_none_or(|c| clamped_zero(c).is_some()))
    });
    if !decided {
        return false;
    }
    for acc in accesses_mut(r) {
        for t in acc.terms.iter().filter(|t| t.axis == axis) {
            if let Some(v) = t.clamp.as_ref().and_then(clamped_zero) {
                acc.offset = acc.offset.clone() + t.stride.clone() * Dim::from(v);
            }
        }
        acc.terms.retain(|t| t.axis != axis);
    }
    rewrite_indices(r, &|a| {
        if a == axis {
            Affine::constant(Dim::zero())
        } else {
            Affine::axis(a)
        }
    });
    remove_axis(r, axis);
    true
}

/// Whether axes `a` and `a + 1` are one axis as far as every access and body can tell.
fn can_collapse(r: &Region, a: u32) -> bool {
    let (x, y) = (&r.axes[a as usize], &r.axes[a as usize + 1]);
    let same_group = x.kind == y.kind && r.row().contains(&a) == r.row().contains(&(a + 1));
    same_group
        && !uses_index(r, a)
        && !uses_index(r, a + 1)
        && accesses(r).all(|acc| {
            let clamped = acc
                .terms
                .iter()
                .any(|t| (t.axis == a || t.axis == a + 1) && t.clamp.is_some());
            !clamped && acc.stride(a) == acc.stride(a + 1) * y.extent.clone()
        })
}

/// Drops axes of extent 1 and collapses adjacent axes. Attention keeps its axes: backends know them by position. A
/// matrix product keeps at least one axis of each group.
pub fn normalize_axes(r: &mut Region) {
    if matches!(r.anchor, Anchor::Attention(_)) {
        return name_axes(r);
    }
    let reduces = r.body.stmts.iter().any(|s| matches!(s.op, ScalarOp::Reduce(_)));
    let plain = r.anchor == Anchor::None && !reduces;
    if plain {
        r.row_axes = 0;
    }
    let keep = usize::from(r.anchor != Anchor::None);
    let mut a = r.axes.len() as u32;
    while a > 0 {
        a -= 1;
        let group = if r.row().contains(&a) {
            r.row().len()
        } else if r.axes[a as usize].kind == AxisKind::Parallel {
            r.outer().len()
        } else {
            r.axes.len() - r.parallel().len()
        };
        if r.axes[a as usize].extent.is(1) && group > keep {
            drop_unit_axis(r, a);
        }
    }
    let mut a = (r.axes.len() as u32).saturating_sub(1);
    while a > 0 {
        a -= 1;
        if can_collapse(r, a) {
            let e = r.axes[a as usize].extent.clone();
            for acc in accesses_mut(r) {
                acc.terms.retain(|t| t.axis != a);
            }
            let inner = &mut r.axes[a as usize + 1].extent;
            *inner = e * inner.clone();
            remove_axis(r, a);
        }
    }
    if plain {
        // Without reductions rows mean nothing; one row axis lets backends hoist what is constant along it.
        r.row_axes = u32::from(!r.parallel().is_empty());
    }
    name_axes(r);
}

/// Names axes by role and position: `i0` outer, `r0` row, `k0` reduce.
fn name_axes(r: &mut Region) {
    let (row, parallel) = (r.row(), r.parallel());
    for n in 0..r.axes.len() as u32 {
        let name = if row.contains(&n) {
            format!("r{}", n - row.start)
        } else if parallel.contains(&n) {
            format!("i{n}")
        } else {
            format!("k{}", n - parallel.end)
        };
        r.axes[n as usize].name = name.into();
    }
}

/// A region with the values it reads and writes.
#[derive(Clone, Debug)]
pub struct Loop {
    /// The loop nest.
    pub region: Region,
    /// Operand values.
    pub inputs: Vec<ValueId>,
    /// Result values.
    pub outputs: Vec<ValueId>,
    /// Result types.
    pub types: Vec<TensorType>,
    /// Location.
    pub loc: rsqc_ir::Loc,
}

impl Loop {
    /// Drops the results for which `keep` answers false, then statements and operands that nothing needs; merges equal
    /// statements and equal operands; normalises axes.
    pub fn prune(&mut self, keep: &dyn Fn(ValueId) -> bool) {
        let kept: Vec<bool> = self.outputs.iter().map(|v| keep(*v)).collect();
        let mut it = kept.iter().copied();
        self.region.stores.retain(|_| it.next().unwrap_or(false));
        let mut it = kept.iter().copied();
        self.types.retain(|_| it.next().unwrap_or(false));
        let mut it = kept.iter().copied();
        self.outputs.retain(|_| it.next().unwrap_or(false));
        normalize_axes(&mut self.region);
        simplify(&mut self.region);
        self.prune_operands();
        simplify(&mut self.region);
    }

    /// Drops operands that nothing reads and merges those that read the same elements of the same value.
    fn prune_operands(&mut self) {
        let r = &mut self.region;
        let mut used: Vec<u32> = match &r.anchor {
            Anchor::None => Vec::new(),
            Anchor::Contract { lhs, rhs, .. } => vec![*lhs, *rhs],
            Anchor::Attention(a) => a.operands().collect(),
        };
        for s in r.body.stmts.iter().chain(score(r).iter().flat_map(|b| &b.stmts)) {
            if let ScalarOp::Operand(n) = s.op {
                used.push(n);
            }
        }
        used.sort_unstable();
        let mut new = NewOperands {
            old: std::mem::take(&mut r.operands),
            values: std::mem::take(&mut self.inputs),
            map: BTreeMap::new(),
            operands: Vec::new(),
            inputs: Vec::new(),
        };
        for n in used {
            new.take(n);
        }
        r.operands = new.operands;
        self.inputs = new.inputs;
        let map = new.map;
        renumber_operands(r, &|n| map[&n]);
    }
}

struct NewOperands {
    old: Vec<Access>,
    values: Vec<ValueId>,
    map: BTreeMap<u32, u32>,
    operands: Vec<Access>,
    inputs: Vec<ValueId>,
}

impl NewOperands {
    /// Carries operand `n` over, with the operands it is gathered by.
    fn take(&mut self, n: u32) -> u32 {
        if let Some(m) = self.map.get(&n) {
            return *m;
        }
        let mut access = self.old[n as usize].clone();
        for g in &mut access.gathers {
            g.operand = self.take(g.operand);
        }
        let v = self.values[n as usize];
        let same = self
            .operands
            .iter()
            .zip(&self.inputs)
            .position(|(a, w)| *w == v && *a == access);
        let m = same.unwrap_or_else(|| {
            self.operands.push(access);
            self.inputs.push(v);
            self.inputs.len() - 1
        }) as u32;
        self.map.insert(n, m);
        m
    }
}

/// Gives operand `n` the number `map(n)` in bodies and anchor (not in gathers).
fn renumber_operands(r: &mut Region, map: &dyn Fn(u32) -> u32) {
    let fix = |body: &mut Body| {
        for s in &mut body.stmts {
            if let ScalarOp::Operand(n) = &mut s.op {
                *n = map(*n);
            }
        }
    };
    fix(&mut r.body);
    match &mut r.anchor {
        Anchor::None => {}
        Anchor::Contract { lhs, rhs, .. } => {
            *lhs = map(*lhs);
            *rhs = map(*rhs);
        }
        Anchor::Attention(a) => {
            a.renumber_operands(map);
            fix(&mut a.score);
        }
    }
}

/// Drops statements that no store needs and merges equal ones, in the body and in the score body.
pub fn simplify(r: &mut Region) {
    let mut roots: Vec<BodyId> = r.stores.iter().map(|s| s.value).collect();
    r.body.simplify(&mut roots);
    for (s, v) in r.stores.iter_mut().zip(roots) {
        s.value = v;
    }
    if let Anchor::Attention(a) = &mut r.anchor {
        // The last statement is the score.
        if let Some(last) = a.score.stmts.len().checked_sub(1) {
            a.score.simplify(&mut [BodyId(last as u32)]);
        }
    }
}
