//! Element movement.

use super::tensor::{Native, Tensor, each};
use super::{lanes, walk};

type R = Result<Vec<Tensor>, String>;

/// The same elements under another shape.
pub fn reshape(x: &Tensor, shape: Vec<usize>) -> R {
    if walk::count(&shape)? != x.len() {
        return Err(format!(
            "{} elements of {:?} cannot take shape {shape:?}",
            x.len(),
            x.shape
        ));
    }
    Ok(vec![Tensor {
        shape,
        data: x.data.clone(),
    }])
}

/// Result axis `i` is operand axis `perm[i]`.
pub fn transpose(x: &Tensor, perm: &[i64]) -> R {
    let own = walk::strides(&x.shape);
    let axes = perm
        .iter()
        .map(|p| {
            usize::try_from(*p)
                .ok()
                .filter(|p| *p < x.shape.len())
                .ok_or("a permutation leaves the rank")
        })
        .collect::<Result<Vec<_>, _>>()?;
    let shape = axes.iter().map(|p| x.shape[*p]).collect();
    let strides: Vec<i64> = axes.iter().map(|p| own[*p]).collect();
    Ok(vec![walk::strided(x, shape, &strides, 0)?])
}

/// Broadcast to `shape`.
pub fn expand(x: &Tensor, shape: &[usize]) -> R {
    let strides = walk::broadcast_strides(&x.shape, shape)?;
    Ok(vec![walk::strided(x, shape.to_vec(), &strides, 0)?])
}

/// Operands joined along `axis`.
pub fn concat(ins: &[&Tensor], axis: usize) -> R {
    let first = ins.first().ok_or("nothing to concatenate")?;
    let mut shape = first.shape.clone();
    for t in &ins[1..] {
        let fits = t.shape.len() == shape.len()
            && t.elem() == first.elem()
            && (0..shape.len()).all(|a| a == axis || t.shape[a] == shape[a]);
        if !fits {
            return Err(format!("{:?} cannot be joined to {:?}", t.shape, first.shape));
        }
        shape[axis] += t.shape[axis];
    }
    let outer: usize = shape[..axis].iter().product();
    let n = walk::count(&shape)?;
    let data = each!(&first.data, f => {
        let mut out = Vec::with_capacity(n);
        out.extend_from_slice(&f[..0]);
        for o in 0..outer {
            for t in ins {
                let len: usize = t.shape[axis..].iter().product();
                let v = Native::slice(&t.data).ok_or("operands of several types")?;
                out.extend_from_slice(&v[o * len..(o + 1) * len]);
            }
        }
        Native::wrap(out)
    });
    Ok(vec![Tensor { shape, data }])
}

/// Element `i` of result axis `a` is operand index `starts[a] + i * steps[a]`.
pub fn slice(x: &Tensor, starts: &[i64], sizes: &[usize], steps: &[i64]) -> R {
    for (a, n) in sizes.iter().enumerate().filter(|(_, n)| **n > 0) {
        let last = steps[a]
            .checked_mul(*n as i64 - 1)
            .and_then(|d| d.checked_add(starts[a]));
        let inside = |i: i64| i >= 0 && i < x.shape[a] as i64;
        if !inside(starts[a]) || !last.is_some_and(inside) {
            return Err(format!(
                "slice of axis {a} from {} with step {} and {n} elements leaves extent {}",
                starts[a], steps[a], x.shape[a]
            ));
        }
    }
    if sizes.contains(&0) {
        let data = lanes::zeros(x.elem(), 0);
        return Ok(vec![Tensor {
            shape: sizes.to_vec(),
            data,
        }]);
    }
    let own = walk::strides(&x.shape);
    let base = starts.iter().zip(&own).map(|(i, s)| i * s).sum();
    let strides: Vec<i64> = steps.iter().zip(&own).map(|(i, s)| i * s).collect();
    Ok(vec![walk::strided(x, sizes.to_vec(), &strides, base)?])
}

