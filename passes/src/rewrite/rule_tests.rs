//! Every rule, numerically: its sample becomes an e-graph, the rule must fire, and afterwards all nodes of each class
//! must evaluate to the same numbers.

use super::language::{Fact, Facts, Graph, Head, Leaf, Term, attr_names};
use super::rule::{Rule, compile};
use super::rules;
use crate::check_numeric::{Rng, differs};
use crate::pass::Effect;
use crate::sweep::splat_of;
use egg::{ENodeOrVar, Id, Pattern, PatternAst, Rewrite, Runner, SimpleScheduler};
use rsqc_ir::eval::{EvalCx, Tensor};
use rsqc_ir::ops::Attr;
use rsqc_ir::{Dim, TensorType, ValueId};
use std::collections::BTreeMap;

/// What a sample gives for a variable.
enum Bound {
    Attr(Attr),
    Tensor(Tensor),
}

fn list(text: &str) -> Vec<i64> {
    text.split(',')
        .filter(|s| !s.is_empty())
        .map(|s| s.parse().expect("an integer"))
        .collect()
}

fn inner(text: &str, open: char, close: char) -> Option<&str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

/// `2,3,8` a shape, empty a scalar, `1e-5` a number, `[1]` integers, `{2,3}` dims, `i2` an integer, `f32` an f32
/// attribute, other words keywords.
fn bound(name: &str, text: &str, rng: &mut Rng) -> Bound {
    let number: Option<f64> = name.split('_').next().and_then(|n| n.parse().ok());
    if let Some(v) = inner(text, '[', ']') {
        return Bound::Attr(Attr::Ints(list(v)));
    }
    if let Some(v) = inner(text, '{', '}') {
        return Bound::Attr(Attr::Dims(list(v).into_iter().map(Dim::from).collect()));
    }
    if text == "f32" {
        return Bound::Attr(Attr::F32(1e-5));
    }
    if let Some(i) = text.strip_prefix('i').and_then(|t| t.parse().ok()) {
        return Bound::Attr(Attr::Int(i));
    }
    if text.contains('.') || text.contains("e-") {
        return Bound::Tensor(Tensor::new(vec![], vec![text.parse::<f32>().expect("a number")]));
    }
    if text.chars().next().is_some_and(char::is_alphabetic) {
        return Bound::Attr(Attr::Text(text.into()));
    }
    let shape: Vec<usize> = list(text).into_iter().map(|d| d as usize).collect();
    let n = shape.iter().product();
    let data = (0..n)
        .map(|_| number.unwrap_or_else(|| rng.float()) as f32)
        .collect::<Vec<_>>();
    Bound::Tensor(Tensor::new(shape, data))
}

struct Sample {
    graph: Graph,
    /// Value of each leaf by its number.
    values: Vec<Tensor>,
    root: Id,
}

fn leaf(g: &mut Graph, values: &mut Vec<Tensor>, t: Tensor, constant: bool) -> Id {
    let ty = TensorType::new(t.elem(), t.shape.iter().map(|d| Dim::from(*d)).collect());
    let splat = if constant {
        splat_of(&t.to_const("c"))
    } else {
        None
    };
    let at = g.analysis.leaves.len() as u32;
    g.analysis.leaves.push((
        Leaf::Value(ValueId(at)),
        Fact {
            ty: Some(ty),
            splat,
            attr: None,
        },
    ));
    values.push(t);
    g.add(Term {
        head: Head::Leaf(at),
        args: Vec::new(),
    })
}

fn sample(r: &Rule, seed: u64) -> Sample {
    let mut rng = Rng(seed);
    let given: BTreeMap<&str, &str> = r.sample.split(' ').filter_map(|w| w.split_once('=')).collect();
    let (mut graph, mut values) = (Graph::new(Facts::default()), Vec::new());
    let mut vars: BTreeMap<String, Id> = BTreeMap::new();
    let lhs: Pattern<Term> = r.lhs.parse().expect("a pattern");
    let ast: PatternAst<Term> = lhs.ast;
    let mut ids: Vec<Id> = Vec::new();
    for node in ast.as_ref() {
        let id = match node {
            ENodeOrVar::ENode(t) => {
                let args = t.args.iter().map(|a| ids[usize::from(*a)]).collect();
                graph.add(Term {
                    head: t.head.clone(),
                    args,
                })
            }
            ENodeOrVar::Var(v) => {
                let name = v.to_string().trim_start_matches('?').to_string();
                match vars.get(&name) {
                    Some(id) => *id,
                    None => {
                        let is_number = name.split('_').next().is_some_and(|n| n.parse::<f64>().is_ok());
                        let text = given.get(name.as_str()).copied();
                        assert!(text.is_some() || is_number, "{}: no sample for {name}", r.name);
                        let text = text.unwrap_or("");
                        let constant = is_number || text.contains('.') || text.contains("e-");
                        let id = match bound(&name, text, &mut rng) {
                            Bound::Attr(a) => {
                                let text = graph.analysis.intern(&a);
                                graph.add(Term {
                                    head: Head::Attr(text),
                                    args: Vec::new(),
                                })
                            }
                            Bound::Tensor(t) => leaf(&mut graph, &mut values, t, constant),
                        };
                        vars.insert(name, id);
                        id
                    }
                }
            }
        };
        ids.push(id);
    }
    Sample {
        graph,
        values,
        root: *ids.last().expect("a pattern has a root"),
    }
}

