//! Value facts: what is known about the elements of small integer and boolean tensors while a model is imported.
//!
//! Exported models compute shapes, positions and masks in the graph. A [`Fact`] holds such a tensor's elements as
//! expressions: one by one ([`Content::Elems`]), or as a function of the tensor's own indices ([`Content::Index`], where
//! the index along axis k is a reserved symbol). `Range` is `#0`, a constant tensor of symbolic shape is an expression
//! without indices, `q + past >= k` is a proposition over `#2` and `#3`. Facts are exact: an operation that cannot be
//! expressed loses the fact and becomes an ordinary node.

mod expr;
#[cfg(test)]
mod tests;

use rsqc_ir::types::Dim;

use expr::map_indices;
pub(crate) use expr::rebuild;
pub use expr::{Cmp, MAX_WEIGHT, Prop, Scalar, by_indices, decide, has_index, index, index_axis, weight};

/// Most elements that are tracked one by one.
pub const MAX_ELEMS: usize = 1024;

/// What the elements are.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Each element, row-major; the shape is static.
    Elems(Vec<Scalar>),
    /// One expression of the indices. The index of an axis of extent 1 never occurs.
    Index(Scalar),
    /// Index tuples: entry k of the last axis is the k-th expression of the other axes' indices.
    Tuples(Vec<Dim>),
}

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Shape of the tensor.
    pub shape: Vec<Dim>,
    /// Elements.
    pub content: Content,
}
/// Elements of a static shape, if they are few enough to be tracked one by one.
fn static_len(shape: &[Dim]) -> Option<usize> {
    let n = shape
        .iter()
        .map(|d| d.as_const().and_then(|v| usize::try_from(v).ok()))
        .try_fold(1usize, |n, d| n.checked_mul(d?));
    n.filter(|n| *n <= MAX_ELEMS)
}

/// The index tuple of element `flat` of a static shape.
fn unflatten(mut flat: usize, shape: &[Dim]) -> Vec<i64> {
    let mut out = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        let extent = shape[axis]
            .as_const()
            .and_then(|v| usize::try_from(v).ok())
            .unwrap_or(1)
            .max(1);
        out[axis] = (flat % extent) as i64;
        flat /= extent;
    }
    out
}

impl Fact {
    /// One expression of the indices.
    pub fn of_index(shape: Vec<Dim>, s: Scalar) -> Fact {
        // An axis of extent 1 has only index 0.
        let s = s.map(&|axis| {
            if shape.get(axis).is_none_or(|d| d.is(1)) {
                Dim::zero()
            } else {
                index(axis)
            }
        });
        Fact {
            shape,
            content: Content::Index(s),
        }
    }

    /// Elements of a static shape.
    pub fn of_elems(shape: Vec<Dim>, elems: Vec<Scalar>) -> Fact {
        Fact {
            shape,
            content: Content::Elems(elems),
        }
    }

    /// A list of integers.
    pub fn list(dims: Vec<Dim>) -> Fact {
        Fact::of_elems(
            vec![Dim::from(dims.len())],
            dims.into_iter().map(Scalar::Int).collect(),
        )
    }

    /// The elements one by one, if they are few.
    pub fn elems(&self) -> Option<Vec<Scalar>> {
        let n = static_len(&self.shape)?;
        match &self.content {
            Content::Elems(e) => Some(e.clone()),
            Content::Index(s) if !s.has_index() => s.is_fit(false).then(|| vec![s.clone(); n]),
            Content::Index(s) => {
                let at = |i| Some(at(s, &unflatten(i, &self.shape))).filter(|s| s.is_fit(false));
                (0..n).map(at).collect()
            }
            Content::Tuples(t) => {
                let pick = |i: usize| {
                    let ix = unflatten(i, &self.shape);
                    let k = usize::try_from(*ix.last()?).ok()?;
                    Some(at(&Scalar::Int(t.get(k)?.clone()), &ix))
                };
                (0..n).map(pick).collect()
            }
        }
    }

    /// The elements as integer expressions.
    pub fn ints(&self) -> Option<Vec<Dim>> {
        self.elems()?.iter().map(|s| s.as_int().cloned()).collect()
    }

    /// The elements as constant integers.
    pub fn const_ints(&self) -> Option<Vec<i64>> {
        self.elems()?.iter().map(Scalar::as_const).collect()
    }

