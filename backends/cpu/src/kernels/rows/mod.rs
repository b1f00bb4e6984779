//! Row regions: elementwise work, movement, norms, softmax, quantizers, reductions; and contractions in general form.
//!
//! The outer axes enumerate rows; the row axes are what vectors of 16 lanes run along ([`code`]). A row whose body has
//! reductions is done in one piece, in several loops ([`plan`]); otherwise a tile is a part of a row, or several rows,
//! of about [`Schedule::tile_elements`] elements, so that one long row keeps all threads busy as well.

mod code;
mod contract;
mod normal;
mod plan;

pub use code::{AnchorFn, Env, Place, RowCode, evaluate, evaluate_together, kept_elements};
pub use contract::contract;
pub use normal::{has_reductions, needs_rows, normalize};
pub use plan::{LARGE, Phase, RowPlan};

use super::access::{Cx, Index, Point};
use super::body::held;
use crate::llvm::{Emit, Int};
use rsqc_backend::KernelSpec;
use rsqc_ir::Dim;
use rsqc_ir::region::{Anchor, AxisKind, Region};

/// Operations that one step of a contraction counts as; more than is ever done twice.
const CONTRACT_COST: u32 = 1000;

/// How a row region is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Elements (points of the parallel axes) that a tile should have.
    pub tile_elements: i64,
    /// Whether rows are done in one piece.
    pub whole_rows: bool,
    /// The axis along which steps of a contraction are done together.
    pub shared: Option<u32>,
}

impl Schedule {
    /// The schedule of a region in normal form. Tiles should take some microseconds.
    pub fn of(region: &Region) -> Schedule {
        let mut steps = 8 + region.body.stmts.len() as i64;
        if let Anchor::Contract { .. } = region.anchor {
            let reduced: Dim = reduce_axes(region)
                .map(|a| region.axes[a as usize].extent.clone())
                .product();
            steps += 2 * reduced.as_const().unwrap_or(256).clamp(1, 1 << 20);
        }
        let whole_rows = needs_rows(region);
        Schedule {
            tile_elements: ((1 << 19) / steps).clamp(64, 16384) & !15,
            whole_rows,
            shared: contract::shared_axis(region).filter(|_| !whole_rows && region.row_axes == 1),
        }
    }

    /// Parts of a row.
    fn parts(&self, row: &Dim) -> Dim {
        if self.whole_rows {
            return Dim::one();
        }
        row.ceil_div(&Dim::from(self.tile_elements)).larger(&Dim::one())
    }

    /// Rows of a tile; where rows share a factor, blocks of rows.
    fn rows(&self, row: &Dim) -> Dim {
        Dim::from(self.tile_elements / self.block())
            .floor_div(&row.larger(&Dim::one()))
            .larger(&Dim::one())
    }

    /// Rows that are done together.
    fn block(&self) -> i64 {
        self.shared.map_or(1, |_| contract::SHARED)
    }

    /// Outer axes without the shared one.
    fn outer(&self, region: &Region) -> impl DoubleEndedIterator<Item = u32> {
        let shared = self.shared;
        region.outer().filter(move |a| Some(*a) != shared)
    }

    /// Number of tiles of a region.
    pub fn tiles(&self, region: &Region) -> Dim {
        let row = region.extent(region.row());
        let extent = |a: u32| region.axes[a as usize].extent.clone();
        let blocks = self
            .shared
            .map_or(Dim::one(), |a| extent(a).ceil_div(&Dim::from(contract::SHARED)));
        let rows: Dim = self.outer(region).map(extent).product();
        (rows * blocks).ceil_div(&self.rows(&row)) * self.parts(&row)
    }
}

/// The reduce axes of a region.
pub fn reduce_axes(region: &Region) -> impl Iterator<Item = u32> {
    (0..region.axes.len() as u32).filter(|a| region.axes[*a as usize].kind == AxisKind::Reduce)
}

/// The phases of a region whose accumulator is computed in place.
pub fn plan_of(region: &Region) -> RowPlan {
    RowPlan::new(region, CONTRACT_COST)
}

/// Bytes of scratch that the kept values of one row take; a multiple of 64.
pub fn kept_bytes(plan: &RowPlan, region: &Region) -> Dim {
    let size: i64 = plan.kept.iter().map(|(_, ty)| i64::from(held(*ty).bytes())).sum();
    let row = region.extent(region.row());
    let elements = (row + Dim::from(79i64)).floor_div(&Dim::from(64i64)) * Dim::from(64i64);
    elements * Dim::from(size)
}

/// Generates a row kernel for a spec in normal form.
pub fn emit<'c>(e: &Emit<'c>, spec: &KernelSpec, schedule: Schedule) {
    let cx = Cx::new(e, spec);
    let region = &spec.region;
    let plan = plan_of(region);
    let code = RowCode {
        cx: &cx,
        plan: &plan,
        anchor: &contract,
        scratch: e.scratch(),
    };
    let one = e.i64(1);
    let product = |axes: &mut dyn Iterator<Item = u32>| {
        let extents = axes.map(|a| cx.extent(a));
        extents.reduce(|a, b| e.mul(a, b)).unwrap_or(one)
    };
    let row = product(&mut region.row());
    let block = e.i64(contract::SHARED);
    let blocks = schedule.shared.map_or(one, |a| e.div_ceil(cx.extent(a), block));
    let rows = e.mul(product(&mut schedule.outer(region)), blocks);
    let size = e.i64(schedule.tile_elements);
    let parts = if schedule.whole_rows {
        one
    } else {
        e.imax(e.div_ceil(row, size), one)
    };
    let in_blocks = e.i64(schedule.tile_elements / schedule.block());
    let rows_per_tile = e.imax(e.udiv(in_blocks, e.imax(row, one)), one);
    let by_parts = !schedule.whole_rows && region.row_axes == 1;

    e.for_range(e.tile_begin(), e.tile_end(), one, |tile| {
        let (group, part) = if by_parts {
            (e.udiv(tile, parts), e.urem(tile, parts))
        } else {
            (tile, e.i64(0))
        };
        let first = e.mul(group, rows_per_tile);
        let last = e.imin(e.add(first, rows_per_tile), rows);
        let range = by_parts.then(|| {
            let from = e.mul(part, size);
            (from, e.imin(e.add(from, size), row))
        });
        e.for_range(first, last, one, |number| {
            let mut axes = schedule.outer(region);
            match (schedule.shared, range) {
                (Some(axis), Some(range)) => {
                    let first = e.mul(e.urem(number, blocks), block);
                    let at = outer_point(&cx, &mut axes, e.udiv(number, blocks));
                    contract::emit_shared(&cx, &plan, &at, (axis, first), range);
                }
                _ => code.emit(&outer_point(&cx, &mut axes, number), range),
            }
        });
    });
}

/// The point with number `number` among those of some axes, in row-major order.
fn outer_point<'c>(
    cx: &Cx<'_, 'c>,
    axes: &mut dyn DoubleEndedIterator<Item = u32>,
    number: Int<'c>,
) -> Point<'c> {
    let e = cx.e;
    let mut at = Point::new(cx.spec.region.axes.len());
    let mut left = number;
    while let Some(axis) = axes.next_back() {
        let extent = cx.extent(axis);
        at = at.with(axis, Index::At(e.urem(left, extent)));
        left = e.udiv(left, extent);
    }
    at
}
