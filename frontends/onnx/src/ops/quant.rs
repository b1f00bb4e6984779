//! Quantization operators.
//!
//! A QuantizeLinear followed by its DequantizeLinear becomes the IR's `quant.quantize` (rounding `div`) and `quant.dequantize`;
//! constant codes become constants of a quantized type. Where codes are used as plain integers, the operators' own
//! formulas are composed from elementwise operations.

use rsqc_ir::ops::elementwise as ir;
use rsqc_ir::ops::quant::{Dequantize, Quantize, Rounding};
use rsqc_ir::ops::reduce::{Reduce, Reduction};
use rsqc_ir::quant::{CodeMap, Granularity, QuantType};
use rsqc_ir::types::{Dim, Elem, ScalarType, TensorType};

use crate::call::{Call, axis};
use crate::cx::{Cx, R, V};
use crate::tensor::OnnxType;

/// The operands of a QuantizeLinear node.
#[derive(Clone)]
pub struct QuantSource {
    /// What is quantized.
    pub x: V,
    scale: V,
    zero: Option<V>,
    along: Along,
    code: OnnxType,
}

/// Which elements share a scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    Tensor,
    Axis(usize),
    Block(usize, i64),
}

impl Along {
    fn granularity(self) -> Option<Granularity> {
        Some(match self {
            Along::Tensor => Granularity::Tensor,
            Along::Axis(a) => Granularity::Axis(a as u32),
            Along::Block(a, size) => Granularity::Block {
                axis: a as u32,
                size: u32::try_from(size).ok()?,
            },
        })
    }
}

/// Checks scale and zero point against x and says how they are laid out.
fn along(cx: &mut Cx, c: &Call<'_>, x: V, scale: V, zero: Option<V>) -> R<Along> {
    let at = c.int(cx, "axis", 1)?;
    let block = c.int(cx, "block_size", 0)?;
    c.ignore(&["saturate", "precision"]);
    if !cx.elem(scale).is_float() {
        return cx.fail(format!("the scale has type {}, expected a float", cx.elem(scale)));
    }
    if let Some(values) = cx.constant(scale)
        && let Some(bad) = values.to_f64().into_iter().find(|s| !s.is_finite() || *s == 0.0)
    {
        return cx.fail(format!("a scale is {bad}, expected a finite number other than 0"));
    }
    let (dims, shape) = (cx.shape(x).to_vec(), cx.shape(scale).to_vec());
    if let Some(z) = zero
        && cx.shape(z) != shape
        && !(cx.ty(z).numel().is(1) && cx.ty(scale).numel().is(1))
    {
        return cx.fail(format!(
            "the zero point has rank {}, the scale rank {}, or their extents differ",
            cx.rank(z),
            shape.len()
        ));
    }
    if cx.ty(scale).numel().is(1) && block == 0 {
        return Ok(Along::Tensor);
    }
    match block {
        0 if shape.len() == 1 && dims.len() <= 1 => cx.fail("a tensor of rank 1 takes one scale"),
        0 if shape.len() == 1 => {
            let a = axis(cx, at, dims.len())?;
            cx.same_dim(&shape[0], &dims[a], "scales along the axis")?;
            Ok(Along::Axis(a))
        }
        0 => cx.fail(format!("the scale has rank {}, expected 0 or 1", shape.len())),
        b if b < 0 => cx.fail(format!("attribute 'block_size' is {b}, expected 0 or more")),
        b => {
            let a = axis(cx, at, dims.len())?;
            if shape.len() != dims.len() {
                return cx.fail(format!(
                    "blocked scales have rank {}, expected {}",
                    shape.len(),
                    dims.len()
                ));
            }
            for i in 0..dims.len() {
                let want = if i == a {
                    dims[i].ceil_div(&b.into())
                } else {
                    dims[i].clone()
                };
                cx.same_dim(&shape[i], &want, &format!("blocked scales along axis {i}"))?;
            }
            Ok(Along::Block(a, b))
        }
    }
}

