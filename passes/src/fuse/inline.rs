//! Moving a producer into its consumer: the consumer computes, at each of its points, the producer's point it reads.

use super::affine::{compose, decompose, digits, is_bijection};
use super::edit::{Affine, Loop, emit_affine, inline_body};
use rsqc_ir::ValueId;
use rsqc_ir::region::{Access, Anchor, Region, Store};
use rsqc_ir::scalar::{BodyBuilder, BodyId, ScalarOp};
use rsqc_ir::types::Ranges;
use std::collections::BTreeMap;

/// Whether the body combines anything over the row.
pub fn reduces(r: &Region) -> bool {
    r.body.stmts.iter().any(|s| matches!(s.op, ScalarOp::Reduce(_)))
}

/// Whether every point is computed on its own.
pub fn is_pointwise(r: &Region) -> bool {
    r.anchor == Anchor::None && !reduces(r)
}

/// The operand that a region copies, if copying is all it does.
pub fn copied_operand(l: &Loop) -> Option<usize> {
    let r = &l.region;
    let [s] = r.stores.as_slice() else { return None };
    match r.body.stmt(s.value).op {
        ScalarOp::Operand(n) if r.anchor == Anchor::None => Some(n as usize),
        _ => None,
    }
}

/// The index of each axis of `p` at the points of `c`, for the element of result `result` that operand `k` of `c` reads.
pub fn point(
    c: &mut Region,
    k: usize,
    p: &Region,
    result: usize,
    ranges: &dyn Ranges,
) -> Option<BTreeMap<u32, Affine>> {
    let d = digits(p, &p.stores[result].access)?;
    let index = decompose(c, k, &d, ranges)?;
    let mut map: BTreeMap<u32, Affine> = d.iter().map(|d| d.axis).zip(index).collect();
    for a in p.parallel() {
        if p.axes[a as usize].extent.is(1) {
            map.entry(a)
                .or_insert_with(|| Affine::constant(rsqc_ir::Dim::zero()));
        }
    }
    // An axis that the result does not mention has no definite index.
    p.parallel().all(|a| map.contains_key(&a)).then_some(map)
}

/// Operand numbers of `c` that read value `v`.
pub fn readers(c: &Loop, v: ValueId) -> Vec<usize> {
    (0..c.inputs.len()).filter(|k| c.inputs[*k] == v).collect()
}

/// Makes operand `k` of `c`, which reads the result of the copying region `p`, read what `p` reads.
pub fn compose_copy(c: &mut Loop, k: usize, p: &Loop, ranges: &dyn Ranges) -> Option<()> {
    let source = copied_operand(p)?;
    let at = point(&mut c.region, k, &p.region, 0, ranges)?;
    let composed = compose_all(p, &at)?;
    let base = append_gathered(c, p, &composed, source);
    let mut access = composed[source].clone();
    for g in &mut access.gathers {
        g.operand = base[&g.operand];
    }
    c.region.operands[k] = access;
    c.inputs[k] = p.inputs[source];
    Some(())
}

/// All operand accesses of `p` at the points of the consumer.
fn compose_all(p: &Loop, at: &BTreeMap<u32, Affine>) -> Option<Vec<Access>> {
    p.region
        .operands
        .iter()
        .map(|a| compose(a, &|axis| at.get(&axis).cloned()))
        .collect()
}

/// Adds the operands that operand `n` of `p` is gathered by to `c`; gives their new numbers.
fn append_gathered(c: &mut Loop, p: &Loop, composed: &[Access], n: usize) -> BTreeMap<u32, u32> {
    let mut map = BTreeMap::new();
    let mut todo: Vec<u32> = composed[n].gathers.iter().map(|g| g.operand).collect();
    let mut order = Vec::new();
    while let Some(g) = todo.pop() {
        if let std::collections::btree_map::Entry::Vacant(e) = map.entry(g) {
            e.insert((c.inputs.len() + order.len()) as u32);
            order.push(g);
            todo.extend(composed[g as usize].gathers.iter().map(|h| h.operand));
        }
    }
    for g in order {
        let mut access = composed[g as usize].clone();
        for h in &mut access.gathers {
            h.operand = map[&h.operand];
        }
        c.region.operands.push(access);
        c.inputs.push(p.inputs[g as usize]);
    }
    map
}

