//! `assign-layouts`: physical forms of values that differ from dense row-major.
//!
//! - A constant matrix `[K, N]` that is the right factor of a Contract and nothing else, read as `k*N + n`, becomes
//!   `packed_weight`. One stored as `[N, K]` (read as `k + n*K`) is transposed first.
//! - int8 codes that some region computes and that are read only as left factors of integer Contracts become
//!   `offset_binary` (stored with 128 added) on targets that want it.
//!
//! Sound because a layout changes where and how elements are stored, never their values: every reader and the writer
//! know the layout of the value.

use crate::fuse::edit::term;
use crate::pass::{Effect, Pass, PassCx, Phases};
use rsqc_ir::diag::Diag;
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
        for v in values {
            match weight_form(cx.module(), v) {
                Some(Form::Packed) => set(cx, v, Layout::PackedWeight),
                Some(Form::Transposed) => transpose_weight(cx, v)?,
                None => {}
            }
            if cx.env().target.offset_binary && is_activation_code(cx.module(), v) {
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
    Packed,
    Transposed,
}

/// Whether a constant is a matrix that can be packed, and how it is stored now.
fn weight_form(m: &Module, v: ValueId) -> Option<Form> {
    let shape = &m.graph.const_id(v).map(|_| m.graph.ty(v))?.shape;
    let storage = m.graph.ty(v).storage();
    if shape.len() != 2 || !matches!(storage, ScalarType::I8 | ScalarType::F32) {
        return None;
    }
    let is = |rows: &Dim, columns: &Dim, transposed: bool| {
        all_uses(m, v, &|r, slot| reads_matrix(r, slot, rows, columns, transposed))
    };
    if is(&shape[0], &shape[1], false) {
        Some(Form::Packed)
    } else if is(&shape[1], &shape[0], true) {
        Some(Form::Transposed)
    } else {
        None
    }
}

/// Whether operand `slot` is the right factor alone, read as a whole `[k, n]` matrix over one reduce axis and one row axis.
fn reads_matrix(r: &Region, slot: u32, k: &Dim, n: &Dim, transposed: bool) -> bool {
    let Anchor::Contract { lhs, rhs, .. } = r.anchor else {
        return false;
    };
    let (row, parallel) = (r.row(), r.parallel());
    if rhs != slot || lhs == slot || row.len() != 1 || r.axes.len() as u32 != parallel.end + 1 {
        return false;
    }
    let (na, ka) = (row.start, parallel.end);
    let strides = if transposed {
        (Dim::one(), k.clone())
    } else {
        (n.clone(), Dim::one())
    };
    // Axes of extent 1 leave no term.
    let want: Vec<_> = [(na, n, strides.1), (ka, k, strides.0)]
        .into_iter()
        .filter(|(_, e, _)| !e.is(1))
        .map(|(a, _, s)| term(a, s))
        .collect();
    let access = &r.operands[slot as usize];
    let have: Vec<_> = access
        .terms
        .iter()
        .filter(|t| !r.axes[t.axis as usize].extent.is(1))
        .cloned()
        .collect();
    r.axes[na as usize].extent == *n
        && r.axes[ka as usize].extent == *k
        && access.offset.is(0)
        && access.gathers.is_empty()
        && have == want
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

/// Whether `v` holds int8 codes computed by a region and read only as left factors of integer Contracts with a packed (or
/// packable) right factor.
fn is_activation_code(m: &Module, v: ValueId) -> bool {
    let g = &m.graph;
    let computed = g.def_node(v).is_some_and(|(n, _)| region(m, n).is_some());
    computed
        && g.ty(v).storage() == ScalarType::I8
        && g.users(v).all(|(n, _)| {
            let rhs = region(m, n).and_then(|r| match r.anchor {
                Anchor::Contract { rhs, .. } => g.node(n).input(rhs as usize),
                _ => None,
            });
            rhs.is_some_and(|w| {
                g.value(w).layout == Some(Layout::PackedWeight) || weight_form(m, w).is_some()
            })
        })
        && all_uses(m, v, &|r, slot| match r.anchor {
            Anchor::Contract { lhs, acc, .. } => {
                lhs == slot && acc == ScalarType::I32 && !body_reads(r, slot)
            }
            _ => false,
        })
}

fn body_reads(r: &Region, n: u32) -> bool {
    r.body
        .stmts
        .iter()
        .any(|s| s.op == rsqc_ir::scalar::ScalarOp::Operand(n))
}
