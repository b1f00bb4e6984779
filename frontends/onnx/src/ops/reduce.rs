//! Reductions and running sums.

use rsqc_ir::ops::elementwise as ir;
use rsqc_ir::ops::reduce::{ArgReduce, CumSum, Reduce, Reduction};
use rsqc_ir::types::Dim;

use crate::call::{Call, axes, axis, const_ints};
use crate::cx::{Cx, R, V};
use crate::facts::{Fact, Scalar};

/// The axes of a reduction (`None`: it does nothing) and whether they stay.
fn plan(cx: &Cx, c: &Call<'_>, x: V) -> R<(Option<Vec<i64>>, bool)> {
    let keep = c.int(cx, "keepdims", 1)? != 0;
    let rank = cx.rank(x);
    let list = match c.opt(1) {
        Some(v) => Some(const_ints(cx, v, "axes")?),
        None => c.ints(cx, "axes")?,
    };
    let idle = c.int(cx, "noop_with_empty_axes", 0)? != 0;
    match list {
        Some(list) if !list.is_empty() => Ok((
            Some(axes(cx, &list, rank)?.into_iter().map(|a| a as i64).collect()),
            keep,
        )),
        _ if idle => Ok((None, keep)),
        _ => Ok((Some((0..rank as i64).collect()), keep)),
    }
}

fn reduce(cx: &mut Cx, c: &Call<'_>, kind: Reduction) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (list, keep) = plan(cx, c, x)?;
    let Some(axes) = list else {
        // Nothing is combined; the function of one element remains.
        return Ok(vec![match kind {
            Reduction::SumSquare => cx.elementwise(ir::Mul {}, &[x, x])?,
            Reduction::L1 | Reduction::L2 => cx.elementwise(ir::Abs {}, &[x])?,
            _ => x,
        }]);
    };
    if let Some(f) = list_fact(cx, x, kind, keep) {
        let elem = cx.elem(x);
        return Ok(vec![cx.push_fact(elem, f)]);
    }
    if axes.is_empty() && !matches!(kind, Reduction::SumSquare | Reduction::L1 | Reduction::L2) {
        return Ok(vec![x]);
    }
    Ok(vec![cx.emit(Reduce { kind, axes, keep }, &[x])?])
}

/// Sum and product of a list of dim expressions.
fn list_fact(cx: &Cx, x: V, kind: Reduction, keep: bool) -> Option<Fact> {
    let dims = cx
        .fact(x)
        .filter(|f| f.shape.len() == 1 && cx.constant(x).is_none())?
        .ints()?;
    let total: Dim = match kind {
        Reduction::Prod => dims.iter().product(),
        Reduction::Sum => dims.iter().cloned().sum(),
        _ => return None,
    };
    let shape = if keep { vec![Dim::one()] } else { vec![] };
    Some(Fact::of_elems(shape, vec![Scalar::Int(total)]))
}

macro_rules! reductions {
    ($($(#[$m:meta])* $name:ident $kind:ident;)*) => {$(
        $(#[$m])*
        pub fn $name(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
            reduce(cx, c, Reduction::$kind)
        }
    )*};
}
reductions! {
    /// ReduceL1.
    l1 L1;
    /// ReduceL2.
    l2 L2;
    /// ReduceMax.
    max Max;
    /// ReduceMean.
    mean Mean;
    /// ReduceMin.
    min Min;
    /// ReduceProd.
    prod Prod;
    /// ReduceSum.
    sum Sum;
    /// ReduceSumSquare.
    sum_square SumSquare;
}

/// ReduceLogSum: `log(sum(x))`.
pub fn log_sum(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let s = reduce(cx, c, Reduction::Sum)?[0];
    Ok(vec![cx.elementwise(ir::Log {}, &[s])?])
}

/// ReduceLogSumExp: `m + log(sum(e^(x - m)))` with m the maximum.
pub fn log_sum_exp(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let (list, keep) = plan(cx, c, x)?;
    let Some(axes) = list else { return Ok(vec![x]) };
    let top = cx.emit(
        Reduce {
            kind: Reduction::Max,
            axes: axes.clone(),
            keep: true,
        },
        &[x],
    )?;
    let moved = cx.elementwise(ir::Sub {}, &[x, top])?;
    let e = cx.elementwise(ir::Exp {}, &[moved])?;
    let s = cx.emit(
        Reduce {
            kind: Reduction::Sum,
            axes: axes.clone(),
            keep: true,
        },
        &[e],
    )?;
    let l = cx.elementwise(ir::Log {}, &[s])?;
    let y = cx.elementwise(ir::Add {}, &[top, l])?;
    if keep {
        return Ok(vec![y]);
    }
    let kept = cx
        .shape(y)
        .iter()
        .enumerate()
        .filter(|(a, _)| !axes.contains(&(*a as i64)))
        .map(|(_, d)| d.clone())
        .collect();
    Ok(vec![cx.reshape(y, kept)?])
}

fn arg(cx: &mut Cx, c: &Call<'_>, max: bool) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let axis = c.axis(cx, "axis", 0, cx.rank(x))?;
    let keep = c.int(cx, "keepdims", 1)? != 0;
    let last = c.int(cx, "select_last_index", 0)? != 0;
    Ok(vec![cx.emit(
        ArgReduce {
            max,
            axis,
            keep,
            last,
        },
        &[x],
    )?])
}

/// ArgMax.
pub fn arg_max(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    arg(cx, c, true)
}

/// ArgMin.
pub fn arg_min(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    arg(cx, c, false)
}

/// CumSum along a constant axis.
pub fn cum_sum(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, a) = (c.input(cx, 0)?, c.input(cx, 1)?);
    let list = const_ints(cx, a, "the axis")?;
    let [a] = list.as_slice() else {
        return cx.fail(format!("has {} axes, expected 1", list.len()));
    };
    let axis = axis(cx, *a, cx.rank(x))?;
    let (exclusive, reverse) = (c.int(cx, "exclusive", 0)? != 0, c.int(cx, "reverse", 0)? != 0);
    Ok(vec![cx.emit(
        CumSum {
            axis,
            exclusive,
            reverse,
        },
        &[x],
    )?])
}
