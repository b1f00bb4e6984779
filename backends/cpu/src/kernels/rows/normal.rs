//! The normal form of a region: as few axes as possible.
//!
//! Axes of extent 1 are dropped and neighbours are merged where every access steps through them as through one axis.
//! Where rows mean nothing (see [`needs_rows`]), the boundary between outer and row axes is moved: the last parallel axis
//! alone is the row, along which vectors run. What a kernel is generated from, named after and launched with is always
//! the normal form, so regions that differ only in how their axes are cut share code.

use rsqc_backend::KernelSpec;
use rsqc_ir::Layout;
use rsqc_ir::region::{Access, Anchor, AxisKind, Region};
use rsqc_ir::scalar::{Body, BodyId, ScalarOp};

/// The normal form of a kernel.
pub fn normalize(spec: &KernelSpec) -> KernelSpec {
    let mut spec = spec.clone();
    let r = &mut spec.region;
    let mut roots: Vec<BodyId> = r.stores.iter().map(|s| s.value).collect();
    r.body.simplify(&mut roots);
    for (s, root) in r.stores.iter_mut().zip(roots) {
        s.value = root;
    }
    let attention = matches!(r.anchor, Anchor::Attention(_));
    let free = !needs_rows(r);
    if free {
        // Attention's channels stay a row; its heads become independent of each other.
        r.row_axes = u32::from(attention).min(r.row_axes);
    }
    drop_ones(r);
    // A packed weight's reduce axes are the pieces in which it is packed.
    let packed = spec.operand_layouts.contains(&Some(Layout::PackedWeight));
    let kept = |r: &Region, a: u32| packed && r.axes[a as usize].kind == AxisKind::Reduce;
    while let Some(a) = (0..r.axes.len() as u32).find(|a| !kept(r, *a) && mergeable(r, *a)) {
        merge(r, a);
    }
    if free && !attention {
        r.row_axes = u32::from(!r.parallel().is_empty());
    }
    spec
}

/// Whether rows have to be done as they are: because the body combines values over them, or because something is stored
/// once for several points (even if there is no such point: a row may be empty).
pub fn needs_rows(r: &Region) -> bool {
    let stored_at = |a: u32| r.stores.iter().all(|s| s.access.uses(a));
    has_reductions(&r.body)
        || !r
            .parallel()
            .all(|a| r.axes[a as usize].extent.is(1) || stored_at(a))
}

/// Whether a body combines values over the row.
pub fn has_reductions(body: &Body) -> bool {
    body.stmts.iter().any(|s| matches!(s.op, ScalarOp::Reduce(_)))
}

/// All accesses of a region.
fn accesses(r: &Region) -> impl Iterator<Item = &Access> {
    r.operands.iter().chain(r.stores.iter().map(|s| &s.access))
}

fn accesses_mut(r: &mut Region) -> impl Iterator<Item = &mut Access> {
    r.operands
        .iter_mut()
        .chain(r.stores.iter_mut().map(|s| &mut s.access))
}

/// Whether the region names the axis otherwise than by striding along it.
fn is_named(r: &Region, axis: u32) -> bool {
    let named = |b: &Body| b.stmts.iter().any(|s| s.op == ScalarOp::Index(axis));
    let clamped = |a: &Access| a.terms.iter().any(|t| t.axis == axis && t.clamp.is_some());
    let by_anchor = match &r.anchor {
        Anchor::Attention(a) => a.key == axis || a.inner == axis || named(&a.score),
        _ => false,
    };
    // The channels of attention, its last parallel axis, are needed even if there is only one.
    let channel = matches!(r.anchor, Anchor::Attention(_)) && axis + 1 == r.parallel().end;
    by_anchor || channel || named(&r.body) || accesses(r).any(clamped)
}

fn drop_ones(r: &mut Region) {
    let mut axis = 0;
    while axis < r.axes.len() as u32 {
        if r.axes[axis as usize].extent.is(1) && !is_named(r, axis) {
            remove(r, axis);
        } else {
            axis += 1;
        }
    }
}

/// Removes an axis whose index is always 0.
fn remove(r: &mut Region, axis: u32) {
    if r.row().contains(&axis) {
        r.row_axes -= 1;
    }
    r.axes.remove(axis as usize);
    let renumber = |a: &mut u32| *a -= u32::from(*a > axis);
    for a in accesses_mut(r) {
        a.terms.retain(|t| t.axis != axis);
        a.terms.iter_mut().for_each(|t| renumber(&mut t.axis));
    }
    let renumber_body = |b: &mut Body| {
        for s in &mut b.stmts {
            if let ScalarOp::Index(a) = &mut s.op {
                renumber(a);
            }
        }
    };
    renumber_body(&mut r.body);
    if let Anchor::Attention(a) = &mut r.anchor {
        renumber(&mut a.key);
        renumber(&mut a.inner);
        renumber_body(&mut a.score);
    }
}

/// Whether axis `a` and the next are stepped through as one by every access.
fn mergeable(r: &Region, a: u32) -> bool {
    let (Some(outer), Some(inner)) = (r.axes.get(a as usize), r.axes.get(a as usize + 1)) else {
        return false;
    };
    let same_side = r.row().contains(&a) == r.row().contains(&(a + 1));
    outer.kind == inner.kind
        && outer.kind != AxisKind::Ordered
        && same_side
        && !is_named(r, a)
        && !is_named(r, a + 1)
        && accesses(r).all(|x| x.stride(a) == x.stride(a + 1) * inner.extent.clone())
}

fn merge(r: &mut Region, a: u32) {
    let extent = r.axes[a as usize].extent.clone() * r.axes[a as usize + 1].extent.clone();
    r.axes[a as usize + 1].extent = extent;
    remove(r, a);
}
