//! Moving a consumer into its producer: the producer goes on computing with its value before it is stored.
//!
//! The two iteration spaces are refined until their axes correspond one to one: a digit of the producer's address that
//! several consumer axes make up is split, a consumer axis that straddles digits is split. A result that the producer
//! stores once a row leaves the row axes free; the consumer's remaining axes are matched with them in order. A consumer
//! that reduces over its row may only join if its row is the producer's row.

use super::affine::{chain, decompose, digits};
use super::edit::{Affine, Loop, emit_affine, inline_body, split_axis};
use super::inline::reduces;
use rsqc_ir::Dim;
use rsqc_ir::region::{Access, Anchor, Region, Store};
use rsqc_ir::scalar::{BodyBuilder, BodyId, ReduceKind, ScalarOp};
use rsqc_ir::types::Ranges;
use std::collections::BTreeMap;

/// Refinement steps before giving up; each splits one axis.
const MAX_STEPS: usize = 32;

/// The consumer `c` as a continuation of the producer `p`, or `None` if their points do not correspond. Results of both are
/// stored; the caller prunes.
pub fn merge_epilogue(p: &Loop, c: &Loop, ranges: &dyn Ranges) -> Option<Loop> {
    let links: Vec<(usize, usize)> = c
        .inputs
        .iter()
        .enumerate()
        .filter_map(|(k, v)| Some((k, p.outputs.iter().position(|o| o == v)?)))
        .collect();
    let (mut pr, mut cr) = (p.region.clone(), c.region.clone());
    // The link that determines most axes; the others are checked against it.
    let lead = *links
        .iter()
        .rev()
        .max_by_key(|(_, s)| pr.stores[*s].access.terms.len())?;
    let map = align(&mut pr, &mut cr, lead, ranges)?;
    if !rows_agree(&pr, &cr, &map) {
        return None;
    }
    let moved = |a: &Access| move_access(a, &map);
    for (k, s) in &links {
        if !same_elements(&pr, &moved(&cr.operands[*k])?, &pr.stores[*s].access) {
            return None;
        }
    }
    let linked: BTreeMap<usize, usize> = links.into_iter().collect();
    let mut out = p.clone();
    let base = out.inputs.len() as u32;
    for (k, a) in cr.operands.iter().enumerate() {
        let mut a = moved(a)?;
        for g in &mut a.gathers {
            if linked.contains_key(&(g.operand as usize)) {
                return None;
            }
            g.operand += base;
        }
        pr.operands.push(a);
        out.inputs.push(c.inputs[k]);
    }
    let stored: Vec<BodyId> = pr.stores.iter().map(|s| s.value).collect();
    let mut b = BodyBuilder::from_body(pr.body);
    let types: BTreeMap<u32, rsqc_ir::ScalarType> = cr
        .body
        .stmts
        .iter()
        .filter_map(|s| match s.op {
            ScalarOp::Operand(n) => Some((n, s.ty)),
            _ => None,
        })
        .collect();
    let ids = inline_body(&mut b, &cr.body, &mut |b, op| match op {
        ScalarOp::Operand(n) => Some(match linked.get(&(*n as usize)) {
            Some(s) => stored[*s],
            None => b.operand(base + n, types[n]),
        }),
        ScalarOp::Index(a) => {
            let axis = map
                .get(a)
                .map_or_else(|| Affine::constant(Dim::zero()), |a| Affine::axis(*a));
            Some(emit_affine(b, &axis))
        }
        _ => None,
    });
    pr.body = b.finish().ok()?;
    for s in &cr.stores {
        pr.stores.push(Store {
            value: ids[s.value.index()],
            access: moved(&s.access)?,
        });
    }
    out.outputs.extend(&c.outputs);
    out.types.extend(c.types.iter().cloned());
    out.region = pr;
    if p.region.anchor == Anchor::None {
        out.loc = c.loc.clone();
    }
    Some(out)
}

fn extent(r: &Region, a: u32) -> Dim {
    r.axes[a as usize].extent.clone()
}

