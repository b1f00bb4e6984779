//! The contraction anchor computed in place: the general form, for any strides, types and reduce axes.
//!
//! Lanes run along the row; each point's sum is a loop over the reduce axes. Matrix products that the register tiles of
//! [`crate::kernels::gemm`] can do never come here. Where some outer axis does not move the right factor (the output
//! channels of a convolution, whose weights are the left one), [`SHARED`] steps along it share each load of that factor.

use super::RowPlan;
use super::code::{Env, Place, evaluate};
use crate::kernels::access::{Cx, Index, Point, moves};
use crate::kernels::body::{LANES, cast, widen};
use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Int, Lanes, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::region::{Anchor, AxisKind, Region};

/// Steps of the shared axis that are done together.
pub const SHARED: i64 = 8;

/// The longest outer axis that does not move the right factor, if it has more than one step.
pub fn shared_axis(r: &Region) -> Option<u32> {
    let Anchor::Contract { rhs, .. } = r.anchor else {
        return None;
    };
    let extent = |a: &u32| r.axes[*a as usize].extent.as_const().unwrap_or(i64::MAX);
    let free = r.outer().filter(|a| !moves(r, rhs, *a) && extent(a) > 1);
    free.max_by_key(extent)
}

/// The accumulator at a place, in as many lanes as the place has.
pub fn contract<'c>(cx: &Cx<'_, 'c>, place: &Place<'c>) -> Vector<'c> {
    sums(cx, std::slice::from_ref(&place.at))[0]
}

/// The accumulators at points that the right factor does not tell apart.
fn sums<'c>(cx: &Cx<'_, 'c>, points: &[Point<'c>]) -> Vec<Vector<'c>> {
    let e = cx.e;
    let r = &cx.spec.region;
    let Anchor::Contract { lhs, rhs, acc, pad } = r.anchor else {
        panic!("only a contraction has this accumulator");
    };
    let axes: Vec<u32> = (0..r.axes.len() as u32)
        .filter(|a| r.axes[*a as usize].kind == AxisKind::Reduce)
        .collect();
    let moving = points[0]
        .axes
        .iter()
        .flatten()
        .any(|i| !matches!(i, Index::At(_)));
    let width = if moving { LANES } else { 1 };
    let int = acc == ScalarType::I32;
    let elem = if int { Elem::I32 } else { Elem::F32 };
    let zero: Any<'c> = e.vector_type(elem, width).const_zero().into();
    let products = |points: &[Point<'c>], sums: &[Any<'c>]| {
        let factor = |n: u32, at: &Point<'c>| {
            let ty = cx.spec.operands[n as usize].storage();
            widen(e, cast(e, cx.load(n, at), ty, acc), width)
        };
        let b = factor(rhs, &points[0]);
        let added = points.iter().zip(sums).map(|(at, sum)| {
            let (mut a, sum) = (factor(lhs, at), sum.into_vector_value());
            if let Some(inside) = cx.unclamped(lhs, at).filter(|_| pad) {
                a = e.select(widen(e, inside, width), a, a.get_type().const_zero());
            }
            let sum = match elem {
                Elem::I32 => e.add(sum, e.mul(a, b)),
                _ => e.multiply_add(a, b, sum),
            };
            sum.into()
        });
        added.collect()
    };
    let init = vec![zero; points.len()];
    let sums = nest(cx, points, &axes, &init, &products);
    sums.into_iter().map(|v| v.into_vector_value()).collect()
}

/// What the innermost loop does: adds the products at some points to their sums.
type Products<'f, 'c> = dyn Fn(&[Point<'c>], &[Any<'c>]) -> Vec<Any<'c>> + 'f;

/// Loops over `axes`, outermost first, carrying the sums.
fn nest<'c>(
    cx: &Cx<'_, 'c>,
    points: &[Point<'c>],
    axes: &[u32],
    sums: &[Any<'c>],
    products: &Products<'_, 'c>,
) -> Vec<Any<'c>> {
    let Some((axis, rest)) = axes.split_first() else {
        return products(points, sums);
    };
    let e = cx.e;
    e.fold(e.i64(0), cx.extent(*axis), e.i64(1), sums, |i, sums| {
        let points: Vec<Point<'c>> = points.iter().map(|at| at.with(*axis, Index::At(i))).collect();
        nest(cx, &points, rest, sums, products)
    })
}

/// Up to [`SHARED`] steps along the shared axis from `first` on, over a part of the row; the body has no reductions.
pub fn emit_shared<'c>(
    cx: &Cx<'_, 'c>,
    plan: &RowPlan,
    outer: &Point<'c>,
    (axis, first): (u32, Int<'c>),
    (from, to): (Int<'c>, Int<'c>),
) {
    let e = cx.e;
    let lane_axis = cx.spec.region.row().start;
    let end = e.imin(e.add(first, e.i64(SHARED)), cx.extent(axis));
    // Sixteen lanes of each step, and the right factor's, fit the level's registers.
    let together = i64::from(e.level().lanes() / 2);
    let by = i64::from(LANES);
    let whole = e.add(from, e.and(e.sub(to, from), e.i64(-by)));
    e.for_range(first, end, e.i64(together), |step| {
        let block = (axis, step, end);
        e.for_range(from, whole, e.i64(by), |i| {
            emit_block(cx, plan, &outer.with(lane_axis, Index::Run(i)), block, together);
        });
        e.for_range(whole, to, e.i64(by), |i| {
            let mut at = outer.with(lane_axis, Index::Run(i));
            at.part = Lanes::First(e.sub(to, i));
            emit_block(cx, plan, &at, block, together);
        });
    });
}

/// `together` steps at one vector: their sums, then the body for each step that exists.
fn emit_block<'c>(
    cx: &Cx<'_, 'c>,
    plan: &RowPlan,
    at: &Point<'c>,
    (axis, step, end): (u32, Int<'c>, Int<'c>),
    together: i64,
) {
    let e = cx.e;
    let body = &cx.spec.region.body;
    let last = e.sub(end, e.i64(1));
    let points: Vec<Point<'c>> = (0..together)
        .map(|i| at.with(axis, Index::At(e.imin(e.add(step, e.i64(i)), last))))
        .collect();
    let sums = sums(cx, &points);
    let ty = sums[0].get_type();
    let slots = e.stack(ty, together as u32, 64);
    for (i, sum) in sums.iter().enumerate() {
        e.store_aligned(*sum, e.at_const(slots, i as i64 * 64), 64);
    }
    let count = e.imin(e.sub(end, step), e.i64(together));
    e.for_range(e.i64(0), count, e.i64(1), |i| {
        let sum = e
            .load_aligned(ty, e.at_index(slots, i, 64), 64)
            .into_vector_value();
        let place = Place {
            at: at.with(axis, Index::At(e.add(step, i))),
            element: e.i64(0),
        };
        let mut env: Env<'c> = vec![None; body.stmts.len()];
        for phase in &plan.phases {
            for stmts in [&phase.uniform, &phase.varying] {
                evaluate(cx, body, stmts, &mut env, &place, &|_, _| sum);
            }
        }
        for (n, s) in cx.spec.region.stores.iter().enumerate() {
            let value = env[s.value.index()].expect("everything stored has been evaluated");
            cx.store(n, value, &place.at);
        }
    });
}
