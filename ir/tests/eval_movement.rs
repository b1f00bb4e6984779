//! Movement ops against naive index formulas, on random shapes.

mod common;

use common::{Rng, at, i64v, one, points, run_op};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::gather::{Gather, GatherElements, GatherNd};
use rsqc_ir::ops::shape::{Concat, Expand, Pad, Reshape, Slice, Transpose};
use rsqc_ir::types::Dim;

fn dims(s: &[usize]) -> Vec<Dim> {
    s.iter().map(|d| (*d).into()).collect()
}

/// Checks every element of `y` against `f(index)`.
fn check(y: &Tensor, f: impl Fn(&[usize]) -> f64) {
    for p in points(&y.shape) {
        assert_eq!(at(y, &p), f(&p), "at {p:?} of {:?}", y.shape);
    }
}

#[test]
fn transpose_and_reshape() {
    let mut r = Rng(1);
    for rank in 0..5 {
        let x = {
            let s = r.shape(rank, 4);
            r.f32s(&s)
        };
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        for i in (1..rank).rev() {
            perm.swap(i, r.below(i + 1));
        }
        let y = one(Transpose { perm: perm.clone() }, &[&x]);
        check(&y, |p| {
            let mut q = vec![0; rank];
            for (i, a) in perm.iter().enumerate() {
                q[*a as usize] = p[i];
            }
            at(&x, &q)
        });
        let n = x.len();
        let flat = one(Reshape { shape: dims(&[n]) }, &[&x]);
        assert_eq!(flat.data, x.data);
        assert!(
            run_op(
                Reshape {
                    shape: dims(&[n + 1])
                },
                &[&x]
            )
            .is_err()
        );
    }
}

#[test]
fn expand_follows_broadcasting() {
    let mut r = Rng(2);
    for _ in 0..30 {
        let (rank, lead) = (r.below(4), r.below(3));
        let to = r.shape(rank + lead, 4);
        let from: Vec<usize> = to[lead..]
            .iter()
            .map(|d| if r.below(2) == 0 { 1 } else { *d })
            .collect();
        let x = r.f32s(&from);
        let y = one(Expand { shape: dims(&to) }, &[&x]);
        check(&y, |p| {
            let q: Vec<usize> = from
                .iter()
                .zip(&p[lead..])
                .map(|(d, i)| if *d == 1 { 0 } else { *i })
                .collect();
            at(&x, &q)
        });
    }
}

#[test]
fn concat_slice_pad() {
    let mut r = Rng(3);
    for _ in 0..30 {
        let rank = 1 + r.below(3);
        let axis = r.below(rank);
        let base = r.shape(rank, 4);
        let parts: Vec<Tensor> = (0..1 + r.below(4))
            .map(|_| {
                let mut s = base.clone();
                s[axis] = r.below(4);
                r.f32s(&s)
            })
            .collect();
        let y = one(Concat { axis }, &parts.iter().collect::<Vec<_>>());
        check(&y, |p| {
            let (mut q, mut i) = (p.to_vec(), 0);
            while q[axis] >= parts[i].shape[axis] {
                q[axis] -= parts[i].shape[axis];
                i += 1;
            }
            at(&parts[i], &q)
        });
        let x = {
            let s = r.shape(rank, 6);
            r.f32s(&s)
        };
        let steps: Vec<i64> = (0..rank).map(|_| [1, 2, -1, -2][r.below(4)]).collect();
        let sizes: Vec<usize> = x
            .shape
            .iter()
            .zip(&steps)
            .map(|(d, s)| r.below(d.div_ceil(s.unsigned_abs() as usize) + 1))
            .collect();
        let starts: Vec<i64> = x
            .shape
            .iter()
            .zip(&steps)
            .map(|(d, s)| if *s > 0 { 0 } else { *d as i64 - 1 })
            .collect();
        let op = Slice {
            starts: starts.iter().map(|s| Dim::from(*s)).collect(),
            sizes: dims(&sizes),
            steps: steps.clone(),
        };
        check(&one(op, &[&x]), |p| {
            let q: Vec<usize> = (0..rank)
                .map(|a| (starts[a] + p[a] as i64 * steps[a]) as usize)
                .collect();
            at(&x, &q)
        });
        let (before, after): (Vec<usize>, Vec<usize>) = (0..rank).map(|_| (r.below(3), r.below(3))).unzip();
        let v = common::f32t(&[], &[7.5]);
        let y = one(
            Pad {
                before: dims(&before),
                after: dims(&after),
            },
            &[&x, &v],
        );
        check(&y, |p| {
            let inside = (0..rank).all(|a| p[a] >= before[a] && p[a] < before[a] + x.shape[a]);
            let q: Vec<usize> = (0..rank).map(|a| p[a].wrapping_sub(before[a])).collect();
            if inside { at(&x, &q) } else { 7.5 }
        });
    }
    let x = common::f32t(&[2], &[1.0, 2.0]);
    let bad = Slice {
        starts: vec![Dim::one()],
        sizes: dims(&[2]),
        steps: vec![1],
    };
    assert!(run_op(bad, &[&x]).is_err());
}

