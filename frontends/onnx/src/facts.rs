//! Value facts: what is known about the elements of small integer and boolean tensors while a model is imported.
//!
//! Exported models compute shapes, positions and masks in the graph. A [`Fact`] holds such a tensor's elements as
//! expressions: one by one ([`Content::Elems`]), or as a function of the tensor's own indices ([`Content::Index`], where
//! the index along axis k is a reserved symbol). `Range` is `#0`, a constant tensor of symbolic shape is an expression
//! without indices, `q + past >= k` is a proposition over `#2` and `#3`. Facts are exact: an operation that cannot be
//! expressed loses the fact and becomes an ordinary node.

use std::collections::BTreeMap;

use rsqc_ir::types::{Atom, Dim, Ranges, Symbol};

/// Most elements that are tracked one by one.
pub const MAX_ELEMS: usize = 1024;
/// Largest expression that is tracked, in terms and factors; also bounds its depth.
pub const MAX_WEIGHT: usize = 400;

/// Terms and factors of an expression, nested ones included, counted up to a little over [`MAX_WEIGHT`].
pub fn weight(d: &Dim) -> usize {
    let mut sum = 1;
    for (factors, _) in d.terms() {
        for atom in factors {
            sum += match atom {
                Atom::Sym(_) => 1,
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    weight(a) + weight(b)
                }
            };
        }
        sum += 1;
        if sum > MAX_WEIGHT {
            break;
        }
    }
    sum
}

/// An element.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// An integer.
    Int(Dim),
    /// A truth value.
    Bool(Prop),
}

/// A truth value that may depend on indices and symbols.
#[derive(Debug, Clone, PartialEq)]
pub enum Prop {
    /// Known.
    Known(bool),
    /// A comparison.
    Cmp(Cmp, Dim, Dim),
    /// Both.
    And(Box<Prop>, Box<Prop>),
    /// Either.
    Or(Box<Prop>, Box<Prop>),
    /// Opposite.
    Not(Box<Prop>),
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Eq,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
}

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

/// The symbol that stands for the index along `axis`. Names from files never contain control characters.
fn index_symbol(axis: usize) -> Symbol {
    Symbol::new(&format!("\u{1}{axis}"))
}

/// The index along `axis`, as an expression.
pub fn index(axis: usize) -> Dim {
    Dim::sym(index_symbol(axis).name())
}

/// The axis whose index this symbol is.
pub fn index_axis(s: &Symbol) -> Option<usize> {
    s.name().strip_prefix('\u{1}')?.parse().ok()
}

/// Whether an expression depends on any index.
pub fn has_index(d: &Dim) -> bool {
    d.symbols().iter().any(|s| index_axis(s).is_some())
}

/// An expression as a sum over products of indices: which axes, and the factor without indices.
pub fn by_indices(d: &Dim) -> BTreeMap<Vec<usize>, Dim> {
    let mut groups: BTreeMap<Vec<usize>, Dim> = BTreeMap::new();
    for (factors, coefficient) in d.terms() {
        let (mut axes, mut rest) = (Vec::new(), Dim::from(coefficient));
        for atom in factors {
            match atom {
                Atom::Sym(s) if index_axis(s).is_some() => axes.extend(index_axis(s)),
                atom => rest = rest * rebuild(atom),
            }
        }
        let sum = groups.entry(axes).or_insert_with(Dim::zero);
        *sum = sum.clone() + rest;
    }
    groups
}

/// Replaces indices.
fn map_indices(d: &Dim, f: &dyn Fn(usize) -> Dim) -> Dim {
    if has_index(d) {
        d.substitute(&|s| index_axis(s).map(f))
    } else {
        d.clone()
    }
}

/// Bounds of symbols and of the indices of a shape.
struct WithIndices<'a> {
    ranges: &'a dyn Ranges,
    shape: &'a [Dim],
}

impl Ranges for WithIndices<'_> {
    fn range(&self, s: &Symbol) -> (i64, i64) {
        match index_axis(s) {
            Some(axis) => (
                0,
                self.shape
                    .get(axis)
                    .map_or(i64::MAX, |d| d.bounds(self.ranges).1.saturating_sub(1).max(0)),
            ),
            None => self.ranges.range(s),
        }
    }
}

/// Whether `d >= 0` at every index of `shape`. Where an index counts negatively its largest value, extent - 1, is put
/// in its place, so that `k <= K - 1` is seen for symbolic K.
fn never_negative(d: &Dim, shape: &[Dim], ranges: &dyn Ranges) -> bool {
    let bounds = WithIndices { ranges, shape };
    if d.bounds(&bounds).0 >= 0 {
        return true;
    }
    let mut low = Dim::zero();
    for (factors, coefficient) in d.terms() {
        let mut term = Dim::from(coefficient);
        for atom in factors {
            term = term
                * match atom {
                    Atom::Sym(s) => match index_axis(s) {
                        Some(_) if coefficient > 0 => Dim::zero(),
                        Some(axis) => match shape.get(axis) {
                            Some(extent) => extent.clone() - Dim::one(),
                            None => return false,
                        },
                        None => Dim::sym(s.name()),
                    },
                    _ if factors.len() > 1 => return false,
                    other => rebuild(other),
                };
        }
        low = low + term;
    }
    low.bounds(&bounds).0 >= 0
}