/// Scales or zero points in a shape that broadcasts to x.
fn spread(cx: &mut Cx, s: V, dims: &[Dim], along: Along) -> R<V> {
    match along {
        Along::Tensor => cx.reshape(s, vec![]),
        Along::Axis(a) => {
            let mut shape = vec![Dim::one(); dims.len()];
            shape[a] = dims[a].clone();
            cx.reshape(s, shape)
        }
        Along::Block(a, b) => {
            let have = cx.shape(s).to_vec();
            let (mut split, mut joined) = (have.clone(), have.clone());
            split.insert(a + 1, Dim::one());
            let mut full = split.clone();
            full[a + 1] = b.into();
            joined[a] = joined[a].clone() * Dim::from(b);
            let s = cx.reshape(s, split)?;
            let s = cx.expand(s, full)?;
            let s = cx.reshape(s, joined.clone())?;
            joined[a] = dims[a].clone();
            cx.slice(s, vec![Dim::zero(); dims.len()], joined, vec![1; dims.len()])
        }
    }
}

/// QuantizeLinear.
pub fn quantize(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, scale, zero) = (c.input(cx, 0)?, c.input(cx, 1)?, c.opt(2));
    let along = along(cx, c, x, scale, zero)?;
    let wanted = c.int(cx, "output_dtype", 0)?;
    let code = match zero {
        Some(z) => match cx.tensor(z) {
            Some(t) => t.ty,
            None => OnnxType {
                storage: cx.elem(z),
                bits: (cx.elem(z).size() * 8) as u8,
            },
        },
        None if wanted != 0 => match OnnxType::from_code(i32::try_from(wanted).unwrap_or(-1)) {
            Ok(t) => t,
            Err(what) => return cx.unsupported(format!("quantization to {what}")),
        },
        None => OnnxType {
            storage: ScalarType::U8,
            bits: 8,
        },
    };
    if !code.storage.is_int() {
        return cx.fail(format!("codes of type {}, expected integers", code.storage));
    }
    if code.storage.size() > 2 {
        return cx.unsupported(format!("quantization to {}", code.storage));
    }
    Ok(vec![cx.push_quant(
        code.storage,
        QuantSource {
            x,
            scale,
            zero,
            along,
            code,
        },
    )])
}

/// The codes of a QuantizeLinear node as plain integers: `saturate(round(x / s) + z)`.
pub fn codes(cx: &mut Cx, q: &QuantSource) -> R<V> {
    let elem = cx.elem(q.scale);
    let dims = cx.shape(q.x).to_vec();
    let (x, s) = (cx.cast(q.x, elem)?, spread(cx, q.scale, &dims, q.along)?);
    let y = cx.elementwise(ir::Div {}, &[x, s])?;
    let mut y = cx.elementwise(ir::Round {}, &[y])?;
    if let Some(z) = q.zero {
        let z = spread(cx, z, &dims, q.along)?;
        let z = cx.cast(z, elem)?;
        y = cx.elementwise(ir::Add {}, &[y, z])?;
    }
    let (lo, hi) = code_range(q.code);
    let (lo, hi) = (cx.lit(elem, lo), cx.lit(elem, hi));
    let y = cx.elementwise(ir::Max {}, &[y, lo])?;
    let y = cx.elementwise(ir::Min {}, &[y, hi])?;
    let y = cx.cast(y, q.code.storage)?;
    // Scales that are not narrower than x broadcast to it; the shape is that of x in any case.
    cx.coerce(y, &dims)
}

fn code_range(code: OnnxType) -> (f64, f64) {
    let half = (1u32 << (code.bits - 1)) as f64;
    if code.storage.is_signed_int() {
        (-half, half - 1.0)
    } else {
        (0.0, 2.0 * half - 1.0)
    }
}

