//! Kernels as backends see them: a region with the types and layouts of its operands, apart from any particular model.

use rsqc_ir::region::Region;
use rsqc_ir::scalar::ScalarOp;
use rsqc_ir::{Dim, Layout, TensorType};
use std::collections::BTreeMap;

/// Everything that determines a kernel's code.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelSpec {
    /// The loop nest.
    pub region: Region,
    /// Operand types.
    pub operands: Vec<TensorType>,
    /// Operand layouts.
    pub operand_layouts: Vec<Option<Layout>>,
    /// Result types.
    pub results: Vec<TensorType>,
    /// Result layouts.
    pub result_layouts: Vec<Option<Layout>>,
}

/// Where generated code finds a dim: an immediate, or a slot of the parameter array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DimSlot {
    /// Known at compile time.
    Const(i64),
    /// `params[n]`.
    Param(u32),
}

/// The symbolic dims of a kernel, in order of first appearance: its run-time parameters.
#[derive(Clone, Debug, Default)]
pub struct Params {
    slots: BTreeMap<Dim, u32>,
    dims: Vec<Dim>,
}

impl Params {
    /// The parameters of a spec: extents, strides, offsets, clamps, gather limits, dims in bodies.
    pub fn of(spec: &KernelSpec) -> Params {
        let mut p = Params::default();
        spec.visit_dims(&mut |d| {
            p.slot(d);
        });
        p
    }

    /// The slot of a dim, made if it is new.
    pub fn slot(&mut self, d: &Dim) -> DimSlot {
        if let Some(c) = d.as_const() {
            return DimSlot::Const(c);
        }
        let next = self.dims.len() as u32;
        let n = *self.slots.entry(d.clone()).or_insert(next);
        if n == next {
            self.dims.push(d.clone());
        }
        DimSlot::Param(n)
    }

    /// The slot of a dim that occurs.
    pub fn find(&self, d: &Dim) -> Option<DimSlot> {
        d.as_const()
            .map(DimSlot::Const)
            .or_else(|| self.slots.get(d).map(|n| DimSlot::Param(*n)))
    }

    /// The dims in slot order.
    pub fn dims(&self) -> &[Dim] {
        &self.dims
    }
}

impl KernelSpec {
    /// Calls `f` for every dim that code may need, in a fixed order.
    pub fn visit_dims(&self, f: &mut dyn FnMut(&Dim)) {
        let r = &self.region;
        r.axes.iter().for_each(|a| f(&a.extent));
        for a in r.operands.iter().chain(r.stores.iter().map(|s| &s.access)) {
            f(&a.offset);
            for t in &a.terms {
                f(&t.stride);
                if let Some(c) = &t.clamp {
                    f(&c.shift);
                    f(&c.limit);
                }
            }
            for g in &a.gathers {
                f(&g.stride);
                f(&g.limit);
            }
        }
        let score = match &r.anchor {
            rsqc_ir::region::Anchor::Attention(a) => Some(&a.score),
            _ => None,
        };
        for s in r.body.stmts.iter().chain(score.iter().flat_map(|b| &b.stmts)) {
            if let ScalarOp::Dim(d) = &s.op {
                f(d);
            }
        }
    }

    /// A text that two specs share exactly if one kernel serves both: symbolic dims are replaced by their slots, axis
    /// names and tensor shapes are left out.
    pub fn key(&self) -> String {
        use std::fmt::Write;
        let params = Params::of(self);
        let slot = |d: &Dim| match params.find(d) {
            Some(DimSlot::Const(c)) => c.to_string(),
            Some(DimSlot::Param(n)) => format!("p{n}"),
            None => "?".into(),
        };
        let r = &self.region;
        let mut k = String::new();
        for a in &r.axes {
            let _ = write!(k, "axis {:?} {};", a.kind, slot(&a.extent));
        }
        let _ = write!(k, "row {};anchor {:?};", r.row_axes, AnchorKey(&r.anchor));
        for (a, (t, l)) in r
            .operands
            .iter()
            .zip(self.operands.iter().zip(&self.operand_layouts))
        {
            let _ = write!(k, "in {} {l:?} ", t.elem);
            write_access(&mut k, a, &slot);
        }
        for (s, (t, l)) in r.stores.iter().zip(self.results.iter().zip(&self.result_layouts)) {
            let _ = write!(k, "out {} {l:?} v{} ", t.elem, s.value.0);
            write_access(&mut k, &s.access, &slot);
        }
        let mut body = |b: &rsqc_ir::scalar::Body| {
            for s in &b.stmts {
                match &s.op {
                    ScalarOp::Dim(d) => {
                        let _ = write!(k, "dim {};", slot(d));
                    }
                    op => {
                        let _ = write!(k, "{op:?} {:?} {};", s.args, s.ty);
                    }
                }
            }
        };
        body(&r.body);
        if let rsqc_ir::region::Anchor::Attention(a) = &r.anchor {
            body(&a.score);
        }
        k
    }
}

fn write_access(k: &mut String, a: &rsqc_ir::region::Access, slot: &dyn Fn(&Dim) -> String) {
    use std::fmt::Write;
    let _ = write!(k, "{}", slot(&a.offset));
    for t in &a.terms {
        let _ = write!(k, "+a{}*{}", t.axis, slot(&t.stride));
        if let Some(c) = &t.clamp {
            let _ = write!(k, "[{},{}]", slot(&c.shift), slot(&c.limit));
        }
    }
    for g in &a.gathers {
        let _ = write!(k, "+g{}*{}<{}", g.operand, slot(&g.stride), slot(&g.limit));
    }
    k.push(';');
}

/// The anchor without its score body, whose dims are printed by slot.
struct AnchorKey<'a>(&'a rsqc_ir::region::Anchor);

impl std::fmt::Debug for AnchorKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use rsqc_ir::region::Anchor;
        match self.0 {
            Anchor::Attention(a) => write!(
                f,
                "attention {} {} {} {} {} {:?} {:?}",
                a.q, a.k, a.v, a.key, a.inner, a.empty_row, a.products
            ),
            other => write!(f, "{other:?}"),
        }
    }
}
