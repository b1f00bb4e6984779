//! Accumulators of region anchors: contractions through f64 (exact for codes) rounded once, attention in f64.

use super::attention::{weighted, weights};
use super::attention8::Packed;
use super::matmul::{exact_in_f64, product, product_i64, round};
use super::region::{Nest, Space};
use super::tensor::{Data, Native, each};
use super::{lanes, walk};
use crate::region::{Anchor, Attention, AxisKind, Products};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use rayon::prelude::*;

/// Part of an accumulator: the fixed indices, and its values.
type Part = (Vec<usize>, Vec<f64>);

/// Rows of a contraction handled by one task.
const ROWS: usize = 64;

/// The accumulator at every point of `space` (whose axes are parallel ones, in order); `None` without an anchor.
pub(super) fn accumulate(nest: &Nest<'_>, space: &Space) -> Result<Option<Data>, String> {
    match &nest.region.anchor {
        Anchor::None => Ok(None),
        Anchor::Contract { lhs, rhs, acc, pad } => contract(nest, space, *lhs, *rhs, *acc, *pad).map(Some),
        Anchor::Attention(a) => attention(nest, space, a).map(Some),
    }
}

/// Strides of the accumulator, by region axis.
fn acc_strides(nest: &Nest<'_>, space: &Space) -> Vec<i64> {
    let shape: Vec<usize> = space.axes.iter().map(|a| nest.extents[*a]).collect();
    let mut out = vec![0; nest.extents.len()];
    for (a, s) in space.axes.iter().zip(walk::strides(&shape)) {
        out[*a] = s;
    }
    out
}

/// Writes `part`, the values at the points of `axes` with the others fixed, into the accumulator.
fn scatter(acc: &mut Data, part: &Data, nest: &Nest<'_>, strides: &[i64], axes: &[usize], fixed: &[usize]) {
    let base: i64 = (0..fixed.len())
        .filter(|a| !axes.contains(a))
        .map(|a| fixed[a] as i64 * strides[a])
        .sum();
    let shape: Vec<usize> = axes.iter().map(|a| nest.extents[*a]).collect();
    let steps: Vec<i64> = axes.iter().map(|a| strides[*a]).collect();
    each!(acc, acc => {
        let mut part = Native::slice(part).unwrap_or(&[]).iter();
        walk::offsets(&shape, &steps, base, 0..part.len(), &mut |at| {
            if let Some(v) = part.next() {
                acc[at as usize] = *v;
            }
        });
    });
}

/// Sets the indices of `axes` to the linear position `at`.
fn pin(nest: &Nest<'_>, fixed: &mut [usize], axes: &[usize], at: usize) {
    let shape: Vec<usize> = axes.iter().map(|a| nest.extents[*a]).collect();
    for (a, i) in axes.iter().zip(walk::unravel(at, &shape)) {
        fixed[*a] = i;
    }
}