pub(crate) fn rebuild(atom: &Atom) -> Dim {
    match atom {
        Atom::Sym(s) => Dim::sym(s.name()),
        Atom::FloorDiv(a, b) => a.floor_div(b),
        Atom::Mod(a, b) => a.modulo(b),
        Atom::Min(a, b) => Dim::smaller(a, b),
        Atom::Max(a, b) => Dim::larger(a, b),
    }
}

/// Decides `a cmp b` over `shape`, if the bounds allow.
pub fn decide(cmp: Cmp, a: &Dim, b: &Dim, shape: &[Dim], ranges: &dyn Ranges) -> Option<bool> {
    let (up, down) = (b.clone() - a.clone(), a.clone() - b.clone());
    let at_least = |d: &Dim, n: i64| never_negative(&(d.clone() - Dim::from(n)), shape, ranges);
    match cmp {
        Cmp::Eq if a == b => Some(true),
        Cmp::Eq if at_least(&up, 1) || at_least(&down, 1) => Some(false),
        Cmp::Lt if at_least(&up, 1) => Some(true),
        Cmp::Lt if at_least(&down, 0) => Some(false),
        Cmp::Le if at_least(&up, 0) => Some(true),
        Cmp::Le if at_least(&down, 1) => Some(false),
        _ => None,
    }
}

impl Prop {
    /// A comparison, decided if possible.
    pub fn cmp(cmp: Cmp, a: &Dim, b: &Dim, shape: &[Dim], ranges: &dyn Ranges) -> Prop {
        match decide(cmp, a, b, shape, ranges) {
            Some(v) => Prop::Known(v),
            None => Prop::Cmp(cmp, a.clone(), b.clone()),
        }
    }

    /// Conjunction, simplified.
    pub fn and(self, other: Prop) -> Prop {
        match (self, other) {
            (Prop::Known(true), p) | (p, Prop::Known(true)) => p,
            (Prop::Known(false), _) | (_, Prop::Known(false)) => Prop::Known(false),
            (a, b) if a == b => a,
            (a, b) => Prop::And(Box::new(a), Box::new(b)),
        }
    }

    /// Disjunction, simplified.
    pub fn or(self, other: Prop) -> Prop {
        match (self, other) {
            (Prop::Known(false), p) | (p, Prop::Known(false)) => p,
            (Prop::Known(true), _) | (_, Prop::Known(true)) => Prop::Known(true),
            (a, b) if a == b => a,
            (a, b) => Prop::Or(Box::new(a), Box::new(b)),
        }
    }

    /// Negation, simplified.
    pub fn negate(self) -> Prop {
        match self {
            Prop::Known(v) => Prop::Known(!v),
            Prop::Cmp(Cmp::Lt, a, b) => Prop::Cmp(Cmp::Le, b, a),
            Prop::Cmp(Cmp::Le, a, b) => Prop::Cmp(Cmp::Lt, b, a),
            Prop::Not(p) => *p,
            p => Prop::Not(Box::new(p)),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Prop::Known(_) => 1,
            Prop::Cmp(_, a, b) => weight(a) + weight(b),
            Prop::And(a, b) | Prop::Or(a, b) => 1 + a.weight() + b.weight(),
            Prop::Not(a) => 1 + a.weight(),
        }
    }

    fn map(&self, f: &dyn Fn(usize) -> Dim) -> Prop {
        match self {
            Prop::Known(v) => Prop::Known(*v),
            Prop::Cmp(c, a, b) => Prop::Cmp(*c, map_indices(a, f), map_indices(b, f)),
            Prop::And(a, b) => Prop::And(Box::new(a.map(f)), Box::new(b.map(f))),
            Prop::Or(a, b) => Prop::Or(Box::new(a.map(f)), Box::new(b.map(f))),
            Prop::Not(a) => Prop::Not(Box::new(a.map(f))),
        }
    }

    fn has_index(&self) -> bool {
        match self {
            Prop::Known(_) => false,
            Prop::Cmp(_, a, b) => has_index(a) || has_index(b),
            Prop::And(a, b) | Prop::Or(a, b) => a.has_index() || b.has_index(),
            Prop::Not(a) => a.has_index(),
        }
    }
}

impl Scalar {
    /// A constant integer.
    pub fn int(v: i64) -> Scalar {
        Scalar::Int(Dim::from(v))
    }

    /// The integer expression.
    pub fn as_int(&self) -> Option<&Dim> {
        match self {
            Scalar::Int(d) => Some(d),
            Scalar::Bool(_) => None,
        }
    }

