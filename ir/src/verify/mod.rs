//! The verifier: every invariant of a module, by number. All violations are reported, each with its number, its place
//! and the text of the offender.
//!
//! **Names**
//! - N1 symbols have bounds `0 <= lo <= hi`.
//! - N2 the inputs of a graph have distinct names, and so have its outputs.
//!
//! **SSA**
//! - S1 the graph is acyclic.
//! - S2 operands and outputs are values of this graph that are alive, and their definition knows them.
//! - S3 a constant's id exists; its value has a static shape of as many bytes as the constant holds.
//!
//! **Types**
//! - T1 an op accepts its operands, and the inferred result types are the declared ones, up to the equalities of the
//!   module's checks.
//! - T2 scales, multipliers and zero points of quantization ops have the shape that the granularity demands, scales
//!   the expressed type, zero points the storage type (operands that inference leaves open).
//! - T3 quantized types are consistent: 1 to 16 bits that fit an integer storage, a real expressed type, NF4 codes of
//!   four bits without zero point, at most two scale levels, an axis within the rank.
//!
//! **Phases**
//! - P1 `quant.fake` occurs only up to `calibrated`.
//! - P2 in `calibrated` a static `quant.fake` has its scale, and its zero point exactly if its type has one.
//! - P3 from `fused` on every op is a region; before, none is.
//! - P4 layouts occur only from `fused` on: `packed_weight` on constants of rank 2 or more, `offset_binary` on i8 codes that
//!   are no graph outputs.
//! - P5 in `lowered`, bodies have no transcendental op of 16 or 32 bits, and every output is the result of a node, no
//!   two outputs of the same.
//!
//! **Regions**: R1 to R5, see [`region::check_structure`], and
//! - R6 no access is certainly outside its tensor, where bounds of the symbols decide it.
//! - R7 gather limits are not certainly negative, strides and extents not certainly negative for extents.

mod bounds;
mod node;
pub mod region;

use crate::diag::Diag;
use crate::graph::{Graph, NodeId, Port, ValueDef, ValueId};
use crate::module::{Module, Phase};
use node::NodeChecker;
use std::collections::BTreeSet;

/// All violations of a module's invariants. Empty if it is valid.
pub fn verify(m: &Module) -> Vec<Diag> {
    let mut out = Vec::new();
    for (s, info) in &m.symbols.0 {
        if info.lo < 0 || info.lo > info.hi {
            let text = format!("N1: symbol `{s}` lies in {}..{}", info.lo, info.hi);
            out.push(Diag::internal("", text));
        }
    }
    for g in std::iter::once(&m.graph).chain(&m.subgraphs) {
        graph(m, g, &mut out);
    }
    out
}

/// The violations at these nodes of the main graph alone (and at their operands); nodes that are gone are skipped.
pub fn verify_neighbourhood(m: &Module, nodes: &[NodeId]) -> Vec<Diag> {
    let mut out = Vec::new();
    let mut checker = NodeChecker::new(m, &m.graph);
    let present: BTreeSet<NodeId> = nodes.iter().copied().filter(|n| m.graph.has_node(*n)).collect();
    for id in present {
        checker.node(id, &mut out);
    }
    out
}

fn graph(m: &Module, g: &Graph, out: &mut Vec<Diag>) {
    for (what, ports) in [("inputs", g.inputs()), ("outputs", g.outputs())] {
        let mut names = BTreeSet::new();
        for p in ports {
            if !names.insert(&p.name) {
                let text = format!("N2: two {what} have this name");
                out.push(Diag::internal(p.name.clone(), text));
            }
        }
    }
    if let Err(n) = g.topo_order() {
        out.push(Diag::internal(
            g.node(n).loc.to_string(),
            format!("S1: the graph is cyclic at `{}`", g.node(n).op.name()),
        ));
    }
    let mut checker = NodeChecker::new(m, g);
    for id in g.node_ids() {
        checker.node(id, out);
    }
    for p in g.outputs() {
        if let Err(e) = defined(m, g, p.value) {
            out.push(Diag::internal(p.name.clone(), e));
        }
    }
    layouts(m, g, out);
    if m.phase == Phase::Lowered && std::ptr::eq(g, &m.graph) {
        own_outputs(g, out);
    }
}

/// S2 and S3 for one value.
fn defined(m: &Module, g: &Graph, v: ValueId) -> Result<(), String> {
    if v.0 >= g.value_bound() {
        return Err(format!("S2: %{} does not exist", v.0));
    }
    match g.value(v).def {
        ValueDef::Dead => Err(format!("S2: %{} is dead", v.0)),
        ValueDef::Input(n) => match g.inputs().get(n as usize) {
            Some(Port { value, .. }) if *value == v => Ok(()),
            _ => Err(format!("S2: %{} is not input {n}", v.0)),
        },
        ValueDef::Node(n, r) => {
            if g.has_node(n) && g.node(n).outputs.get(r as usize) == Some(&v) {
                Ok(())
            } else {
                Err(format!("S2: %{} is not result {r} of a node", v.0))
            }
        }
        ValueDef::Const(c) => {
            if c.index() >= m.consts.len() {
                return Err(format!("S3: @{} does not exist", c.0));
            }
            let held = m.consts.get(c).bytes().len() as i64;
            let ty = g.ty(v);
            if ty.static_shape().is_none() || !ty.bytes().is(held) {
                return Err(format!("S3: a constant of {held} bytes stands for {ty}"));
            }
            Ok(())
        }
    }
}

fn layouts(m: &Module, g: &Graph, out: &mut Vec<Diag>) {
    use crate::graph::Layout;
    for v in g.value_ids() {
        let value = g.value(v);
        let Some(layout) = value.layout else { continue };
        let fits = match layout {
            Layout::PackedWeight => g.const_id(v).is_some() && value.ty.rank() >= 2,
            Layout::OffsetBinary => value.ty.storage() == crate::ScalarType::I8 && !g.is_output(v),
        };
        if m.phase < Phase::Fused || !fits {
            let loc = g.def_node(v).map(|(n, _)| g.node(n).loc.to_string());
            let text = format!(
                "P4: layout `{}` on {} in phase `{}`",
                layout.name(),
                value.ty,
                m.phase.name()
            );
            out.push(Diag::internal(loc.unwrap_or_default(), text));
        }
    }
}

fn own_outputs(g: &Graph, out: &mut Vec<Diag>) {
    let mut seen = BTreeSet::new();
    for p in g.outputs() {
        if g.def_node(p.value).is_none() {
            let text = "P5: the output is an input or a constant";
            out.push(Diag::internal(p.name.clone(), text));
        } else if !seen.insert(p.value) {
            let text = "P5: another output is the same value";
            out.push(Diag::internal(p.name.clone(), text));
        }
    }
}
