//! Register tiles of the two products, as routines: whatever attention a model has, they are the same.
//!
//! `c[r, j] = sum over k of a[r, k] * b[k, j]` for a few rows `r` and one or more vectors `j`; the sums
//! stay in registers over all of `k`, in increasing order of `k`, fused where the level has the instruction.

use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Emit, Float, Int, Parameter, Ptr, Routine, Vector};
use std::sync::Arc;

/// Rows of a full tile: with its columns it just fits the level's registers.
pub const ROWS: u32 = 6;

/// Columns of a full tile.
pub fn columns(e: &Emit<'_>) -> u32 {
    if e.level().lanes() == 16 { 64 } else { 16 }
}

/// The left factor of a tile.
#[derive(Clone, Copy)]
pub struct Left<'c> {
    /// Address of the first row.
    pub at: Ptr<'c>,
    /// Bytes from one row to the next.
    pub row: Int<'c>,
    /// Bytes from one `k` to the next.
    pub k: Int<'c>,
    /// Number of the last row that exists: the rows behind it are computed from it again.
    pub last: Int<'c>,
}

/// The right factor of a tile.
#[derive(Clone, Copy)]
pub struct Right<'c> {
    /// Address of the first column.
    pub at: Ptr<'c>,
    /// Bytes from one `k` to the next.
    pub k: Int<'c>,
}

/// Where a tile's sums go.
#[derive(Clone, Copy)]
pub struct Sums<'c> {
    /// Address of the first.
    pub at: Ptr<'c>,
    /// Bytes from one row to the next.
    pub row: Int<'c>,
    /// If given, what is there, times one of these factors a row, 64 bytes apart, is added to the sums at the end: a
    /// block of keys has a sum of its own, so that rounding errors do not grow with the number of keys.
    pub factors: Option<Ptr<'c>>,
}

/// A tile of `rows` by `columns` over `k` steps.
pub fn tile<'c>(
    e: &Emit<'c>,
    (rows, columns): (u32, u32),
    a: Left<'c>,
    b: Right<'c>,
    k: Int<'c>,
    sums: Sums<'c>,
) {
    let routine = e.routine(Arc::new(Tile {
        rows,
        columns,
        adds: sums.factors.is_some(),
    }));
    let mut arguments: Vec<Any<'c>> = vec![
        a.at.into(),
        a.row.into(),
        a.k.into(),
        a.last.into(),
        b.at.into(),
        b.k.into(),
        k.into(),
        sums.at.into(),
        sums.row.into(),
    ];
    arguments.extend(sums.factors.map(Any::from));
    e.call_subroutine(routine, &arguments);
}

/// [`tile`] as a routine.
struct Tile {
    rows: u32,
    columns: u32,
    /// Whether the sums are added to what is there.
    adds: bool,
}

impl Routine for Tile {
    fn symbol(&self) -> String {
        let what = if self.adds { "weigh" } else { "score" };
        format!("subroutine_{what}_{}x{}", self.rows, self.columns)
    }

    fn parameters(&self) -> Vec<Parameter> {
        use Parameter::{Int, Ptr};
        let mut types = vec![Ptr, Int, Int, Int, Ptr, Int, Int, Ptr, Int];
        types.extend(self.adds.then_some(Ptr));
        types
    }

    fn emit<'c>(&self, e: &Emit<'c>, arguments: &[Any<'c>]) {
        let ptr = |n: usize| arguments[n].into_pointer_value();
        let int = |n: usize| arguments[n].into_int_value();
        let a = Left {
            at: ptr(0),
            row: int(1),
            k: int(2),
            last: int(3),
        };
        let b = Right {
            at: ptr(4),
            k: int(5),
        };
        let sums = Sums {
            at: ptr(7),
            row: int(8),
            factors: self.adds.then(|| ptr(9)),
        };
        self.code(e, a, b, int(6), sums);
    }
}

impl Tile {
    fn code<'c>(&self, e: &Emit<'c>, a: Left<'c>, b: Right<'c>, k: Int<'c>, sums: Sums<'c>) {
        let lanes = e.level().lanes();
        let vectors = self.columns / lanes;
        let ty = e.vector_type(Elem::F32, lanes);
        let row = |r: u32| match r {
            0 => a.at,
            r => e.at(a.at, e.mul(e.imin(e.i64(i64::from(r)), a.last), a.row)),
        };
        let rows: Vec<Ptr<'c>> = (0..self.rows).map(|r| e.opaque(row(r))).collect();
        let place = |r: u32, v: u32| {
            let line = e.at(sums.at, e.mul(sums.row, e.i64(i64::from(r))));
            e.at_const(line, i64::from(v * lanes) * 4)
        };
        let mut carried: Vec<Any<'c>> = vec![e.i64(0).into(), b.at.into()];
        let none = Any::from(ty.const_zero());
        carried.extend(vec![none; (self.rows * vectors) as usize]);
        let done = e.fold(e.i64(0), k, e.i64(1), &carried, |_, carried| {
            let (at, from) = (carried[0].into_int_value(), carried[1].into_pointer_value());
            let mut next = vec![e.add(at, a.k).into(), e.at(from, b.k).into()];
            let load = |v: u32| {
                e.load_aligned(ty, e.at_const(from, i64::from(v * lanes * 4)), 4)
                    .into_vector_value()
            };
            let column: Vec<Vector<'c>> = (0..vectors).map(load).collect();
            for (r, base) in rows.iter().enumerate() {
                let a = e.splat(e.load_scalar::<Float<'c>>(Elem::F32, e.at(*base, at)), lanes);
                for (v, b) in column.iter().enumerate() {
                    let sum = carried[2 + r * vectors as usize + v].into_vector_value();
                    next.push(e.multiply_add(a, *b, sum).into());
                }
            }
            next
        });
        for (r, sums_of_row) in (0..self.rows).zip(done[2..].chunks(vectors as usize)) {
            let factor = sums.factors.map(|f| {
                let factor: Float<'c> = e.load_scalar(Elem::F32, e.at_const(f, i64::from(r) * 64));
                e.splat(factor, lanes)
            });
            for (v, sum) in (0..).zip(sums_of_row) {
                let mut sum = sum.into_vector_value();
                if let Some(factor) = factor {
                    let old = e.load_aligned(ty, place(r, v), 4).into_vector_value();
                    sum = e.fadd(e.fmul(old, factor), sum);
                }
                e.store_aligned(sum, place(r, v), 4);
            }
        }
    }
}
