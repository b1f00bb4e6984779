//! Symbolic dimensions.
//!
//! A [`Dim`] is a sum of products over named symbols and opaque atoms (`floordiv`, `mod`, `min`, `max`), kept in a
//! normal form: monomials sorted, like terms merged, zero terms dropped. Two dims that the normal form can prove equal
//! compare equal with `==`; "not equal" only means *not proven*. Symbols stand for non-negative integers; 0 is legal.
//! Arithmetic saturates at `-i64::MAX` and `i64::MAX` (so that negation never overflows), and absurd sizes from
//! untrusted files are refused by size limits instead of wrapping.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The name of a symbolic dimension, as the model file gives it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// A symbol of this name.
    pub fn new(name: &str) -> Self {
        Symbol(name.into())
    }
    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `name` can be printed without quotes.
fn is_plain_name(name: &str) -> bool {
    let mut chars = name.chars();
    let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    head && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
        && !matches!(name, "floordiv" | "mod" | "min" | "max")
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_plain_name(&self.0) {
            return f.write_str(&self.0);
        }
        f.write_str("`")?;
        for c in self.0.chars() {
            match c {
                '`' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("`")
    }
}

/// A factor of a monomial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    /// A named symbol.
    Sym(Symbol),
    /// Floor division; the divisor is positive wherever the expression is evaluated.
    FloorDiv(Dim, Dim),
    /// Remainder of floor division.
    Mod(Dim, Dim),
    /// The smaller of two.
    Min(Dim, Dim),
    /// The larger of two.
    Max(Dim, Dim),
}

type Monomial = Vec<Atom>;

