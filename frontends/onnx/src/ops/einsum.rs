//! Einsum: operands are multiplied one after another as batched matrix products, sums over indices that nobody else has
//! come first.

use std::collections::BTreeSet;

use rsqc_ir::ops::elementwise::Mul;
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::types::Dim;

use super::linalg::product;
use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::error::escape;

/// An operand and the label of each of its axes.
struct Term {
    v: V,
    labels: Vec<char>,
}

/// Einsum.
pub fn einsum(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let equation: String = c
        .text(cx, "equation", "")?
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let ins = c.all(cx)?;
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l, Some(r.to_owned())),
        None => (equation.as_str(), None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != ins.len() || equation.len() > 1000 {
        return cx.fail(format!(
            "equation '{}' has {} operands, the node has {}",
            escape(&equation),
            parts.len(),
            ins.len()
        ));
    }
    let widest = parts
        .iter()
        .zip(&ins)
        .map(|(p, &v)| {
            if p.contains("...") {
                (cx.rank(v) + 3).saturating_sub(p.len())
            } else {
                0
            }
        })
        .max()
        .unwrap_or(0);
    let mut terms = Vec::new();
    for (part, &v) in parts.iter().zip(&ins) {
        let labels = expand_ellipsis(cx, part, cx.rank(v), widest)?;
        terms.push(diagonal_free(cx, v, labels)?);
    }
    let result = match right {
        Some(r) => {
            let rank = if r.contains("...") {
                r.len() - 3 + widest
            } else {
                r.len()
            };
            expand_ellipsis(cx, &r, rank, widest)?
        }
        None => implicit(&terms),
    };
    if result.iter().any(|l| !terms.iter().any(|t| t.labels.contains(l))) {
        return cx.fail(format!(
            "equation '{}' has a result index that no operand has",
            escape(&equation)
        ));
    }
    let mut terms = terms.into_iter();
    let Some(mut total) = terms.next() else {
        return cx.fail("has no operands");
    };
    let rest: Vec<Term> = terms.collect();
    for (i, next) in rest.iter().enumerate() {
        let later: BTreeSet<char> = rest[i + 1..]
            .iter()
            .flat_map(|t| t.labels.iter())
            .chain(&result)
            .copied()
            .collect();
        total = multiply(cx, total, next, &later)?;
    }
    let keep: BTreeSet<char> = result.iter().copied().collect();
    let total = sum_out(cx, total, &keep)?;
    let perm: Vec<usize> = result
        .iter()
        .filter_map(|l| total.labels.iter().position(|m| m == l))
        .collect();
    Ok(vec![cx.transpose(total.v, &perm)?])
}

/// Labels of a subscript; the axes of an ellipsis get labels of their own, aligned at the end.
fn expand_ellipsis(cx: &Cx, part: &str, rank: usize, widest: usize) -> R<Vec<char>> {
    // Letters that no equation can contain.
    let hidden = |i: usize| char::from_u32(0xe000 + i as u32).unwrap_or('\u{f8ff}');
    let (head, tail) = match part.split_once("...") {
        Some((h, t)) => (h, Some(t)),
        None => (part, None),
    };
    let mut labels: Vec<char> = head.chars().collect();
    if let Some(tail) = tail {
        let n = rank.saturating_sub(head.len() + tail.len());
        labels.extend((widest - n.min(widest)..widest).map(hidden));
        labels.extend(tail.chars());
    }
    let letters = labels.iter().all(|c| c.is_ascii_alphabetic() || *c >= '\u{e000}');
    if labels.len() != rank || !letters {
        return cx.fail(format!("subscript '{}' does not fit rank {rank}", escape(part)));
    }
    Ok(labels)
}

/// An operand without repeated labels.
fn diagonal_free(cx: &Cx, v: V, labels: Vec<char>) -> R<Term> {
    let distinct: BTreeSet<char> = labels.iter().copied().collect();
    if distinct.len() != labels.len() {
        return cx.unsupported("einsum with a repeated index in one operand");
    }
    Ok(Term { v, labels })
}