#[test]
fn gathers() {
    let mut r = Rng(4);
    for _ in 0..30 {
        let rank = 1 + r.below(3);
        let axis = r.below(rank);
        let x = {
            let s = r.shape(rank, 4);
            r.f32s(&s)
        };
        let limit = x.shape[axis] as i64;
        let wrap = |i: i64| if i < 0 { i + limit } else { i } as usize;
        let ishape = {
            let k = r.below(3);
            r.shape(k, 3)
        };
        let i = r.i64s(&ishape, -limit, limit);
        let y = one(Gather { axis }, &[&x, &i]);
        check(&y, |p| {
            let k = ishape.len();
            let mut q = p[..axis].to_vec();
            q.push(wrap(at(&i, &p[axis..axis + k]) as i64));
            q.extend(&p[axis + k..]);
            at(&x, &q)
        });
        let mut eshape: Vec<usize> = x.shape.iter().map(|d| 1 + r.below(*d)).collect();
        eshape[axis] = r.below(5);
        let i = r.i64s(&eshape, -limit, limit);
        let y = one(GatherElements { axis }, &[&x, &i]);
        check(&y, |p| {
            let mut q = p.to_vec();
            q[axis] = wrap(at(&i, p) as i64);
            at(&x, &q)
        });
        assert!(run_op(Gather { axis }, &[&x, &Tensor::new(vec![], vec![limit])]).is_err());
        assert!(run_op(Gather { axis }, &[&x, &Tensor::new(vec![], vec![-limit - 1])]).is_err());
    }
}

#[test]
fn gather_nd_with_batch_axes() {
    let mut r = Rng(5);
    for b in 0..3usize {
        for k in 1..3usize {
            let x = {
                let s = r.shape(b + k + 1, 3);
                r.f32s(&s)
            };
            let mut s: Vec<usize> = x.shape[..b].to_vec();
            s.extend([2, k]);
            let n: usize = s.iter().product();
            let v: Vec<i64> = (0..n).map(|j| r.below(x.shape[b + j % k]) as i64).collect();
            let i = Tensor::new(s, v);
            let y = one(GatherNd { batch_dims: b }, &[&x, &i]);
            check(&y, |p| {
                let mut q = p[..b].to_vec();
                for j in 0..k {
                    let mut at_i = p[..b + 1].to_vec();
                    at_i.push(j);
                    q.push(at(&i, &at_i) as usize);
                }
                q.extend(&p[b + 1..]);
                at(&x, &q)
            });
        }
    }
}

#[test]
fn empty_extents_are_legal() {
    let x = Tensor::new(vec![0, 3], Vec::<f32>::new());
    assert_eq!(one(Transpose { perm: vec![1, 0] }, &[&x]).shape, [3, 0]);
    assert_eq!(
        one(
            Expand {
                shape: dims(&[2, 0, 3])
            },
            &[&x]
        )
        .shape,
        [2, 0, 3]
    );
    assert_eq!(one(Concat { axis: 0 }, &[&x, &x]).shape, [0, 3]);
    let i = Tensor::new(vec![0], Vec::<i64>::new());
    assert_eq!(one(Gather { axis: 1 }, &[&x, &i]).shape, [0, 0]);
    assert!(i64v(&i).is_empty());
}
