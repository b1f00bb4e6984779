//! `assign-layouts`: physical forms of values that differ from dense row-major.
//!
//! - A constant matrix `[K, N]` that is the right factor of a Contract and nothing else, read as `k*N + n`, becomes
//!   `packed_weight`. One stored as `[N, K]` (read as `k + n*K`) is transposed first.
//! - Where K is several reduce axes (the taps of a convolution), the constant takes the shape `[outer..., inner, N]` of
//!   these axes: kernels read the left factor in contiguous pieces of the inner extent, and pack accordingly.
//! - int8 codes that some region computes and that are the left factor of an integer Contract with such a weight become
//!   `offset_binary` (stored with 128 added) on targets that want it. Weights of codes that cannot be are not packed.
//!
//! Sound because a layout changes where and how elements are stored, never their values: every reader and the writer
//! know the layout of the value.

use crate::fuse::edit::term;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::diag::Diag;
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::region::{Anchor, Region};
use rsqc_ir::{Const, Dim, Layout, Module, NodeId, Op, Phase, ScalarType, TensorType, ValueId};

/// See the file documentation.
pub struct AssignLayouts;

impl Pass for AssignLayouts {
    fn name(&self) -> &'static str {
        "assign-layouts"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Fused, Phase::Fused)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        if !cx.permit() {
            return Ok(());
        }
        let values: Vec<ValueId> = cx.module().graph.value_ids().collect();
        let offset = cx.env().target.offset_binary;
        for v in values {
            match weight_form(cx.module(), v, offset) {
                Some(Form::Packed(shape)) => pack(cx, v, shape)?,
                Some(Form::Transposed) => transpose_weight(cx, v)?,
                None => {}
            }
            if offset && is_activation_code(cx.module(), v) {
                set(cx, v, Layout::OffsetBinary);
            }
        }
        Ok(())
    }
}

fn set(cx: &mut PassCx<'_>, v: ValueId, l: Layout) {
    cx.module_mut().graph.set_layout(v, Some(l));
    cx.count(l.name(), 1);
}

fn region(m: &Module, n: NodeId) -> Option<&Region> {
    match &m.graph.node(n).op {
        Op::Region(o) => Some(&o.region),
        _ => None,
    }
}

/// Calls `ok` for every use of `v`; false if there is none, if it is a graph output, or if a use is not a region's.
fn all_uses(m: &Module, v: ValueId, ok: &dyn Fn(&Region, u32) -> bool) -> bool {
    let g = &m.graph;
    g.use_count(v) > 0
        && !g.is_output(v)
        && g.users(v)
            .all(|(n, slot)| region(m, n).is_some_and(|r| ok(r, slot)))
}

enum Form {
    /// As it is stored, under this shape.
    Packed(Vec<Dim>),
    /// Stored as `[N, K]`.
    Transposed,
}

/// Whether a constant is a matrix that can be packed, and how it is stored now.
fn weight_form(m: &Module, v: ValueId, offset: bool) -> Option<Form> {
    let shape = &m.graph.const_id(v).map(|_| m.graph.ty(v))?.shape;
    let storage = m.graph.ty(v).storage();
    if shape.len() < 2 || !matches!(storage, ScalarType::I8 | ScalarType::F32) {
        return None;
    }
    let (node, slot) = m.graph.users(v).next()?;
    if offset && storage == ScalarType::I8 {
        let all = m
            .graph
            .users(v)
            .all(|(n, _)| match region(m, n).map(|r| &r.anchor) {
                Some(Anchor::Contract { lhs, acc, .. }) => {
                    let codes = m.graph.node(n).input(*lhs as usize);
                    *acc != ScalarType::I32 || codes.is_some_and(|c| can_be_offset(m, c))
                }
                _ => false,
            });
        if !all {
            return None;
        }
    }
    let numel: Dim = shape.iter().product();
    let form = region(m, node).and_then(|r| matrix_shape(r, slot, storage, &numel));
    if let Some(form) = form {
        let same = |r: &Region, slot| matrix_shape(r, slot, storage, &numel).as_ref() == Some(&form);
        return all_uses(m, v, &same).then_some(Form::Packed(form));
    }
    let [n, k] = shape.as_slice() else { return None };
    all_uses(m, v, &|r, slot| reads_transposed(r, slot, k, n)).then_some(Form::Transposed)
}

