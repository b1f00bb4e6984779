//! Arithmetic. On integers whose elements are dim expressions the result is again such an expression.

use rsqc_ir::ops::{Op, elementwise as ir};
use rsqc_ir::types::{Dim, ScalarType};

use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::facts::{Fact, Scalar, has_index};

/// The fact of an elementwise result, if the operands have facts and `f` can express it.
pub fn fact_of(
    cx: &mut Cx,
    ins: &[V],
    f: &dyn Fn(&Cx, &[Dim], &[Scalar]) -> Option<Scalar>,
) -> R<Option<Fact>> {
    let Some(facts) = ins.iter().map(|&v| cx.fact(v)).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let shape = cx.broadcast(&facts.iter().map(|f| f.shape.as_slice()).collect::<Vec<_>>())?;
    let refs: Vec<&Fact> = facts.iter().collect();
    Ok(Fact::zip(&shape, &refs, &|args| f(cx, &shape, args)))
}

/// The two operands of a binary operator. Before opset 7 the second one is laid along an axis of the first.
pub fn operands(cx: &mut Cx, c: &Call<'_>) -> R<[V; 2]> {
    let (a, b) = (c.input(cx, 0)?, c.input(cx, 1)?);
    if c.opset >= 7 {
        return Ok([a, b]);
    }
    let wide = c.int(cx, "broadcast", 0)? != 0;
    let (ra, rb) = (cx.rank(a), cx.rank(b));
    let at = c.int(cx, "axis", ra as i64 - rb as i64)?;
    match usize::try_from(at).ok().and_then(|at| at.checked_add(rb)) {
        Some(end) if wide && end <= ra => {
            let mut shape = cx.shape(b).to_vec();
            shape.extend(vec![Dim::one(); ra - end]);
            Ok([a, cx.reshape(b, shape)?])
        }
        _ if wide => cx.fail(format!("attribute 'axis' is {at}, ranks are {ra} and {rb}")),
        _ => Ok([a, b]),
    }
}

/// A binary operation, on facts if possible.
fn binary(cx: &mut Cx, c: &Call<'_>, op: Op, f: fn(&Cx, &Dim, &Dim) -> Option<Dim>) -> R<Vec<V>> {
    let ins = operands(cx, c)?;
    Ok(vec![binary_values(cx, ins, op, f)?])
}

fn binary_values(cx: &mut Cx, ins: [V; 2], op: Op, f: fn(&Cx, &Dim, &Dim) -> Option<Dim>) -> R<V> {
    let elem = cx.elem(ins[0]);
    if elem != cx.elem(ins[1]) {
        return cx.fail(format!("operands have types {} and {}", elem, cx.elem(ins[1])));
    }
    let all_constant = ins.iter().all(|&v| cx.constant(v).is_some());
    if !all_constant && elem.is_int() {
        let apply =
            |cx: &Cx, _: &[Dim], a: &[Scalar]| Some(Scalar::Int(f(cx, a[0].as_int()?, a[1].as_int()?)?));
        if let Some(fact) = fact_of(cx, &ins, &apply)? {
            return Ok(cx.push_fact(elem, fact));
        }
    }
    cx.elementwise(op, &ins)
}

fn unary(cx: &mut Cx, c: &Call<'_>, op: impl Into<Op>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    Ok(vec![cx.elementwise(op, &[x])?])
}

