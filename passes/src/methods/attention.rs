//! `attn8`: which attentions multiply 8-bit codes, and what marks them.
//!
//! Before -> after: `attention(q, k, v, mask)` -> `quant.attention(q, k, v, mask)`, which makes codes of its operands itself,
//! with scales of its own. Where scales are static, `quant.attention(fake(q), fake(k), fake(v), mask)` with one scale a
//! tensor, which `calibrate` fills in and `lower-to-integer` makes operands of. Weights have a fixed scale either way.

use super::is_f32;
use crate::pass::edit_diag;
use crate::scheme::Quantized;
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::attention8::MAX_INNER;
use rsqc_ir::ops::quant::{FakeQuant, QAttention};
use rsqc_ir::quant::{Granularity, QuantType};
use rsqc_ir::{Module, Node, Op, Rebuild};

/// Why an attention cannot multiply codes.
pub(super) fn refusal(m: &Module, n: &Node) -> Option<String> {
    for i in 0..3 {
        let Some(v) = n.input(i) else {
            return Some("an operand is missing".into());
        };
        if !is_f32(m, v) {
            return Some(format!("its elements are {}", m.graph.ty(v).elem));
        }
    }
    let inner = n.input(0).and_then(|q| m.graph.ty(q).shape.last().cloned());
    match inner.as_ref().and_then(|d| d.as_const()) {
        None => Some("the size of its heads is not known when it is compiled".into()),
        Some(d) if d > MAX_INNER as i64 => Some(format!("a sum of {d} products may exceed 32 bits")),
        Some(_) => None,
    }
}

/// Rebuilds an attention as one over codes.
pub(super) fn quantize(m: &Module, r: &mut Rebuild, n: &Node, q: &Quantized) -> Result<(), Diag> {
    let Op::Attention(o) = &n.op else {
        return Err(Diag::internal(
            n.loc.to_string(),
            "only attention has products of activations",
        ));
    };
    let mut ins = Vec::new();
    for (i, v) in n.inputs.iter().enumerate() {
        let mut v = v.map(|v| r.get(m, v));
        if i < 3 && q.is_static() {
            let fake = FakeQuant {
                qtype: QuantType::int8(Granularity::Tensor),
                dynamic: false,
            };
            v = Some(r.node(m, fake.into(), vec![v], &n.loc).map_err(edit_diag)?[0]);
        }
        ins.push(v);
    }
    let op = QAttention::from(o.clone());
    let out = r.node(m, op.into(), ins, &n.loc).map_err(edit_diag)?;
    r.set(n.output(), out[0]);
    Ok(())
}

/// How an attention is quantized, in words.
pub(super) fn describe(q: &Quantized) -> String {
    let how = if q.is_static() {
        "queries, keys and values static per tensor"
    } else {
        "queries and keys dynamic per token and head, values per channel and 256 keys"
    };
    format!("{how}, weights in steps of 1/255")
}
