//! Quantization ops. Scales and zero points are ordinary values; see [`crate::quant`] for their shapes.

use super::linalg::matmul_shape;
use super::nn::{self, EmptyRow};
use super::{InferCx, OpDef, arity, need};
use crate::eval::{EvalCx, Tensor, attention, attention8, matmul, quantization};
use crate::quant::{Granularity, QuantType};
use crate::types::{Dim, ScalarType, TensorType};
use crate::{attr_words, op_attrs, op_struct};

/// Shape of the scales of a tensor of shape `x` under a granularity.
pub fn scale_shape(g: Granularity, x: &[Dim]) -> Result<Vec<Dim>, String> {
    let axis = |a: u32| {
        x.get(a as usize)
            .ok_or_else(|| format!("axis {a} is outside rank {}", x.len()))
    };
    Ok(match g {
        Granularity::Tensor => vec![],
        Granularity::Axis(a) => vec![axis(a)?.clone()],
        Granularity::Token => {
            let mut s = x.to_vec();
            *s.last_mut().ok_or("a scalar has no tokens")? = Dim::one();
            s
        }
        Granularity::Group { axis: a, size } | Granularity::Block { axis: a, size } => {
            let n = axis(a)?.ceil_div(&Dim::from(i64::from(size)));
            let mut s = x.to_vec();
            s[a as usize] = n;
            s
        }
    })
}

/// The shape that scales take to broadcast against the tensor they belong to (granularities other than groups).
pub fn broadcast_scale_shape(g: Granularity, x: &[Dim]) -> Result<Vec<Dim>, String> {
    let flat = scale_shape(g, x)?;
    Ok(match g {
        Granularity::Axis(a) => {
            let mut s = vec![Dim::one(); x.len()];
            s[a as usize] = flat[0].clone();
            s
        }
        _ => flat,
    })
}

op_struct! {
    /// Quantize and dequantize in float: what an insertion pass places and lowering replaces. Operands: x; scale, once
    /// calibrated static; zero, if it has a zero point; optional pre_scale (last axis), which multiplies x first: the
    /// result stands for `x * pre_scale`. Never reaches an artifact.
    FakeQuant {
        /// Codes it stands for.
        qtype: QuantType,
        /// Whether parameters are computed from each run's values.
        dynamic: bool,
    }
}
impl OpDef for FakeQuant {
    op_attrs!("quant.fake", qtype, dynamic);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 4)?;
        let x = need(ins, 0)?;
        if x.elem.plain() != Some(self.qtype.expressed) {
            return Err(format!("{} cannot stand for {x}", self.qtype));
        }
        scale_shape(self.qtype.granularity, &x.shape)?;
        Ok(vec![x.clone()])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        quantization::fake(self, cx, ins)
    }
}

op_struct! {
    /// Symmetric dynamic parameters of x (f32): results are the multiplier m and the scale s, in the granularity's scale
    /// shape. With `Q` the largest code: amax = max |x| over the elements that share a scale, `m = min(Q / amax,
    /// f32::MAX)`, `s = amax * (1/Q)` where `1/Q` is rounded to f32 once. amax = 0 gives m = 0, s = 0. If any element is NaN or infinite then s =
    /// NaN and m = 0. `pre_scale` (optional operand 1, broadcast along the last axis) multiplies x first.
    DynamicParams {
        /// Codes they are for (symmetric).
        qtype: QuantType,
    }
}
impl OpDef for DynamicParams {
    op_attrs!("quant.params", qtype);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 1, 2)?;
        let x = need(ins, 0)?;
        if x.elem.plain() != Some(ScalarType::F32) || self.qtype.zero {
            return Err(format!(
                "dynamic parameters of {x} for {} are not defined",
                self.qtype
            ));
        }
        let t = TensorType::new(ScalarType::F32, scale_shape(self.qtype.granularity, &x.shape)?);
        Ok(vec![t.clone(), t])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        quantization::dynamic_params(self, cx, ins)
    }
}

/// How `quant.quantize` applies its parameter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rounding {
    /// `q = clamp(rne(x / s) + z)` (ONNX QuantizeLinear).
    Div,
    /// `q = clamp(rne(x * m) + z)`, clamped in float before the conversion: what rsqc inserts.
    Mul,
}
attr_words!(Rounding { Div = "div", Mul = "mul" });

op_struct! {
    /// Codes of x. Operands: x; scale (`div`) or multiplier (`mul`) in the granularity's scale shape; optional zero
    /// point (storage type, same shape); optional pre_scale (f32, last axis), which multiplies x first. NaN gives the lowest code.
    Quantize {
        /// Result element type.
        qtype: QuantType,
        /// How the parameter applies.
        rounding: Rounding,
    }
}
impl OpDef for Quantize {
    op_attrs!("quant.quantize", qtype, rounding);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 4)?;
        let (x, s) = (need(ins, 0)?, need(ins, 1)?);
        let want = scale_shape(self.qtype.granularity, &x.shape)?;
        if x.elem.plain() != Some(self.qtype.expressed) || s.shape != want {
            return Err(format!(
                "cannot quantize {x} to {} with parameters {s}",
                self.qtype
            ));
        }
        if self.qtype.zero != ins.get(2).copied().flatten().is_some() {
            return Err("a zero point must be given exactly if the type has one".into());
        }
        Ok(vec![x.with_elem(self.qtype.clone())])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        quantization::quantize(self, cx, ins)
    }
}

