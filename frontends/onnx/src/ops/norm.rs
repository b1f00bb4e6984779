//! Normalizations and softmax.

use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::conv::{Pool, PoolKind};
use rsqc_ir::ops::elementwise as ir;
use rsqc_ir::ops::norm::{LayerNorm, RmsNorm, Softmax};
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::types::{Dim, ScalarType};

use crate::call::Call;
use crate::cx::{Cx, R, V};

/// A norm's epsilon: not negative.
fn epsilon(cx: &Cx, c: &Call<'_>) -> R<f32> {
    match c.float(cx, "epsilon", 1e-5)? {
        eps if eps >= 0.0 => Ok(eps),
        eps => cx.fail(format!("attribute 'epsilon' is {eps}, expected 0 or more")),
    }
}

/// Softmax: over one axis since opset 13, over all axes from `axis` before.
fn softmax_of(cx: &mut Cx, c: &Call<'_>, log: bool) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let rank = cx.rank(x);
    if !cx.elem(x).is_float() {
        return cx.fail(format!("has type {}, expected a float", cx.elem(x)));
    }
    let axis = c.axis(cx, "axis", if c.opset >= 13 { -1 } else { 1 }, rank)?;
    if c.opset >= 13 || axis + 1 == rank {
        return Ok(vec![cx.emit(Softmax { axis, log }, &[x])?]);
    }
    let shape = cx.shape(x).to_vec();
    let flat = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    let y = cx.reshape(x, flat)?;
    let y = cx.emit(Softmax { axis: 1, log }, &[y])?;
    Ok(vec![cx.reshape(y, shape)?])
}

/// Softmax.
pub fn softmax(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    softmax_of(cx, c, false)
}

/// LogSoftmax.
pub fn log_softmax(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    softmax_of(cx, c, true)
}

/// The operand with the normalized axes as one last axis, and its gain or bias as one vector.
fn flattened(cx: &mut Cx, x: V, axis: usize) -> R<V> {
    let shape = cx.shape(x).to_vec();
    if axis + 1 == shape.len() {
        return Ok(x);
    }
    let mut flat = shape[..axis].to_vec();
    flat.push(shape[axis..].iter().product());
    cx.reshape(x, flat)
}

fn gain(cx: &mut Cx, g: V, dims: &[Dim]) -> R<V> {
    let full = cx.broadcast(&[cx.shape(g).to_vec().as_slice(), dims])?;
    if full != dims {
        return cx.fail("the scale or bias does not broadcast to the normalized axes");
    }
    let g = cx.expand(g, dims.to_vec())?;
    cx.reshape(g, vec![dims.iter().product()])
}

/// LayerNormalization.
pub fn layer(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["stash_type"]);
    let (x, scale) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let axis = c.axis(cx, "axis", -1, cx.rank(x))?;
    let eps = epsilon(cx, c)?;
    let shape = cx.shape(x).to_vec();
    let flat = flattened(cx, x, axis)?;
    let mut ins = vec![flat, gain(cx, scale, &shape[axis..])?];
    if let Some(bias) = c.opt(2) {
        ins.push(gain(cx, bias, &shape[axis..])?);
    }
    let y = cx.emit(LayerNorm { eps }, &ins)?;
    let mut out = vec![cx.reshape(y, shape.clone())?];
    if c.wants(1) || c.wants(2) {
        let axes: Vec<i64> = (axis as i64..shape.len() as i64).collect();
        let (mean, _, inverse) = moments(cx, x, axes, eps)?;
        out.extend([mean, inverse]);
    }
    Ok(out)
}

/// Mean, centred operand, and `1 / sqrt(var + eps)` over axes that stay with extent 1.
fn moments(cx: &mut Cx, x: V, axes: Vec<i64>, eps: f32) -> R<(V, V, V)> {
    let mean = cx.emit(
        Reduce {
            kind: Reduction::Mean,
            axes: axes.clone(),
            keep: true,
        },
        &[x],
    )?;
    let centred = cx.elementwise(ir::Sub {}, &[x, mean])?;
    let square = cx.elementwise(ir::Mul {}, &[centred, centred])?;
    let var = cx.emit(
        Reduce {
            kind: Reduction::Mean,
            axes,
            keep: true,
        },
        &[square],
    )?;
    let eps = cx.lit(cx.elem(x), eps.into());
    let sum = cx.elementwise(ir::Add {}, &[var, eps])?;
    let root = cx.elementwise(ir::Sqrt {}, &[sum])?;
    let inverse = cx.elementwise(ir::Reciprocal {}, &[root])?;
    Ok((mean, centred, inverse))
}