macro_rules! unary_importers {
    ($($(#[$m:meta])* $name:ident $op:ident;)*) => {$(
        $(#[$m])*
        pub fn $name(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
            unary(cx, c, ir::$op {})
        }
    )*};
}
unary_importers! {
    /// Abs.
    abs Abs;
    /// Cos.
    cos Cos;
    /// Erf.
    erf Erf;
    /// Exp.
    exp Exp;
    /// Log.
    log Log;
    /// Reciprocal.
    reciprocal Reciprocal;
    /// Sign.
    sign Sign;
    /// Sin.
    sin Sin;
    /// Sqrt.
    sqrt Sqrt;
}

/// Rounding of integers changes nothing.
fn rounding(cx: &mut Cx, c: &Call<'_>, op: impl Into<Op>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    if cx.elem(x).is_float() {
        unary(cx, c, op)
    } else {
        cx.fail(format!("operand has type {}, expected a float", cx.elem(x)))
    }
}

/// Ceil.
pub fn ceil(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    rounding(cx, c, ir::Ceil {})
}

/// Floor.
pub fn floor(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    rounding(cx, c, ir::Floor {})
}

/// Round, ties to even.
pub fn round(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    rounding(cx, c, ir::Round {})
}

/// Neg.
pub fn neg(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let elem = cx.elem(x);
    if elem.is_int() && cx.constant(x).is_none() {
        let apply = |_: &Cx, _: &[Dim], a: &[Scalar]| Some(Scalar::Int(-a[0].as_int()?.clone()));
        if let Some(fact) = fact_of(cx, &[x], &apply)? {
            return Ok(vec![cx.push_fact(elem, fact)]);
        }
    }
    unary(cx, c, ir::Neg {})
}

/// Add.
pub fn add(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    binary(cx, c, ir::Add {}.into(), |_, a, b| Some(a.clone() + b.clone()))
}

/// Sub.
pub fn sub(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    binary(cx, c, ir::Sub {}.into(), |_, a, b| Some(a.clone() - b.clone()))
}

/// Mul.
pub fn mul(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    binary(cx, c, ir::Mul {}.into(), |_, a, b| Some(a.clone() * b.clone()))
}

/// Div: integers truncate, which is floor division where nothing is negative.
pub fn div(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let [a, b] = [c.input(cx, 0)?, c.input(cx, 1)?];
    if cx.elem(a).is_int() && cx.constant(b).is_some_and(|t| t.to_f64().contains(&0.0)) {
        return cx.fail("division of integers by zero");
    }
    binary(cx, c, ir::Div {}.into(), |cx, a, b| {
        if has_index(a) || has_index(b) {
            return None;
        }
        let symbols = &cx.module.symbols;
        match a.exact_div(b) {
            Some(q) => Some(q),
            None if a.bounds(symbols).0 >= 0 && b.bounds(symbols).0 > 0 => Some(a.floor_div(b)),
            None => None,
        }
    })
}

/// Mod, of either kind.
pub fn modulo(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let fmod = c.int(cx, "fmod", 0)? != 0;
    let [a, b] = [c.input(cx, 0)?, c.input(cx, 1)?];
    if cx.elem(a).is_float() && !fmod && c.opset < 28 {
        return cx.fail("floats need the attribute fmod = 1 before opset 28");
    }
    if cx.elem(a).is_int() && cx.constant(b).is_some_and(|t| t.to_f64().contains(&0.0)) {
        return cx.fail("remainder of integers by zero");
    }
    let op = if fmod {
        ir::Rem {}.into()
    } else {
        ir::FloorMod {}.into()
    };
    binary(cx, c, op, |cx, a, b| {
        let symbols = &cx.module.symbols;
        let plain = !has_index(a) && !has_index(b) && a.bounds(symbols).0 >= 0 && b.bounds(symbols).0 > 0;
        plain.then(|| a.modulo(b))
    })
}

/// Pow; the result has the type of the base.
pub fn pow(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let [x, y] = operands(cx, c)?;
    let elem = cx.elem(x);
    let exponent = cx.constant_scalar(y);
    // Squares and cubes are products: exact, and what kernels want.
    if let Some(n) = exponent.filter(|n| (*n == 2.0 || *n == 3.0) && cx.rank(y) <= cx.rank(x)) {
        let square = cx.elementwise(ir::Mul {}, &[x, x])?;
        return Ok(vec![if n == 2.0 {
            square
        } else {
            cx.elementwise(ir::Mul {}, &[square, x])?
        }]);
    }
    if elem.is_float() {
        let y = cx.cast(y, elem)?;
        return Ok(vec![cx.elementwise(ir::Pow {}, &[x, y])?]);
    }
    // Integer powers through f64, exact below 2^53.
    let (fx, fy) = (cx.cast(x, ScalarType::F64)?, cx.cast(y, ScalarType::F64)?);
    let p = cx.elementwise(ir::Pow {}, &[fx, fy])?;
    Ok(vec![cx.cast(p, elem)?])
}

fn pick(cx: &Cx, a: &Dim, b: &Dim, smaller: bool) -> Option<Dim> {
    let symbols = &cx.module.symbols;
    if has_index(a) || has_index(b) {
        return None;
    }
    Some(match (a.always_le(b, symbols), b.always_le(a, symbols)) {
        (true, _) => {
            if smaller {
                a.clone()
            } else {
                b.clone()
            }
        }
        (_, true) => {
            if smaller {
                b.clone()
            } else {
                a.clone()
            }
        }
        _ if smaller => Dim::smaller(a, b),
        _ => Dim::larger(a, b),
    })
}

/// An operator on any number of operands, as a chain.
fn variadic(cx: &mut Cx, c: &Call<'_>, op: Op, f: fn(&Cx, &Dim, &Dim) -> Option<Dim>) -> R<V> {
    let ins = c.all(cx)?;
    let mut total = ins[0];
    for &v in &ins[1..] {
        total = binary_values(cx, [total, v], op.clone(), f)?;
    }
    Ok(total)
}

/// Max.
pub fn max(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    Ok(vec![variadic(cx, c, ir::Max {}.into(), |cx, a, b| {
        pick(cx, a, b, false)
    })?])
}

/// Min.
pub fn min(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    Ok(vec![variadic(cx, c, ir::Min {}.into(), |cx, a, b| {
        pick(cx, a, b, true)
    })?])
}

/// Sum of operands.
pub fn sum(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    Ok(vec![variadic(cx, c, ir::Add {}.into(), |_, a, b| {
        Some(a.clone() + b.clone())
    })?])
}

/// Mean of operands.
pub fn mean(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let total = variadic(cx, c, ir::Add {}.into(), |_, _, _| None)?;
    let count = cx.lit(cx.elem(total), c.ins.len() as f64);
    Ok(vec![cx.elementwise(ir::Div {}, &[total, count])?])
}

/// Clip: bounds are operands since opset 11, attributes before.
pub fn clip(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let elem = cx.elem(x);
    let (lo, hi) = if c.opset >= 11 {
        (c.opt(1), c.opt(2))
    } else {
        let lo = if c.has("min") {
            Some(c.float(cx, "min", 0.0)?)
        } else {
            None
        };
        let hi = if c.has("max") {
            Some(c.float(cx, "max", 0.0)?)
        } else {
            None
        };
        (
            lo.map(|v| cx.lit(elem, v.into())),
            hi.map(|v| cx.lit(elem, v.into())),
        )
    };
    let mut y = x;
    for (bound, op) in [(lo, Op::from(ir::Max {})), (hi, ir::Min {}.into())] {
        let Some(bound) = bound else { continue };
        if cx.elem(bound) != elem {
            return cx.fail(format!("a bound has type {}, expected {elem}", cx.elem(bound)));
        }
        let scalar = cx.reshape(bound, vec![])?;
        y = cx.elementwise(op, &[y, scalar])?;
    }
    Ok(vec![y])
}

/// `(e^x + sign * e^-x) / 2`.
fn hyperbolic(cx: &mut Cx, c: &Call<'_>, op: Op) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let minus = cx.elementwise(ir::Neg {}, &[x])?;
    let (a, b) = (
        cx.elementwise(ir::Exp {}, &[x])?,
        cx.elementwise(ir::Exp {}, &[minus])?,
    );
    let (sum, half) = (cx.elementwise(op, &[a, b])?, cx.lit(cx.elem(x), 0.5));
    Ok(vec![cx.elementwise(ir::Mul {}, &[sum, half])?])
}

/// Cosh.
pub fn cosh(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    hyperbolic(cx, c, ir::Add {}.into())
}

/// Sinh.
pub fn sinh(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    hyperbolic(cx, c, ir::Sub {}.into())
}

/// Tan.
pub fn tan(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (s, d) = (
        cx.elementwise(ir::Sin {}, &[x])?,
        cx.elementwise(ir::Cos {}, &[x])?,
    );
    Ok(vec![cx.elementwise(ir::Div {}, &[s, d])?])
}