op_struct! {
    /// `(q - z) * s` in the expressed type. Operands: codes, scale in the granularity's scale shape, optional zero point.
    Dequantize {
        /// The operand's element type.
        qtype: QuantType,
    }
}
impl OpDef for Dequantize {
    op_attrs!("quant.dequantize", qtype);
    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 3)?;
        let (q, s) = (need(ins, 0)?, need(ins, 1)?);
        let t = q
            .elem
            .quant()
            .filter(|t| **t == self.qtype)
            .ok_or_else(|| format!("{q} does not hold {}", self.qtype))?;
        let want = scale_shape(t.granularity, &q.shape)?;
        if s.shape != want {
            return Err(format!("scales {s} do not fit {q}"));
        }
        Ok(vec![TensorType::new(t.expressed, q.shape.clone())])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        quantization::dequantize(self, ins)
    }
}

op_struct! {
    /// Exact integer matrix product of codes (NumPy shapes): i32 `sum_k a * b`, zero points and scales applied elsewhere.
    QMatMul {}
}
impl OpDef for QMatMul {
    op_attrs!("quant.matmul");
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (a, b) = (need(ins, 0)?, need(ins, 1)?);
        if a.storage().size() != 1 || b.storage().size() != 1 {
            return Err(format!("an integer product needs 8-bit codes, found {a} and {b}"));
        }
        Ok(vec![TensorType::new(ScalarType::I32, matmul_shape(cx, a, b)?)])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        quantization::qmatmul(need(ins, 0)?, need(ins, 1)?)
    }
}

op_struct! {
    /// Product of floats with signed 8-bit codes (NumPy shapes): f32 `sum_k a * b`, for weight-only quantization. Exact
    /// products, summed and rounded as any float product; the codes' scales multiply the result elsewhere.
    WeightMatMul {}
}
impl OpDef for WeightMatMul {
    op_attrs!("quant.weight_matmul");
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 2, 2)?;
        let (a, b) = (need(ins, 0)?, need(ins, 1)?);
        let shifted = b.elem.quant().is_some_and(|q| q.zero);
        if a.elem.plain() != Some(ScalarType::F32) || b.storage() != ScalarType::I8 || shifted {
            return Err(format!(
                "a weight-only product needs f32 and 8-bit codes without a zero point, found {a} and {b}"
            ));
        }
        Ok(vec![TensorType::new(ScalarType::F32, matmul_shape(cx, a, b)?)])
    }
    fn eval(&self, _: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        matmul::batched(need(ins, 0)?, need(ins, 1)?, ScalarType::F32)
    }
}

op_struct! {
    /// [`nn::Attention`] of f32 whose two products multiply 8-bit codes, defined to the last bit in
    /// [`crate::eval::attention8`]. Operands: q, k, v, optional mask; for static scales, those of q, k and v (f32 scalars).
    QAttention {
        /// Factor on the products.
        scale: f32,
        /// Causal offset (length of the past), if causal.
        causal: Option<Dim>,
        /// Rows without a key.
        empty_row: EmptyRow,
    }
}
impl OpDef for QAttention {
    op_attrs!("quant.attention", scale, causal, empty_row);
    fn infer(&self, cx: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        arity(ins, 3, 7)?;
        let out = nn::attention_type(cx, ins)?;
        for i in 0..3 {
            let t = need(ins, i)?;
            if t.elem.plain() != Some(ScalarType::F32) {
                return Err(format!("attention over codes makes them of f32, found {t}"));
            }
        }
        let inner = &need(ins, 0)?.shape[3];
        let longest = attention8::MAX_INNER as i64;
        if inner.as_const().is_none_or(|d| d > longest) {
            return Err(format!(
                "attention over codes needs a constant head size up to {longest}, found {inner}"
            ));
        }
        if ins.len() > 4 {
            let scalar = TensorType::new(ScalarType::F32, vec![]);
            if let Some(i) = (4..7).find(|i| ins.get(*i).copied().flatten() != Some(&scalar)) {
                return Err(format!("operand {i} is no f32 scale"));
            }
        }
        Ok(vec![out])
    }
    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let op = self.in_float();
        attention::attention(&op, cx, ins, Some(self.given(ins)?))
    }
}

impl QAttention {
    /// The same attention over floats.
    pub fn in_float(&self) -> nn::Attention {
        nn::Attention {
            scale: self.scale,
            causal: self.causal.clone(),
            empty_row: self.empty_row,
        }
    }

    /// Static scales.
    fn given(&self, ins: &[Option<&Tensor>]) -> Result<Option<[f32; 3]>, String> {
        if ins.len() <= 4 {
            return Ok(None);
        }
        let mut out = [0.0; 3];
        for (i, s) in out.iter_mut().enumerate() {
            let t = need(ins, 4 + i)?;
            *s = *t.to_f64().first().ok_or("a scale is missing")? as f32;
        }
        Ok(Some(out))
    }
}

impl From<nn::Attention> for QAttention {
    fn from(o: nn::Attention) -> Self {
        QAttention {
            scale: o.scale,
            causal: o.causal,
            empty_row: o.empty_row,
        }
    }
}
