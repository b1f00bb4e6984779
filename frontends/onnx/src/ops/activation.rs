//! Activation functions. Those that the IR does not have are composed, in the order of the operator's own formula.

use rsqc_ir::ops::reduce::ArgReduce;
use rsqc_ir::ops::{Op, elementwise as ir};
use rsqc_ir::types::{Dim, ScalarType};

use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::facts::{Fact, Scalar, index};

macro_rules! direct {
    ($($(#[$m:meta])* $name:ident $op:ident;)*) => {$(
        $(#[$m])*
        pub fn $name(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
            let x = c.input(cx, 0)?;
            Ok(vec![cx.elementwise(ir::$op {}, &[x])?])
        }
    )*};
}
direct! {
    /// Relu.
    relu Relu;
    /// Sigmoid.
    sigmoid Sigmoid;
    /// Softplus.
    softplus Softplus;
    /// Tanh.
    tanh Tanh;
}

/// A binary operation with a constant.
fn with(cx: &mut Cx, op: impl Into<Op>, x: V, value: f64) -> R<V> {
    let c = cx.lit(cx.elem(x), value);
    cx.elementwise(op, &[x, c])
}

/// Elu.
pub fn elu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, alpha) = (c.input(cx, 0)?, c.float(cx, "alpha", 1.0)?);
    Ok(vec![cx.elementwise(ir::Elu { alpha, gamma: 1.0 }, &[x])?])
}

/// Selu.
pub fn selu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let alpha = c.float(cx, "alpha", 1.673_263_2)?;
    let gamma = c.float(cx, "gamma", 1.050_701)?;
    Ok(vec![cx.elementwise(ir::Elu { alpha, gamma }, &[x])?])
}

/// Celu: `max(0, x) + min(0, alpha * (e^(x / alpha) - 1))`.
pub fn celu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, alpha) = (c.input(cx, 0)?, f64::from(c.float(cx, "alpha", 1.0)?));
    if alpha == 0.0 {
        return cx.fail("attribute 'alpha' is 0");
    }
    let scaled = with(cx, ir::Div {}, x, alpha)?;
    let e = cx.elementwise(ir::Exp {}, &[scaled])?;
    let e = with(cx, ir::Sub {}, e, 1.0)?;
    let e = with(cx, ir::Mul {}, e, alpha)?;
    let (low, high) = (with(cx, ir::Min {}, e, 0.0)?, with(cx, ir::Max {}, x, 0.0)?);
    Ok(vec![cx.elementwise(ir::Add {}, &[high, low])?])
}

/// Gelu.
pub fn gelu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let kind = match c.text(cx, "approximate", "none")?.as_str() {
        "none" => ir::GeluKind::Erf,
        "tanh" => ir::GeluKind::Tanh,
        other => {
            return cx.fail(format!(
                "attribute 'approximate' is '{}', expected 'none' or 'tanh'",
                crate::error::escape(other)
            ));
        }
    };
    Ok(vec![cx.elementwise(ir::Gelu { kind }, &[x])?])
}

fn hard(cx: &mut Cx, x: V, alpha: f64, beta: f64) -> R<V> {
    let y = with(cx, ir::Mul {}, x, alpha)?;
    let y = with(cx, ir::Add {}, y, beta)?;
    let y = with(cx, ir::Max {}, y, 0.0)?;
    with(cx, ir::Min {}, y, 1.0)
}

/// HardSigmoid: `max(0, min(1, alpha * x + beta))`.
pub fn hard_sigmoid(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (alpha, beta) = (c.float(cx, "alpha", 0.2)?, c.float(cx, "beta", 0.5)?);
    Ok(vec![hard(cx, x, alpha.into(), beta.into())?])
}

/// HardSwish: `x * hard_sigmoid(x)` with alpha = 1/6, beta = 1/2.
pub fn hard_swish(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let gate = hard(cx, x, 1.0 / 6.0, 0.5)?;
    Ok(vec![cx.elementwise(ir::Mul {}, &[x, gate])?])
}

