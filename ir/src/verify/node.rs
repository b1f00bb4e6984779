//! The invariants of one node.

use super::{bounds, defined};
use crate::diag::Diag;
use crate::graph::{Graph, Node, NodeId};
use crate::module::{Module, Phase};
use crate::ops::quant::scale_shape;
use crate::ops::{InferCx, Op};
use crate::quant::{CodeMap, Granularity, QuantType};
use crate::region::Anchor;
use crate::scalar::Body;
use crate::types::{Dim, ScalarType, Symbol, TensorType};
use std::collections::BTreeMap;

/// Checks nodes of one graph.
pub(super) struct NodeChecker<'a> {
    m: &'a Module,
    g: &'a Graph,
    /// Symbols that the module's checks express by others.
    equal: BTreeMap<Symbol, Dim>,
}

impl<'a> NodeChecker<'a> {
    pub(super) fn new(m: &'a Module, g: &'a Graph) -> Self {
        let mut equal = BTreeMap::new();
        for c in &m.checks {
            for (s, d) in [(&c.a, &c.b), (&c.b, &c.a)] {
                if let Some(s) = s.as_symbol()
                    && !d.symbols().contains(s)
                    && !equal.contains_key(s)
                    && d.symbols().iter().all(|x| !equal.contains_key(x))
                {
                    equal.insert(s.clone(), d.clone());
                    break;
                }
            }
        }
        NodeChecker { m, g, equal }
    }

    pub(super) fn node(&mut self, id: NodeId, out: &mut Vec<Diag>) {
        let node = self.g.node(id);
        let mut errors = Vec::new();
        for v in node.inputs.iter().flatten().chain(&node.outputs) {
            errors.extend(defined(self.m, self.g, *v).err());
        }
        if errors.is_empty() {
            self.types(node, &mut errors);
            self.quantization(node, &mut errors);
            self.phase(node, &mut errors);
            if let Op::Region(r) = &node.op {
                self.region(node, &r.region, &mut errors);
            }
        }
        if errors.is_empty() {
            return;
        }
        let text = crate::text::print_node(self.m, self.g, id);
        let line = text.lines().next().unwrap_or_default().to_string();
        for e in errors {
            out.push(Diag::internal(
                node.loc.to_string(),
                format!("{e}\n    in {line}"),
            ));
        }
    }

