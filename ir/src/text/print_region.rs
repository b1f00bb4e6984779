//! Regions as text.

use super::literal;
use crate::ops::AttrValue;
use crate::region::{Access, Anchor, AxisKind, Products, Region};
use crate::scalar::{Body, ScalarOp};
use std::fmt::Write;

/// Name of an axis kind.
pub(super) fn kind_name(k: AxisKind) -> &'static str {
    match k {
        AxisKind::Parallel => "parallel",
        AxisKind::Reduce => "reduce",
        AxisKind::Ordered => "ordered",
    }
}

/// The lines between the braces.
pub(super) fn region(out: &mut String, r: &Region) {
    // Writing to a string cannot fail.
    let _ = lines(out, r);
}

fn lines(out: &mut String, r: &Region) -> std::fmt::Result {
    for a in &r.axes {
        writeln!(out, "    axis {} {} {{{}}}", a.name, kind_name(a.kind), a.extent)?;
    }
    writeln!(out, "    row {}", r.row_axes)?;
    for a in &r.operands {
        writeln!(out, "    read {}", access(r, a))?;
    }
    match &r.anchor {
        Anchor::None => {}
        Anchor::Contract { lhs, rhs, acc, pad } => {
            let pad = if *pad { " pad" } else { "" };
            writeln!(out, "    contract({lhs}, {rhs}) : {acc}{pad}")?;
        }
        Anchor::Attention(a) => {
            let empty = match a.empty_row.to_attr() {
                crate::ops::Attr::Word(w) => w,
                _ => "",
            };
            let products = match a.products {
                Products::Float => String::new(),
                Products::Int8 { scales: None } => " products i8".into(),
                Products::Int8 {
                    scales: Some([q, k, v]),
                } => format!(" products i8 scales({q}, {k}, {v})"),
            };
            writeln!(
                out,
                "    attention({}, {}, {}) key {} inner {} empty {empty}{products} {{",
                a.q,
                a.k,
                a.v,
                axis(r, a.key),
                axis(r, a.inner)
            )?;
            body(out, r, &a.score, "      ")?;
            writeln!(out, "    }}")?;
        }
    }
    body(out, r, &r.body, "    ")?;
    for s in &r.stores {
        writeln!(out, "    store ${} at {}", s.value.0, access(r, &s.access))?;
    }
    Ok(())
}

fn axis(r: &Region, n: u32) -> String {
    r.axes
        .get(n as usize)
        .map_or_else(|| format!("?{n}"), |a| a.name.to_string())
}

fn access(r: &Region, a: &Access) -> String {
    let mut out = format!("{{{}}}", a.offset);
    for t in &a.terms {
        let name = axis(r, t.axis);
        let _ = match &t.clamp {
            None => write!(out, " + {name}*{{{}}}", t.stride),
            Some(c) => write!(
                out,
                " + clamp({name}, {{{}}}, {{{}}})*{{{}}}",
                c.shift, c.limit, t.stride
            ),
        };
    }
    for g in &a.gathers {
        let _ = write!(out, " + gather({}, {{{}}})*{{{}}}", g.operand, g.limit, g.stride);
    }
    out
}

fn body(out: &mut String, r: &Region, b: &Body, indent: &str) -> std::fmt::Result {
    for (i, s) in b.stmts.iter().enumerate() {
        write!(out, "{indent}${i} = {}", s.op.name())?;
        match &s.op {
            ScalarOp::Operand(n) => write!(out, "({n})")?,
            ScalarOp::Index(n) => write!(out, "({})", axis(r, *n))?,
            ScalarOp::Dim(d) => write!(out, "({{{d}}})")?,
            ScalarOp::Const(c) => write!(out, "({})", literal::print(c.ty, c.bits))?,
            _ => {
                let args: Vec<String> = s.args.iter().map(|a| format!("${}", a.0)).collect();
                write!(out, "({})", args.join(", "))?;
            }
        }
        writeln!(out, " : {}", s.ty)?;
    }
    Ok(())
}