    /// The integer or truth value (0, 1), if it is constant.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Scalar::Int(d) => d.as_const(),
            Scalar::Bool(Prop::Known(v)) => Some(i64::from(*v)),
            Scalar::Bool(_) => None,
        }
    }

    /// Whether the expression is small enough to be tracked, and as an element of a list one that can be made into
    /// data.
    fn is_fit(&self, alone: bool) -> bool {
        match self {
            Scalar::Int(d) => weight(d) <= MAX_WEIGHT && (alone || !has_index(d)),
            Scalar::Bool(Prop::Known(_)) => true,
            Scalar::Bool(p) => alone && p.weight() <= MAX_WEIGHT,
        }
    }

    fn map(&self, f: &dyn Fn(usize) -> Dim) -> Scalar {
        match self {
            Scalar::Int(d) => Scalar::Int(map_indices(d, f)),
            Scalar::Bool(p) => Scalar::Bool(p.map(f)),
        }
    }

    fn has_index(&self) -> bool {
        match self {
            Scalar::Int(d) => has_index(d),
            Scalar::Bool(p) => p.has_index(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_ir::types::NoRanges;

    fn s(n: &str) -> Dim {
        Dim::sym(n)
    }

    fn iota(n: Dim) -> Fact {
        Fact::of_index(vec![n], Scalar::Int(index(0)))
    }

    #[test]
    fn iota_is_never_negative_and_below_its_extent() {
        let k = [s("K")];
        assert_eq!(
            decide(Cmp::Le, &Dim::zero(), &index(0), &k, &NoRanges),
            Some(true)
        );
        assert_eq!(decide(Cmp::Lt, &index(0), &s("K"), &k, &NoRanges), Some(true));
        assert_eq!(decide(Cmp::Lt, &index(0), &s("J"), &k, &NoRanges), None);
        assert_eq!(
            decide(Cmp::Eq, &s("K"), &Dim::from(-1i64), &[], &NoRanges),
            Some(false)
        );
    }

    #[test]
    fn views_rename_indices() {
        let f = iota(s("K")).reshape(&[Dim::one(), s("K"), Dim::one()]).unwrap();
        assert_eq!(f.content, Content::Index(Scalar::Int(index(1))));
        let t = f.transpose(&[2, 0, 1]).unwrap();
        assert_eq!(t.content, Content::Index(Scalar::Int(index(2))));
        let e = t.expand(&[s("B"), s("Q"), s("K")]).unwrap();
        assert_eq!(e.content, Content::Index(Scalar::Int(index(2))));
        assert!(e.reshape(&[s("B") * s("Q") * s("K")]).is_none());
        let cut = iota(s("K")).slice(&[Dim::from(2i64)], &[s("J")], &[3]).unwrap();
        assert_eq!(
            cut.content,
            Content::Index(Scalar::Int(index(0) * Dim::from(3i64) + Dim::from(2i64)))
        );
    }

    #[test]
    fn elements_and_expressions_mix() {
        let list = Fact::list(vec![s("b"), Dim::from(7i64), s("n")]);
        let two = Fact::of_index(vec![], Scalar::int(2));
        let add = |a: &[Scalar]| Some(Scalar::Int(a[0].as_int()?.clone() + a[1].as_int()?.clone()));
        let sum = Fact::zip(&[Dim::from(3i64)], &[&list, &two], &add).unwrap();
        assert_eq!(sum.ints().unwrap()[1], Dim::from(9i64));
        let small = iota(Dim::from(3i64));
        assert_eq!(small.const_ints().unwrap(), [0, 1, 2]);
        let picked = sum.gather(0, &Fact::list(vec![Dim::from(2i64)])).unwrap();
        assert_eq!(picked.ints().unwrap(), [s("n") + Dim::from(2i64)]);
    }

    #[test]
    fn gather_of_an_expression_substitutes() {
        let data = Fact::of_index(
            vec![s("K"), s("N")],
            Scalar::Int(index(0) * Dim::from(5i64) + index(1)),
        );
        let ix = Fact::of_index(vec![s("A"), s("B")], Scalar::Int(index(1)));
        let g = data.gather(0, &ix).unwrap();
        assert_eq!(g.shape, [s("A"), s("B"), s("N")]);
        assert_eq!(
            g.content,
            Content::Index(Scalar::Int(index(1) * Dim::from(5i64) + index(2)))
        );
    }

    #[test]
    fn concatenation() {
        let (a, b) = (Fact::list(vec![s("x")]), Fact::list(vec![Dim::one(), s("y")]));
        let c = Fact::concat(&[&a, &b], 0, vec![Dim::from(3i64)]).unwrap();
        assert_eq!(c.ints().unwrap(), [s("x"), Dim::one(), s("y")]);
        let shape = vec![s("B"), s("K"), Dim::one()];
        let col = |axis| Fact::of_index(shape.clone(), Scalar::Int(index(axis)));
        let t = Fact::concat(&[&col(0), &col(1)], 2, vec![s("B"), s("K"), Dim::from(2i64)]).unwrap();
        assert_eq!(t.content, Content::Tuples(vec![index(0), index(1)]));
    }

    #[test]
    fn propositions_simplify() {
        let p = Prop::Cmp(Cmp::Le, index(0), s("q"));
        assert_eq!(Prop::Known(true).and(p.clone()), p);
        assert_eq!(p.clone().or(Prop::Known(true)), Prop::Known(true));
        assert_eq!(p.clone().negate(), Prop::Cmp(Cmp::Lt, s("q"), index(0)));
        assert_eq!(p.clone().negate().negate(), p);
    }
}