/// Surrounds `x` with the single element of `v`.
pub fn pad(x: &Tensor, v: &Tensor, before: &[usize], after: &[usize]) -> R {
    let mut shape = Vec::new();
    for (a, d) in x.shape.iter().enumerate() {
        let total = d
            .checked_add(before[a])
            .and_then(|t| t.checked_add(after[a]))
            .ok_or("a padded extent overflows")?;
        shape.push(total);
    }
    let n = walk::count(&shape)?;
    let to = walk::strides(&shape);
    let base = before.iter().zip(&to).map(|(b, s)| *b as i64 * s).sum();
    let data = each!(&x.data, x_data => {
        let fill = Native::slice(&v.data).and_then(|v| v.first()).ok_or("the pad value has another type")?;
        let mut out = vec![*fill; n];
        let mut src = x_data.iter();
        walk::offsets(&x.shape, &to, base, 0..x_data.len(), &mut |at| {
            if let Some(v) = src.next() {
                out[at as usize] = *v;
            }
        });
        Native::wrap(out)
    });
    Ok(vec![Tensor { shape, data }])
}

/// `i` as a position below `limit`; negative indices count from the end.
fn position(i: i64, limit: usize) -> Result<usize, String> {
    let wrapped = if i < 0 { i.saturating_add(limit as i64) } else { i };
    usize::try_from(wrapped)
        .ok()
        .filter(|p| *p < limit)
        .ok_or_else(|| format!("index {i} is outside extent {limit}"))
}

/// ONNX Gather; an index outside is an error.
pub fn gather(x: &Tensor, i: &Tensor, axis: usize) -> R {
    let outer: usize = x.shape[..axis].iter().product();
    let inner: usize = x.shape[axis + 1..].iter().product();
    let extent = x.shape[axis];
    let shape: Vec<usize> = x.shape[..axis]
        .iter()
        .chain(&i.shape)
        .chain(&x.shape[axis + 1..])
        .copied()
        .collect();
    let n = walk::count(&shape)?;
    let at = lanes::to_i64(&i.data)
        .into_iter()
        .map(|i| position(i, extent))
        .collect::<Result<Vec<_>, _>>()?;
    let data = each!(&x.data, v => {
        let mut out = Vec::with_capacity(n);
        for o in 0..outer {
            for p in &at {
                let start = (o * extent + p) * inner;
                out.extend_from_slice(&v[start..start + inner]);
            }
        }
        Native::wrap(out)
    });
    Ok(vec![Tensor { shape, data }])
}

/// ONNX GatherElements; an index outside is an error.
pub fn gather_elements(x: &Tensor, i: &Tensor, axis: usize) -> R {
    let fits =
        i.shape.len() == x.shape.len() && (0..x.shape.len()).all(|a| a == axis || i.shape[a] <= x.shape[a]);
    if !fits {
        return Err(format!("indices of shape {:?} leave {:?}", i.shape, x.shape));
    }
    let mut strides = walk::strides(&x.shape);
    let along = std::mem::take(&mut strides[axis]);
    let index = lanes::to_i64(&i.data);
    let mut base = Vec::with_capacity(index.len());
    walk::offsets(&i.shape, &strides, 0, 0..index.len(), &mut |a| {
        base.push(a as usize)
    });
    let at = index
        .iter()
        .zip(base)
        .map(|(i, b)| Ok(b + position(*i, x.shape[axis])? * along as usize))
        .collect::<Result<Vec<_>, String>>()?;
    Ok(vec![Tensor {
        shape: i.shape.clone(),
        data: lanes::take(&x.data, &at),
    }])
}

/// ONNX GatherND; an index outside is an error.
pub fn gather_nd(x: &Tensor, i: &Tensor, batch_dims: usize) -> R {
    let k = *i.shape.last().ok_or("indices need an axis")?;
    let b = batch_dims;
    let fits = b < i.shape.len() && b + k <= x.shape.len() && i.shape[..b] == x.shape[..b];
    if !fits {
        return Err(format!("index tuples {:?} do not fit {:?}", i.shape, x.shape));
    }
    let own = walk::strides(&x.shape);
    let inner: usize = x.shape[b + k..].iter().product();
    let batches: usize = x.shape[..b].iter().product();
    let per_batch: usize = i.shape[b..i.shape.len() - 1].iter().product();
    let batch_len: usize = x.shape[b..].iter().product();
    let shape: Vec<usize> = i.shape[..i.shape.len() - 1]
        .iter()
        .chain(&x.shape[b + k..])
        .copied()
        .collect();
    let mut at = Vec::with_capacity(walk::count(&shape)?);
    let index = lanes::to_i64(&i.data);
    for t in 0..batches * per_batch {
        let mut base = t / per_batch * batch_len;
        for j in 0..k {
            base += position(index[t * k + j], x.shape[b + j])? * own[b + j] as usize;
        }
        at.extend(base..base + inner);
    }
    Ok(vec![Tensor {
        shape,
        data: lanes::take(&x.data, &at),
    }])
}