/// The value of a node from the values of its classes; `None` if one is not known yet or it is an attribute.
fn evaluate(g: &Graph, t: &Term, values: &[Tensor], known: &BTreeMap<Id, Tensor>) -> Option<Tensor> {
    match &t.head {
        Head::Attr(_) => None,
        Head::Leaf(i) => match &g.analysis.leaves[*i as usize] {
            (Leaf::Value(_), _) => values.get(*i as usize).cloned(),
            (Leaf::Splat(v), fact) => {
                let shape = fact.ty.as_ref()?.static_shape()?;
                let n = shape.iter().product();
                Some(Tensor::new(shape, vec![*v as f32; n]))
            }
        },
        Head::Op(name) => {
            let count = t.args.len() - attr_names(name)?.len();
            let attrs: Option<Vec<_>> = t.args[count..].iter().map(|a| g[*a].data.attr.clone()).collect();
            let op = g.analysis.op(name, &attrs?)?;
            let ins: Option<Vec<Option<&Tensor>>> = t.args[..count]
                .iter()
                .map(|a| known.get(&g.find(*a)).map(Some))
                .collect();
            let none = BTreeMap::new();
            Some(
                op.eval(&EvalCx { symbols: &none }, &ins?)
                    .expect("types were checked")
                    .remove(0),
            )
        }
    }
}

fn check(r: &Rule, seed: u64) {
    let s = sample(r, seed);
    assert!(
        s.graph[s.root].data.ty.is_some(),
        "{}: the sample does not type",
        r.name
    );
    let before = s.graph.total_size();
    let rewrites: Vec<Rewrite<Term, Facts>> = vec![compile(r)];
    let runner = Runner::<Term, Facts, ()>::new(Facts::default())
        .with_egraph(s.graph)
        .with_iter_limit(1)
        .with_scheduler(SimpleScheduler)
        .run(&rewrites);
    let g = runner.egraph;
    let root = g.find(s.root);
    assert!(
        g.total_size() > before || g[root].nodes.len() > 1,
        "{} does not fire on its sample",
        r.name
    );
    let mut known: BTreeMap<Id, Tensor> = BTreeMap::new();
    let classes: Vec<Id> = g.classes().map(|c| c.id).collect();
    let mut compared = 0;
    for _ in 0..classes.len() {
        for id in &classes {
            for t in &g[*id].nodes {
                let Some(v) = evaluate(&g, t, &s.values, &known) else {
                    continue;
                };
                match known.get(id) {
                    None => {
                        known.insert(*id, v);
                    }
                    Some(w) => {
                        compared += 1;
                        let d = differs(w, &v, Effect::Rounding(1e-5));
                        assert!(
                            d.is_none(),
                            "{}: two nodes of a class differ by {d:?} (seed {seed})",
                            r.name
                        );
                    }
                }
            }
        }
    }
    assert!(
        known.contains_key(&root) && compared > 0,
        "{}: nothing was compared",
        r.name
    );
}

#[test]
fn every_rule_is_an_equation() {
    for r in rules::all() {
        for seed in 0..4 {
            check(r, seed);
        }
    }
}

#[test]
fn a_wrong_rule_is_caught() {
    let wrong = Rule {
        name: "wrong",
        lhs: "(mul ?x (sigmoid ?x))",
        rhs: "(gelu ?x erf)",
        when: super::rule::always,
        sample: "x=3,5",
    };
    assert!(std::panic::catch_unwind(|| check(&wrong, 1)).is_err());
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = rules::all().map(|r| r.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
