//! Walks over index spaces.

use super::tensor::{Native, Tensor, each};
use std::ops::Range;

/// Row-major strides in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut out = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i] as i64;
    }
    out
}

/// Strides with which a tensor of `shape` is read at every point of `to` (0 along broadcast axes).
pub(crate) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Result<Vec<i64>, String> {
    let own = strides(shape);
    let lead = to
        .len()
        .checked_sub(shape.len())
        .ok_or_else(|| format!("{shape:?} does not broadcast to {to:?}"))?;
    let mut out = vec![0; to.len()];
    for (a, d) in shape.iter().enumerate() {
        if *d == to[lead + a] {
            out[lead + a] = own[a];
        } else if *d != 1 {
            return Err(format!("{shape:?} does not broadcast to {to:?}"));
        }
    }
    Ok(out)
}

/// The shape that two shapes broadcast to.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// The product of extents, if it is a possible number of elements.
pub(crate) fn count(shape: &[usize]) -> Result<usize, String> {
    shape
        .iter()
        .try_fold(1usize, |a, d| a.checked_mul(*d))
        .filter(|n| *n <= isize::MAX as usize / 16)
        .ok_or_else(|| format!("{shape:?} has too many elements"))
}

/// The indices of linear position `at` in `shape`.
pub(crate) fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut out = vec![0; shape.len()];
    for (o, d) in out.iter_mut().zip(shape).rev() {
        *o = at % (*d).max(1);
        at /= (*d).max(1);
    }
    out
}

/// Calls `f` with `base + sum(index * stride)` for the linear positions `range` of `shape`, in order.
pub(crate) fn offsets(
    shape: &[usize],
    strides: &[i64],
    base: i64,
    range: Range<usize>,
    f: &mut impl FnMut(i64),
) {
    if range.is_empty() {
        return;
    }
    let Some(last) = shape.len().checked_sub(1) else {
        f(base);
        return;
    };
    let mut idx = unravel(range.start, shape);
    let mut left = range.len();
    loop {
        let mut addr = base + idx.iter().zip(strides).map(|(i, s)| *i as i64 * s).sum::<i64>();
        let n = (shape[last] - idx[last]).min(left);
        for _ in 0..n {
            f(addr);
            addr += strides[last];
        }
        left -= n;
        if left == 0 {
            return;
        }
        idx[last] = 0;
        for a in (0..last).rev() {
            idx[a] += 1;
            if idx[a] < shape[a] {
                break;
            }
            idx[a] = 0;
        }
    }
}

/// The tensor of `shape` whose elements lie at `base + sum(index * stride)` of `x`; all addresses must lie inside.
pub(crate) fn strided(x: &Tensor, shape: Vec<usize>, strides: &[i64], base: i64) -> Result<Tensor, String> {
    let n = count(&shape)?;
    let len = x.len() as i64;
    each!(&x.data, v => {
        let mut out = Vec::with_capacity(n);
        let mut bad = false;
        offsets(&shape, strides, base, 0..n, &mut |a| {
            if a >= 0 && a < len {
                out.push(v[a as usize]);
            } else {
                bad = true;
            }
        });
        if bad {
            return Err("an element outside the operand is read".into());
        }
        Ok(Tensor { shape, data: Native::wrap(out) })
    })
}
