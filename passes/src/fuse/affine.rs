//! Which point of a producer a consumer reads.
//!
//! A producer stores its result densely: its axes are the digits of a mixed-radix number, the address. A consumer reads
//! address `offset + sum(axis * stride)`. [`decompose`] writes that address in the producer's digits without carries, each
//! digit an affine function of the consumer's axes, splitting consumer axes that straddle two digits. The identity holds by
//! construction; that no digit overflows is proven with the bounds of the symbols. So the answer is exact or absent.

use super::edit::{Affine, split_axis, term};
use rsqc_ir::Dim;
use rsqc_ir::region::{Access, Region, Term};
use rsqc_ir::types::Ranges;

/// A digit of a dense address: an axis of the producer with its stride and extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digit {
    /// Producer axis.
    pub axis: u32,
    /// Address step.
    pub stride: Dim,
    /// Number of values.
    pub extent: Dim,
}

/// Terms ordered so that each stride is the product of the extents before it, starting at 1; `None` if they are not.
/// Gives the positions, innermost first, and the product of all extents.
pub fn chain(terms: &[Term], extent: &dyn Fn(u32) -> Dim) -> Option<(Vec<usize>, Dim)> {
    let mut left: Vec<usize> = (0..terms.len()).collect();
    let mut order = Vec::new();
    let mut step = Dim::one();
    while !left.is_empty() {
        let at = left.iter().position(|i| terms[*i].stride == step)?;
        let i = left.remove(at);
        if terms[i].clamp.is_some() {
            return None;
        }
        step = step * extent(terms[i].axis);
        order.push(i);
    }
    Some((order, step))
}

/// The digits of a dense store, most significant first; axes of extent 1 are no digits. `None` if it is not dense.
pub fn digits(r: &Region, access: &Access) -> Option<Vec<Digit>> {
    let extent = |a: u32| r.axes[a as usize].extent.clone();
    let terms: Vec<Term> = access
        .terms
        .iter()
        .filter(|t| !extent(t.axis).is(1))
        .cloned()
        .collect();
    if !access.offset.is(0) || !access.gathers.is_empty() {
        return None;
    }
    let (order, _) = chain(&terms, &extent)?;
    Some(
        order
            .into_iter()
            .rev()
            .map(|i| Digit {
                axis: terms[i].axis,
                stride: terms[i].stride.clone(),
                extent: extent(terms[i].axis),
            })
            .collect(),
    )
}

/// Sign of every term of a dim: symbols are not negative, so this is the dim's own sign. `None` if mixed.
fn sign(d: &Dim) -> Option<bool> {
    let mut signs = d.terms().map(|(_, c)| c > 0);
    let first = signs.next()?;
    signs.all(|s| s == first).then_some(first)
}

enum Place {
    /// Belongs to this digit with this coefficient.
    Digit(usize, Dim),
    /// Straddles digits: the axis has to be split with this inner extent.
    Split(Dim),
}

/// Where a term goes. `None` if it fits nowhere.
fn place(t: &Term, extent: &Dim, digits: &[Digit]) -> Option<Place> {
    for (i, d) in digits.iter().enumerate() {
        if let Some(q) = t.stride.exact_div(&d.stride) {
            return Some(Place::Digit(i, q));
        }
        if sign(&t.stride) != Some(true) || t.clamp.is_some() {
            continue;
        }
        let Some(inner) = d.stride.exact_div(&t.stride) else {
            continue;
        };
        match extent.exact_div(&inner) {
            Some(outer) if !outer.is(1) => return Some(Place::Split(inner)),
            _ => {}
        }
    }
    None
}

/// The constant part of a sum.
fn constant_part(d: &Dim) -> i64 {
    d.terms().find(|(m, _)| m.is_empty()).map_or(0, |(_, c)| c)
}

/// The address offset in digits; `None` if a remainder is left.
fn split_offset(offset: &Dim, digits: &[Digit]) -> Option<Vec<Dim>> {
    let mut rest = offset.clone();
    let mut out = Vec::with_capacity(digits.len());
    for d in digits {
        let whole = rest.exact_div(&d.stride);
        let q = match (whole, rest.as_const(), d.stride.as_const()) {
            (Some(q), _, _) => q,
            (None, Some(a), Some(s)) if s > 0 => Dim::from(a.div_euclid(s)),
            _ => {
                let symbolic = rest.clone() - Dim::from(constant_part(&rest));
                symbolic.exact_div(&d.stride).unwrap_or_else(Dim::zero)
            }
        };
        rest = rest - q.clone() * d.stride.clone();
        out.push(q);
    }
    rest.is(0).then_some(out)
}