/// A symbolic integer expression in normal form. See the module documentation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim(Arc<BTreeMap<Monomial, i64>>);

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<i64> for Dim {
    fn from(v: i64) -> Self {
        Dim::from_terms([(Vec::new(), v)])
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Self {
        Dim::from(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

/// Known bounds of symbols; a symbol that is absent lies in `0..=i64::MAX`.
pub trait Ranges {
    /// Inclusive bounds of `s`.
    fn range(&self, s: &Symbol) -> (i64, i64);
}

/// No bounds known beyond non-negativity.
pub struct NoRanges;
impl Ranges for NoRanges {
    fn range(&self, _: &Symbol) -> (i64, i64) {
        (0, i64::MAX)
    }
}

impl Dim {
    /// The dim that is one symbol.
    pub fn sym(name: &str) -> Self {
        Dim::atom(Atom::Sym(Symbol::new(name)))
    }

    fn atom(a: Atom) -> Self {
        Dim(Arc::new(BTreeMap::from([(vec![a], 1)])))
    }

    /// Zero.
    pub fn zero() -> Self {
        Dim::from(0i64)
    }

    /// One.
    pub fn one() -> Self {
        Dim::from(1i64)
    }

    /// The value, if it contains no symbol.
    pub fn as_const(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// Whether this is the constant `v`.
    pub fn is(&self, v: i64) -> bool {
        self.as_const() == Some(v)
    }

    /// The symbol, if this is exactly one symbol.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match self.0.iter().next() {
            Some((m, 1)) if self.0.len() == 1 => match m.as_slice() {
                [Atom::Sym(s)] => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    /// The terms `(factors, coefficient)` in canonical order.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.0.iter().map(|(m, c)| (m.as_slice(), *c))
    }

    fn from_terms(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Self {
        let mut map: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (m, c) in terms {
            let e = map.entry(m).or_insert(0);
            *e = e.saturating_add(c).max(-i64::MAX);
        }
        map.retain(|_, c| *c != 0);
        Dim(Arc::new(map))
    }

    /// Division without remainder, if the normal form shows that there is none.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        let (lead, lead_c) = by.0.iter().next_back()?;
        let mut rest = self.clone();
        let mut quotient = Dim::zero();
        // Each round removes the leading monomial; the bound guards against operands whose leading terms never cancel.
        for _ in 0..64 {
            let Some((m, c)) = rest.0.iter().next_back() else {
                return Some(quotient);
            };
            if c % lead_c != 0 {
                return None;
            }
            let factors = remove_factors(m, lead)?;
            let q = Dim::from_terms([(factors, c / lead_c)]);
            rest = rest - q.clone() * by.clone();
            quotient = quotient + q;
        }
        None
    }

    /// Floor division. `by` must be positive wherever the expression is evaluated.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if let Some(q) = self.exact_div(by) {
            return q;
        }
        match (self.as_const(), by.as_const()) {
            (Some(a), Some(b)) if b != 0 => return Dim::from(a.div_euclid(b)),
            (None, Some(b)) if b > 0 => {
                // floor((b*q + r) / b) = q + floor(r / b)
                let whole = Dim::from_terms(self.0.iter().map(|(m, c)| (m.clone(), c.div_euclid(b))));
                let rest = Dim::from_terms(self.0.iter().map(|(m, c)| (m.clone(), c.rem_euclid(b))));
                if whole != Dim::zero() {
                    return whole + rest.floor_div(by);
                }
            }
            _ => {}
        }
        Dim::atom(Atom::FloorDiv(self.clone(), by.clone()))
    }

    /// Ceiling division. `by` must be positive wherever the expression is evaluated.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        (self.clone() + by.clone() - Dim::one()).floor_div(by)
    }

    /// Remainder of floor division.
    pub fn modulo(&self, by: &Dim) -> Dim {
        if self.exact_div(by).is_some() {
            return Dim::zero();
        }
        match (self.as_const(), by.as_const()) {
            (Some(a), Some(b)) if b != 0 => Dim::from(a.rem_euclid(b)),
            _ => Dim::atom(Atom::Mod(self.clone(), by.clone())),
        }
    }

    /// The smaller of two.
    pub fn smaller(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) if d <= 0 => self.clone(),
            Some(_) => other.clone(),
            None if self <= other => Dim::atom(Atom::Min(self.clone(), other.clone())),
            None => Dim::atom(Atom::Min(other.clone(), self.clone())),
        }
    }

    /// The larger of two.
    pub fn larger(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) if d >= 0 => self.clone(),
            Some(_) => other.clone(),
            None if self <= other => Dim::atom(Atom::Max(self.clone(), other.clone())),
            None => Dim::atom(Atom::Max(other.clone(), self.clone())),
        }
    }

    /// All symbols that occur, atoms included.
    pub fn symbols(&self) -> BTreeSet<Symbol> {
        let mut out = BTreeSet::new();
        self.collect_symbols(&mut out);
        out
    }

    fn collect_symbols(&self, out: &mut BTreeSet<Symbol>) {
        for a in self.0.keys().flatten() {
            match a {
                Atom::Sym(s) => {
                    out.insert(s.clone());
                }
                Atom::FloorDiv(x, y) | Atom::Mod(x, y) | Atom::Min(x, y) | Atom::Max(x, y) => {
                    x.collect_symbols(out);
                    y.collect_symbols(out);
                }
            }
        }
    }

    /// The value under an assignment; `None` if a symbol is unassigned, a divisor is zero or `i64` overflows.
    pub fn eval(&self, env: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        let mut sum = 0i64;
        for (m, c) in self.0.iter() {
            let mut p = *c;
            for a in m {
                let v = match a {
                    Atom::Sym(s) => env(s)?,
                    Atom::FloorDiv(x, y) => x.eval(env)?.checked_div_euclid(y.eval(env)?)?,
                    Atom::Mod(x, y) => x.eval(env)?.checked_rem_euclid(y.eval(env)?)?,
                    Atom::Min(x, y) => x.eval(env)?.min(y.eval(env)?),
                    Atom::Max(x, y) => x.eval(env)?.max(y.eval(env)?),
                };
                p = p.checked_mul(v)?;
            }
            sum = sum.checked_add(p)?;
        }
        Some(sum)
    }

    /// Replaces symbols; those for which `f` answers `None` stay.
    pub fn substitute(&self, f: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let mut sum = Dim::zero();
        for (m, c) in self.0.iter() {
            let mut p = Dim::from(*c);
            for a in m {
                let v = match a {
                    Atom::Sym(s) => f(s).unwrap_or_else(|| Dim::atom(a.clone())),
                    Atom::FloorDiv(x, y) => x.substitute(f).floor_div(&y.substitute(f)),
                    Atom::Mod(x, y) => x.substitute(f).modulo(&y.substitute(f)),
                    Atom::Min(x, y) => x.substitute(f).smaller(&y.substitute(f)),
                    Atom::Max(x, y) => x.substitute(f).larger(&y.substitute(f)),
                };
                p = p * v;
            }
            sum = sum + p;
        }
        sum
    }

    /// Inclusive bounds under the bounds of its symbols (interval arithmetic; may be loose, never wrong).
    pub fn bounds(&self, r: &dyn Ranges) -> (i64, i64) {
        let mut total = (0i128, 0i128);
        for (m, c) in self.0.iter() {
            let mut p = (i128::from(*c), i128::from(*c));
            for a in m {
                let v = atom_bounds(a, r);
                let all = [p.0 * v.0, p.0 * v.1, p.1 * v.0, p.1 * v.1].map(clamp128);
                p = (
                    all.into_iter().min().unwrap_or(0),
                    all.into_iter().max().unwrap_or(0),
                );
            }
            total = (clamp128(total.0 + p.0), clamp128(total.1 + p.1));
        }
        (clamp64(total.0), clamp64(total.1))
    }

    /// Whether `self <= other` always holds under the given bounds (false = not proven).
    pub fn always_le(&self, other: &Dim, r: &dyn Ranges) -> bool {
        (other.clone() - self.clone()).bounds(r).0 >= 0
    }

    /// Whether the two can never be equal under the given bounds (false = not proven).
    pub fn never_eq(&self, other: &Dim, r: &dyn Ranges) -> bool {
        let (lo, hi) = (other.clone() - self.clone()).bounds(r);
        lo > 0 || hi < 0
    }
}