/// RMSNormalization.
pub fn rms(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["stash_type"]);
    let (x, scale) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let axis = c.axis(cx, "axis", -1, cx.rank(x))?;
    let eps = epsilon(cx, c)?;
    let shape = cx.shape(x).to_vec();
    let flat = flattened(cx, x, axis)?;
    let scale = gain(cx, scale, &shape[axis..])?;
    let y = cx.emit(RmsNorm { eps }, &[flat, scale])?;
    Ok(vec![cx.reshape(y, shape)?])
}

/// A vector along axis 1 of an operand of rank `rank`.
fn along_channels(cx: &mut Cx, v: V, rank: usize) -> R<V> {
    let mut shape = vec![Dim::one(); rank - 1];
    shape[0] = cx.ty(v).numel();
    cx.reshape(v, shape)
}

/// BatchNormalization at inference: one product and one sum, their factors computed in f64 where they are constant.
pub fn batch(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["momentum", "is_test"]);
    let ins = c.all(cx)?;
    let (x, eps) = (ins[0], epsilon(cx, c)?);
    if c.int(cx, "training_mode", 0)? != 0 || c.int(cx, "spatial", 1)? != 1 || (1..5).any(|i| c.wants(i)) {
        return cx.unsupported("BatchNormalization in training mode or per element");
    }
    let rank = cx.rank(x);
    if rank < 2 {
        return cx.fail(format!("has rank {rank}, expected 2 or more"));
    }
    let channels = cx.shape(x)[1].clone();
    for &v in &ins[1..] {
        if cx.rank(v) != 1 {
            return cx.fail(format!("a parameter has rank {}, expected 1", cx.rank(v)));
        }
        let n = cx.shape(v)[0].clone();
        cx.same_dim(&n, &channels, "batch normalization channels")?;
    }
    let constants = ins[1..]
        .iter()
        .map(|&v| cx.constant(v).map(|t| t.to_f64()))
        .collect::<Option<Vec<_>>>();
    let (a, b) = match constants.as_deref() {
        Some([scale, bias, mean, var]) => {
            let a: Vec<f64> = scale
                .iter()
                .zip(var)
                .map(|(s, v)| s / (v + f64::from(eps)).sqrt())
                .collect();
            let b: Vec<f64> = bias
                .iter()
                .zip(mean)
                .zip(&a)
                .map(|((b, m), a)| b - m * a)
                .collect();
            let elem = cx.elem(x);
            let mut constant = |values: Vec<f64>| {
                let v = cx.push_eval(Tensor::new(vec![values.len()], values));
                cx.cast(v, elem)
            };
            (constant(a)?, constant(b)?)
        }
        _ => {
            let [scale, bias, mean, var] = [ins[1], ins[2], ins[3], ins[4]];
            let eps = cx.lit(cx.elem(var), eps.into());
            let sum = cx.elementwise(ir::Add {}, &[var, eps])?;
            let root = cx.elementwise(ir::Sqrt {}, &[sum])?;
            let a = cx.elementwise(ir::Div {}, &[scale, root])?;
            let moved = cx.elementwise(ir::Mul {}, &[mean, a])?;
            (a, cx.elementwise(ir::Sub {}, &[bias, moved])?)
        }
    };
    let (a, b) = (along_channels(cx, a, rank)?, along_channels(cx, b, rank)?);
    let y = cx.elementwise(ir::Mul {}, &[x, a])?;
    Ok(vec![cx.elementwise(ir::Add {}, &[y, b])?])
}

/// `(x - mean) / sqrt(var + eps)` over `axes`, then scale and bias along the channels.
fn scaled_norm(cx: &mut Cx, x: V, normed: V, scale: V, bias: V) -> R<V> {
    let shape = cx.shape(x).to_vec();
    let y = cx.reshape(normed, shape.clone())?;
    let (scale, bias) = (
        along_channels(cx, scale, shape.len())?,
        along_channels(cx, bias, shape.len())?,
    );
    let y = cx.elementwise(ir::Mul {}, &[y, scale])?;
    cx.elementwise(ir::Add {}, &[y, bias])
}

/// InstanceNormalization.
pub fn instance(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, scale, bias) = (c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?);
    let rank = cx.rank(x);
    if rank < 3 {
        return cx.fail(format!("has rank {rank}, expected 3 or more"));
    }
    let eps = epsilon(cx, c)?;
    let (_, centred, inverse) = moments(cx, x, (2..rank as i64).collect(), eps)?;
    let y = cx.elementwise(ir::Mul {}, &[centred, inverse])?;
    Ok(vec![scaled_norm(cx, x, y, scale, bias)?])
}