/// DequantizeLinear.
pub fn dequantize(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, scale, zero) = (c.input(cx, 0)?, c.input(cx, 1)?, c.opt(2));
    c.ignore(&["output_dtype"]);
    let along = along(cx, c, x, scale, zero)?;
    if !cx.elem(x).is_int() {
        return cx.fail(format!("codes of type {}, expected integers", cx.elem(x)));
    }
    if let Some(z) = zero
        && cx.elem(z) != cx.elem(x)
    {
        return cx.fail(format!(
            "the zero point has type {}, the codes {}",
            cx.elem(z),
            cx.elem(x)
        ));
    }
    if let Some(y) = through_quantize(cx, x, scale, zero, along)? {
        return Ok(vec![y]);
    }
    if let Some(y) = constant_codes(cx, x, scale, zero, along)? {
        return Ok(vec![y]);
    }
    let (elem, dims) = (cx.elem(scale), cx.shape(x).to_vec());
    let mut y = cx.cast(x, elem)?;
    if let Some(z) = zero {
        let z = spread(cx, z, &dims, along)?;
        let z = cx.cast(z, elem)?;
        y = cx.elementwise(ir::Sub {}, &[y, z])?;
    }
    let s = spread(cx, scale, &dims, along)?;
    Ok(vec![cx.elementwise(ir::Mul {}, &[y, s])?])
}

/// The quantized type, if the IR can express it.
fn quant_type(cx: &Cx, scale: V, code: OnnxType, along: Along, zero: bool) -> Option<QuantType> {
    let fits = cx.elem(scale) == ScalarType::F32 && code.storage.size() == 1;
    let granularity = along.granularity().filter(|_| fits)?;
    Some(QuantType {
        storage: code.storage,
        bits: code.bits,
        expressed: ScalarType::F32,
        map: CodeMap::Affine,
        granularity,
        zero,
        levels: 1,
    })
}

/// Parameters as IR values in the granularity's own shape.
fn parameter(cx: &mut Cx, v: V, along: Along) -> R<V> {
    match along {
        Along::Tensor => cx.reshape(v, vec![]),
        _ => Ok(v),
    }
}

/// `DequantizeLinear(QuantizeLinear(x))` with the same parameters.
fn through_quantize(cx: &mut Cx, x: V, scale: V, zero: Option<V>, along: Along) -> R<Option<V>> {
    let Some(q) = cx.quant_source(x) else {
        return Ok(None);
    };
    let same =
        |a: V, b: V| a == b || matches!((cx.constant(a), cx.constant(b)), (Some(a), Some(b)) if a == b);
    let same_zero = match (q.zero, zero) {
        (Some(a), Some(b)) => same(a, b),
        (None, None) => true,
        _ => false,
    };
    if !same(q.scale, scale) || !same_zero || q.along != along || cx.elem(q.x) != ScalarType::F32 {
        return Ok(None);
    }
    // ONNX saturates to the full range of the type, which is that of a type with a zero point.
    let Some(qtype) = quant_type(cx, scale, q.code, along, true) else {
        return Ok(None);
    };
    let scale = parameter(cx, scale, along)?;
    let zero = match q.zero {
        Some(z) => parameter(cx, z, along)?,
        None => {
            let shape = cx.shape(scale).to_vec();
            let z = cx.lit(q.code.storage, 0.0);
            cx.expand(z, shape)?
        }
    };
    let (x, s, z) = (cx.data(q.x)?, cx.data(scale)?, cx.data(zero)?);
    let codes = cx.node(
        Quantize {
            qtype: qtype.clone(),
            rounding: Rounding::Div,
        },
        &[Some(x), Some(s), Some(z)],
    )?;
    let y = cx.node(Dequantize { qtype }, &[Some(codes), Some(s), Some(z)])?;
    Ok(Some(cx.push_value(y)))
}

