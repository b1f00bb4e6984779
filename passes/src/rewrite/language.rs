//! Terms: nodes of the graph as e-nodes. Operands first, then attributes as leaf children; values that enter a window
//! and constants are leaves by number, never data.

use egg::{Analysis, DidMerge, EGraph, FromOp, Id, Language};
use rsqc_ir::module::SymbolTable;
use rsqc_ir::ops::{Attr, AttrMap, InferCx};
use rsqc_ir::{Op, TensorType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a term is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Head {
    /// An op of the table.
    Op(&'static str),
    /// Leaf number of [`Facts::leaves`].
    Leaf(u32),
    /// An attribute in its text; see [`Facts::attr`].
    Attr(Arc<str>),
}

/// An e-node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Term {
    pub head: Head,
    pub args: Vec<Id>,
}

impl Language for Term {
    type Discriminant = (Head, usize);
    fn discriminant(&self) -> Self::Discriminant {
        (self.head.clone(), self.args.len())
    }
    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.args.len() == other.args.len()
    }
    fn children(&self) -> &[Id] {
        &self.args
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.head {
            Head::Op(n) => f.write_str(n),
            Head::Leaf(i) => write!(f, "v{i}"),
            Head::Attr(t) => f.write_str(t),
        }
    }
}

/// A pattern names an op that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no op `{0}`")]
pub(super) struct UnknownOp(String);

impl FromOp for Term {
    type Error = UnknownOp;
    fn from_op(op: &str, args: Vec<Id>) -> Result<Self, UnknownOp> {
        let head = if args.is_empty() {
            Head::Attr(op.into())
        } else {
            Head::Op(op_name(op).ok_or_else(|| UnknownOp(op.into()))?)
        };
        Ok(Term { head, args })
    }
}

fn op_name(op: &str) -> Option<&'static str> {
    Op::NAMES.iter().copied().find(|n| *n == op)
}

/// Names of the attributes of an op, in order; `None` if terms do not carry this op.
pub(super) fn attr_names(op: &str) -> Option<&'static [&'static str]> {
    Some(match op {
        "neg" | "abs" | "sqrt" | "reciprocal" | "exp" | "erf" | "tanh" | "sigmoid" | "relu" | "silu"
        | "add" | "sub" | "mul" | "div" | "pow" | "max" => &[],
        "gelu" => &["kind"],
        "reduce" => &["kind", "axes", "keep"],
        "layer_norm" | "rms_norm" => &["eps"],
        "softmax" => &["axis", "log"],
        "rope" => &["interleaved"],
        "reshape" => &["shape"],
        "transpose" => &["perm"],
        "concat" => &["axis"],
        "slice" => &["starts", "sizes", "steps"],
        _ => return None,
    })
}

/// A leaf: a value that enters the window, or a constant that a rule made (all elements one number).
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Leaf {
    Value(rsqc_ir::ValueId),
    Splat(f64),
}

/// What is known of a class.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fact {
    /// Type; absent for attributes.
    pub ty: Option<TensorType>,
    /// The number that all elements of a constant are.
    pub splat: Option<f64>,
    /// Text of an attribute.
    pub attr: Option<Arc<str>>,
}

/// The analysis: types of all classes, and the tables behind leaves.
#[derive(Default)]
pub(super) struct Facts {
    pub symbols: SymbolTable,
    pub leaves: Vec<(Leaf, Fact)>,
    pub attrs: BTreeMap<Arc<str>, Attr>,
}

pub(super) type Graph = EGraph<Term, Facts>;

impl Facts {
    /// The text of an attribute; remembers the attribute behind it.
    pub(super) fn intern(&mut self, a: &Attr) -> Arc<str> {
        let text: Arc<str> = match a {
            Attr::Bool(b) => b.to_string(),
            Attr::Int(i) => format!("i{i}"),
            Attr::Ints(v) => format!("{v:?}").replace(' ', ""),
            Attr::F32(v) => format!("f32:{:08x}", v.to_bits()),
            Attr::Word(w) => (*w).to_string(),
            Attr::Text(w) => w.clone(),
            other => format!("{other:?}"),
        }
        .into();
        self.attrs.entry(text.clone()).or_insert_with(|| a.clone());
        text
    }

    /// The attribute of a text: one met before, or a literal of a rule (`true`, `false`, a keyword).
    pub(super) fn attr(&self, text: &str) -> Attr {
        match (self.attrs.get(text), text) {
            (Some(a), _) => a.clone(),
            (None, "true") => Attr::Bool(true),
            (None, "false") => Attr::Bool(false),
            (None, word) => Attr::Text(word.to_string()),
        }
    }

