//! Comparisons, logic, selection. On index and dim expressions they become propositions, decided where bounds allow.

use rsqc_ir::ops::{Op, elementwise as ir};
use rsqc_ir::types::{Dim, ScalarType};

use super::elementwise::{fact_of, operands};
use crate::call::Call;
use crate::cx::{Cx, R, V};
use crate::facts::{Cmp, Prop, Scalar};

/// A comparison: `a cmp b`, or with operands swapped.
fn compare(cx: &mut Cx, c: &Call<'_>, cmp: Cmp, swap: bool) -> R<Vec<V>> {
    let [mut a, mut b] = operands(cx, c)?;
    if swap {
        std::mem::swap(&mut a, &mut b);
    }
    let elem = cx.elem(a);
    if elem != cx.elem(b) {
        return cx.fail(format!("operands have types {} and {}", cx.elem(a), cx.elem(b)));
    }
    let all_constant = [a, b].iter().all(|&v| cx.constant(v).is_some());
    if !all_constant && elem.is_int() {
        let apply = |cx: &Cx, shape: &[Dim], s: &[Scalar]| {
            Some(Scalar::Bool(Prop::cmp(
                cmp,
                s[0].as_int()?,
                s[1].as_int()?,
                shape,
                &cx.module.symbols,
            )))
        };
        if let Some(fact) = fact_of(cx, &[a, b], &apply)? {
            return Ok(vec![cx.push_fact(ScalarType::Bool, fact)]);
        }
    }
    let op: Op = match cmp {
        Cmp::Eq => ir::Equal {}.into(),
        Cmp::Lt => ir::Less {}.into(),
        Cmp::Le => ir::LessEqual {}.into(),
    };
    if elem == ScalarType::Bool {
        // Only equality is defined on bools: it is the opposite of exclusive or.
        let x = cx.elementwise(ir::Xor {}, &[a, b])?;
        return Ok(vec![cx.elementwise(ir::Not {}, &[x])?]);
    }
    Ok(vec![cx.elementwise(op, &[a, b])?])
}

/// Equal.
pub fn equal(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    compare(cx, c, Cmp::Eq, false)
}

/// Less.
pub fn less(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    compare(cx, c, Cmp::Lt, false)
}

/// LessOrEqual.
pub fn less_or_equal(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    compare(cx, c, Cmp::Le, false)
}

/// Greater.
pub fn greater(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    compare(cx, c, Cmp::Lt, true)
}

/// GreaterOrEqual.
pub fn greater_or_equal(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    compare(cx, c, Cmp::Le, true)
}

/// What an operand that is the same truth value everywhere does to a logical operation.
#[derive(Clone, Copy)]
enum Absorb {
    /// `v op x = x` for this v, and `v op x = v` for the other.
    Neutral(bool),
    /// Nothing special.
    None,
}

fn logical(
    cx: &mut Cx,
    c: &Call<'_>,
    op: Op,
    absorb: Absorb,
    f: fn(Prop, Prop) -> Option<Prop>,
) -> R<Vec<V>> {
    let ins = operands(cx, c)?;
    Ok(vec![logical_values(cx, ins, op, absorb, f)?])
}

/// The conjunction of two truth values.
pub fn conjunction(cx: &mut Cx, ins: [V; 2]) -> R<V> {
    logical_values(cx, ins, ir::And {}.into(), Absorb::Neutral(true), |a, b| {
        Some(a.and(b))
    })
}

fn logical_values(
    cx: &mut Cx,
    ins: [V; 2],
    op: Op,
    absorb: Absorb,
    f: fn(Prop, Prop) -> Option<Prop>,
) -> R<V> {
    if let Some(&v) = ins.iter().find(|&&v| cx.elem(v) != ScalarType::Bool) {
        return cx.fail(format!("an operand has type {}, expected bool", cx.elem(v)));
    }
    let apply = |_: &Cx, _: &[Dim], s: &[Scalar]| match (&s[0], &s[1]) {
        (Scalar::Bool(a), Scalar::Bool(b)) => Some(Scalar::Bool(f(a.clone(), b.clone())?)),
        _ => None,
    };
    if let Some(fact) = fact_of(cx, &ins, &apply)? {
        return Ok(cx.push_fact(ScalarType::Bool, fact));
    }
    if let Absorb::Neutral(neutral) = absorb {
        for (known, other) in [(ins[0], ins[1]), (ins[1], ins[0])] {
            if let Some(Scalar::Bool(Prop::Known(v))) = cx.fact(known).and_then(|f| f.splat()) {
                let shapes = [cx.shape(known).to_vec(), cx.shape(other).to_vec()];
                let shape = cx.broadcast(&[&shapes[0], &shapes[1]])?;
                return cx.expand(if v == neutral { other } else { known }, shape);
            }
        }
    }
    cx.elementwise(op, &ins)
}

/// And.
pub fn and(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    logical(cx, c, ir::And {}.into(), Absorb::Neutral(true), |a, b| {
        Some(a.and(b))
    })
}

/// Or.
pub fn or(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    logical(cx, c, ir::Or {}.into(), Absorb::Neutral(false), |a, b| {
        Some(a.or(b))
    })
}

/// Xor.
pub fn xor(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    logical(cx, c, ir::Xor {}.into(), Absorb::None, |a, b| match (a, b) {
        (Prop::Known(v), p) | (p, Prop::Known(v)) => Some(if v { p.negate() } else { p }),
        _ => None,
    })
}

