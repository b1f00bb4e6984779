//! How a one-line equation becomes a rewrite.
//!
//! Left sides are patterns over op names, operands first, then attributes (`(reduce ?x mean ?axes true)`). A variable
//! named like a number matches a constant all of whose elements are that number to one part in a million; text behind
//! `_` only tells two such variables apart (`?1_gain`). On the right side:
//! - `$f32:v` is the f32 attribute with the value of the constant `?v`; `$axis:v` the one element of the axes `?v`;
//! - `$ones:v` a constant of ones as long as the last axis of `?v`; `$lit:n:v` the scalar n in the element type of `?v`;
//! - `$compose:p:q` the permutation that does `?p`, then `?q`.
//!
//! A right side whose type differs from the left side's is refused, and so is one with an attribute that cannot be made.

use super::language::{Fact, Graph, Head, Term};
use egg::{Applier, ENodeOrVar, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};
use rsqc_ir::ops::Attr;
use rsqc_ir::{Dim, TensorType};

/// A rule. `sample` gives types for the test that evaluates both sides: `x=2,3,8 axes=[2] eps=1e-5`.
pub(super) struct Rule {
    pub name: &'static str,
    pub lhs: &'static str,
    pub rhs: &'static str,
    /// Beyond types and numbers.
    pub when: fn(&View<'_>) -> bool,
    /// Read by the test that evaluates both sides.
    #[cfg_attr(not(test), allow(dead_code))]
    pub sample: &'static str,
}

/// No further condition.
pub(super) fn always(_: &View<'_>) -> bool {
    true
}

/// What a condition sees of a match.
pub(super) struct View<'a> {
    graph: &'a Graph,
    subst: &'a Subst,
}

impl View<'_> {
    fn fact(&self, var: &str) -> Option<&Fact> {
        let id = self.subst.get(format!("?{var}").parse().ok()?)?;
        Some(&self.graph[*id].data)
    }
    /// Type of a variable.
    pub(super) fn ty(&self, var: &str) -> Option<&TensorType> {
        self.fact(var)?.ty.as_ref()
    }
    /// The number that a constant is.
    pub(super) fn number(&self, var: &str) -> Option<f64> {
        self.fact(var)?.splat
    }
    /// Attribute bound to a variable.
    pub(super) fn attr(&self, var: &str) -> Option<Attr> {
        Some(self.graph.analysis.attr(self.fact(var)?.attr.as_deref()?))
    }
    /// Integers bound to a variable.
    pub(super) fn ints(&self, var: &str) -> Option<Vec<i64>> {
        match self.attr(var)? {
            Attr::Ints(v) => Some(v),
            Attr::Int(v) => Some(vec![v]),
            _ => None,
        }
    }
    /// Dims bound to a variable.
    pub(super) fn dims(&self, var: &str) -> Option<Vec<Dim>> {
        match self.attr(var)? {
            Attr::Dims(v) => Some(v),
            _ => None,
        }
    }
    /// Whether the axes `?axes` are exactly the last axis of `?x`.
    pub(super) fn last_axis(&self, axes: &str, x: &str) -> bool {
        let rank = self.ty(x).map_or(0, TensorType::rank) as i64;
        rank > 0 && self.ints(axes) == Some(vec![rank - 1])
    }
}

/// The number in a variable's name.
fn number_of(var: &Var) -> Option<f64> {
    var.to_string().strip_prefix('?')?.split('_').next()?.parse().ok()
}

/// What a `$` token stands for.
enum Made {
    Attr(Attr),
    Splat(TensorType, f64),
}

fn make(token: &str, v: &View<'_>) -> Option<Made> {
    let mut parts = token.strip_prefix('$')?.split(':');
    let (what, a, b) = (parts.next()?, parts.next()?, parts.next());
    Some(match (what, b) {
        ("f32", None) => Made::Attr(Attr::F32(v.number(a)? as f32)),
        ("axis", None) => match v.ints(a)?.as_slice() {
            [axis] => Made::Attr(Attr::Int(*axis)),
            _ => return None,
        },
        ("ones", None) => {
            let t = v.ty(a)?;
            let last = t.shape.last()?.clone();
            last.as_const()?;
            Made::Splat(
                TensorType {
                    elem: t.elem.clone(),
                    shape: vec![last],
                },
                1.0,
            )
        }
        ("lit", Some(b)) => {
            let elem = v.ty(b)?.elem.clone();
            Made::Splat(
                TensorType {
                    elem,
                    shape: Vec::new(),
                },
                a.parse().ok()?,
            )
        }
        ("compose", Some(b)) => {
            let (p, q) = (v.ints(a)?, v.ints(b)?);
            let perm = q
                .iter()
                .map(|i| p.get(usize::try_from(*i).ok()?).copied())
                .collect::<Option<_>>()?;
            Made::Attr(Attr::Ints(perm))
        }
        _ => return None,
    })
}

