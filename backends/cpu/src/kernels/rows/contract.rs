//! The contraction anchor computed in place: the general form, for any strides, types and reduce axes.
//!
//! Lanes run along the row; each point's sum is a loop over the reduce axes. Matrix products that the register tiles of
//! [`crate::kernels::gemm`] can do never come here.

use super::code::Place;
use crate::kernels::access::{Cx, Index, Point};
use crate::kernels::body::{LANES, cast, lanes, widen};
use crate::level::LevelFacts;
use crate::llvm::{Elem, Int, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::region::{Anchor, AxisKind};

/// The accumulator at a place, in as many lanes as the place has.
pub fn contract<'c>(cx: &Cx<'_, 'c>, place: &Place<'c>) -> Vector<'c> {
    let e = cx.e;
    let r = &cx.spec.region;
    let Anchor::Contract { lhs, rhs, acc, pad } = r.anchor else {
        panic!("only a contraction has this accumulator");
    };
    let axes: Vec<u32> = (0..r.axes.len() as u32)
        .filter(|a| r.axes[*a as usize].kind == AxisKind::Reduce)
        .collect();
    let moving = place.at.axes.iter().flatten().any(|i| !matches!(i, Index::At(_)));
    let width = if moving { LANES } else { 1 };
    let elem = if acc == ScalarType::I32 {
        Elem::I32
    } else {
        Elem::F32
    };
    let zero = e.vector_type(elem, width).const_zero();
    let product = |at: &Point<'c>, sum: Vector<'c>| {
        let factor = |n: u32| {
            let ty = cx.spec.operands[n as usize].storage();
            cast(e, cx.load(n, at), ty, acc)
        };
        let (mut a, b) = (widen(e, factor(lhs), width), widen(e, factor(rhs), width));
        if let Some(inside) = cx.unclamped(lhs, at).filter(|_| pad) {
            a = e.select(widen(e, inside, width), a, a.get_type().const_zero());
        }
        debug_assert_eq!(lanes(sum), width);
        match elem {
            Elem::I32 => e.add(sum, e.mul(a, b)),
            _ if e.level().has_fma() => e.fma(a, b, sum),
            _ => e.fadd(sum, e.fmul(a, b)),
        }
    };
    nest(cx, &place.at, &axes, zero, &product)
}

/// Loops over `axes`, outermost first, carrying the sum.
fn nest<'c>(
    cx: &Cx<'_, 'c>,
    at: &Point<'c>,
    axes: &[u32],
    sum: Vector<'c>,
    product: &dyn Fn(&Point<'c>, Vector<'c>) -> Vector<'c>,
) -> Vector<'c> {
    let Some((axis, rest)) = axes.split_first() else {
        return product(at, sum);
    };
    let e = cx.e;
    let one: Int<'c> = e.i64(1);
    let sums = e.fold(e.i64(0), cx.extent(*axis), one, &[sum.into()], |i, sums| {
        let at = at.with(*axis, Index::At(i));
        let sum = nest(cx, &at, rest, sums[0].into_vector_value(), product);
        vec![sum.into()]
    });
    sums[0].into_vector_value()
}