/// Not.
pub fn not(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    if cx.elem(x) != ScalarType::Bool {
        return cx.fail(format!("the operand has type {}, expected bool", cx.elem(x)));
    }
    let apply = |_: &Cx, _: &[Dim], s: &[Scalar]| match &s[0] {
        Scalar::Bool(p) => Some(Scalar::Bool(p.clone().negate())),
        Scalar::Int(_) => None,
    };
    if let Some(fact) = fact_of(cx, &[x], &apply)? {
        return Ok(vec![cx.push_fact(ScalarType::Bool, fact)]);
    }
    Ok(vec![cx.elementwise(ir::Not {}, &[x])?])
}

macro_rules! bitwise {
    ($($(#[$m:meta])* $name:ident $op:ident;)*) => {$(
        $(#[$m])*
        pub fn $name(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
            let ins = c.all(cx)?;
            if let Some(&v) = ins.iter().find(|&&v| !cx.elem(v).is_int()) {
                return cx.fail(format!("an operand has type {}, expected integers", cx.elem(v)));
            }
            Ok(vec![cx.elementwise(ir::$op {}, &ins)?])
        }
    )*};
}
bitwise! {
    /// BitwiseAnd.
    bit_and And;
    /// BitwiseNot.
    bit_not Not;
    /// BitwiseOr.
    bit_or Or;
    /// BitwiseXor.
    bit_xor Xor;
}

/// BitShift: a product with, or a quotient by, a power of two.
pub fn bit_shift(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let [x, n] = operands(cx, c)?;
    let elem = cx.elem(x);
    if !elem.is_int() || elem != cx.elem(n) {
        return cx.fail(format!(
            "operands have types {elem} and {}, expected one integer type",
            cx.elem(n)
        ));
    }
    let left = match c.text(cx, "direction", "")?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        other => {
            return cx.fail(format!(
                "attribute 'direction' is '{}'",
                crate::error::escape(other)
            ));
        }
    };
    // 2^n is exact in f64; shifts by the width or more give 0.
    let (two, wide) = (cx.lit(ScalarType::F64, 2.0), cx.cast(n, ScalarType::F64)?);
    let power = cx.elementwise(ir::Pow {}, &[two, wide])?;
    let (width, zero) = (
        cx.lit(ScalarType::F64, 8.0 * elem.size() as f64),
        cx.lit(elem, 0.0),
    );
    let power = cx.cast(power, ScalarType::U64)?;
    let power = cx.cast(power, elem)?;
    let y = if left {
        cx.elementwise(ir::Mul {}, &[x, power])?
    } else {
        // Rounded down: what is left below the multiple of the power goes first.
        let rest = cx.elementwise(ir::FloorMod {}, &[x, power])?;
        let whole = cx.elementwise(ir::Sub {}, &[x, rest])?;
        cx.elementwise(ir::Div {}, &[whole, power])?
    };
    let (below, negative) = (
        cx.lit(ScalarType::F64, 0.0),
        cx.elementwise(ir::Less {}, &[x, zero])?,
    );
    let (fits, starts) = (
        cx.elementwise(ir::Less {}, &[wide, width])?,
        cx.elementwise(ir::LessEqual {}, &[below, wide])?,
    );
    let inside = cx.elementwise(ir::And {}, &[fits, starts])?;
    // Shifted out altogether: zeros, or copies of the sign.
    let rest = if left || !elem.is_signed_int() {
        zero
    } else {
        let ones = cx.lit(elem, -1.0);
        cx.elementwise(ir::Where {}, &[negative, ones, zero])?
    };
    Ok(vec![cx.elementwise(ir::Where {}, &[inside, y, rest])?])
}

/// IsNaN.
pub fn is_nan(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    Ok(vec![cx.elementwise(ir::IsNan {}, &[x])?])
}

/// IsInf, of either sign or one.
pub fn is_inf(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (up, down) = (
        c.int(cx, "detect_positive", 1)? != 0,
        c.int(cx, "detect_negative", 1)? != 0,
    );
    let bound = |cx: &mut Cx, v: f64| {
        let inf = cx.lit(cx.elem(x), v);
        cx.elementwise(ir::Equal {}, &[x, inf])
    };
    Ok(vec![match (up, down) {
        (true, true) => cx.elementwise(ir::IsInf {}, &[x])?,
        (true, false) => bound(cx, f64::INFINITY)?,
        (false, true) => bound(cx, f64::NEG_INFINITY)?,
        (false, false) => {
            let never = cx.lit(ScalarType::Bool, 0.0);
            let shape = cx.shape(x).to_vec();
            cx.expand(never, shape)?
        }
    }])
}

/// Where.
pub fn select(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let ins = [c.input(cx, 0)?, c.input(cx, 1)?, c.input(cx, 2)?];
    let [condition, a, b] = ins;
    if cx.elem(condition) != ScalarType::Bool || cx.elem(a) != cx.elem(b) {
        return cx.fail(format!(
            "operands have types {}, {} and {}",
            cx.elem(condition),
            cx.elem(a),
            cx.elem(b)
        ));
    }
    if ins.iter().any(|&v| cx.constant(v).is_none()) {
        let apply = |_: &Cx, _: &[Dim], s: &[Scalar]| match &s[0] {
            Scalar::Bool(Prop::Known(v)) => Some(s[if *v { 1 } else { 2 }].clone()),
            _ if s[1] == s[2] => Some(s[1].clone()),
            _ => None,
        };
        let elem = cx.elem(a);
        if let Some(fact) = fact_of(cx, &ins, &apply)? {
            return Ok(vec![cx.push_fact(elem, fact)]);
        }
        if let Some(Scalar::Bool(Prop::Known(v))) = cx.fact(condition).and_then(|f| f.splat()) {
            let shapes = ins.map(|v| cx.shape(v).to_vec());
            let shape = cx.broadcast(&[&shapes[0], &shapes[1], &shapes[2]])?;
            return Ok(vec![cx.expand(if v { a } else { b }, shape)?]);
        }
    }
    Ok(vec![cx.elementwise(ir::Where {}, &ins)?])
}