/// Refines both regions until each axis of `c` is an axis of `p`; gives the map. Axes of extent 1 are left out.
fn align(
    p: &mut Region,
    c: &mut Region,
    (operand, store): (usize, usize),
    ranges: &dyn Ranges,
) -> Option<BTreeMap<u32, u32>> {
    for _ in 0..MAX_STEPS {
        let d = digits(p, &p.stores[store].access)?;
        let index = decompose(c, operand, &d, ranges)?;
        let mut map: BTreeMap<u32, u32> = BTreeMap::new();
        let mut split: Option<(u32, Dim)> = None;
        for (digit, a) in d.iter().zip(&index) {
            let (order, n) = chain(&a.terms, &|x| extent(c, x))?;
            if !a.offset.is(0) || n != digit.extent {
                return None;
            }
            match order.as_slice() {
                [] => return None,
                [one] => {
                    map.insert(a.terms[*one].axis, digit.axis);
                }
                [inner @ .., _] => {
                    let inner = inner.iter().map(|i| extent(c, a.terms[*i].axis)).product();
                    split = Some((digit.axis, inner));
                    break;
                }
            }
        }
        if let Some((axis, inner)) = split {
            split_axis(p, axis, &inner)?;
            continue;
        }
        if match_free(p, c, &mut map)? {
            return Some(map);
        }
    }
    None
}

/// Matches the axes that the link does not determine: those of `c` with those of `p`, from the innermost. `Some(false)`: an
/// axis was split, start again.
fn match_free(p: &mut Region, c: &mut Region, map: &mut BTreeMap<u32, u32>) -> Option<bool> {
    let mut of_c: Vec<u32> = c
        .parallel()
        .filter(|a| !map.contains_key(a) && !extent(c, *a).is(1))
        .collect();
    let taken: Vec<u32> = map.values().copied().collect();
    let mut of_p: Vec<u32> = p
        .parallel()
        .filter(|a| !taken.contains(a) && !extent(p, *a).is(1))
        .collect();
    // A consumer of a value stored once a row may itself be computed once a row.
    if of_c.is_empty() {
        return Some(true);
    }
    while let Some(x) = of_c.pop() {
        let y = of_p.pop()?;
        let (ex, ey) = (extent(c, x), extent(p, y));
        if ex == ey {
            map.insert(x, y);
        } else if ey.exact_div(&ex).is_some() {
            split_axis(p, y, &ex)?;
            return Some(false);
        } else {
            ex.exact_div(&ey)?;
            split_axis(c, x, &ey)?;
            return Some(false);
        }
    }
    of_p.is_empty().then_some(true)
}

/// Whether reductions of `c` run over the producer's row, and are of a kind that may follow its anchor: behind a matrix
/// product or attention only maxima and minima, which fit the row-block schedule.
fn rows_agree(p: &Region, c: &Region, map: &BTreeMap<u32, u32>) -> bool {
    if !reduces(c) {
        return true;
    }
    let mine: Vec<u32> = p.row().filter(|a| !extent(p, *a).is(1)).collect();
    let theirs: Option<Vec<u32>> = c
        .row()
        .filter(|a| !extent(c, *a).is(1))
        .map(|a| map.get(&a).copied())
        .collect();
    let kinds = c.body.stmts.iter().all(|s| {
        matches!(
            s.op,
            ScalarOp::Reduce(ReduceKind::Max) | ScalarOp::Reduce(ReduceKind::Min)
        ) || !matches!(s.op, ScalarOp::Reduce(_))
    });
    theirs == Some(mine) && (p.anchor == Anchor::None || kinds)
}

/// An access of `c` in terms of `p`'s axes.
fn move_access(a: &Access, map: &BTreeMap<u32, u32>) -> Option<Access> {
    let mut out = a.clone();
    out.terms.clear();
    for t in &a.terms {
        match map.get(&t.axis) {
            Some(axis) => {
                let mut t = t.clone();
                t.axis = *axis;
                out.terms.push(t);
            }
            // An axis of extent 1 contributes nothing, unless it is clamped.
            None if t.clamp.is_none() => {}
            None => return None,
        }
    }
    out.terms.sort_by_key(|t| (t.axis, t.clamp.is_some()));
    Some(out)
}

/// Whether two linear accesses address the same element at every point of `r`.
fn same_elements(r: &Region, a: &Access, b: &Access) -> bool {
    let terms = |a: &Access| {
        a.terms
            .iter()
            .filter(|t| !extent(r, t.axis).is(1))
            .cloned()
            .collect::<Vec<_>>()
    };
    a.is_linear() && b.is_linear() && a.offset == b.offset && terms(a) == terms(b)
}
