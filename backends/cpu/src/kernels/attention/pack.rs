//! Bringing queries, keys and values into the form that the register tiles read.
//!
//! Keys are turned: panels of 64 keys, one row of 64 floats for each index of the inner axis. Values keep their rows:
//! panels of 64 channels, one row a key. Plain f32 operands are moved by the same code as a run-time right factor of a
//! matrix product; anything else (clamped or gathered reads, other types) is loaded element by element. Values whose
//! channels adjoin, and queries, are not moved at all if they are plain.

use crate::kernels::access::{Cx, Index, Point};
use crate::kernels::body::{LANES, cast, widen};
use crate::kernels::gemm::pack_panel;
use crate::llvm::{Elem, Int, Lanes, Ptr};
use crate::pack::PANEL;
use rsqc_ir::ScalarType;

/// Bytes of a packed row.
pub const ROW: i64 = 4 * PANEL as i64;

/// A matrix to be packed: operand `n`, its rows along one axis, its columns along another.
#[derive(Clone, Copy)]
pub struct Source {
    /// Operand number.
    pub operand: u32,
    /// Axis of the rows.
    pub rows: u32,
    /// Axis of the columns.
    pub columns: u32,
}

/// Whether an operand is f32 in plain dense form.
pub fn is_plain(cx: &Cx<'_, '_>, operand: u32) -> bool {
    let n = operand as usize;
    cx.spec.operands[n].storage() == ScalarType::F32
        && cx.spec.operand_layouts[n].is_none()
        && cx.spec.region.operands[n].is_linear()
}

/// Bytes that an operand moves along an axis.
pub fn step<'c>(cx: &Cx<'_, 'c>, operand: u32, axis: u32) -> Int<'c> {
    let e = cx.e;
    let access = &cx.spec.region.operands[operand as usize];
    let term = access.terms.iter().find(|t| t.axis == axis);
    e.mul(term.map_or(e.i64(0), |t| cx.dim(&t.stride)), e.i64(4))
}

/// Address of a plain operand's element at a point; axes without an index count as 0.
pub fn address<'c>(cx: &Cx<'_, 'c>, operand: u32, at: &Point<'c>) -> Ptr<'c> {
    let e = cx.e;
    let access = &cx.spec.region.operands[operand as usize];
    let mut offset = cx.dim(&access.offset);
    for t in &access.terms {
        if let Some(Index::At(i)) = at.axes[t.axis as usize] {
            offset = e.add(offset, e.mul(i, cx.dim(&t.stride)));
        }
    }
    e.at_index(e.buf(operand), offset, 4)
}

/// Packs `rows` rows of `columns` columns from (`first_row`, `first_column`) on, in panels of 64 columns that are
/// `panel_bytes` apart. Columns that are missing in the last panel become 0.
pub fn pack<'c>(
    cx: &Cx<'_, 'c>,
    source: Source,
    at: &Point<'c>,
    (first_row, rows): (Int<'c>, Int<'c>),
    (first_column, columns): (Int<'c>, Int<'c>),
    (to, panel_bytes): (Ptr<'c>, Int<'c>),
) {
    let e = cx.e;
    let panel = e.i64(PANEL as i64);
    let Source { operand, .. } = source;
    e.for_range(e.i64(0), columns, panel, |column| {
        let to = e.at(to, e.mul(e.udiv(column, panel), panel_bytes));
        let width = e.imin(e.sub(columns, column), panel);
        let start = e.add(first_column, column);
        if is_plain(cx, operand) {
            let here = at
                .with(source.rows, Index::At(first_row))
                .with(source.columns, Index::At(start));
            let strides = (step(cx, operand, source.rows), step(cx, operand, source.columns));
            pack_panel(e, address(cx, operand, &here), strides, (rows, width), to);
        } else {
            e.for_range(e.i64(0), rows, e.i64(1), |row| {
                let here = at.with(source.rows, Index::At(e.add(first_row, row)));
                let to = e.at(to, e.mul(row, e.i64(ROW)));
                copy_run(cx, operand, &here, (source.columns, start, width), to);
                // The lanes between the last vector and the end of the panel are never stored from.
            });
        }
    });
}

/// Copies `count` elements along an axis as floats, in whole vectors; what hangs over becomes 0.
pub fn copy_run<'c>(
    cx: &Cx<'_, 'c>,
    operand: u32,
    at: &Point<'c>,
    (axis, start, count): (u32, Int<'c>, Int<'c>),
    to: Ptr<'c>,
) {
    let e = cx.e;
    let ty = cx.spec.operands[operand as usize].storage();
    e.for_range(e.i64(0), count, e.i64(i64::from(LANES)), |i| {
        let mut here = at.with(axis, Index::Run(e.add(start, i)));
        let left = e.imin(e.sub(count, i), e.i64(i64::from(LANES)));
        here.part = Lanes::First(left);
        let value = cast(e, cx.load(operand, &here), ty, ScalarType::F32);
        let value = widen(e, value, LANES);
        let zero = e.vector_type(Elem::F32, LANES).const_zero();
        let value = e.select(e.first_lanes(LANES, left), value, zero);
        e.store_aligned(value, e.at_index(to, i, 4), 4);
    });
}
