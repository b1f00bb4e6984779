//! Operators on codes with their own scales: integer products, then one requantization.
//!
//! The sums are exact in i32; the result is `saturate(round(acc * (sa * sb / sy)) + zy)`.

use rsqc_ir::ops::elementwise as ir;
use rsqc_ir::types::{Dim, ScalarType};

use super::conv::convolve;
use super::linalg::product;
use crate::call::Call;
use crate::cx::{Cx, R, V};

/// Codes minus their zero point as i32. A zero point per row or column takes the shape `place` gives it.
fn centred(cx: &mut Cx, x: V, zero: Option<V>, place: impl Fn(usize, Dim) -> Vec<Dim>) -> R<V> {
    if cx.elem(x).size() != 1 || !cx.elem(x).is_int() {
        return cx.fail(format!("codes have type {}, expected i8 or u8", cx.elem(x)));
    }
    let wide = cx.cast(x, ScalarType::I32)?;
    let Some(z) = zero else { return Ok(wide) };
    let z = cx.cast(z, ScalarType::I32)?;
    let z = laid(cx, z, cx.rank(x), place)?;
    let want = cx.shape(wide).to_vec();
    let y = cx.elementwise(ir::Sub {}, &[wide, z])?;
    if cx.shape(y) == want {
        Ok(y)
    } else {
        cx.reshape(y, want)
    }
}

/// A parameter: one element, or a vector in the place it has among `rank` axes.
fn laid(cx: &mut Cx, v: V, rank: usize, place: impl Fn(usize, Dim) -> Vec<Dim>) -> R<V> {
    let n = cx.ty(v).numel();
    if n.is(1) {
        return cx.reshape(v, vec![]);
    }
    if cx.rank(v) != 1 {
        return Ok(v);
    }
    let shape = place(rank, n);
    cx.reshape(v, shape)
}

fn as_rows(_: usize, n: Dim) -> Vec<Dim> {
    vec![n, Dim::one()]
}

fn as_columns(_: usize, n: Dim) -> Vec<Dim> {
    vec![n]
}

/// Along axis `1` of a result, or axis 0 of weights, of a convolution.
fn as_channels(rank: usize, n: Dim) -> Vec<Dim> {
    let mut shape = vec![Dim::one(); rank - 1];
    shape[0] = n;
    shape
}

fn as_filters(rank: usize, n: Dim) -> Vec<Dim> {
    let mut shape = vec![Dim::one(); rank];
    shape[0] = n;
    shape
}

/// `saturate(round(acc * (sa * sb / sy)) + zy)` in the type of the zero point.
fn requantize(cx: &mut Cx, acc: V, factor: V, zero: V) -> R<V> {
    let code = cx.elem(zero);
    if code.size() != 1 || !code.is_int() {
        return cx.fail(format!(
            "the result's zero point has type {code}, expected i8 or u8"
        ));
    }
    let x = cx.cast(acc, ScalarType::F32)?;
    let y = cx.elementwise(ir::Mul {}, &[x, factor])?;
    let y = cx.elementwise(ir::Round {}, &[y])?;
    let z = cx.cast(zero, ScalarType::F32)?;
    let z = if cx.ty(z).numel().is(1) {
        cx.reshape(z, vec![])?
    } else {
        z
    };
    let y = cx.elementwise(ir::Add {}, &[y, z])?;
    // The conversion saturates.
    cx.cast(y, code)
}

/// QLinearMatMul.
pub fn matmul(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let ins = c.all(cx)?;
    let [a, sa, za, b, sb, zb, sy, zy] =
        <[V; 8]>::try_from(ins).or_else(|v| cx.fail(format!("has {} operands", v.len())))?;
    let (a, b) = (
        centred(cx, a, Some(za), as_rows)?,
        centred(cx, b, Some(zb), as_columns)?,
    );
    let acc = product(cx, a, b)?;
    let mut scales = Vec::new();
    for (s, rows) in [(sa, true), (sb, false), (sy, false)] {
        let s = cx.cast(s, ScalarType::F32)?;
        scales.push(if rows {
            laid(cx, s, 2, as_rows)?
        } else {
            laid(cx, s, 2, as_columns)?
        });
    }
    let factor = cx.elementwise(ir::Mul {}, &[scales[0], scales[1]])?;
    let factor = cx.elementwise(ir::Div {}, &[factor, scales[2]])?;
    Ok(vec![requantize(cx, acc, factor, zy)?])
}

/// QLinearConv.
pub fn conv(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let ins: Vec<V> = (0..8).map(|i| c.input(cx, i)).collect::<R<_>>()?;
    let [x, sx, zx, w, sw, zw, sy, zy] =
        <[V; 8]>::try_from(ins).or_else(|v| cx.fail(format!("has {} operands", v.len())))?;
    let rank = cx.rank(x);
    let (x, w) = (
        centred(cx, x, Some(zx), as_channels)?,
        centred(cx, w, Some(zw), as_filters)?,
    );
    // Products and sums of 8-bit codes are exact in f64.
    let (x, w) = (cx.cast(x, ScalarType::F64)?, cx.cast(w, ScalarType::F64)?);
    let bias = c.opt(8).map(|b| cx.cast(b, ScalarType::F64)).transpose()?;
    let acc = convolve(cx, c, x, w, bias)?;
    let mut factor = cx.cast(sw, ScalarType::F32)?;
    factor = laid(cx, factor, rank, as_channels)?;
    for (s, op) in [(sx, rsqc_ir::Op::from(ir::Mul {})), (sy, ir::Div {}.into())] {
        let s = cx.cast(s, ScalarType::F32)?;
        let s = laid(cx, s, rank, as_channels)?;
        factor = cx.elementwise(op, &[factor, s])?;
    }
    Ok(vec![requantize(cx, acc, factor, zy)?])
}

/// ConvInteger: exact i32 sums.
pub fn conv_integer(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, w) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let (x, w) = (
        centred(cx, x, c.opt(2), as_channels)?,
        centred(cx, w, c.opt(3), as_filters)?,
    );
    let (x, w) = (cx.cast(x, ScalarType::F64)?, cx.cast(w, ScalarType::F64)?);
    let y = convolve(cx, c, x, w, None)?;
    Ok(vec![cx.cast(y, ScalarType::I32)?])
}