    /// The only element.
    pub fn scalar(&self) -> Option<Scalar> {
        match self.elems()?.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        }
    }

    /// The expression of the indices, if the content is one.
    pub fn expression(&self) -> Option<Scalar> {
        match &self.content {
            Content::Index(s) => Some(s.clone()),
            Content::Elems(e) => {
                let first = e.first()?;
                e.iter().all(|s| s == first).then(|| first.clone())
            }
            Content::Tuples(_) => None,
        }
    }

    /// The one element that all have, if they have and it does not depend on indices.
    pub fn splat(&self) -> Option<Scalar> {
        self.expression().filter(|s| !s.has_index())
    }

    /// The elementwise function `f` of facts that broadcast to `shape`; `f` may refuse.
    pub fn zip(shape: &[Dim], facts: &[&Fact], f: &dyn Fn(&[Scalar]) -> Option<Scalar>) -> Option<Fact> {
        if let Some(n) = static_len(shape)
            && facts.iter().any(|f| matches!(f.content, Content::Elems(_)))
        {
            let sources = facts.iter().map(|f| f.elems()).collect::<Option<Vec<_>>>()?;
            let elems = (0..n)
                .map(|i| {
                    let ix = unflatten(i, shape);
                    let args: Vec<Scalar> = facts
                        .iter()
                        .zip(&sources)
                        .map(|(f, e)| Some(e.get(f.flat(&ix))?.clone()))
                        .collect::<Option<_>>()?;
                    f(&args).filter(|s| s.is_fit(false))
                })
                .collect::<Option<Vec<_>>>()?;
            return Some(Fact::of_elems(shape.to_vec(), elems));
        }
        let args: Vec<Scalar> = facts
            .iter()
            .map(|f| {
                let shift = shape.len() - f.shape.len();
                Some(f.expression()?.map(&|axis| index(axis + shift)))
            })
            .collect::<Option<_>>()?;
        Some(Fact::of_index(
            shape.to_vec(),
            f(&args).filter(|s| s.is_fit(true))?,
        ))
    }

    /// Position of the element that index tuple `ix` of a broadcast result reads.
    fn flat(&self, ix: &[i64]) -> usize {
        let shift = ix.len() - self.shape.len();
        let mut flat = 0usize;
        for (axis, d) in self.shape.iter().enumerate() {
            let extent = d.as_const().and_then(|v| usize::try_from(v).ok()).unwrap_or(1);
            let i = if extent == 1 { 0 } else { ix[axis + shift] as usize };
            flat = flat * extent + i;
        }
        flat
    }

    /// The same elements, in row-major order, under another shape.
    pub fn reshape(&self, shape: &[Dim]) -> Option<Fact> {
        match &self.content {
            Content::Elems(e) => Some(Fact::of_elems(shape.to_vec(), e.clone())),
            Content::Index(s) if !s.has_index() => Some(Fact::of_index(shape.to_vec(), s.clone())),
            Content::Index(s) => {
                let real =
                    |shape: &[Dim]| -> Vec<usize> { (0..shape.len()).filter(|&a| !shape[a].is(1)).collect() };
                let (old, new) = (real(&self.shape), real(shape));
                let same =
                    old.len() == new.len() && old.iter().zip(&new).all(|(&a, &b)| self.shape[a] == shape[b]);
                if !same {
                    return self.elems().map(|e| Fact::of_elems(shape.to_vec(), e));
                }
                let to = |axis: usize| {
                    old.iter()
                        .position(|&a| a == axis)
                        .map_or_else(Dim::zero, |i| index(new[i]))
                };
                Some(Fact::of_index(shape.to_vec(), s.map(&to)))
            }
            Content::Tuples(_) if self.shape == shape => Some(self.clone()),
            Content::Tuples(_) => None,
        }
    }

    /// Axis `i` of the result is axis `perm[i]`.
    pub fn transpose(&self, perm: &[usize]) -> Option<Fact> {
        let shape: Vec<Dim> = perm.iter().map(|&p| self.shape[p].clone()).collect();
        let place = |axis: usize| perm.iter().position(|&p| p == axis).map_or_else(Dim::zero, index);
        match &self.content {
            Content::Index(s) => Some(Fact::of_index(shape, s.map(&place))),
            _ => self.remap(shape, &|ix| {
                let mut out = vec![0; ix.len()];
                perm.iter().zip(ix).for_each(|(&p, &i)| out[p] = i);
                Some(out)
            }),
        }
    }

    /// Result element `ix` is this fact's element at `source(ix)`; needs static shapes.
    fn remap(&self, shape: Vec<Dim>, source: &dyn Fn(&[i64]) -> Option<Vec<i64>>) -> Option<Fact> {
        let (n, elems) = (static_len(&shape)?, self.elems()?);
        let pick = |i: usize| elems.get(self.flat(&source(&unflatten(i, &shape))?)).cloned();
        let picked = (0..n).map(pick).collect::<Option<Vec<_>>>()?;
        Some(Fact::of_elems(shape, picked))
    }

    /// Broadcast to `shape`, which this shape broadcasts to.
    pub fn expand(&self, shape: &[Dim]) -> Option<Fact> {
        Fact::zip(shape, &[self], &|a| Some(a[0].clone()))
    }

    /// Constant elements that count up evenly along one axis, as an expression of its index.
    fn progression(&self) -> Option<Scalar> {
        let Content::Elems(elems) = &self.content else {
            return None;
        };
        let long: Vec<usize> = (0..self.shape.len()).filter(|&a| !self.shape[a].is(1)).collect();
        let ([axis], [first, second, ..]) = (long.as_slice(), elems.as_slice()) else {
            return None;
        };
        let (first, second) = (first.as_int()?.as_const()?, second.as_int()?.as_const()?);
        let step = second.checked_sub(first)?;
        let value = |i: usize| {
            Some(Dim::from(
                first.checked_add(step.checked_mul(i64::try_from(i).ok()?)?)?,
            ))
        };
        let even = elems
            .iter()
            .enumerate()
            .all(|(i, e)| e.as_int().is_some_and(|d| value(i).is_some_and(|v| v == *d)));
        even.then(|| Scalar::Int(Dim::from(first) + Dim::from(step) * index(*axis)))
    }

    /// Element `i` of result axis `a` is index `starts[a] + i * steps[a]`.
    pub fn slice(&self, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Option<Fact> {
        let expression = match &self.content {
            Content::Index(s) => Some(s.clone()),
            _ if sizes.iter().chain(starts).any(|d| d.as_const().is_none()) => self.progression(),
            _ => None,
        };
        if let Some(s) = expression {
            let moved = s.map(&|a| starts[a].clone() + index(a) * Dim::from(steps[a]));
            return Some(Fact::of_index(sizes.to_vec(), moved));
        }
        let starts = starts.iter().map(Dim::as_const).collect::<Option<Vec<_>>>()?;
        self.remap(sizes.to_vec(), &|ix| {
            ix.iter()
                .enumerate()
                .map(|(a, &i)| starts[a].checked_add(i.checked_mul(steps[a])?))
                .collect()
        })
    }

    /// Joined along `axis`; the result has `shape`.
    pub fn concat(facts: &[&Fact], axis: usize, shape: Vec<Dim>) -> Option<Fact> {
        if facts.iter().all(|f| static_len(&f.shape).is_some()) && static_len(&shape).is_some() {
            let parts = facts.iter().map(|f| f.elems()).collect::<Option<Vec<_>>>()?;
            let inner: usize = static_len(&shape[axis + 1..])?;
            let outer: usize = static_len(&shape[..axis])?;
            let mut elems = Vec::new();
            for o in 0..outer {
                for (f, e) in facts.iter().zip(&parts) {
                    let block = inner * usize::try_from(f.shape[axis].as_const()?).ok()?;
                    elems.extend_from_slice(e.get(o * block..(o + 1) * block)?);
                }
            }
            return Some(Fact::of_elems(shape, elems));
        }
        // Index tuples: each operand is one column.
        if axis + 1 != shape.len() || facts.iter().any(|f| !f.shape[axis].is(1)) {
            return None;
        }
        let columns = facts
            .iter()
            .map(|f| f.expression()?.as_int().cloned())
            .collect::<Option<Vec<_>>>()?;
        Some(Fact {
            shape,
            content: Content::Tuples(columns),
        })
    }

    /// ONNX Gather along `axis`; indices are not negative.
    pub fn gather(&self, axis: usize, ix: &Fact) -> Option<Fact> {
        let shape: Vec<Dim> = self.shape[..axis]
            .iter()
            .chain(&ix.shape)
            .chain(&self.shape[axis + 1..])
            .cloned()
            .collect();
        let r = ix.shape.len();
        if let (Content::Index(s), Some(Scalar::Int(i))) = (&self.content, ix.expression()) {
            let i = map_indices(&i, &|a| index(a + axis));
            let to = |a: usize| match a.cmp(&axis) {
                std::cmp::Ordering::Less => index(a),
                std::cmp::Ordering::Equal => i.clone(),
                std::cmp::Ordering::Greater => index(a + r - 1),
            };
            return Some(Fact::of_index(shape, s.map(&to)));
        }
        let chosen = ix.const_ints()?;
        let source = |at: &[i64]| {
            let pick = *chosen.get(ix.flat(&at[axis..axis + r]))?;
            Some(
                at[..axis]
                    .iter()
                    .copied()
                    .chain([pick])
                    .chain(at[axis + r..].iter().copied())
                    .collect(),
            )
        };
        self.remap(shape, &source)
    }
}

/// The element at fixed indices.
fn at(s: &Scalar, ix: &[i64]) -> Scalar {
    s.map(&|axis| Dim::from(ix.get(axis).copied().unwrap_or(0)))
}