/// GroupNormalization (opset 21: scale and bias per channel).
pub fn group(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["stash_type"]);
    let (x, scale, bias) = (c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?);
    let groups = c.int(cx, "num_groups", 0)?;
    let eps = epsilon(cx, c)?;
    let shape = cx.shape(x).to_vec();
    let per_group = (groups > 0 && shape.len() >= 2)
        .then(|| shape[1].exact_div(&groups.into()))
        .flatten();
    let Some(per_group) = per_group else {
        return cx.fail(format!("channels cannot be cut into {groups} groups"));
    };
    let inner: Dim = shape[2..].iter().product();
    let flat = cx.reshape(x, vec![shape[0].clone(), groups.into(), per_group * inner])?;
    let (_, centred, inverse) = moments(cx, flat, vec![2], eps)?;
    let y = cx.elementwise(ir::Mul {}, &[centred, inverse])?;
    Ok(vec![scaled_norm(cx, x, y, scale, bias)?])
}

/// LpNormalization: `x / norm`, p = 1 or 2.
pub fn lp(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let axis = c.axis(cx, "axis", -1, cx.rank(x))?;
    let kind = match c.int(cx, "p", 2)? {
        1 => Reduction::L1,
        2 => Reduction::L2,
        p => return cx.fail(format!("attribute 'p' is {p}, expected 1 or 2")),
    };
    let norm = cx.emit(
        Reduce {
            kind,
            axes: vec![axis as i64],
            keep: true,
        },
        &[x],
    )?;
    let zero = cx.lit(cx.elem(x), 0.0);
    let y = cx.elementwise(ir::Div {}, &[x, norm])?;
    // A row of zeros stays zero.
    let empty = cx.elementwise(ir::Equal {}, &[norm, zero])?;
    debug_assert_eq!(cx.elem(empty), ScalarType::Bool);
    Ok(vec![cx.elementwise(ir::Where {}, &[empty, zero, y])?])
}

/// MeanVarianceNormalization: `(x - mean) / (std + 1e-9)` over axes.
pub fn mean_variance(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let list = c.ints(cx, "axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = crate::call::axes(cx, &list, cx.rank(x))?
        .into_iter()
        .map(|a| a as i64)
        .collect::<Vec<_>>();
    let mean = cx.emit(
        Reduce {
            kind: Reduction::Mean,
            axes: axes.clone(),
            keep: true,
        },
        &[x],
    )?;
    let centred = cx.elementwise(ir::Sub {}, &[x, mean])?;
    let square = cx.elementwise(ir::Mul {}, &[centred, centred])?;
    let var = cx.emit(
        Reduce {
            kind: Reduction::Mean,
            axes,
            keep: true,
        },
        &[square],
    )?;
    let std = cx.elementwise(ir::Sqrt {}, &[var])?;
    let tiny = cx.lit(cx.elem(x), 1e-9);
    let d = cx.elementwise(ir::Add {}, &[std, tiny])?;
    Ok(vec![cx.elementwise(ir::Div {}, &[centred, d])?])
}

/// LRN: `x / (bias + alpha / size * sum of squares over neighbouring channels)^beta`.
pub fn lrn(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let size = c.int(cx, "size", 0)?;
    let (alpha, beta, bias) = (
        c.float(cx, "alpha", 1e-4)?,
        c.float(cx, "beta", 0.75)?,
        c.float(cx, "bias", 1.0)?,
    );
    let (elem, dims) = (cx.elem(x), cx.shape(x).to_vec());
    if !(1..1 << 16).contains(&size) || dims.len() < 2 {
        return cx.fail(format!("attribute 'size' is {size} for rank {}", dims.len()));
    }
    let (before, after) = ((size - 1) / 2, size / 2);
    let square = cx.elementwise(ir::Mul {}, &[x, x])?;
    // The mean over a window that counts its padding is the sum over the window divided by its size.
    let flat = cx.reshape(
        square,
        vec![
            dims[0].clone(),
            Dim::one(),
            dims[1].clone(),
            dims[2..].iter().product(),
        ],
    )?;
    let pool = Pool {
        kind: PoolKind::AverageWithPad,
        kernel: vec![size, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![before, 0, after, 0],
        ceil: false,
    };
    let mean = cx.emit(pool, &[flat])?;
    let mean = cx.coerce(
        mean,
        &[
            dims[0].clone(),
            Dim::one(),
            dims[1].clone(),
            dims[2..].iter().product(),
        ],
    )?;
    let mean = cx.reshape(mean, dims)?;
    let (alpha, beta, bias) = (
        cx.lit(elem, alpha.into()),
        cx.lit(elem, beta.into()),
        cx.lit(elem, bias.into()),
    );
    let d = cx.elementwise(ir::Mul {}, &[mean, alpha])?;
    let d = cx.elementwise(ir::Add {}, &[d, bias])?;
    let d = cx.elementwise(ir::Pow {}, &[d, beta])?;
    Ok(vec![cx.elementwise(ir::Div {}, &[x, d])?])
}
