//! Packing a panel of a run-time B into scratch, in the form of [`crate::pack`]: K rows of 64 floats.
//!
//! Adjoining columns are copied as vectors. Where k adjoins instead (a transposed B), squares as wide as a register are
//! turned in registers. Other strides, and what is left of K behind the squares, go element by element.

use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Emit, Float, Int, IntCmp, Lanes, Parameter, Ptr, Routine, Vector};
use crate::pack::{BLOCK, PANEL};
use std::sync::Arc;

/// Bytes of a packed row.
const ROW: i64 = 4 * PANEL as i64;

/// Packs `columns` (1 to 64) columns of `k` floats each, read with strides `(k, n)` in bytes; the missing columns
/// become 0.
pub(crate) fn pack_panel<'c>(
    e: &Emit<'c>,
    from: Ptr<'c>,
    strides: (Int<'c>, Int<'c>),
    (k, columns): (Int<'c>, Int<'c>),
    to: Ptr<'c>,
) {
    let arguments: [Any<'c>; 6] = [
        from.into(),
        strides.0.into(),
        strides.1.into(),
        k.into(),
        columns.into(),
        to.into(),
    ];
    e.call_subroutine(e.routine(Arc::new(PackPanel)), &arguments);
}

/// [`pack_panel`] as a routine.
struct PackPanel;

impl Routine for PackPanel {
    fn symbol(&self) -> String {
        "subroutine_pack_panel".into()
    }

    fn parameters(&self) -> Vec<Parameter> {
        use Parameter::{Int, Ptr};
        vec![Ptr, Int, Int, Int, Int, Ptr]
    }

    fn emit<'c>(&self, e: &Emit<'c>, arguments: &[Any<'c>]) {
        let ptr = |n: usize| arguments[n].into_pointer_value();
        let int = |n: usize| arguments[n].into_int_value();
        let panel = Panel {
            e,
            from: ptr(0),
            k_stride: int(1),
            n_stride: int(2),
            k: int(3),
            columns: int(4),
            to: ptr(5),
        };
        let float = e.i64(4);
        e.if_else(
            e.icmp(IntCmp::EQ, panel.n_stride, float),
            || panel.copy_rows(),
            || {
                let k_adjoins = e.icmp(IntCmp::EQ, panel.k_stride, float);
                let squares = e.and(panel.k, e.i64(-i64::from(e.level().lanes())));
                let turned = e.select(k_adjoins, squares, e.i64(0));
                panel.turn_squares(turned);
                panel.copy_elements(turned);
            },
        );
    }
}

struct Panel<'a, 'c> {
    e: &'a Emit<'c>,
    from: Ptr<'c>,
    k_stride: Int<'c>,
    n_stride: Int<'c>,
    k: Int<'c>,
    columns: Int<'c>,
    to: Ptr<'c>,
}

impl<'c> Panel<'_, 'c> {
    /// Where element `(k, column)` is, and where it goes.
    fn addresses(&self, k: Int<'c>, column: Int<'c>) -> (Ptr<'c>, Ptr<'c>) {
        let e = self.e;
        let from = e.at(
            e.at(self.from, e.mul(k, self.k_stride)),
            e.mul(column, self.n_stride),
        );
        (from, e.at_index(e.at(self.to, e.mul(k, e.i64(ROW))), column, 4))
    }

    fn copy_rows(&self) {
        let e = self.e;
        let block = e.i64(BLOCK as i64);
        e.for_range(e.i64(0), self.k, e.i64(1), |row| {
            e.for_range(e.i64(0), e.i64(PANEL as i64), block, |column| {
                let (from, to) = self.addresses(row, column);
                let left = e.imax(e.imin(e.sub(self.columns, column), block), e.i64(0));
                let value = e.load(Elem::F32, BLOCK as u32, from, Lanes::First(left));
                e.store_aligned(value, to, 64);
            });
        });
    }

    /// Rows `0..end`, a multiple of the level's lanes.
    fn turn_squares(&self, end: Int<'c>) {
        let e = self.e;
        let lanes = e.level().lanes();
        let side = e.i64(i64::from(lanes));
        let last = e.sub(self.columns, e.i64(1));
        e.for_range(e.i64(0), e.i64(PANEL as i64), side, |first| {
            e.for_range(e.i64(0), end, side, |row| {
                let columns = (0..lanes).map(|i| {
                    let column = e.add(first, e.i64(i64::from(i)));
                    // A column that is missing reads the last one again, so that the load stays in bounds.
                    let (from, _) = self.addresses(row, e.imin(column, last));
                    let value = e.load(Elem::F32, lanes, from, Lanes::All);
                    let exists = e.icmp(IntCmp::SLT, column, self.columns);
                    e.select(exists, value, e.f32s(0.0, lanes))
                });
                let (_, to) = self.addresses(row, first);
                for (i, line) in transpose(e, columns.collect()).into_iter().enumerate() {
                    e.store_aligned(line, e.at_const(to, i as i64 * ROW), lanes * 4);
                }
            });
        });
    }

    /// Rows `start..k`.
    fn copy_elements(&self, start: Int<'c>) {
        let e = self.e;
        let one = e.i64(1);
        e.for_range(e.i64(0), self.columns, one, |column| {
            e.for_range(start, self.k, one, |row| {
                let (from, to) = self.addresses(row, column);
                e.store_scalar(e.load_scalar::<Float<'c>>(Elem::F32, from), to);
            });
        });
        e.for_range(self.columns, e.i64(PANEL as i64), one, |column| {
            e.for_range(start, self.k, one, |row| {
                let (_, to) = self.addresses(row, column);
                e.store_scalar(e.f32(0.0), to);
            });
        });
    }
}

/// Turns a square of `n` lines: `log2 n` rounds, each of which interleaves line `i` with line `i + n / 2`.
fn transpose<'c>(e: &Emit<'c>, mut lines: Vec<Vector<'c>>) -> Vec<Vector<'c>> {
    let side = lines.len() as i32;
    let half = side / 2;
    let interleave = |from: i32| -> Vec<i32> { (from..from + half).flat_map(|i| [i, i + side]).collect() };
    let (low, high) = (interleave(0), interleave(half));
    for _ in 0..side.ilog2() {
        let (upper, lower) = lines.split_at(half as usize);
        let pairs = upper.iter().zip(lower);
        lines = pairs
            .flat_map(|(a, b)| [e.shuffle(*a, *b, &low), e.shuffle(*a, *b, &high)])
            .collect();
    }
    lines
}
