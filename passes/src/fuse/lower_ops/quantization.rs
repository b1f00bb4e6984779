//! Quantization ops. Dynamic parameters reduce over the elements that share a scale, which form the row; the maximum is
//! taken on the integer bit patterns of |x|, whose order is that of the magnitudes with infinity and NaN on top.

use super::LowerCx;
use super::reduce::rows;
use crate::fuse::builder::{RegionBuilder, broadcast_access};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::quant::{Quantize, Rounding, broadcast_scale_shape};
use rsqc_ir::quant::{CodeMap, Granularity, QuantType};
use rsqc_ir::region::Access;
use rsqc_ir::scalar::{BodyId, Pred, ReduceKind, ScalarConst};
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

fn supported(cx: &LowerCx<'_>, q: &QuantType) -> Result<(), Diag> {
    let grouped = matches!(
        q.granularity,
        Granularity::Group { .. } | Granularity::Block { .. }
    );
    if grouped || q.map != CodeMap::Affine || q.expressed != ScalarType::F32 {
        return Err(cx.unsupported(format!("codes of type {q} are not supported")));
    }
    Ok(())
}

/// Access to scales (or zero points) of a tensor of shape `x` at its elements.
fn scale_access(cx: &LowerCx<'_>, g: Granularity, x: &[Dim]) -> Result<Access, Diag> {
    let s = broadcast_scale_shape(g, x).map_err(|e| cx.bug(e))?;
    Ok(broadcast_access(&s, x))
}

/// Multiplier and scale: `m = min(Q / amax, MAX)`, `s = amax * (1/Q)`; 0 for amax = 0; `m = 0`, `s = NaN` if not finite.
pub(super) fn dynamic_params(cx: &mut LowerCx<'_>, q: &QuantType) -> Result<Vec<ValueId>, Diag> {
    supported(cx, q)?;
    let (v, t) = cx.input(0)?;
    let row: Vec<usize> = match q.granularity {
        Granularity::Tensor => (0..t.rank()).collect(),
        Granularity::Axis(a) => (0..t.rank()).filter(|i| *i != a as usize).collect(),
        _ => vec![t.rank() - 1],
    };
    let (mut b, access, place) = rows(&t, &row);
    let mut x = b.load(v, access, ScalarType::F32);
    if let Some((p, _)) = cx.optional(1) {
        let last = place[t.rank() - 1];
        let p = b.load(p, Access::linear([(last, Dim::one())]), ScalarType::F32);
        x = b.b.mul(x, p);
    }
    let (m, s) = params(&mut b, x, q.code_range().1);
    // Scale shapes have the kept axes in order, whether or not the reduced one stays with extent 1.
    let at = b.dense(0..t.rank() - row.len());
    b.store(m, at.clone(), cx.result(0));
    b.store(s, at, cx.result(1));
    cx.emit(b)
}

fn params(b: &mut RegionBuilder, x: BodyId, largest: i32) -> (BodyId, BodyId) {
    let int = |v: i64| ScalarConst::int(ScalarType::I32, v);
    let b = &mut b.b;
    let magnitude = b.abs(x);
    let bits = b.bitcast(magnitude, ScalarType::I32);
    let top = b.reduce(ReduceKind::Max, bits);
    // An empty row's maximum is the lowest integer.
    let none = b.constant(int(0));
    let top = b.max(top, none);
    let infinity = b.constant(int(0x7f80_0000));
    let bad = b.cmp(Pred::Ge, top, infinity);
    let amax = b.bitcast(top, ScalarType::F32);
    let (zero, limit) = (b.f32(0.0), b.f32(f32::MAX));
    let q = b.f32(largest as f32);
    let ratio = b.div(q, amax);
    let bounded = b.min(ratio, limit);
    let empty = b.cmp(Pred::Eq, amax, zero);
    let unusable = b.or(bad, empty);
    let m = b.select(unusable, zero, bounded);
    let inverse = b.f32(1.0 / largest as f32);
    let scaled = b.mul(amax, inverse);
    let nan = b.f32(f32::NAN);
    let s = b.select(bad, nan, scaled);
    (m, s)
}

/// `clamp(rne(x * m) + z)` (or `x / s`), clamped in float before the conversion; NaN gives the lowest code.
pub(super) fn quantize(cx: &mut LowerCx<'_>, o: &Quantize) -> Result<Vec<ValueId>, Diag> {
    let q = &o.qtype;
    supported(cx, q)?;
    let ((v, t), (p, pt)) = (cx.input(0)?, cx.input(1)?);
    let mut b = RegionBuilder::new(&t.shape, 0);
    let mut x = b.load(v, broadcast_access(&t.shape, &t.shape), t.storage());
    let at = scale_access(cx, q.granularity, &t.shape)?;
    if let Some((pre, pre_t)) = cx.optional(3) {
        let pre = b.load(pre, broadcast_access(&pre_t.shape, &t.shape), pre_t.storage());
        x = b.b.mul(x, pre);
    }
    let p = b.load(p, at.clone(), pt.storage());
    let scaled = match o.rounding {
        Rounding::Div => b.b.div(x, p),
        Rounding::Mul => b.b.mul(x, p),
    };
    let mut r = b.b.round_even(scaled);
    if let Some((z, zt)) = cx.optional(2) {
        let z = b.load(z, at, zt.storage());
        let z = b.b.cast(z, ScalarType::F32);
        r = b.b.add(r, z);
    }
    let (lo, hi) = q.code_range();
    let (lo, hi) = (b.b.f32(lo as f32), b.b.f32(hi as f32));
    let r = b.b.max(r, lo);
    let r = b.b.min(r, hi);
    let code = b.b.cast(r, q.storage);
    b.store_all(code, cx.result(0));
    cx.emit(b)
}

/// `(q - z) * s`.
pub(super) fn dequantize(cx: &mut LowerCx<'_>, q: &QuantType) -> Result<Vec<ValueId>, Diag> {
    supported(cx, q)?;
    let ((v, t), (s, st)) = (cx.input(0)?, cx.input(1)?);
    let mut b = RegionBuilder::new(&t.shape, 0);
    let code = b.load(v, broadcast_access(&t.shape, &t.shape), t.storage());
    let at = scale_access(cx, q.granularity, &t.shape)?;
    let zero = cx.optional(2);
    let difference = code_difference(&mut b, code, zero, &at);
    let s = b.load(s, at, st.storage());
    let y = b.b.mul(difference, s);
    b.store_all(y, cx.result(0));
    cx.emit(b)
}

/// `q - z` as f32, subtracted as integers (in i64 for 32-bit codes, so that nothing wraps).
fn code_difference(
    b: &mut RegionBuilder,
    code: BodyId,
    zero: Option<(ValueId, TensorType)>,
    at: &Access,
) -> BodyId {
    let Some((z, zt)) = zero else {
        return b.b.cast(code, ScalarType::F32);
    };
    let wide = if b.b.ty(code).size() < 4 {
        ScalarType::I32
    } else {
        ScalarType::I64
    };
    let z = b.load(z, at.clone(), zt.storage());
    let (c, z) = (b.b.cast(code, wide), b.b.cast(z, wide));
    let d = b.b.sub(c, z);
    b.b.cast(d, ScalarType::F32)
}
