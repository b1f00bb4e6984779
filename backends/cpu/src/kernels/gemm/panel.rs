//! Packing a panel of a run-time B into scratch, in the form of [`crate::pack`]: K rows of 64 floats.

use crate::llvm::{Elem, Emit, Float, Int, IntCmp, Lanes, Ptr};
use crate::pack::{BLOCK, PANEL};

/// Packs `columns` (at most 64) columns of `k` floats each, read with strides `(k, n)` in bytes; the missing columns
/// become 0. Adjoining columns are copied as vectors, other strides element by element.
pub(super) fn pack_panel<'c>(
    e: &Emit<'c>,
    from: Ptr<'c>,
    (k_stride, n_stride): (Int<'c>, Int<'c>),
    (k, columns): (Int<'c>, Int<'c>),
    to: Ptr<'c>,
) {
    let row_bytes = 4 * PANEL as i64;
    let one = e.i64(1);
    let block = e.i64(BLOCK as i64);
    let adjoin = e.icmp(IntCmp::EQ, n_stride, e.i64(4));
    e.if_else(
        adjoin,
        || {
            e.for_range(e.i64(0), k, one, |row| {
                let from = e.at(from, e.mul(row, k_stride));
                let to = e.at(to, e.mul(row, e.i64(row_bytes)));
                e.for_range(e.i64(0), e.i64(PANEL as i64), block, |column| {
                    let left = e.imax(e.imin(e.sub(columns, column), block), e.i64(0));
                    let value = e.load(
                        Elem::F32,
                        BLOCK as u32,
                        e.at_index(from, column, 4),
                        Lanes::First(left),
                    );
                    e.store_aligned(value, e.at_index(to, column, 4), 64);
                });
            });
        },
        || {
            e.for_range(e.i64(0), columns, one, |column| {
                let from = e.at(from, e.mul(column, n_stride));
                let to = e.at_index(to, column, 4);
                e.for_range(e.i64(0), k, one, |row| {
                    let value: Float<'c> = e.load_scalar(Elem::F32, e.at(from, e.mul(row, k_stride)));
                    e.store_scalar(value, e.at(to, e.mul(row, e.i64(row_bytes))));
                });
            });
            e.for_range(columns, e.i64(PANEL as i64), one, |column| {
                let to = e.at_index(to, column, 4);
                e.for_range(e.i64(0), k, one, |row| {
                    e.store_scalar(e.f32(0.0), e.at(to, e.mul(row, e.i64(row_bytes))));
                });
            });
        },
    );
}