fn contract(
    nest: &Nest<'_>,
    space: &Space,
    lhs: u32,
    rhs: u32,
    acc_ty: ScalarType,
    pad: bool,
) -> Result<Data, String> {
    let on = |op: u32, a: &usize| nest.uses(op, *a as u32);
    let pick = |f: &dyn Fn(bool, bool) -> bool| -> Vec<usize> {
        let axes = space.axes.iter().copied();
        axes.filter(|a| f(on(lhs, a), on(rhs, a))).collect()
    };
    let (batch, rows, cols) = (pick(&|l, r| l && r), pick(&|_, r| !r), pick(&|l, r| r && !l));
    let reduce: Vec<usize> = (0..nest.extents.len())
        .filter(|a| nest.region.axes[*a].kind == AxisKind::Reduce)
        .collect();
    let (m, k, n) = (nest.count(&rows), nest.count(&reduce), nest.count(&cols));
    let join = |a: &[usize], b: &[usize]| a.iter().chain(b).copied().collect::<Vec<_>>();
    let strides = acc_strides(nest, space);
    let one = |b: usize| -> Result<(Vec<usize>, Data), String> {
        let mut fixed = vec![0; nest.extents.len()];
        pin(nest, &mut fixed, &batch, b);
        let right = Space {
            axes: join(&reduce, &cols),
            fixed: fixed.clone(),
        };
        let right = Factor::new(nest.read(rhs as usize, &right, 0..k * n)?, None);
        let left = Space {
            axes: join(&rows, &reduce),
            fixed: fixed.clone(),
        };
        let blocks = (0..m.div_ceil(ROWS))
            .into_par_iter()
            .map(|i| {
                let range = i * ROWS * k..((i + 1) * ROWS).min(m) * k;
                let zero = pad.then(|| nest.clamped(lhs as usize, &left, range.clone()));
                let block = Factor::new(nest.read(lhs as usize, &left, range)?, zero);
                Ok(block.times(&right, ((i + 1) * ROWS).min(m) - i * ROWS, k, n, acc_ty))
            })
            .collect::<Result<Vec<Data>, String>>()?;
        let data = super::points::join(blocks).unwrap_or_else(|| lanes::zeros(acc_ty, 0));
        Ok((fixed, data))
    };
    let total = nest.count(&space.axes);
    let mut acc = lanes::zeros(acc_ty, total);
    if total == 0 {
        return Ok(acc);
    }
    let targets = join(&rows, &cols);
    let batches: Vec<usize> = (0..nest.count(&batch)).collect();
    for wave in batches.chunks(256) {
        let parts = wave.par_iter().map(|b| one(*b)).collect::<Result<Vec<_>, _>>()?;
        for (fixed, part) in parts {
            scatter(&mut acc, &part, nest, &strides, &targets, &fixed);
        }
    }
    Ok(acc)
}

/// A factor of a contraction.
enum Factor {
    /// Floats and narrow integers: products are exact.
    Float(Vec<f64>),
    /// 32- and 64-bit integers.
    Int(Vec<i64>),
}

impl Factor {
    /// The elements, 0 where `zero` says so.
    fn new(d: Data, zero: Option<Vec<bool>>) -> Self {
        let zero = zero.unwrap_or_default();
        let blank = zero.iter().enumerate().filter(|(_, z)| **z).map(|(i, _)| i);
        if d.elem().is_float() || exact_in_f64(d.elem()) {
            let mut v = super::Tensor {
                shape: vec![d.len()],
                data: d,
            }
            .to_f64();
            blank.for_each(|i| v[i] = 0.0);
            Factor::Float(v)
        } else {
            let mut v = lanes::to_i64(&d);
            blank.for_each(|i| v[i] = 0);
            Factor::Int(v)
        }
    }

    fn ints(&self) -> Vec<i64> {
        match self {
            Factor::Float(v) => v.iter().map(|v| *v as i64).collect(),
            Factor::Int(v) => v.clone(),
        }
    }

    fn times(&self, b: &Factor, m: usize, k: usize, n: usize, ty: ScalarType) -> Data {
        match (self, b) {
            (Factor::Float(x), Factor::Float(y)) => round(product(x, y, m, k, n), ty),
            _ => lanes::from_i64(product_i64(&self.ints(), &b.ints(), m, k, n).into_iter(), ty),
        }
    }
}