/// Whether `0 <= index < extent` at every point of `r`.
fn in_bounds(r: &Region, index: &Affine, extent: &Dim, ranges: &dyn Ranges) -> bool {
    let (mut lo, mut hi) = (index.offset.clone(), index.offset.clone());
    for t in &index.terms {
        let n = match &t.clamp {
            Some(c) => c.limit.clone(),
            None => r.axes[t.axis as usize].extent.clone(),
        };
        let reach = t.stride.clone() * (n - Dim::one());
        match sign(&t.stride) {
            Some(true) => hi = hi + reach,
            Some(false) => lo = lo + reach,
            None => return false,
        }
    }
    Dim::zero().always_le(&lo, ranges) && hi.always_le(&(extent.clone() - Dim::one()), ranges)
}

/// The digits of the address that operand `operand` of `c` reads, as functions of `c`'s axes. Splits axes of `c` where
/// needed. `None` if there is no exact answer; `c` is then only split, which changes nothing.
pub fn decompose(
    c: &mut Region,
    operand: usize,
    digits: &[Digit],
    ranges: &dyn Ranges,
) -> Option<Vec<Affine>> {
    'again: loop {
        let access = c.operands[operand].clone();
        if !access.gathers.is_empty() {
            return None;
        }
        let mut out: Vec<Affine> = split_offset(&access.offset, digits)?
            .into_iter()
            .map(Affine::constant)
            .collect();
        for t in &access.terms {
            let extent = c.axes[t.axis as usize].extent.clone();
            if extent.is(1) && t.clamp.is_none() {
                continue;
            }
            match place(t, &extent, digits)? {
                Place::Digit(i, q) => out[i].terms.push(Term {
                    clamp: t.clamp.clone(),
                    ..term(t.axis, q)
                }),
                Place::Split(inner) => {
                    split_axis(c, t.axis, &inner)?;
                    continue 'again;
                }
            }
        }
        let ok = out
            .iter()
            .zip(digits)
            .all(|(a, d)| in_bounds(c, a, &d.extent, ranges));
        return ok.then_some(out);
    }
}

/// Whether the consumer's parallel axes and the producer's digits correspond one to one: every digit is covered densely,
/// every axis (of an extent other than 1) is used.
pub fn is_bijection(c: &Region, digits: &[Digit], index: &[Affine]) -> bool {
    let extent = |a: u32| c.axes[a as usize].extent.clone();
    let mut used = 0;
    for (a, d) in index.iter().zip(digits) {
        used += a.terms.len();
        match chain(&a.terms, &extent) {
            Some((_, n)) if n == d.extent && a.offset.is(0) => {}
            _ => return false,
        }
    }
    used == c.parallel().filter(|a| !extent(*a).is(1)).count()
}

/// An access to one of the producer's operands at the consumer's points. `index` gives each producer axis.
pub fn compose(access: &Access, index: &dyn Fn(u32) -> Option<Affine>) -> Option<Access> {
    let mut out = Access {
        offset: access.offset.clone(),
        terms: Vec::new(),
        gathers: access.gathers.clone(),
    };
    for t in &access.terms {
        let i = index(t.axis)?;
        match &t.clamp {
            None => {
                out.offset = out.offset + i.offset * t.stride.clone();
                for u in i.terms {
                    add_term(
                        &mut out.terms,
                        Term {
                            stride: u.stride.clone() * t.stride.clone(),
                            ..u
                        },
                    );
                }
            }
            Some(c) => {
                // A clamp bounds one axis: the index must be that axis, moved at most.
                let [u] = i.terms.as_slice() else { return None };
                if !u.stride.is(1) || u.clamp.is_some() {
                    return None;
                }
                let mut clamp = c.clone();
                clamp.shift = clamp.shift + i.offset;
                out.terms.push(Term {
                    axis: u.axis,
                    stride: t.stride.clone(),
                    clamp: Some(clamp),
                });
            }
        }
    }
    out.terms.retain(|t| !t.stride.is(0));
    out.terms.sort_by_key(|t| (t.axis, t.clamp.is_some()));
    Some(out)
}

/// Adds a term; unclamped terms of one axis become one.
fn add_term(terms: &mut Vec<Term>, t: Term) {
    let same = terms
        .iter_mut()
        .find(|o| o.axis == t.axis && o.clamp.is_none() && t.clamp.is_none());
    match same {
        Some(o) => o.stride = o.stride.clone() + t.stride,
        None => terms.push(t),
    }
}
