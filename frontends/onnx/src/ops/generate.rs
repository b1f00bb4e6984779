//! Constants, ranges, and tensors made of nothing but a shape.

use onnx_protobuf::attribute_proto::AttributeType;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise as ir;
use rsqc_ir::types::{Dim, ScalarType, TensorType};

use crate::call::{Call, axis, const_ints, known_ints};
use crate::cx::{Cx, R, V};
use crate::facts::{Cmp, Fact, Prop, Scalar, index};
use crate::tensor::{self, OnnxType};

/// Constant.
pub fn constant(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    const KINDS: [&str; 8] = [
        "value",
        "value_float",
        "value_floats",
        "value_int",
        "value_ints",
        "value_string",
        "value_strings",
        "sparse_value",
    ];
    let given: Vec<&'static str> = KINDS.into_iter().filter(|k| c.has(k)).collect();
    let [kind] = given.as_slice() else {
        return cx.fail(format!("has {} values, expected exactly one", given.len()));
    };
    let Some(a) = c.raw(kind) else {
        return cx.fail("has no value");
    };
    let floats = |v: &[f32], shape: Vec<usize>| Tensor::new(shape, v.to_vec());
    let t = match (*kind, a.type_.enum_value()) {
        ("value", Ok(AttributeType::TENSOR)) => {
            let Some(proto) = a.t.as_ref() else {
                return cx.fail("attribute 'value' has no tensor");
            };
            let decoded = tensor::decode(proto.clone(), None, cx.files.as_mut())?;
            return Ok(vec![cx.push_tensor(decoded)]);
        }
        ("value_float", Ok(AttributeType::FLOAT)) => floats(&[a.f], vec![]),
        ("value_floats", Ok(AttributeType::FLOATS)) => floats(&a.floats, vec![a.floats.len()]),
        ("value_int", Ok(AttributeType::INT)) => Tensor::new(vec![], vec![a.i]),
        ("value_ints", Ok(AttributeType::INTS)) => Tensor::new(vec![a.ints.len()], a.ints.clone()),
        ("value_string" | "value_strings" | "sparse_value", Ok(_)) => {
            return cx.unsupported(format!("constant of kind '{kind}'"));
        }
        _ => return cx.fail(format!("attribute '{kind}' has the wrong type")),
    };
    Ok(vec![cx.push_eval(t)])
}

/// ConstantOfShape.
pub fn constant_of_shape(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let target = c.input(cx, 0)?;
    let shape = known_ints(cx, target, "a target shape")?;
    let value = match c.tensor(cx, "value")? {
        Some(proto) => {
            let t = tensor::decode(proto.clone(), None, cx.files.as_mut())?;
            if t.len() != 1 {
                return cx.fail(format!("attribute 'value' has {} elements, expected 1", t.len()));
            }
            let v = cx.push_tensor(t);
            cx.reshape(v, vec![])?
        }
        None => cx.lit(ScalarType::F32, 0.0),
    };
    if shape.iter().any(|d| d.as_const().is_some_and(|v| v < 0)) {
        return cx.fail("the target shape has a negative extent");
    }
    let elem = cx.elem(value);
    cx.check_size(&TensorType::new(elem, shape.clone()))?;
    if let Some(s) = cx.fact(value).and_then(|f| f.scalar()) {
        return Ok(vec![cx.push_fact(elem, Fact::of_index(shape, s))]);
    }
    Ok(vec![cx.expand(value, shape)?])
}

/// Range: integers from expressions, floats from constants.
pub fn range(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let ins = c.all(cx)?;
    let elem = cx.elem(ins[0]);
    if ins.iter().any(|&v| cx.elem(v) != elem) {
        return cx.fail("start, limit and delta have different types");
    }
    if let Some(k) = ins
        .iter()
        .map(|&v| cx.constant_scalar(v))
        .collect::<Option<Vec<f64>>>()
    {
        return Ok(vec![constant_range(cx, elem, k[0], k[1], k[2])?]);
    }
    let known = ins
        .iter()
        .map(|&v| cx.fact(v)?.scalar()?.as_int().cloned())
        .collect::<Option<Vec<Dim>>>();
    let Some([start, limit, delta]) = known.and_then(|k| <[Dim; 3]>::try_from(k).ok()) else {
        return cx.unsupported("range with bounds that depend on data");
    };
    let Some(step) = delta.as_const().filter(|d| *d != 0) else {
        return cx.unsupported("range with a symbolic or zero step");
    };
    let (from, to) = if step > 0 {
        (&start, &limit)
    } else {
        (&limit, &start)
    };
    let span = to.clone() - from.clone();
    let mut length = span.ceil_div(&Dim::from(step.saturating_abs()));
    if length.bounds(&cx.module.symbols).0 < 0 {
        length = Dim::larger(&length, &Dim::zero());
    }
    let value = start + delta * index(0);
    Ok(vec![cx.push_fact(
        elem,
        Fact::of_index(vec![length], Scalar::Int(value)),
    )])
}

