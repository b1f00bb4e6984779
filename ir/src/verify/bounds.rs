//! R6 and R7: accesses that are certainly outside. Whether an access is inside depends on symbol values in general;
//! what the bounds of the symbols refute is refused here, the rest the evaluator checks point by point.

use crate::module::SymbolTable;
use crate::region::{Access, Region};
use crate::types::{Dim, Ranges, TensorType};

/// Checks every access of a region whose structure is valid.
pub(super) fn check(
    r: &Region,
    ins: &[Option<&TensorType>],
    outs: &[&TensorType],
    symbols: &SymbolTable,
    errors: &mut Vec<String>,
) {
    for a in &r.axes {
        if a.extent.bounds(symbols).1 < 0 {
            errors.push(format!("R7: axis `{}` has extent {}", a.name, a.extent));
        }
    }
    // An access without points reads nothing.
    let populated = r.axes.iter().all(|a| a.extent.bounds(symbols).0 >= 1);
    for (i, a) in r.operands.iter().enumerate() {
        for g in &a.gathers {
            if g.limit.bounds(symbols).1 < 0 {
                errors.push(format!("R7: operand {i} is gathered with limit {}", g.limit));
            }
        }
        if let (true, Some(t)) = (populated, ins.get(i).copied().flatten()) {
            access(r, a, t, symbols, &format!("operand {i}"), errors);
        }
    }
    for (i, (s, t)) in r.stores.iter().zip(outs).enumerate() {
        if populated {
            access(r, &s.access, t, symbols, &format!("store {i}"), errors);
        }
    }
}

/// The lowest and the highest address, as dims, if the signs of all strides are known.
fn extremes(r: &Region, a: &Access, symbols: &dyn Ranges) -> Option<(Dim, Dim)> {
    let (mut lo, mut hi) = (a.offset.clone(), a.offset.clone());
    let mut span = |count: Dim, stride: &Dim| -> Option<()> {
        let reach = (count - Dim::one()) * stride.clone();
        let (least, most) = stride.bounds(symbols);
        if least >= 0 {
            hi = hi.clone() + reach;
        } else if most <= 0 {
            lo = lo.clone() + reach;
        } else {
            return None;
        }
        Some(())
    };
    for t in &a.terms {
        let extent = r.axes[t.axis as usize].extent.clone();
        match &t.clamp {
            None => span(extent, &t.stride)?,
            // Indices run from clamp(shift) to clamp(shift + extent - 1); they need not reach either end.
            Some(_) => return None,
        }
    }
    // Indices of a gather may all be 0.
    Some((lo, hi))
}

fn access(
    r: &Region,
    a: &Access,
    t: &TensorType,
    symbols: &SymbolTable,
    what: &str,
    errors: &mut Vec<String>,
) {
    let Some((lo, hi)) = extremes(r, a, symbols) else {
        return;
    };
    let gathers = a.gathers.iter().any(|g| g.stride.bounds(symbols).0 < 0);
    let last = t.numel() - Dim::one();
    if lo.bounds(symbols).1 < 0 {
        errors.push(format!("R6: {what} of type {t} is addressed from {lo}"));
    } else if !gathers && (hi.clone() - last).bounds(symbols).0 > 0 {
        errors.push(format!("R6: {what} of type {t} is addressed up to {hi}"));
    }
}