const BIG: i128 = i64::MAX as i128;

fn clamp128(v: i128) -> i128 {
    v.clamp(-BIG, BIG)
}

fn clamp64(v: i128) -> i64 {
    i64::try_from(v.clamp(-BIG, BIG)).expect("clamped to the range of i64")
}

fn atom_bounds(a: &Atom, r: &dyn Ranges) -> (i128, i128) {
    let b = |d: &Dim| {
        let (lo, hi) = d.bounds(r);
        (i128::from(lo), i128::from(hi))
    };
    match a {
        Atom::Sym(s) => {
            let (lo, hi) = r.range(s);
            (i128::from(lo), i128::from(hi))
        }
        Atom::FloorDiv(x, y) => {
            let ((xl, xh), (yl, yh)) = (b(x), b(y));
            let (yl, yh) = (yl.max(1), yh.max(1));
            let all = [
                xl.div_euclid(yl),
                xl.div_euclid(yh),
                xh.div_euclid(yl),
                xh.div_euclid(yh),
            ];
            (
                all.into_iter().min().unwrap_or(0),
                all.into_iter().max().unwrap_or(0),
            )
        }
        Atom::Mod(_, y) => (0, (b(y).1 - 1).max(0)),
        Atom::Min(x, y) => {
            let ((xl, xh), (yl, yh)) = (b(x), b(y));
            (xl.min(yl), xh.min(yh))
        }
        Atom::Max(x, y) => {
            let ((xl, xh), (yl, yh)) = (b(x), b(y));
            (xl.max(yl), xh.max(yh))
        }
    }
}

/// `m` without the factors of `by`, if all of them occur.
fn remove_factors(m: &[Atom], by: &[Atom]) -> Option<Monomial> {
    let mut out = m.to_vec();
    for f in by {
        let i = out.iter().position(|a| a == f)?;
        out.remove(i);
    }
    Some(out)
}

impl std::ops::Add for Dim {
    type Output = Dim;
    fn add(self, rhs: Dim) -> Dim {
        Dim::from_terms(self.0.iter().chain(rhs.0.iter()).map(|(m, c)| (m.clone(), *c)))
    }
}

impl std::ops::Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        Dim::from_terms(self.0.iter().map(|(m, c)| (m.clone(), c.saturating_neg())))
    }
}

impl std::ops::Sub for Dim {
    type Output = Dim;
    fn sub(self, rhs: Dim) -> Dim {
        self + -rhs
    }
}

