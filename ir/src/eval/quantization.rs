//! Quantization ops. `mul` rounding works in the expressed type: `q = clamp(rne(x * m) + z)`, clamped as float.

use super::matmul::batched;
use super::tensor::{Data, Tensor};
use super::{EvalCx, lanes};
use crate::numeric;
use crate::ops::quant::{Dequantize, DynamicParams, FakeQuant, Quantize, Rounding};
use crate::quant::{CodeMap, Granularity, QuantType};
use crate::types::ScalarType;

type R = Result<Vec<Tensor>, String>;

/// Which scale belongs to an element.
struct Scales {
    shape: Vec<usize>,
    /// Elements behind the axis, extent of the axis, elements that share a scale along it, scales along it, and
    /// whether axes before it (and behind it) have scales of their own.
    inner: usize,
    extent: usize,
    size: usize,
    groups: usize,
    own: bool,
}

impl Scales {
    fn new(g: Granularity, x: &[usize]) -> Result<Self, String> {
        let at = |a: usize| {
            x.get(a)
                .copied()
                .ok_or_else(|| format!("axis {a} is outside rank {}", x.len()))
        };
        let inner = |a: usize| x[a + 1..].iter().product::<usize>();
        Ok(match g {
            Granularity::Tensor => Scales {
                shape: vec![],
                inner: 1,
                extent: 1,
                size: 1,
                groups: 1,
                own: false,
            },
            Granularity::Axis(a) => {
                let n = at(a as usize)?;
                Scales {
                    shape: vec![n],
                    inner: inner(a as usize),
                    extent: n,
                    size: 1,
                    groups: n,
                    own: false,
                }
            }
            Granularity::Token => {
                let a = x.len().checked_sub(1).ok_or("a scalar has no tokens")?;
                let mut shape = x.to_vec();
                shape[a] = 1;
                Scales {
                    shape,
                    inner: 1,
                    extent: x[a],
                    size: x[a].max(1),
                    groups: 1,
                    own: true,
                }
            }
            Granularity::Group { axis, size } | Granularity::Block { axis, size } => {
                let (a, size) = (axis as usize, size.max(1) as usize);
                let extent = at(a)?;
                let mut shape = x.to_vec();
                shape[a] = extent.div_ceil(size);
                Scales {
                    inner: inner(a),
                    extent,
                    size,
                    groups: shape[a],
                    shape,
                    own: true,
                }
            }
        })
    }

    fn of(&self, i: usize) -> usize {
        let along = i / self.inner % self.extent.max(1) / self.size;
        if self.own {
            let outer = i / (self.inner * self.extent.max(1));
            (outer * self.groups + along) * self.inner + i % self.inner
        } else {
            along
        }
    }

    fn check(&self, t: &Tensor, what: &str) -> Result<(), String> {
        if t.shape == self.shape {
            return Ok(());
        }
        Err(format!(
            "{what} of shape {:?}, expected {:?}",
            t.shape, self.shape
        ))
    }
}

/// `v` rounded to the float type `t`.
fn to_type(t: ScalarType) -> fn(f64) -> f64 {
    match t {
        ScalarType::F16 => |v| numeric::f16_from_f64(v).to_f64(),
        ScalarType::BF16 => |v| numeric::bf16_from_f64(v).to_f64(),
        ScalarType::F64 => |v| v,
        _ => |v| f64::from(v as f32),
    }
}

/// x times the optional pre-scale of the last axis, rounded to x's type.
fn scaled(x: &Tensor, pre: Option<&Tensor>) -> Result<Vec<f64>, String> {
    let mut v = x.to_f64();
    let Some(pre) = pre else { return Ok(v) };
    let (p, round) = (pre.to_f64(), to_type(x.elem()));
    let last = *x.shape.last().ok_or("a scalar has no axis for a pre-scale")?;
    if p.len() != last && p.len() != 1 {
        return Err(format!("a pre-scale of shape {:?} for {:?}", pre.shape, x.shape));
    }
    for (i, v) in v.iter_mut().enumerate() {
        *v = round(*v * p[if p.len() == 1 { 0 } else { i % last }]);
    }
    Ok(v)
}

fn get<'a>(ins: &[Option<&'a Tensor>], i: usize) -> Option<&'a Tensor> {
    ins.get(i).copied().flatten()
}

/// Codes of `x` (already in the expressed type, as f64) with parameters `p` and zero points `z`.
fn codes(x: &[f64], t: &QuantType, s: &Scales, p: &[f64], z: Option<&[i64]>, how: Rounding) -> Vec<i64> {
    let round = to_type(t.expressed);
    let (lo, hi) = t.code_range();
    let (lo, hi) = (f64::from(lo), f64::from(hi));
    x.iter()
        .enumerate()
        .map(|(i, x)| {
            let p = p[s.of(i)];
            let v = round(match how {
                Rounding::Div => x / p,
                Rounding::Mul => x * p,
            });
            if t.map == CodeMap::Nf4 {
                return i64::from(numeric::nf4_encode(v as f32));
            }
            let v = v.round_ties_even() + z.map_or(0.0, |z| z[s.of(i)] as f64);
            // Max as a select: NaN gives the lowest code.
            let v = if v > lo { v } else { lo };
            (if v < hi { v } else { hi }) as i64
        })
        .collect()
}