fn attention(nest: &Nest<'_>, space: &Space, a: &Attention) -> Result<Data, String> {
    let on = |op: u32, x: usize| nest.uses(op, x as u32);
    let scored = |x: usize| {
        on(a.q, x)
            || on(a.k, x)
            || a.score.stmts.iter().any(|s| match s.op {
                ScalarOp::Operand(n) => on(n, x),
                ScalarOp::Index(i) => i as usize == x,
                _ => false,
            })
    };
    // Axes that keys or values share, axes of queries, axes of values alone.
    let group: Vec<usize> = space
        .axes
        .iter()
        .copied()
        .filter(|x| scored(*x) && (on(a.k, *x) || on(a.v, *x)))
        .collect();
    let query: Vec<usize> = space
        .axes
        .iter()
        .copied()
        .filter(|x| scored(*x) && !group.contains(x))
        .collect();
    let value: Vec<usize> = space.axes.iter().copied().filter(|x| !scored(*x)).collect();
    let (key, inner) = (a.key as usize, a.inner as usize);
    let (t, d, e) = (nest.extents[key], nest.extents[inner], nest.count(&value));
    let strides = acc_strides(nest, space);
    let given = given_scales(nest, a)?;
    let one = |g: usize| -> Result<Vec<Part>, String> {
        let mut fixed = vec![0; nest.extents.len()];
        pin(nest, &mut fixed, &group, g);
        let at = |axes: Vec<usize>, fixed: &[usize]| Space {
            axes,
            fixed: fixed.to_vec(),
        };
        let keys = floats(nest.read(a.k as usize, &at(vec![key, inner], &fixed), 0..t * d)?);
        let mut value_axes = vec![key];
        value_axes.extend(&value);
        let values = floats(nest.read(a.v as usize, &at(value_axes, &fixed), 0..t * e)?);
        let packed = (a.products != Products::Float)
            .then(|| Packed::new(&f32s(&keys), &f32s(&values), (t, d, e), given));
        (0..nest.count(&query))
            .map(|qi| {
                let mut fixed = fixed.clone();
                pin(nest, &mut fixed, &query, qi);
                let q = floats(nest.read(a.q as usize, &at(vec![inner], &fixed), 0..d)?);
                if let Some(packed) = &packed {
                    let dots = packed.dots(&f32s(&q)).into_iter().map(f64::from).collect();
                    let scores = scores(nest, a, &at(vec![key], &fixed), dots)?;
                    let out = packed.weigh(&f32s(&scores), a.empty_row)?;
                    return Ok((fixed, out.into_iter().map(f64::from).collect()));
                }
                let dots = (0..t)
                    .map(|ti| q.iter().zip(&keys[ti * d..]).map(|(x, y)| x * y).sum())
                    .collect();
                let mut p = scores(nest, a, &at(vec![key], &fixed), dots)?;
                weights(&mut p, a.empty_row);
                Ok((fixed, weighted(&p, &values, e, a.empty_row)))
            })
            .collect()
    };
    let total = nest.count(&space.axes);
    let mut acc = lanes::zeros(ScalarType::F32, total);
    if total == 0 {
        return Ok(acc);
    }
    let parts = (0..nest.count(&group))
        .into_par_iter()
        .map(one)
        .collect::<Result<Vec<_>, _>>()?;
    for (fixed, part) in parts.into_iter().flatten() {
        let part = round(part, ScalarType::F32);
        scatter(&mut acc, &part, nest, &strides, &value, &fixed);
    }
    Ok(acc)
}

/// The static scales of an attention over codes, if it has any.
fn given_scales(nest: &Nest<'_>, a: &Attention) -> Result<Option<[f32; 3]>, String> {
    let Products::Int8 { scales: Some(n) } = a.products else {
        return Ok(None);
    };
    let mut out = [0.0; 3];
    for (s, n) in out.iter_mut().zip(n) {
        let read = floats(nest.read(n as usize, &nest.space(std::iter::empty()), 0..1)?);
        *s = *read.first().ok_or("a scale is missing")? as f32;
    }
    Ok(Some(out))
}

fn f32s(v: &[f64]) -> Vec<f32> {
    v.iter().map(|v| *v as f32).collect()
}

fn floats(data: Data) -> Vec<f64> {
    super::Tensor {
        shape: vec![data.len()],
        data,
    }
    .to_f64()
}

/// Runs the score body over the keys; `dots` are the raw products.
fn scores(nest: &Nest<'_>, a: &Attention, keys: &Space, dots: Vec<f64>) -> Result<Vec<f64>, String> {
    let n = dots.len();
    let mut cols: Vec<Data> = Vec::with_capacity(a.score.stmts.len());
    for s in &a.score.stmts {
        let col = if s.op.arity() == 0 {
            nest.leaf(&s.op, keys, 0..n, &|_| Ok(round(dots.clone(), s.ty)))?
        } else {
            let args: Vec<&Data> = s.args.iter().map(|a| &cols[a.index()]).collect();
            lanes::apply(&s.op, &args, s.ty)?
        };
        if col.elem() != s.ty {
            return Err(format!(
                "a score statement has type {}, found {}",
                s.ty,
                col.elem()
            ));
        }
        cols.push(col);
    }
    cols.pop()
        .map(floats)
        .ok_or_else(|| "the score body is empty".into())
}