/// Without an arrow: labels that occur once, in alphabetical order, after those of an ellipsis.
fn implicit(terms: &[Term]) -> Vec<char> {
    let all: Vec<char> = terms.iter().flat_map(|t| t.labels.iter().copied()).collect();
    let distinct: BTreeSet<char> = all.iter().copied().collect();
    let (mut out, mut named) = (Vec::new(), Vec::new());
    for l in distinct {
        match l {
            l if l >= '\u{e000}' => out.push(l),
            l if all.iter().filter(|m| **m == l).count() == 1 => named.push(l),
            _ => {}
        }
    }
    out.extend(named);
    out
}

/// Sums over the labels that are not kept.
fn sum_out(cx: &mut Cx, t: Term, keep: &BTreeSet<char>) -> R<Term> {
    let axes: Vec<i64> = (0..t.labels.len())
        .filter(|&a| !keep.contains(&t.labels[a]))
        .map(|a| a as i64)
        .collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let v = cx.emit(
        Reduce {
            kind: Reduction::Sum,
            axes,
            keep: false,
        },
        &[t.v],
    )?;
    Ok(Term {
        v,
        labels: t.labels.into_iter().filter(|l| keep.contains(l)).collect(),
    })
}

/// One product; what neither the result nor a later operand has is summed.
fn multiply(cx: &mut Cx, a: Term, b: &Term, later: &BTreeSet<char>) -> R<Term> {
    let in_a: BTreeSet<char> = a.labels.iter().copied().collect();
    let in_b: BTreeSet<char> = b.labels.iter().copied().collect();
    let a = sum_out(cx, a, &later.union(&in_b).copied().collect())?;
    let b = sum_out(
        cx,
        Term {
            v: b.v,
            labels: b.labels.clone(),
        },
        &later.union(&in_a).copied().collect(),
    )?;
    let pick = |of: &Term, other: &Term, shared: bool, kept: bool| -> Vec<char> {
        let fits = |l: &&char| other.labels.contains(l) == shared && later.contains(l) == kept;
        of.labels.iter().filter(fits).copied().collect()
    };
    let (batch, inner) = (pick(&a, &b, true, true), pick(&a, &b, true, false));
    let (rows, columns) = (pick(&a, &b, false, true), pick(&b, &a, false, true));
    let labels: Vec<char> = batch.iter().chain(&rows).chain(&columns).copied().collect();
    let extent = |cx: &Cx, t: &Term, l: &char| {
        let at = t.labels.iter().position(|m| m == l);
        at.map_or_else(Dim::one, |i| cx.shape(t.v)[i].clone())
    };
    if inner.is_empty() {
        // No sum: place each operand's axes and broadcast.
        let mut sides = Vec::new();
        for t in [&a, &b] {
            let own: Vec<char> = labels.iter().filter(|l| t.labels.contains(l)).copied().collect();
            let v = permuted(cx, t, &own)?;
            let shape = labels.iter().map(|l| extent(cx, t, l)).collect();
            sides.push(cx.reshape(v, shape)?);
        }
        let v = cx.elementwise(Mul {}, &sides)?;
        return Ok(Term { v, labels });
    }
    let mut sides = Vec::new();
    for (t, outer, inner_last) in [(&a, &rows, true), (&b, &columns, false)] {
        let (x, y) = if inner_last {
            (outer, &inner)
        } else {
            (&inner, outer)
        };
        let order: Vec<char> = batch.iter().chain(x).chain(y).copied().collect();
        let v = permuted(cx, t, &order)?;
        let product_of = |cx: &Cx, list: &[char]| list.iter().map(|l| extent(cx, t, l)).product::<Dim>();
        let mut shape: Vec<Dim> = batch.iter().map(|l| extent(cx, t, l)).collect();
        shape.extend([product_of(cx, x), product_of(cx, y)]);
        sides.push(cx.reshape(v, shape)?);
    }
    let v = product(cx, sides[0], sides[1])?;
    let lead = batch.len();
    let mut shape = cx.shape(v)[..lead].to_vec();
    shape.extend(rows.iter().map(|l| extent(cx, &a, l)));
    shape.extend(columns.iter().map(|l| extent(cx, &b, l)));
    Ok(Term {
        v: cx.reshape(v, shape)?,
        labels,
    })
}

/// The operand with its axes in the order of `labels`.
fn permuted(cx: &mut Cx, t: &Term, labels: &[char]) -> R<V> {
    let perm: Vec<usize> = labels
        .iter()
        .filter_map(|l| t.labels.iter().position(|m| m == l))
        .collect();
    cx.transpose(t.v, &perm)
}
