//! Matrix products.

use rsqc_ir::ops::{elementwise as ir, linalg};
use rsqc_ir::types::{Dim, ScalarType};

use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::source::Bytes;
use crate::tensor::Tensor;

/// A product of two values of one type, extents made equal where they have to be.
pub fn product(cx: &mut Cx, a: V, b: V) -> R<V> {
    let (sa, sb) = (cx.shape(a).to_vec(), cx.shape(b).to_vec());
    if sa.is_empty() || sb.is_empty() {
        return cx.fail("a factor has rank 0, expected 1 or more");
    }
    if cx.elem(a) != cx.elem(b) {
        return cx.fail(format!("factors have types {} and {}", cx.elem(a), cx.elem(b)));
    }
    let (inner_a, inner_b) = (sa.len() - 1, sb.len().saturating_sub(2));
    cx.same_dim(&sa[inner_a], &sb[inner_b], "matmul inner extent")?;
    if sa[inner_a].is(1) && sa.len() > 1 && sb.len() > 1 && cx.elem(a) != ScalarType::Bool {
        // A column times a row has no sum.
        return cx.elementwise(ir::Mul {}, &[a, b]);
    }
    let (lead_a, lead_b) = (
        &sa[..sa.len().saturating_sub(2)],
        &sb[..sb.len().saturating_sub(2)],
    );
    let lead = cx.broadcast(&[lead_a, lead_b])?;
    // Extents that are only checked to be equal take one name.
    let rename = |s: &[Dim], n: usize| -> Vec<Dim> {
        let shift = lead.len() - n;
        s[..n]
            .iter()
            .enumerate()
            .map(|(i, d)| {
                if d.is(1) {
                    d.clone()
                } else {
                    lead[i + shift].clone()
                }
            })
            .collect()
    };
    let mut want_a = rename(&sa, lead_a.len());
    want_a.extend_from_slice(&sa[lead_a.len()..]);
    let mut want_b = rename(&sb, lead_b.len());
    want_b.extend_from_slice(&sb[lead_b.len()..]);
    want_b[inner_b] = sa[inner_a].clone();
    let (a, b) = (cx.coerce(a, &want_a)?, cx.coerce(b, &want_b)?);
    cx.emit(linalg::MatMul {}, &[a, b])
}

/// MatMul.
pub fn matmul(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (a, b) = (c.input(cx, 0)?, c.input(cx, 1)?);
    Ok(vec![product(cx, a, b)?])
}

/// A transposed matrix; constants of any size are transposed at once, so that weights stay constants.
fn transposed(cx: &mut Cx, v: V) -> R<V> {
    let Some(t) = cx.tensor(v).cloned() else {
        return cx.transpose(v, &[1, 0]);
    };
    let (rows, columns, size) = (t.shape[0], t.shape[1], t.ty.storage.size());
    let mut data = Vec::with_capacity(t.data.len());
    for c in 0..columns {
        for r in 0..rows {
            let at = (r * columns + c) * size;
            data.extend_from_slice(&t.data[at..at + size]);
        }
    }
    Ok(cx.push_tensor(Tensor {
        shape: vec![columns, rows],
        data: Bytes::from(data),
        ..t
    }))
}

/// Gemm: `alpha * A' B' + beta * C`.
pub fn gemm(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (mut a, mut b) = (c.input(cx, 0)?, c.input(cx, 1)?);
    for v in [a, b] {
        if cx.rank(v) != 2 {
            return cx.fail(format!("a factor has rank {}, expected 2", cx.rank(v)));
        }
    }
    c.ignore(&["broadcast"]); // opset 6: C broadcasts anyway
    let (alpha, beta) = (c.float(cx, "alpha", 1.0)?, c.float(cx, "beta", 1.0)?);
    if c.int(cx, "transA", 0)? != 0 {
        a = transposed(cx, a)?;
    }
    if c.int(cx, "transB", 0)? != 0 {
        b = transposed(cx, b)?;
    }
    let y = product(cx, a, b)?;
    let y = scaled(cx, y, alpha)?;
    let Some(bias) = c.opt(2) else { return Ok(vec![y]) };
    let bias = scaled(cx, bias, beta)?;
    let want = cx.shape(y).to_vec();
    let y = cx.elementwise(ir::Add {}, &[y, bias])?;
    if cx.shape(y) != want {
        return cx.fail("operand 2 does not broadcast to the product");
    }
    Ok(vec![y])
}

fn scaled(cx: &mut Cx, v: V, by: f32) -> R<V> {
    if by == 1.0 {
        return Ok(v);
    }
    if !cx.elem(v).is_float() {
        return cx.unsupported(format!("factor {by} of integers"));
    }
    let factor = cx.lit(cx.elem(v), by.into());
    cx.elementwise(ir::Mul {}, &[v, factor])
}

/// MatMulInteger: exact products of 8-bit codes, zero points taken off first.
pub fn matmul_integer(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let mut factors = Vec::new();
    for i in 0..2 {
        let x = c.input(cx, i)?;
        if cx.elem(x).size() != 1 || !cx.elem(x).is_int() {
            return cx.fail(format!("a factor has type {}, expected i8 or u8", cx.elem(x)));
        }
        let wide = cx.cast(x, ScalarType::I32)?;
        factors.push(match c.opt(2 + i) {
            Some(z) => {
                let z = cx.cast(z, ScalarType::I32)?;
                // The zero points of A lie along its rows, those of B along its columns, as broadcasting has it.
                let z = match (i, cx.shape(z)) {
                    (0, [n]) if !n.is(1) => {
                        let column = vec![n.clone(), Dim::one()];
                        cx.reshape(z, column)?
                    }
                    _ => z,
                };
                let want = cx.shape(wide).to_vec();
                let y = cx.elementwise(ir::Sub {}, &[wide, z])?;
                if cx.shape(y) != want {
                    cx.reshape(y, want)?
                } else {
                    y
                }
            }
            None => wide,
        });
    }
    Ok(vec![product(cx, factors[0], factors[1])?])
}
