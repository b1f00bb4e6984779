//! Gathers. Those whose indices are affine in the result's own indices are views: slices, reshapes, repeats.

use rsqc_ir::ops::{Op, gather as ir};
use rsqc_ir::types::{Atom, Dim, TensorType};

use crate::call::Call;
use crate::cx::{Cx, R, V, show};
use crate::facts::{self, Cmp, Content, Fact, Scalar, decide, index, index_axis};

/// Gather along an axis.
pub fn gather(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, i) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let axis = c.axis(cx, "axis", 0, cx.rank(x))?;
    Ok(vec![gather_axis(cx, x, i, axis)?])
}

fn gather_axis(cx: &mut Cx, x: V, i: V, axis: usize) -> R<V> {
    let i = normalise(cx, x, axis, i)?;
    let fact = cx.fact(i);
    if let (Some(data), Some(ix)) = (cx.fact(x), &fact)
        && let Some(f) = data.gather(axis, ix)
    {
        let elem = cx.elem(x);
        return Ok(cx.push_fact(elem, f));
    }
    if let Some(ix) = &fact {
        if let Some(v) = contiguous(cx, x, axis, ix)? {
            return Ok(v);
        }
        if let Some(Scalar::Int(e)) = ix.expression() {
            let shape = gathered_shape(cx.shape(x), axis, &ix.shape);
            let mut exprs: Vec<Dim> = (0..cx.rank(x))
                .map(|a| index(if a < axis { a } else { a + ix.shape.len() - 1 }))
                .collect();
            exprs[axis] = e.substitute(&|s| index_axis(s).map(|a| index(a + axis)));
            if ix.shape.is_empty() {
                exprs = (0..cx.rank(x))
                    .map(|a| if a <= axis { index(a) } else { index(a - 1) })
                    .collect();
                exprs[axis] = e;
            }
            if let Some(v) = view(cx, x, &exprs, &shape)? {
                return Ok(v);
            }
        }
    }
    cx.gather(x, i, axis)
}

fn gathered_shape(data: &[Dim], axis: usize, ix: &[Dim]) -> Vec<Dim> {
    data[..axis]
        .iter()
        .chain(ix)
        .chain(&data[axis + 1..])
        .cloned()
        .collect()
}

/// Indices that are known: checked against the extent, negative ones counted from the end.
fn normalise(cx: &mut Cx, x: V, axis: usize, i: V) -> R<V> {
    if !cx.elem(i).is_int() {
        return cx.fail(format!("indices have type {}, expected integers", cx.elem(i)));
    }
    let Some(list) = cx.fact(i).and_then(|f| f.const_ints()) else {
        return Ok(i);
    };
    let extent = cx.shape(x)[axis].clone();
    if let Some(n) = extent.as_const()
        && let Some(bad) = list.iter().find(|v| !(-n..n).contains(v))
    {
        return cx.fail(format!("index {bad} is outside an extent of {n}"));
    }
    if list.iter().all(|&v| v >= 0) {
        return Ok(i);
    }
    let dims: Vec<Scalar> = list
        .iter()
        .map(|&v| {
            Scalar::Int(if v < 0 {
                extent.clone() + Dim::from(v)
            } else {
                v.into()
            })
        })
        .collect();
    if let Some(lowest) = list.iter().min() {
        cx.require_le(&Dim::from(lowest.saturating_neg()), &extent)?;
    }
    let (elem, shape) = (cx.elem(i), cx.shape(i).to_vec());
    Ok(cx.push_fact(elem, Fact::of_elems(shape, dims)))
}

/// A gather of consecutive indices: a slice.
fn contiguous(cx: &mut Cx, x: V, axis: usize, ix: &Fact) -> R<Option<V>> {
    let Some(list) = ix.ints() else { return Ok(None) };
    let Some(first) = list.first().cloned() else {
        return Ok(None);
    };
    let steps = |n: usize, d: &Dim| *d == first.clone() + Dim::from(n);
    if !list.iter().enumerate().all(|(n, d)| steps(n, d)) || ix.shape.len() > 1 {
        return Ok(None);
    }
    let extent = cx.shape(x)[axis].clone();
    let last = first.clone() + Dim::from(list.len());
    cx.require_le(&last, &extent)?;
    let rank = cx.rank(x);
    let (mut starts, mut sizes) = (vec![Dim::zero(); rank], cx.shape(x).to_vec());
    (starts[axis], sizes[axis]) = (first, list.len().into());
    let part = cx.slice(x, starts, sizes, vec![1; rank])?;
    let shape = gathered_shape(cx.shape(x), axis, &ix.shape);
    cx.reshape(part, shape).map(Some)
}

/// `result[i] = x[exprs(i)]` as slices and reshapes, if each expression is affine in at most one index, in order.
/// A flattened operand is looked through.
fn view(cx: &mut Cx, x: V, exprs: &[Dim], shape: &[Dim]) -> R<Option<V>> {
    if let Some(v) = plain_view(cx, x, exprs, shape)? {
        return Ok(Some(v));
    }
    let Some((source, parts)) = unflatten(cx, x, exprs)? else {
        return Ok(None);
    };
    plain_view(cx, source, &parts, shape)
}

