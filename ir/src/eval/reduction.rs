//! Reductions: floats in f64 rounded once, integers exact (sums and products wrap).

use super::tensor::{Data, Tensor};
use super::{lanes, walk};
use crate::ops::reduce::Reduction;
use crate::types::ScalarType;

type R = Result<Vec<Tensor>, String>;

/// Shape with `axes` removed (or 1), and for each operand axis the stride into the result.
fn reduced(shape: &[usize], axes: &[usize], keep: bool) -> (Vec<usize>, Vec<i64>) {
    let kept: Vec<usize> = (0..shape.len())
        .map(|a| if axes.contains(&a) { 1 } else { shape[a] })
        .collect();
    let mut strides = walk::strides(&kept);
    for a in axes {
        strides[*a] = 0;
    }
    let shape = if keep {
        kept
    } else {
        (0..shape.len())
            .filter(|a| !axes.contains(a))
            .map(|a| shape[a])
            .collect()
    };
    (shape, strides)
}

/// Combines elements over `axes`. A float NaN wins over everything; the maximum of nothing is the lowest value.
pub fn reduce(x: &Tensor, kind: Reduction, axes: &[i64], keep: bool) -> R {
    let axes = axes
        .iter()
        .map(|a| {
            usize::try_from(*a)
                .ok()
                .filter(|a| *a < x.shape.len())
                .ok_or("an axis leaves the rank")
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (shape, strides) = reduced(&x.shape, &axes, keep);
    let n: usize = shape.iter().product();
    let per: usize = axes.iter().map(|a| x.shape[*a]).product();
    let mut at = Vec::with_capacity(x.len());
    walk::offsets(&x.shape, &strides, 0, 0..x.len(), &mut |a| at.push(a as usize));
    let data = match &x.data {
        Data::Bool(v) => {
            let all = matches!(kind, Reduction::Min | Reduction::Prod);
            let mut out = vec![all; n];
            for (v, a) in v.iter().zip(at) {
                out[a] = if all { out[a] & v } else { out[a] | v };
            }
            Data::Bool(out)
        }
        d if d.elem().is_float() => {
            lanes::from_f64(floats(&x.to_f64(), &at, kind, n, per).into_iter(), d.elem())
        }
        d => integers(d, &at, kind, n, per)?,
    };
    Ok(vec![Tensor { shape, data }])
}

fn floats(v: &[f64], at: &[usize], kind: Reduction, n: usize, per: usize) -> Vec<f64> {
    let (start, f): (f64, fn(f64, f64) -> f64) = match kind {
        Reduction::Sum | Reduction::Mean => (0.0, |a, x| a + x),
        Reduction::Prod => (1.0, |a, x| a * x),
        Reduction::SumSquare | Reduction::L2 => (0.0, |a, x| a + x * x),
        Reduction::L1 => (0.0, |a, x| a + x.abs()),
        Reduction::Max => (f64::NEG_INFINITY, |a, x| if x > a || x.is_nan() { x } else { a }),
        Reduction::Min => (f64::INFINITY, |a, x| if x < a || x.is_nan() { x } else { a }),
    };
    let mut out = vec![start; n];
    for (x, a) in v.iter().zip(at) {
        out[*a] = f(out[*a], *x);
    }
    for o in &mut out {
        match kind {
            Reduction::Mean => *o /= per as f64,
            Reduction::L2 => *o = o.sqrt(),
            _ => {}
        }
    }
    out
}

fn integers(d: &Data, at: &[usize], kind: Reduction, n: usize, per: usize) -> Result<Data, String> {
    let (ty, unsigned) = (d.elem(), d.elem() == ScalarType::U64);
    // Every integer fits i128; sums of fewer than 2^63 of them do too, products wrap.
    let wide = |v: i64| {
        if unsigned {
            i128::from(v as u64)
        } else {
            i128::from(v)
        }
    };
    let (lo, hi) = match ty.size() * 8 {
        bits if ty.is_signed_int() => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        bits => (0, (1i128 << bits) - 1),
    };
    let (start, f): (i128, fn(i128, i128) -> i128) = match kind {
        Reduction::Sum | Reduction::Mean => (0, i128::wrapping_add),
        Reduction::Prod => (1, i128::wrapping_mul),
        Reduction::SumSquare | Reduction::L2 => (0, |a, x| a.wrapping_add(x.wrapping_mul(x))),
        Reduction::L1 => (0, |a, x| a.wrapping_add(x.abs())),
        Reduction::Max => (lo, i128::max),
        Reduction::Min => (hi, i128::min),
    };
    let mut out = vec![start; n];
    for (x, a) in lanes::to_i64(d).iter().zip(at) {
        out[*a] = f(out[*a], wide(*x));
    }
    for o in &mut out {
        match kind {
            Reduction::Mean if per == 0 => return Err("the mean of no integers".into()),
            Reduction::Mean => *o /= per as i128,
            Reduction::L2 => *o = (*o as f64).sqrt() as i128,
            _ => {}
        }
    }
    Ok(lanes::from_i64(out.into_iter().map(|v| v as i64), ty))
}

/// Index of the largest (or smallest) element along `axis`. NaN wins over numbers.
pub fn arg_reduce(x: &Tensor, max: bool, axis: usize, keep: bool, last: bool) -> R {
    let (shape, _) = reduced(&x.shape, &[axis], keep);
    let (extent, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let outer: usize = x.shape[..axis].iter().product();
    if extent == 0 && outer * inner > 0 {
        return Err("the largest of no elements".into());
    }
    let better: Box<dyn Fn(usize, usize) -> bool> = if x.elem().is_float() {
        let v = x.to_f64();
        Box::new(move |a, b| match (v[a].is_nan(), v[b].is_nan()) {
            (nan, true) => nan && last,
            (true, false) => true,
            _ if v[a] == v[b] => last,
            _ => (v[a] > v[b]) == max,
        })
    } else {
        let (v, flip) = (
            lanes::to_i64(&x.data),
            if x.elem() == ScalarType::U64 { i64::MIN } else { 0 },
        );
        Box::new(move |a, b| {
            let (a, b) = (v[a] ^ flip, v[b] ^ flip);
            if a == b { last } else { (a > b) == max }
        })
    };
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * extent + j) * inner + i;
            let best = (1..extent).fold(0, |b, j| if better(at(j), at(b)) { j } else { b });
            out.push(best as i64);
        }
    }
    Ok(vec![Tensor::new(shape, out)])
}

/// Running sums along `axis`.
pub fn cum_sum(x: &Tensor, axis: usize, exclusive: bool, reverse: bool) -> R {
    let (extent, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let outer: usize = x.shape[..axis].iter().product();
    let order = |o: usize, i: usize| {
        (0..extent).map(move |j| {
            let j = if reverse { extent - 1 - j } else { j };
            (o * extent + j) * inner + i
        })
    };
    let lines = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
    let data = if x.elem().is_float() {
        let v = x.to_f64();
        let mut out = vec![0.0; v.len()];
        for (o, i) in lines {
            let mut sum = 0.0;
            for at in order(o, i) {
                let with = sum + v[at];
                out[at] = if exclusive { sum } else { with };
                sum = with;
            }
        }
        lanes::from_f64(out.into_iter(), x.elem())
    } else {
        let v = lanes::to_i64(&x.data);
        let mut out = vec![0i64; v.len()];
        for (o, i) in lines {
            let mut sum = 0i64;
            for at in order(o, i) {
                let with = sum.wrapping_add(v[at]);
                out[at] = if exclusive { sum } else { with };
                sum = with;
            }
        }
        lanes::from_i64(out.into_iter(), x.elem())
    };
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data,
    }])
}