/// Replaces every operand of `c` that reads result `result` of the pointwise region `p` by `p`'s program. With `store_all`,
/// `c` also stores all results of `p`, which needs a one-to-one correspondence of points.
pub fn inline_producer(
    c: &mut Loop,
    p: &Loop,
    result: usize,
    store_all: bool,
    ranges: &dyn Ranges,
) -> Option<()> {
    let ks = readers(c, p.outputs[result]);
    let used_as_index = c
        .region
        .operands
        .iter()
        .flat_map(|a| &a.gathers)
        .any(|g| ks.contains(&(g.operand as usize)));
    if used_as_index {
        return None;
    }
    // Splitting for one operand changes the axes of all: split for every one first.
    for k in &ks {
        point(&mut c.region, *k, &p.region, result, ranges)?;
    }
    let axes = c.region.axes.len();
    let mut b = BodyBuilder::new();
    let mut inlined: BTreeMap<usize, BodyId> = BTreeMap::new();
    let mut extra: Vec<(ValueId, Store)> = Vec::new();
    for k in ks {
        let at = point(&mut c.region, k, &p.region, result, ranges)?;
        if c.region.axes.len() != axes {
            return None;
        }
        let base = c.inputs.len() as u32;
        for mut a in compose_all(p, &at)? {
            for g in &mut a.gathers {
                g.operand += base;
            }
            c.region.operands.push(a);
        }
        c.inputs.extend(&p.inputs);
        let map = inline_body(&mut b, &p.region.body, &mut |b, op| match op {
            ScalarOp::Operand(n) => Some(b.operand(base + n, operand_type(p, *n))),
            ScalarOp::Index(a) => at.get(a).map(|i| emit_affine(b, i)),
            _ => None,
        });
        inlined.insert(k, map[p.region.stores[result].value.index()]);
        if store_all && extra.is_empty() {
            extra = moved_stores(c, p, result, &at, &map).unwrap_or_default();
        }
    }
    if store_all && extra.is_empty() {
        return None;
    }
    let map = inline_body(&mut b, &c.region.body, &mut |_, op| match op {
        ScalarOp::Operand(n) => inlined.get(&(*n as usize)).copied(),
        _ => None,
    });
    for s in &mut c.region.stores {
        s.value = map[s.value.index()];
    }
    c.region.body = b.finish().ok()?;
    for (v, s) in extra {
        let i = p.outputs.iter().position(|o| *o == v)?;
        c.region.stores.push(s);
        c.outputs.push(v);
        c.types.push(p.types[i].clone());
    }
    Some(())
}

/// The stores of `p` at the points of `c`, if each point of `p` is exactly one of `c`.
fn moved_stores(
    c: &Loop,
    p: &Loop,
    result: usize,
    at: &BTreeMap<u32, Affine>,
    map: &[BodyId],
) -> Option<Vec<(ValueId, Store)>> {
    let d = digits(&p.region, &p.region.stores[result].access)?;
    let index: Vec<Affine> = d.iter().map(|d| at[&d.axis].clone()).collect();
    if !is_bijection(&c.region, &d, &index) {
        return None;
    }
    p.region
        .stores
        .iter()
        .zip(&p.outputs)
        .map(|(s, v)| {
            let access = compose(&s.access, &|axis| at.get(&axis).cloned())?;
            let value = map[s.value.index()];
            Some((*v, Store { value, access }))
        })
        .collect()
}

/// The type in which a body reads operand `n`.
fn operand_type(p: &Loop, n: u32) -> rsqc_ir::ScalarType {
    p.region
        .body
        .stmts
        .iter()
        .find(|s| s.op == ScalarOp::Operand(n))
        .map_or(rsqc_ir::ScalarType::F32, |s| s.ty)
}