fn plain_view(cx: &mut Cx, x: V, exprs: &[Dim], shape: &[Dim]) -> R<Option<V>> {
    let dims = cx.shape(x).to_vec();
    let (mut starts, mut sizes, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let mut placed = vec![Dim::one(); shape.len()];
    let mut next = 0;
    for (e, d) in exprs.iter().zip(&dims) {
        // An index over a whole symbolic extent, into an extent that is only a name: exporters name the same dim twice.
        if let (Some((start, Some((axis, 1)))), Some(_)) = (affine(e), d.as_symbol())
            && start.is(0)
            && shape[axis].as_const().is_none()
        {
            cx.same_dim(d, &shape[axis].clone(), "gathered extent")?;
        }
        let symbols = &cx.module.symbols;
        let inside = decide(Cmp::Le, &Dim::zero(), e, shape, symbols) == Some(true)
            && decide(Cmp::Lt, e, d, shape, symbols) == Some(true);
        let Some((start, axis)) = affine(e).filter(|_| inside) else {
            return Ok(None);
        };
        let (size, step) = match axis {
            Some((axis, _)) if axis < next => return Ok(None),
            Some((axis, step)) => {
                next = axis + 1;
                placed[axis] = shape[axis].clone();
                (shape[axis].clone(), step)
            }
            None => (Dim::one(), 1),
        };
        starts.push(start);
        sizes.push(size);
        steps.push(step);
    }
    let part = cx.slice(x, starts, sizes, steps)?;
    let part = cx.reshape(part, placed)?;
    cx.expand(part, shape.to_vec()).map(Some)
}

/// `start + step * index(axis)` with a constant positive step, or no index at all.
fn affine(e: &Dim) -> Option<(Dim, Option<(usize, i64)>)> {
    let mut axis = None;
    let mut start = Dim::zero();
    for (factors, coefficient) in e.terms() {
        match factors {
            [Atom::Sym(s)] if index_axis(s).is_some() => {
                if axis.is_some() || coefficient < 1 {
                    return None;
                }
                axis = Some((index_axis(s)?, coefficient));
            }
            _ => {
                start = start
                    + factors
                        .iter()
                        .fold(Dim::from(coefficient), |d, a| d * facts::rebuild(a))
            }
        }
    }
    (!facts::has_index(&start)).then_some((start, axis))
}

/// For an operand that is a flattened tensor: that tensor, and the expressions of its own axes.
fn unflatten(cx: &mut Cx, x: V, exprs: &[Dim]) -> R<Option<(V, Vec<Dim>)>> {
    let dims = cx.shape(x).to_vec();
    let (Some(e), true) = (exprs.first(), dims.iter().skip(1).all(|d| d.is(1))) else {
        return Ok(None);
    };
    let id = cx.data(x)?;
    let graph = &cx.module.graph;
    let source = match graph.def_op(id) {
        Some(Op::Reshape(_)) => graph.def_node(id).and_then(|(n, _)| graph.node(n).input(0)),
        _ => None,
    };
    let Some(source) = source else { return Ok(None) };
    let TensorType { shape, .. } = graph.ty(source).clone();
    let strides = rsqc_ir::types::row_major_strides(&shape);
    let mut rest = e.clone();
    let mut parts = Vec::new();
    for stride in &strides {
        let (mut part, mut left) = (Dim::zero(), Dim::zero());
        // Divided index by index: the factor of an index may be a sum, such as past + sequence.
        for (axes, factor) in facts::by_indices(&rest) {
            let indices: Dim = axes.iter().map(|&a| index(a)).product();
            match factor.exact_div(stride) {
                Some(q) => part = part + q * indices,
                None => left = left + factor * indices,
            }
        }
        parts.push(part);
        rest = left;
    }
    if !rest.is(0) {
        return Ok(None);
    }
    let v = cx.push_value(source);
    Ok(Some((v, parts)))
}

/// GatherElements.
pub fn gather_elements(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, i) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let axis = c.axis(cx, "axis", 0, cx.rank(x))?;
    if let Some(s) = cx.fact(x).and_then(|f| f.splat()) {
        // All elements are the same.
        let (elem, shape) = (cx.elem(x), cx.shape(i).to_vec());
        return Ok(vec![cx.push_fact(elem, Fact::of_index(shape, s))]);
    }
    Ok(vec![cx.emit(ir::GatherElements { axis }, &[x, i])?])
}

/// GatherND.
pub fn gather_nd(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, i) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let batch = c.int(cx, "batch_dims", 0)?;
    let Some(batch_dims) = usize::try_from(batch)
        .ok()
        .filter(|&b| b < cx.rank(x) && b < cx.rank(i))
    else {
        return cx.fail(format!(
            "attribute 'batch_dims' is {batch}, expected less than both ranks"
        ));
    };
    let pairs = cx.shape(i).to_vec();
    if batch_dims == 0 && pairs.last().is_some_and(|d| d.is(1)) && cx.rank(x) > 0 {
        // Tuples of one index: a gather along the first axis.
        let flat = cx.reshape(i, pairs[..pairs.len() - 1].to_vec())?;
        return Ok(vec![gather_axis(cx, x, flat, 0)?]);
    }
    if let Some(Fact {
        shape,
        content: Content::Tuples(columns),
    }) = cx.fact(i)
        && batch_dims == 0
        && columns.len() <= cx.rank(x)
    {
        let lead = shape.len() - 1;
        let mut out = shape[..lead].to_vec();
        out.extend_from_slice(&cx.shape(x)[columns.len()..]);
        let mut exprs = columns.clone();
        exprs.extend((columns.len()..cx.rank(x)).map(|a| index(lead + a - columns.len())));
        if let Some(v) = view(cx, x, &exprs, &out)? {
            return Ok(vec![v]);
        }
    }
    let k = cx.shape(i).last().cloned().unwrap_or_else(Dim::one);
    if k.as_const().is_none() {
        return cx.unsupported(format!("index tuples of symbolic length {}", show(&k)));
    }
    Ok(vec![cx.emit(ir::GatherNd { batch_dims }, &[x, i])?])
}