/// Constant codes: weights that were quantized before.
fn constant_codes(cx: &mut Cx, x: V, scale: V, zero: Option<V>, along: Along) -> R<Option<V>> {
    let Some(t) = cx.tensor(x).cloned() else {
        return Ok(None);
    };
    let nonzero = |cx: &Cx, z: V| {
        cx.constant(z)
            .is_none_or(|t| t.to_f64().iter().any(|v| *v != 0.0))
    };
    let lowest = code_range(t.ty).0 as i64 as u8;
    let full = t.ty.storage == ScalarType::U8 || t.data.contains(&lowest);
    let needs_zero = full || zero.is_some_and(|z| nonzero(cx, z));
    let Some(qtype) = quant_type(cx, scale, t.ty, along, needs_zero) else {
        return Ok(None);
    };
    let scale = parameter(cx, scale, along)?;
    let zero = match zero {
        Some(z) if needs_zero => Some(parameter(cx, z, along)?),
        None if needs_zero => {
            let shape = cx.shape(scale).to_vec();
            let z = cx.lit(t.ty.storage, 0.0);
            Some(cx.expand(z, shape)?)
        }
        _ => None,
    };
    let ty = TensorType {
        elem: Elem::from(qtype.clone()),
        shape: cx.shape(x).to_vec(),
    };
    let codes = cx.constant_of_type(t, ty);
    let mut ins = vec![Some(codes), Some(cx.data(scale)?)];
    if let Some(z) = zero {
        ins.push(Some(cx.data(z)?));
    }
    let y = cx.node(Dequantize { qtype }, &ins)?;
    Ok(Some(cx.push_value(y)))
}

/// DynamicQuantizeLinear: u8 codes of the whole tensor, with 0 in range.
pub fn dynamic(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    if cx.elem(x) != ScalarType::F32 {
        return cx.fail(format!("has type {}, expected f32", cx.elem(x)));
    }
    let axes: Vec<i64> = (0..cx.rank(x) as i64).collect();
    let extreme = |cx: &mut Cx, kind: Reduction| {
        let v = cx.emit(
            Reduce {
                kind,
                axes: axes.clone(),
                keep: false,
            },
            &[x],
        )?;
        let zero = cx.lit(ScalarType::F32, 0.0);
        match kind {
            Reduction::Max => cx.elementwise(ir::Max {}, &[v, zero]),
            _ => cx.elementwise(ir::Min {}, &[v, zero]),
        }
    };
    let (high, low) = (extreme(cx, Reduction::Max)?, extreme(cx, Reduction::Min)?);
    let (zero, one, top) = (
        cx.lit(ScalarType::F32, 0.0),
        cx.lit(ScalarType::F32, 1.0),
        cx.lit(ScalarType::F32, 255.0),
    );
    let span = cx.elementwise(ir::Sub {}, &[high, low])?;
    let scale = cx.elementwise(ir::Div {}, &[span, top])?;
    // A tensor of zeros has scale 1, as ONNX Runtime gives it.
    let empty = cx.elementwise(ir::Equal {}, &[scale, zero])?;
    let scale = cx.elementwise(ir::Where {}, &[empty, one, scale])?;
    let z = cx.elementwise(ir::Div {}, &[low, scale])?;
    let z = cx.elementwise(ir::Sub {}, &[zero, z])?;
    let z = clamp_round(cx, z)?;
    let y = cx.elementwise(ir::Div {}, &[x, scale])?;
    let y = cx.elementwise(ir::Round {}, &[y])?;
    let y = cx.elementwise(ir::Add {}, &[y, z])?;
    let y = clamp_round(cx, y)?;
    Ok(vec![
        cx.cast(y, ScalarType::U8)?,
        scale,
        cx.cast(z, ScalarType::U8)?,
    ])
}

/// `round(clamp(v, 0, 255))`.
fn clamp_round(cx: &mut Cx, v: V) -> R<V> {
    let (zero, top) = (cx.lit(ScalarType::F32, 0.0), cx.lit(ScalarType::F32, 255.0));
    let v = cx.elementwise(ir::Max {}, &[v, zero])?;
    let v = cx.elementwise(ir::Min {}, &[v, top])?;
    cx.elementwise(ir::Round {}, &[v])
}