    /// The leaf for a splat constant of this type, made on first use.
    pub(super) fn splat(&mut self, ty: TensorType, v: f64) -> u32 {
        let found = self.leaves.iter().position(|(l, f)| {
            matches!(l, Leaf::Splat(s) if s.to_bits() == v.to_bits()) && f.ty.as_ref() == Some(&ty)
        });
        let at = found.unwrap_or_else(|| {
            let fact = Fact {
                ty: Some(ty),
                splat: Some(v),
                attr: None,
            };
            self.leaves.push((Leaf::Splat(v), fact));
            self.leaves.len() - 1
        });
        at as u32
    }

    /// The op of a term with these attribute texts.
    pub(super) fn op(&self, name: &str, attrs: &[Arc<str>]) -> Option<Op> {
        let names = attr_names(name)?;
        let map = names
            .iter()
            .zip(attrs)
            .map(|(n, t)| ((*n).to_string(), self.attr(t)))
            .collect();
        (names.len() == attrs.len())
            .then(|| Op::parse(name, AttrMap(map)).ok())
            .flatten()
    }

    /// The fact of a term from the facts of its children; `None` if the op does not accept them.
    pub(super) fn infer(&self, head: &Head, children: &[&Fact]) -> Option<Fact> {
        match head {
            Head::Leaf(i) => self.leaves.get(*i as usize).map(|l| l.1.clone()),
            Head::Attr(t) => Some(Fact {
                attr: Some(t.clone()),
                ..Fact::default()
            }),
            Head::Op(name) => {
                let operands = children.len().checked_sub(attr_names(name)?.len())?;
                let attrs: Option<Vec<Arc<str>>> =
                    children[operands..].iter().map(|f| f.attr.clone()).collect();
                let op = self.op(name, &attrs?)?;
                let types: Option<Vec<Option<&TensorType>>> = children[..operands]
                    .iter()
                    .map(|f| f.ty.as_ref().map(Some))
                    .collect();
                let out = op
                    .infer(
                        &InferCx {
                            symbols: &self.symbols,
                        },
                        &types?,
                    )
                    .ok()?;
                Some(Fact {
                    ty: out.into_iter().next(),
                    ..Fact::default()
                })
            }
        }
    }
}

impl Analysis<Term> for Facts {
    type Data = Fact;

    fn make(g: &mut Graph, term: &Term, _: Id) -> Fact {
        let children: Vec<&Fact> = term.args.iter().map(|c| &g[*c].data).collect();
        g.analysis.infer(&term.head, &children).unwrap_or_default()
    }

    /// Classes are only united when their types agree, so merging adds what one side lacks.
    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        let before = a.clone();
        let merged = Fact {
            ty: a.ty.clone().or(b.ty.clone()),
            splat: a.splat.or(b.splat),
            attr: a.attr.clone().or(b.attr.clone()),
        };
        *a = merged;
        DidMerge(*a != before, *a != b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_ir::ops::{norm, reduce, shape};

    #[test]
    fn attribute_names_are_those_of_the_op_table() {
        let ops: Vec<Op> = vec![
            norm::LayerNorm { eps: 1e-5 }.into(),
            norm::Softmax { axis: 1, log: false }.into(),
            reduce::Reduce {
                kind: reduce::Reduction::Mean,
                axes: vec![1],
                keep: true,
            }
            .into(),
            shape::Transpose { perm: vec![1, 0] }.into(),
            shape::Slice {
                starts: vec![],
                sizes: vec![],
                steps: vec![],
            }
            .into(),
            rsqc_ir::ops::nn::Rope { interleaved: true }.into(),
            rsqc_ir::ops::elementwise::Gelu {
                kind: rsqc_ir::ops::elementwise::GeluKind::Tanh,
            }
            .into(),
        ];
        for op in ops {
            let names: Vec<&str> = op.attrs().iter().map(|(n, _)| *n).collect();
            assert_eq!(attr_names(op.name()), Some(names.as_slice()), "{}", op.name());
            let mut facts = Facts::default();
            let texts: Vec<Arc<str>> = op.attrs().iter().map(|(_, a)| facts.intern(a)).collect();
            assert_eq!(facts.op(op.name(), &texts), Some(op));
        }
    }
}
