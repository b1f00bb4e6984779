//! Structure of regions: what the evaluator and every backend rely on.

use crate::eval::attention8;
use crate::eval::region::varying;
use crate::region::{Access, Anchor, Attention, AxisKind, Products, Region};
use crate::scalar::{Body, ScalarOp, check_body};
use crate::types::ScalarType;
use std::collections::BTreeSet;

/// Checks everything about a region that does not need symbol values. `operands` are the storage types of the node's
/// operands (`None` = left out), `results` those of its results. Invariants, by number:
///
/// - R1 axis names are unique and of the form `[a-z][a-z0-9_]*`; parallel axes come first; no more row axes than
///   parallel ones.
/// - R2 there is one access an operand. Terms name axes, are sorted by axis, have at most one unclamped term an axis,
///   and no constant stride 0. Gathers name integer operands and are not cyclic.
/// - R3 a contraction names two operands and has an i32 (or i64) accumulator for integers, a float one for floats and
///   for floats with 8-bit codes as right factor; an attention names float operands (or integer codes for q and k) and
///   two distinct reduce axes. Where it makes codes, q, k and v are floats, the inner extent is a constant whose sums fit
///   32 bits, and scales are single f32.
/// - R4 bodies are well typed; operands exist, have the declared type and, outside the anchor, do not use reduce axes;
///   `index` names a parallel axis (in a score body, also the key axis); `anchor` occurs only with an anchor, in its
///   type; no reduction in a score body, whose last statement is f32.
/// - R5 there is one store a result, of the result's storage type, with a linear access over parallel axes; a value
///   that varies along the row is stored with an access that uses each row axis (of an extent other than 1).
pub fn check_structure(r: &Region, operands: &[Option<ScalarType>], results: &[ScalarType]) -> Vec<String> {
    let mut c = Checker {
        r,
        operands,
        errors: Vec::new(),
    };
    c.axes();
    c.accesses();
    // Later checks follow axis and operand numbers.
    if c.errors.is_empty() {
        c.anchor();
        c.body();
    }
    if c.errors.is_empty() {
        c.stores(results);
    }
    c.errors
}

struct Checker<'a> {
    r: &'a Region,
    operands: &'a [Option<ScalarType>],
    errors: Vec<String>,
}

