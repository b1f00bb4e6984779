//! Expressions over indices and symbols, truth values, and what their bounds decide.

use std::collections::BTreeMap;

use rsqc_ir::types::{Atom, Dim, Ranges, Symbol};

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
pub(super) fn map_indices(d: &Dim, f: &dyn Fn(usize) -> Dim) -> Dim {
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
    pub(super) fn is_fit(&self, alone: bool) -> bool {
        match self {
            Scalar::Int(d) => weight(d) <= MAX_WEIGHT && (alone || !has_index(d)),
            Scalar::Bool(Prop::Known(_)) => true,
            Scalar::Bool(p) => alone && p.weight() <= MAX_WEIGHT,
        }
    }

    pub(super) fn map(&self, f: &dyn Fn(usize) -> Dim) -> Scalar {
        match self {
            Scalar::Int(d) => Scalar::Int(map_indices(d, f)),
            Scalar::Bool(p) => Scalar::Bool(p.map(f)),
        }
    }

    pub(super) fn has_index(&self) -> bool {
        match self {
            Scalar::Int(d) => has_index(d),
            Scalar::Bool(p) => p.has_index(),
        }
    }
}