/// The reduce axes of a Contract that are longer than 1, if operand `slot` is its right factor alone and the left factor
/// is not moved along the row.
fn reduce_axes(r: &Region, slot: u32) -> Option<Vec<u32>> {
    let Anchor::Contract { lhs, rhs, .. } = r.anchor else {
        return None;
    };
    let (row, parallel) = (r.row(), r.parallel());
    let a = &r.operands[lhs as usize];
    if rhs != slot || lhs == slot || row.len() != 1 || a.uses(row.start) || !a.is_linear() {
        return None;
    }
    let all = parallel.end..r.axes.len() as u32;
    Some(all.filter(|a| !r.axes[*a as usize].extent.is(1)).collect())
}

/// The shape `[reduce axes..., row]` of operand `slot`, if it is the right factor and read as a whole in that order.
fn matrix_shape(r: &Region, slot: u32, storage: ScalarType, numel: &Dim) -> Option<Vec<Dim>> {
    let reduce = reduce_axes(r, slot)?;
    let n = r.row().start;
    let extent = |a: u32| r.axes[a as usize].extent.clone();
    let mut want = Vec::new();
    let mut step = extent(n);
    for a in reduce.iter().rev() {
        want.push(term(*a, step.clone()));
        step = step * extent(*a);
    }
    if !extent(n).is(1) {
        want.push(term(n, Dim::one()));
    }
    want.sort_by_key(|t| t.axis);
    // Dot products read groups of adjoining codes of the left factor.
    let adjoins = match (&r.anchor, reduce.last()) {
        (Anchor::Contract { lhs, .. }, Some(k)) if storage == ScalarType::I8 => {
            r.operands[*lhs as usize].stride(*k).is(1)
        }
        _ => true,
    };
    if step != *numel || !adjoins || !reads(r, slot, &want) {
        return None;
    }
    let mut shape: Vec<Dim> = reduce.into_iter().map(extent).collect();
    if shape.is_empty() {
        shape.push(Dim::one());
    }
    shape.push(extent(n));
    Some(shape)
}

/// Whether operand `slot` is the right factor, read as a whole matrix that is stored as `[n, k]`.
fn reads_transposed(r: &Region, slot: u32, k: &Dim, n: &Dim) -> bool {
    let Some(reduce) = reduce_axes(r, slot) else {
        return false;
    };
    let (row, extent) = (r.row().start, |a: u32| &r.axes[a as usize].extent);
    let mut want = Vec::new();
    if !n.is(1) {
        want.push(term(row, k.clone()));
    }
    let whole = match reduce.as_slice() {
        [] => k.is(1),
        [a] => {
            want.push(term(*a, Dim::one()));
            extent(*a) == k
        }
        _ => false,
    };
    whole && extent(row) == n && reads(r, slot, &want)
}

/// Whether operand `slot` is read through exactly these terms; axes of extent 1 leave none.
fn reads(r: &Region, slot: u32, want: &[rsqc_ir::region::Term]) -> bool {
    let access = &r.operands[slot as usize];
    let have: Vec<_> = access
        .terms
        .iter()
        .filter(|t| !r.axes[t.axis as usize].extent.is(1))
        .cloned()
        .collect();
    access.offset.is(0) && access.gathers.is_empty() && have == want
}