impl Checker<'_> {
    fn error(&mut self, message: String) {
        self.errors.push(message);
    }

    fn axes(&mut self) {
        let mut names = BTreeSet::new();
        let mut seen_other = false;
        for a in &self.r.axes {
            let mut chars = a.name.chars();
            let head = chars.next().is_some_and(|c| c.is_ascii_lowercase());
            let tail = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !head || !tail {
                self.error(format!("R1: bad axis name `{}`", a.name.escape_debug()));
            }
            if !names.insert(&a.name) {
                self.error(format!("R1: two axes have the name `{}`", a.name.escape_debug()));
            }
            if a.kind != AxisKind::Parallel {
                seen_other = true;
            } else if seen_other {
                self.error(format!(
                    "R1: parallel axis `{}` stands behind another kind",
                    a.name
                ));
            }
        }
        if self.r.row_axes > self.r.parallel().end {
            self.error(format!(
                "R1: {} row axes of {} parallel ones",
                self.r.row_axes,
                self.r.parallel().end
            ));
        }
    }

    fn accesses(&mut self) {
        if self.r.operands.len() != self.operands.len() {
            self.error(format!(
                "R2: {} accesses for {} operands",
                self.r.operands.len(),
                self.operands.len()
            ));
            return;
        }
        for (i, a) in self.r.operands.iter().enumerate() {
            self.access(&format!("operand {i}"), a);
            for g in &a.gathers {
                let ty = self.operands.get(g.operand as usize).copied().flatten();
                if !ty.is_some_and(ScalarType::is_int) {
                    self.error(format!(
                        "R2: operand {i} gathers through operand {}, which is no integer tensor",
                        g.operand
                    ));
                }
            }
        }
        if self.errors.is_empty() && self.gathers_are_cyclic() {
            self.error("R2: gathers are cyclic".into());
        }
    }

    fn access(&mut self, what: &str, a: &Access) {
        for t in &a.terms {
            if t.axis as usize >= self.r.axes.len() {
                self.error(format!("R2: {what} uses axis {}, which does not exist", t.axis));
            }
            if t.stride.is(0) {
                self.error(format!("R2: {what} has a stride of 0 along axis {}", t.axis));
            }
        }
        let sorted = a
            .terms
            .windows(2)
            .all(|w| w[0].axis < w[1].axis || w[0].axis == w[1].axis && w[1].clamp.is_some());
        if !sorted {
            self.error(format!(
                "R2: the terms of {what} are not sorted by axis, or one axis has two unclamped ones"
            ));
        }
    }

    /// Peels operands whose gathers only name peeled ones until none is left.
    fn gathers_are_cyclic(&self) -> bool {
        let mut done = vec![false; self.r.operands.len()];
        loop {
            let next = (0..done.len()).find(|i| {
                !done[*i]
                    && self.r.operands[*i]
                        .gathers
                        .iter()
                        .all(|g| done[g.operand as usize])
            });
            match next {
                Some(i) => done[i] = true,
                None => return done.contains(&false),
            }
        }
    }

    fn operand_type(&mut self, rule: &str, n: u32) -> Option<ScalarType> {
        let ty = self.operands.get(n as usize).copied().flatten();
        if ty.is_none() {
            self.error(format!("{rule}: operand {n} does not exist"));
        }
        ty
    }

    fn anchor(&mut self) {
        match &self.r.anchor {
            Anchor::None => {}
            Anchor::Contract { lhs, rhs, acc, .. } => {
                let types = (self.operand_type("R3", *lhs), self.operand_type("R3", *rhs));
                let (Some(l), Some(r)) = types else { return };
                let floats = l.is_float() && (r.is_float() || r == ScalarType::I8) && acc.is_float();
                let ints = l.is_int() && r.is_int() && matches!(acc, ScalarType::I32 | ScalarType::I64);
                if !floats && !ints {
                    self.error(format!("R3: a contraction of {l} and {r} in {acc}"));
                }
            }
            Anchor::Attention(a) => self.attention(a),
        }
    }

    fn attention(&mut self, a: &Attention) {
        let types: Vec<Option<ScalarType>> = [a.q, a.k, a.v]
            .iter()
            .map(|n| self.operand_type("R3", *n))
            .collect();
        if types.iter().flatten().any(|t| *t == ScalarType::Bool) {
            self.error("R3: an attention over bool operands".into());
        }
        if let Products::Int8 { scales } = a.products {
            self.codes(a, &types, scales);
        }
        for axis in [a.key, a.inner] {
            let kind = self.r.axes.get(axis as usize).map(|x| x.kind);
            if kind != Some(AxisKind::Reduce) {
                self.error(format!("R3: axis {axis} of an attention is not a reduce axis"));
            }
        }
        if a.key == a.inner {
            self.error("R3: key and inner axis of an attention are the same".into());
        }
        let parallel = self.r.parallel();
        let dot = a
            .score
            .stmts
            .iter()
            .find(|s| s.op == ScalarOp::Anchor)
            .map(|s| s.ty);
        self.statements("score", &a.score, &|x| x == a.key || parallel.contains(&x), dot);
        if a.score.stmts.iter().any(|s| matches!(s.op, ScalarOp::Reduce(_))) {
            self.error("R4: a score body reduces over a row".into());
        }
        if a.score.stmts.last().map(|s| s.ty) != Some(ScalarType::F32) {
            self.error("R4: a score body must end with an f32".into());
        }
    }

    /// An attention over 8-bit codes: of floats, with sums that fit 32 bits and scales of one element.
    fn codes(&mut self, a: &Attention, types: &[Option<ScalarType>], scales: Option<[u32; 3]>) {
        if let Some(t) = types.iter().flatten().find(|t| !t.is_float()) {
            self.error(format!("R3: an attention makes codes of {t}"));
        }
        let inner = self.r.axes.get(a.inner as usize);
        let extent = inner.and_then(|x| x.extent.as_const());
        if extent.is_none_or(|d| d > attention8::MAX_INNER as i64) {
            self.error(format!(
                "R3: an attention over codes needs a constant inner extent up to {}",
                attention8::MAX_INNER
            ));
        }
        for n in scales.into_iter().flatten() {
            let ty = self.operand_type("R3", n);
            let single = self.uses(n).is_empty();
            if ty.is_some_and(|t| t != ScalarType::F32) || !single {
                self.error(format!("R3: operand {n} is no single scale of an attention"));
            }
        }
    }

    fn body(&mut self) {
        let parallel = self.r.parallel();
        let acc = match &self.r.anchor {
            Anchor::None => None,
            Anchor::Contract { acc, .. } => Some(*acc),
            Anchor::Attention(_) => Some(ScalarType::F32),
        };
        let body = &self.r.body;
        self.statements("body", body, &|x| parallel.contains(&x), acc);
    }

    fn statements(&mut self, what: &str, body: &Body, axis: &dyn Fn(u32) -> bool, acc: Option<ScalarType>) {
        if let Err(e) = check_body(body) {
            self.error(format!("R4: {what} {e}"));
        }
        for (i, s) in body.stmts.iter().enumerate() {
            let at = format!("R4: {what} statement {i}");
            match &s.op {
                ScalarOp::Operand(n) => {
                    let Some(ty) = self.operand_type(&at, *n) else {
                        continue;
                    };
                    if ty != s.ty {
                        self.error(format!("{at} reads operand {n} of {ty} as {}", s.ty));
                    }
                    if let Some(x) = self.uses(*n).into_iter().find(|x| !axis(*x)) {
                        self.error(format!(
                            "{at} reads operand {n} along axis {x}, which is not in scope"
                        ));
                    }
                }
                ScalarOp::Index(x) if !axis(*x) => {
                    self.error(format!("{at} names axis {x}, which is not in scope"));
                }
                ScalarOp::Anchor if acc != Some(s.ty) => {
                    self.error(format!("{at} reads the accumulator as {}", s.ty));
                }
                _ => {}
            }
        }
    }

    /// Axes that an operand's address depends on, through gathers too.
    fn uses(&self, n: u32) -> BTreeSet<u32> {
        let Some(a) = self.r.operands.get(n as usize) else {
            return BTreeSet::new();
        };
        let mut out: BTreeSet<u32> = a.terms.iter().map(|t| t.axis).collect();
        for g in &a.gathers {
            out.extend(self.uses(g.operand));
        }
        out
    }

    fn stores(&mut self, results: &[ScalarType]) {
        if self.r.stores.len() != results.len() {
            self.error(format!(
                "R5: {} stores for {} results",
                self.r.stores.len(),
                results.len()
            ));
            return;
        }
        let varies = varying(self.r);
        let parallel = self.r.parallel();
        for (i, s) in self.r.stores.iter().enumerate() {
            let Some(stmt) = self.r.body.stmts.get(s.value.index()) else {
                self.error(format!(
                    "R5: store {i} names statement {}, which does not exist",
                    s.value.0
                ));
                continue;
            };
            if stmt.ty != results[i] {
                self.error(format!(
                    "R5: store {i} of {} into a result of {}",
                    stmt.ty, results[i]
                ));
            }
            self.access(&format!("store {i}"), &s.access);
            if !s.access.is_linear() || s.access.terms.iter().any(|t| !parallel.contains(&t.axis)) {
                self.error(format!(
                    "R5: the access of store {i} is not linear over parallel axes"
                ));
            }
            let missing = self
                .r
                .row()
                .find(|a| !s.access.uses(*a) && !self.r.axes[*a as usize].extent.is(1));
            if let (true, Some(a)) = (varies[s.value.index()], missing) {
                self.error(format!(
                    "R5: store {i} of a value that varies along the row does not use row axis `{}`",
                    self.r.axes[a as usize].name
                ));
            }
        }
    }
}