/// Checks numbers, the condition and types, then adds the right side.
struct Typed {
    rhs: PatternAst<Term>,
    numbers: Vec<(Var, f64)>,
    when: fn(&View<'_>) -> bool,
}

impl Typed {
    /// The heads of the right side's nodes with `$` tokens made; `None` if the match is refused.
    fn heads(&self, g: &mut Graph, subst: &Subst) -> Option<Vec<Option<Head>>> {
        let view = View { graph: g, subst };
        let near = |n: f64, v: f64| (v - n).abs() <= 1e-6 * n.abs();
        let fits = self
            .numbers
            .iter()
            .all(|(var, n)| g[subst[*var]].data.splat.is_some_and(|v| near(*n, v)));
        if !fits || !(self.when)(&view) {
            return None;
        }
        let made: Vec<Option<Result<Head, Made>>> = self
            .rhs
            .as_ref()
            .iter()
            .map(|n| match n {
                ENodeOrVar::Var(_) => Some(None),
                ENodeOrVar::ENode(t) => match &t.head {
                    Head::Attr(text) if text.starts_with('$') => Some(Some(Err(make(text, &view)?))),
                    head => Some(Some(Ok(head.clone()))),
                },
            })
            .collect::<Option<_>>()?;
        let facts = &mut g.analysis;
        let heads = made.into_iter().map(|m| {
            m.map(|m| match m {
                Ok(head) => head,
                Err(Made::Attr(a)) => Head::Attr(facts.intern(&a)),
                Err(Made::Splat(ty, v)) => Head::Leaf(facts.splat(ty, v)),
            })
        });
        Some(heads.collect())
    }
}

impl Applier<Term, super::language::Facts> for Typed {
    fn apply_one(
        &self,
        g: &mut Graph,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let Some(heads) = self.heads(g, subst) else {
            return Vec::new();
        };
        let mut facts: Vec<Fact> = Vec::new();
        for (node, head) in self.rhs.as_ref().iter().zip(&heads) {
            let fact = match (node, head) {
                (ENodeOrVar::ENode(t), Some(head)) => {
                    let children: Vec<&Fact> = t.args.iter().map(|c| &facts[usize::from(*c)]).collect();
                    g.analysis.infer(head, &children)
                }
                (ENodeOrVar::Var(v), _) => Some(g[subst[*v]].data.clone()),
                _ => None,
            };
            let Some(fact) = fact else { return Vec::new() };
            facts.push(fact);
        }
        let same_type = facts
            .last()
            .is_some_and(|f| f.ty.is_some() && f.ty == g[class].data.ty);
        if !same_type {
            return Vec::new();
        }
        let mut ids: Vec<Id> = Vec::new();
        for (node, head) in self.rhs.as_ref().iter().zip(heads) {
            ids.push(match (node, head) {
                (ENodeOrVar::ENode(t), Some(head)) => {
                    let args = t.args.iter().map(|c| ids[usize::from(*c)]).collect();
                    g.add(Term { head, args })
                }
                (ENodeOrVar::Var(v), _) => subst[*v],
                (ENodeOrVar::ENode(_), None) => return Vec::new(),
            });
        }
        match ids.last() {
            Some(new) if g.union(class, *new) => vec![class],
            _ => Vec::new(),
        }
    }

    fn vars(&self) -> Vec<Var> {
        Pattern::new(self.rhs.clone()).vars()
    }
}

/// The rewrite of a rule. Panics on text that is not a pattern: rules are part of the program, and a test makes all.
pub(super) fn compile(r: &Rule) -> Rewrite<Term, super::language::Facts> {
    let parse =
        |text: &str| -> Pattern<Term> { text.parse().unwrap_or_else(|e| panic!("rule {}: {e}", r.name)) };
    let (lhs, rhs) = (parse(r.lhs), parse(r.rhs));
    let numbers = lhs
        .vars()
        .into_iter()
        .filter_map(|v| number_of(&v).map(|n| (v, n)))
        .collect();
    let applier = Typed {
        rhs: rhs.ast,
        numbers,
        when: r.when,
    };
    Rewrite::new(r.name, lhs, applier).unwrap_or_else(|e| panic!("rule {}: {e}", r.name))
}
