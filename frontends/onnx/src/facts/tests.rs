//! Tests of facts.

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