fn constant_range(cx: &mut Cx, elem: ScalarType, start: f64, limit: f64, delta: f64) -> R<V> {
    if delta == 0.0 {
        return cx.fail("the step of a range is 0");
    }
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !count.is_finite() || count > (1u64 << 28) as f64 {
        return cx.fail(format!(
            "a range has {count} elements, over the limit of {}",
            1u64 << 28
        ));
    }
    let n = count as i64;
    if elem.is_int() {
        let value = Dim::from(start as i64) + Dim::from(delta as i64) * index(0);
        let fact = Fact::of_index(vec![n.into()], Scalar::Int(value));
        let v = cx.push_fact(ScalarType::I64, fact.clone());
        return if matches!(elem, ScalarType::I64 | ScalarType::I32) {
            Ok(cx.push_fact(elem, fact))
        } else {
            cx.cast(v, elem)
        };
    }
    let values: Vec<f64> = match elem {
        // Each element is start + i * delta in the type of the result.
        ScalarType::F64 => (0..n).map(|i| start + i as f64 * delta).collect(),
        _ => (0..n)
            .map(|i| f64::from(start as f32 + i as f32 * delta as f32))
            .collect(),
    };
    let v = cx.push_eval(Tensor::new(vec![values.len()], values));
    cx.cast(v, elem)
}

/// EyeLike: ones on a diagonal.
pub fn eye_like(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let k = c.int(cx, "k", 0)?;
    let code = c.int(cx, "dtype", OnnxType::code(cx.elem(x)).into())?;
    let to = match OnnxType::from_code(i32::try_from(code).unwrap_or(-1)) {
        Ok(t) if t.bits != 4 => t.storage,
        _ => return cx.unsupported(format!("element type {code}")),
    };
    let shape = cx.shape(x).to_vec();
    if shape.len() != 2 {
        return cx.fail(format!("has rank {}, expected 2", shape.len()));
    }
    let on = Prop::cmp(
        Cmp::Eq,
        &(index(0) + Dim::from(k)),
        &index(1),
        &shape,
        &cx.module.symbols,
    );
    let v = cx.push_fact(ScalarType::Bool, Fact::of_index(shape, Scalar::Bool(on)));
    Ok(vec![cx.cast(v, to)?])
}

/// OneHot: compares indices with a range.
pub fn one_hot(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (i, d, values) = (c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?);
    let depth = match const_ints_of_any(cx, d)? {
        Some(n) if n >= 0 => n,
        other => return cx.fail(format!("the depth is {other:?}, expected 0 or more")),
    };
    let rank = cx.rank(i) + 1;
    let at = axis(cx, c.int(cx, "axis", -1)?, rank)?;
    let mut shape = cx.shape(i).to_vec();
    shape.insert(at, Dim::one());
    let wide = cx.cast(i, ScalarType::I64)?;
    let wide = cx.reshape(wide, shape.clone())?;
    // Indices lie in [-depth, depth - 1]; what lies outside is off everywhere.
    let (zero, extent) = (
        cx.lit(ScalarType::I64, 0.0),
        cx.push_eval(Tensor::new(vec![], vec![depth])),
    );
    let moved = cx.elementwise(ir::Add {}, &[wide, extent])?;
    let negative = cx.elementwise(ir::Less {}, &[wide, zero])?;
    let wide = cx.elementwise(ir::Where {}, &[negative, moved, wide])?;
    let mut line = vec![Dim::one(); rank];
    line[at] = depth.into();
    let iota = cx.push_fact(ScalarType::I64, Fact::of_index(line, Scalar::Int(index(at))));
    let hit = cx.elementwise(ir::Equal {}, &[wide, iota])?;
    let part = |cx: &mut Cx, n: i64| {
        let v = cx.slice(values, vec![n.into()], vec![Dim::one()], vec![1])?;
        cx.reshape(v, vec![])
    };
    if cx.shape(values).len() != 1 || !cx.shape(values)[0].is(2) {
        return cx.fail(format!(
            "values have rank {}, expected two elements",
            cx.rank(values)
        ));
    }
    let (off, on) = (part(cx, 0)?, part(cx, 1)?);
    Ok(vec![cx.elementwise(ir::Where {}, &[hit, on, off])?])
}

/// One constant integer, which may be stored as any number type.
fn const_ints_of_any(cx: &Cx, v: V) -> R<Option<i64>> {
    if cx.elem(v) == ScalarType::I64 {
        return Ok(const_ints(cx, v, "the depth")?.first().copied());
    }
    match cx.constant_scalar(v) {
        Some(x) => Ok(Some(x as i64)),
        None => cx.unsupported("a depth that is not constant"),
    }
}