/// `(q - z) * s`, in the expressed type.
fn reals(q: &[i64], t: &QuantType, s: &Scales, p: &[f64], z: Option<&[i64]>) -> Data {
    let round = to_type(t.expressed);
    let out = q.iter().enumerate().map(|(i, q)| {
        let v = match t.map {
            CodeMap::Nf4 => f64::from(numeric::nf4_decode(*q as u8)),
            CodeMap::Affine => round(q.wrapping_sub(z.map_or(0, |z| z[s.of(i)])) as f64),
        };
        v * p[s.of(i)]
    });
    lanes::from_f64(out, t.expressed)
}

/// Multipliers and scales of symmetric dynamic quantization; see [`DynamicParams`].
fn params(x: &[f64], t: &QuantType, s: &Scales) -> (Vec<f32>, Vec<f32>) {
    let n: usize = s.shape.iter().product();
    let (mut amax, mut wild) = (vec![0f64; n], vec![false; n]);
    for (i, v) in x.iter().enumerate() {
        let g = s.of(i);
        amax[g] = amax[g].max(v.abs());
        wild[g] |= !v.is_finite();
    }
    let top = t.code_range().1 as f32;
    let one = |(a, wild): (&f64, &bool)| match (*a as f32, *wild) {
        (_, true) => (0.0, f32::NAN),
        (0.0, _) => (0.0, 0.0),
        (a, _) => ((top / a).min(f32::MAX), a * (1.0 / top)),
    };
    amax.iter().zip(&wild).map(one).unzip()
}

/// Quantize and dequantize in float: what the integer graph will compute. Static parameters are used as the inserted
/// quantize uses them: the multiplier is 1/s rounded to f32.
pub fn fake(op: &FakeQuant, _cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> R {
    let x = get(ins, 0).ok_or("operand 0 is missing")?;
    let t = &op.qtype;
    let s = Scales::new(t.granularity, &x.shape)?;
    let v = scaled(x, get(ins, 3))?;
    let (m, scale, zero): (Vec<f64>, Vec<f64>, Option<Vec<i64>>) = if op.dynamic {
        if t.zero {
            return Err("dynamic parameters with a zero point are not defined".into());
        }
        let (m, scale) = params(&v, t, &s);
        let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
        (wide(m), wide(scale), None)
    } else {
        let scale = get(ins, 1).ok_or("a static fake quantization has no scale yet")?;
        s.check(scale, "scales")?;
        let zero = get(ins, 2);
        if zero.is_some() != t.zero {
            return Err("a zero point must be given exactly if the type has one".into());
        }
        if let Some(z) = zero {
            s.check(z, "zero points")?;
        }
        let p = scale.to_f64();
        let invert = |s: &f64| {
            if *s == 0.0 {
                0.0
            } else {
                f64::from(1.0 / *s as f32)
            }
        };
        (
            p.iter().map(invert).collect(),
            p,
            zero.map(|z| lanes::to_i64(&z.data)),
        )
    };
    let q = codes(&v, t, &s, &m, zero.as_deref(), Rounding::Mul);
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data: reals(&q, t, &s, &scale, zero.as_deref()),
    }])
}

/// See [`DynamicParams`].
pub fn dynamic_params(op: &DynamicParams, _cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> R {
    let x = get(ins, 0).ok_or("operand 0 is missing")?;
    let s = Scales::new(op.qtype.granularity, &x.shape)?;
    let (m, scale) = params(&scaled(x, get(ins, 1))?, &op.qtype, &s);
    Ok(vec![Tensor::new(s.shape.clone(), m), Tensor::new(s.shape, scale)])
}

/// See [`Quantize`].
pub fn quantize(op: &Quantize, _cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> R {
    let (x, p) = (
        get(ins, 0).ok_or("operand 0 is missing")?,
        get(ins, 1).ok_or("operand 1 is missing")?,
    );
    let s = Scales::new(op.qtype.granularity, &x.shape)?;
    s.check(p, "parameters")?;
    let zero = get(ins, 2);
    if let Some(z) = zero {
        s.check(z, "zero points")?;
    }
    let zero = zero.map(|z| lanes::to_i64(&z.data));
    let q = codes(
        &scaled(x, get(ins, 3))?,
        &op.qtype,
        &s,
        &p.to_f64(),
        zero.as_deref(),
        op.rounding,
    );
    Ok(vec![Tensor {
        shape: x.shape.clone(),
        data: lanes::from_i64(q.into_iter(), op.qtype.storage),
    }])
}

/// See [`Dequantize`].
pub fn dequantize(op: &Dequantize, ins: &[Option<&Tensor>]) -> R {
    let (q, p) = (
        get(ins, 0).ok_or("operand 0 is missing")?,
        get(ins, 1).ok_or("operand 1 is missing")?,
    );
    let s = Scales::new(op.qtype.granularity, &q.shape)?;
    s.check(p, "scales")?;
    let zero = get(ins, 2);
    if let Some(z) = zero {
        s.check(z, "zero points")?;
    }
    let zero = zero.map(|z| lanes::to_i64(&z.data));
    let codes = lanes::to_i64(&q.data);
    Ok(vec![Tensor {
        shape: q.shape.clone(),
        data: reals(&codes, &op.qtype, &s, &p.to_f64(), zero.as_deref()),
    }])
}

/// Exact i32 product of 8-bit codes.
pub fn qmatmul(a: &Tensor, b: &Tensor) -> R {
    batched(a, b, ScalarType::I32)
}