/// Packs a weight under a shape, which may cut its rows into segments.
fn pack(cx: &mut PassCx<'_>, v: ValueId, shape: Vec<Dim>) -> Result<(), Diag> {
    let Some(c) = cx.module().const_of(v) else {
        return Ok(());
    };
    if c.ty.shape == shape {
        set(cx, v, Layout::PackedWeight);
        return Ok(());
    }
    let elem = match c.ty.elem.quant() {
        // Scales belong to columns, whose axis stays the last.
        Some(q) if q.granularity == Granularity::Axis(c.ty.rank() as u32 - 1) => QuantType {
            granularity: Granularity::Axis(shape.len() as u32 - 1),
            ..(*q).clone()
        }
        .into(),
        _ => c.ty.elem.clone(),
    };
    let ty = TensorType { elem, shape };
    let new = c
        .with_type(ty.clone())
        .ok_or_else(|| Diag::internal(&*c.name, "a weight does not fit the shape of its axes"))?;
    let users: Vec<(NodeId, u32)> = cx.module().graph.users(v).collect();
    let mm = cx.module_mut();
    let id = mm.consts.add(new);
    let w = mm.graph.add_const(id, ty);
    for (node, slot) in users {
        let mut inputs = mm.graph.node(node).inputs.clone();
        inputs[slot as usize] = Some(w);
        mm.graph.set_inputs(node, inputs);
    }
    set(cx, w, Layout::PackedWeight);
    Ok(())
}

/// Replaces a weight stored as `[N, K]` by its transpose `[K, N]`, packed.
fn transpose_weight(cx: &mut PassCx<'_>, v: ValueId) -> Result<(), Diag> {
    let m = cx.module();
    let Some(c) = m.const_of(v) else { return Ok(()) };
    let Some([n, k]) = c.ty.static_shape().and_then(|s| <[usize; 2]>::try_from(s).ok()) else {
        return Ok(());
    };
    let size = c.ty.storage().size();
    let old = c.bytes();
    let mut bytes = Vec::with_capacity(old.len());
    for row in 0..k {
        for column in 0..n {
            let at = (column * k + row) * size;
            bytes.extend_from_slice(&old[at..at + size]);
        }
    }
    let ty = TensorType {
        elem: c.ty.elem.clone(),
        shape: vec![k.into(), n.into()],
    };
    let new = Const::from_bytes(&format!("{}.transposed", c.name), ty, bytes)
        .ok_or_else(|| Diag::internal("", "a transposed weight does not fit its type"))?;
    let users: Vec<(NodeId, u32)> = m.graph.users(v).collect();
    let mm = cx.module_mut();
    let ty = new.ty.clone();
    let id = mm.consts.add(new);
    let w = mm.graph.add_const(id, ty);
    for (node, slot) in users {
        let mut inputs = mm.graph.node(node).inputs.clone();
        inputs[slot as usize] = Some(w);
        mm.graph.set_inputs(node, inputs);
        if let Op::Region(o) = mm.graph.op_mut(node) {
            let r = &mut o.region;
            let (na, ka) = (r.row().start, r.parallel().end);
            r.operands[slot as usize].terms = [(na, n, 1), (ka, k, n)]
                .into_iter()
                .filter(|(_, extent, _)| *extent != 1)
                .map(|(a, _, s)| term(a, Dim::from(s)))
                .collect();
        }
    }
    set(cx, w, Layout::PackedWeight);
    Ok(())
}

/// Whether `v` holds int8 codes computed by a region and read only by regions that accept them with 128 added: as left
/// factors of integer Contracts, or as operands of bodies.
fn can_be_offset(m: &Module, v: ValueId) -> bool {
    let g = &m.graph;
    let computed = g.def_node(v).is_some_and(|(n, _)| region(m, n).is_some());
    computed
        && g.ty(v).storage() == ScalarType::I8
        && all_uses(m, v, &|r, slot| match r.anchor {
            Anchor::Contract { lhs, rhs, acc, .. } => rhs != slot && (lhs != slot || acc == ScalarType::I32),
            Anchor::None => true,
            Anchor::Attention(_) => false,
        })
}

/// Whether `v` can be offset and is the left factor of a Contract with a packed (or packable) right factor.
fn is_activation_code(m: &Module, v: ValueId) -> bool {
    let g = &m.graph;
    can_be_offset(m, v)
        && g.users(v).any(|(n, slot)| {
            let rhs = region(m, n).and_then(|r| match r.anchor {
                Anchor::Contract { lhs, rhs, .. } if lhs == slot => g.node(n).input(rhs as usize),
                _ => None,
            });
            rhs.is_some_and(|w| {
                g.value(w).layout == Some(Layout::PackedWeight) || weight_form(m, w, true).is_some()
            })
        })
}