    fn input_types(&self, node: &Node) -> Vec<Option<&'a TensorType>> {
        node.inputs.iter().map(|v| v.map(|v| self.g.ty(v))).collect()
    }

    fn same(&self, a: &TensorType, b: &TensorType) -> bool {
        let reduce = |d: &Dim| d.substitute(&|s| self.equal.get(s).cloned());
        a == b
            || a.elem == b.elem
                && a.rank() == b.rank()
                && a.shape
                    .iter()
                    .zip(&b.shape)
                    .all(|(x, y)| x == y || reduce(x) == reduce(y))
    }

    fn types(&self, node: &Node, errors: &mut Vec<String>) {
        let cx = InferCx {
            symbols: &self.m.symbols,
        };
        match node.op.infer(&cx, &self.input_types(node)) {
            Err(e) => errors.push(format!("T1: {e}")),
            Ok(types) if types.len() != node.outputs.len() => {
                let n = node.outputs.len();
                errors.push(format!("T1: {} results inferred, {n} declared", types.len()));
            }
            Ok(types) => {
                for (t, v) in types.iter().zip(&node.outputs) {
                    let declared = self.g.ty(*v);
                    if !self.same(t, declared) {
                        errors.push(format!("T1: %{} is declared {declared}, inferred is {t}", v.0));
                    }
                }
            }
        }
        for v in node.inputs.iter().flatten().chain(&node.outputs) {
            let ty = self.g.ty(*v);
            if let Some(e) = ty.elem.quant().and_then(|q| quant_error(q, Some(ty.rank()))) {
                errors.push(format!("T3: %{} of type {ty}: {e}", v.0));
            }
        }
    }

    fn quantization(&self, node: &Node, errors: &mut Vec<String>) {
        let ins = self.input_types(node);
        let at = |i: usize| ins.get(i).copied().flatten();
        let (q, x, scale, zero, pre) = match &node.op {
            Op::FakeQuant(o) => (&o.qtype, at(0), at(1), at(2), at(3)),
            Op::DynamicParams(o) => (&o.qtype, at(0), None, None, at(1)),
            Op::Quantize(o) => (&o.qtype, at(0), at(1), at(2), at(3)),
            Op::Dequantize(o) => (&o.qtype, at(0), at(1), at(2), None),
            _ => return,
        };
        if let Some(e) = quant_error(q, x.map(TensorType::rank)) {
            errors.push(format!("T3: {q}: {e}"));
            return;
        }
        let Some(x) = x else { return };
        let want = match scale_shape(q.granularity, &x.shape) {
            Ok(s) => s,
            Err(e) => return errors.push(format!("T2: {e}")),
        };
        for (t, elem, what) in [(scale, q.expressed, "scales"), (zero, q.storage, "zero points")] {
            if let Some(t) = t {
                let expected = TensorType::new(elem, want.clone());
                if !self.same(t, &expected) {
                    errors.push(format!("T2: {what} of type {t}, expected {expected}"));
                }
            }
        }
        let last = x.shape.last();
        if let Some(p) = pre
            && !(p.elem.plain() == Some(q.expressed) && p.shape.len() == 1 && p.shape.first() == last)
        {
            errors.push(format!("T2: a pre-scale of type {p} for {x}"));
        }
    }

    fn phase(&self, node: &Node, errors: &mut Vec<String>) {
        let phase = self.m.phase;
        let is_region = matches!(node.op, Op::Region(_));
        if is_region != (phase >= Phase::Fused) {
            let name = node.op.name();
            errors.push(format!("P3: `{name}` in phase `{}`", phase.name()));
        }
        let Op::FakeQuant(o) = &node.op else { return };
        if phase > Phase::Calibrated {
            errors.push(format!("P1: `quant.fake` in phase `{}`", phase.name()));
        }
        let (scale, zero) = (node.input(1).is_some(), node.input(2).is_some());
        if phase == Phase::Calibrated && !o.dynamic && (!scale || zero != o.qtype.zero) {
            errors.push("P2: a static `quant.fake` without its parameters".into());
        }
    }

    fn region(&self, node: &Node, r: &crate::region::Region, errors: &mut Vec<String>) {
        let storage = |v: &crate::ValueId| self.g.ty(*v).storage();
        let operands: Vec<Option<ScalarType>> = node.inputs.iter().map(|v| v.as_ref().map(storage)).collect();
        let results: Vec<ScalarType> = node.outputs.iter().map(storage).collect();
        let found = super::region::check_structure(r, &operands, &results);
        if !found.is_empty() {
            errors.extend(found);
            return;
        }
        let ins = self.input_types(node);
        let outs: Vec<&TensorType> = node.outputs.iter().map(|v| self.g.ty(*v)).collect();
        bounds::check(r, &ins, &outs, &self.m.symbols, errors);
        if self.m.phase == Phase::Lowered {
            let score = match &r.anchor {
                Anchor::Attention(a) => Some(&a.score),
                _ => None,
            };
            for b in std::iter::once(&r.body).chain(score) {
                lowered_body(b, errors);
            }
        }
    }
}

fn lowered_body(b: &Body, errors: &mut Vec<String>) {
    for s in &b.stmts {
        if s.op.is_transcendental() && s.ty != ScalarType::F64 {
            errors.push(format!("P5: `{}` of {} is not expanded", s.op.name(), s.ty));
        }
    }
}

/// What is wrong with a quantized type for tensors of this rank.
fn quant_error(q: &QuantType, rank: Option<usize>) -> Option<String> {
    let axis = match q.granularity {
        Granularity::Axis(a) | Granularity::Group { axis: a, .. } | Granularity::Block { axis: a, .. } => {
            Some(a as usize)
        }
        Granularity::Token => Some(0),
        Granularity::Tensor => None,
    };
    let size = match q.granularity {
        Granularity::Group { size, .. } | Granularity::Block { size, .. } => size,
        _ => 1,
    };
    let bits = usize::from(q.bits);
    if !q.storage.is_int() || !(1..=16).contains(&bits) || bits > 8 * q.storage.size() {
        Some(format!("{bits} bits in {}", q.storage))
    } else if !q.expressed.is_float() {
        Some(format!("codes cannot stand for {}", q.expressed))
    } else if q.map == CodeMap::Nf4 && (q.bits != 4 || q.zero) {
        Some("nf4 codes have four bits and no zero point".into())
    } else if !(1..=2).contains(&q.levels) {
        Some(format!("{} scale levels", q.levels))
    } else if size == 0 {
        Some("groups of no elements".into())
    } else if let (Some(a), Some(r)) = (axis, rank)
        && a >= r
    {
        Some(format!("axis {a} is outside rank {r}"))
    } else {
        None
    }
}