/// Hardmax: 1 at the first largest element along an axis, 0 elsewhere.
pub fn hardmax(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (rank, elem, full) = (cx.rank(x), cx.elem(x), cx.shape(x).to_vec());
    let axis = c.axis(cx, "axis", if c.opset >= 13 { -1 } else { 1 }, rank)?;
    // Before opset 13 all axes from `axis` on count as one.
    let (x, axis) = if c.opset >= 13 {
        (x, axis)
    } else {
        let flat = vec![full[..axis].iter().product(), full[axis..].iter().product()];
        (cx.reshape(x, flat)?, 1)
    };
    let shape = cx.shape(x).to_vec();
    let best = cx.emit(
        ArgReduce {
            max: true,
            axis,
            keep: true,
            last: false,
        },
        &[x],
    )?;
    let mut line = vec![Dim::one(); shape.len()];
    line[axis] = shape[axis].clone();
    let iota = cx.push_fact(ScalarType::I64, Fact::of_index(line, Scalar::Int(index(axis))));
    let hit = cx.elementwise(ir::Equal {}, &[best, iota])?;
    let y = cx.cast(hit, elem)?;
    Ok(vec![cx.reshape(y, full)?])
}

/// LeakyRelu.
pub fn leaky_relu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, alpha) = (c.input(cx, 0)?, c.float(cx, "alpha", 0.01)?);
    Ok(vec![cx.elementwise(ir::LeakyRelu { alpha }, &[x])?])
}

/// Mish: `x * tanh(softplus(x))`.
pub fn mish(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let s = cx.elementwise(ir::Softplus {}, &[x])?;
    let t = cx.elementwise(ir::Tanh {}, &[s])?;
    Ok(vec![cx.elementwise(ir::Mul {}, &[x, t])?])
}

/// PRelu: the slope broadcasts to x; before opset 7 it lies along the channels.
pub fn prelu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, mut slope) = (c.input(cx, 0)?, c.input(cx, 1)?);
    if c.opset < 7 && cx.rank(x) > 1 && cx.rank(slope) == 1 {
        let mut shape = vec![Dim::one(); cx.rank(x) - 1];
        shape[0] = cx.shape(slope)[0].clone();
        slope = cx.reshape(slope, shape)?;
    }
    let zero = cx.lit(cx.elem(x), 0.0);
    let (scaled, negative) = (
        cx.elementwise(ir::Mul {}, &[x, slope])?,
        cx.elementwise(ir::Less {}, &[x, zero])?,
    );
    Ok(vec![cx.elementwise(ir::Where {}, &[negative, scaled, x])?])
}

/// Shrink: `x < -lambd ? x + bias : x > lambd ? x - bias : 0`.
pub fn shrink(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (lambd, bias) = (
        f64::from(c.float(cx, "lambd", 0.5)?),
        f64::from(c.float(cx, "bias", 0.0)?),
    );
    let (zero, limit) = (cx.lit(cx.elem(x), 0.0), cx.lit(cx.elem(x), lambd));
    let (up, down) = (with(cx, ir::Add {}, x, bias)?, with(cx, ir::Sub {}, x, bias)?);
    let (low, high) = (
        with(cx, ir::Less {}, x, -lambd)?,
        cx.elementwise(ir::Less {}, &[limit, x])?,
    );
    let rest = cx.elementwise(ir::Where {}, &[high, down, zero])?;
    Ok(vec![cx.elementwise(ir::Where {}, &[low, up, rest])?])
}

/// Softsign: `x / (1 + |x|)`.
pub fn softsign(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let a = cx.elementwise(ir::Abs {}, &[x])?;
    let d = with(cx, ir::Add {}, a, 1.0)?;
    Ok(vec![cx.elementwise(ir::Div {}, &[x, d])?])
}

/// Swish: `x * sigmoid(alpha * x)`.
pub fn swish(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, alpha) = (c.input(cx, 0)?, c.float(cx, "alpha", 1.0)?);
    if alpha == 1.0 {
        return Ok(vec![cx.elementwise(ir::Silu {}, &[x])?]);
    }
    let scaled = with(cx, ir::Mul {}, x, alpha.into())?;
    let gate = cx.elementwise(ir::Sigmoid {}, &[scaled])?;
    Ok(vec![cx.elementwise(ir::Mul {}, &[x, gate])?])
}

/// ThresholdedRelu: `x > alpha ? x : 0`.
pub fn thresholded_relu(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, alpha) = (c.input(cx, 0)?, c.float(cx, "alpha", 1.0)?);
    let (limit, zero) = (cx.lit(cx.elem(x), alpha.into()), cx.lit(cx.elem(x), 0.0));
    let above = cx.elementwise(ir::Less {}, &[limit, x])?;
    Ok(vec![cx.elementwise(ir::Where {}, &[above, x, zero])?])
}