impl std::ops::Mul for Dim {
    type Output = Dim;
    fn mul(self, rhs: Dim) -> Dim {
        let mut terms = Vec::with_capacity(self.0.len() * rhs.0.len());
        for (a, x) in self.0.iter() {
            for (b, y) in rhs.0.iter() {
                let mut m: Monomial = a.iter().chain(b).cloned().collect();
                m.sort();
                terms.push((m, x.saturating_mul(*y)));
            }
        }
        Dim::from_terms(terms)
    }
}

impl std::iter::Product for Dim {
    fn product<I: Iterator<Item = Dim>>(iter: I) -> Dim {
        iter.fold(Dim::one(), |a, b| a * b)
    }
}

impl std::iter::Sum for Dim {
    fn sum<I: Iterator<Item = Dim>>(iter: I) -> Dim {
        iter.fold(Dim::zero(), |a, b| a + b)
    }
}

impl<'a> std::iter::Product<&'a Dim> for Dim {
    fn product<I: Iterator<Item = &'a Dim>>(iter: I) -> Dim {
        iter.cloned().product()
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Sym(s) => write!(f, "{s}"),
            Atom::FloorDiv(x, y) => write!(f, "floordiv({x}, {y})"),
            Atom::Mod(x, y) => write!(f, "mod({x}, {y})"),
            Atom::Min(x, y) => write!(f, "min({x}, {y})"),
            Atom::Max(x, y) => write!(f, "max({x}, {y})"),
        }
    }
}

/// Prints terms with the highest monomial first, e.g. `384*batch*sequence + 2*batch - 1`.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (i, (m, c)) in self.0.iter().rev().enumerate() {
            match (i, *c < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let mag = c.unsigned_abs();
            if m.is_empty() || mag != 1 {
                write!(f, "{mag}")?;
            }
            for (j, a) in m.iter().enumerate() {
                if j > 0 || mag != 1 {
                    f.write_str("*")?;
                }
                write!(f, "{a}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: &str) -> Dim {
        Dim::sym(n)
    }
    fn c(v: i64) -> Dim {
        Dim::from(v)
    }

    #[test]
    fn normal_form_merges_like_terms() {
        let a = (s("b") + c(2)) * (s("b") - c(2));
        assert_eq!(a, s("b") * s("b") - c(4));
        assert_eq!((s("x") - s("x")).as_const(), Some(0));
        assert_eq!(
            (c(384) * s("batch") * s("seq") - c(1)).to_string(),
            "384*batch*seq - 1"
        );
    }

    #[test]
    fn exact_division_of_products_and_polynomials() {
        let n = s("b") * s("s") * c(384);
        assert_eq!(n.exact_div(&(s("b") * s("s") * c(32))), Some(c(12)));
        let p = (s("past") + s("seq")) * s("b");
        assert_eq!(p.exact_div(&(s("past") + s("seq"))), Some(s("b")));
        assert_eq!(p.exact_div(&s("seq")), None);
        assert_eq!(c(7).exact_div(&c(0)), None);
    }

    #[test]
    fn floor_division_keeps_what_does_not_divide() {
        let half = s("h").floor_div(&c(2));
        assert_ne!(half.clone() * c(2), s("h"));
        assert_eq!((c(2) * s("h") + c(1)).floor_div(&c(2)), s("h"));
        let env = |_: &Symbol| Some(7);
        assert_eq!(half.eval(&env), Some(3));
        assert_eq!(s("h").ceil_div(&c(2)).eval(&env), Some(4));
    }

    #[test]
    fn bounds_and_comparisons() {
        struct R;
        impl Ranges for R {
            fn range(&self, _: &Symbol) -> (i64, i64) {
                (0, 512)
            }
        }
        assert!(s("seq").always_le(&c(512), &R));
        assert!(s("seq").never_eq(&c(-1), &R));
        assert!(!s("seq").never_eq(&c(1), &R));
        assert_eq!((s("a") * c(-3) + c(1)).bounds(&R), (-1535, 1));
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        let big = c(i64::MAX) * c(4);
        assert_eq!(big.as_const(), Some(i64::MAX));
        assert_eq!((s("x") * c(i64::MAX)).eval(&|_| Some(3)), None);
    }
}
