//! Register tiles of the two products.
//!
//! `c[r, j] = init[r, j] + sum over k of a[r, k] * b[k, j]` for a few rows `r` and one or more vectors `j`; the sums
//! stay in registers over all of `k`, in increasing order of `k`, fused where the level has the instruction.

use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Emit, Float, Int, Ptr, Vector};

/// Rows of a full tile: with its columns it just fits the level's registers.
pub const ROWS: u32 = 6;

/// Columns of a full tile.
pub fn columns(e: &Emit<'_>) -> u32 {
    if e.level().lanes() == 16 { 64 } else { 16 }
}

/// A factor's place: its address, and bytes from one `k` to the next.
#[derive(Clone, Copy)]
pub struct Factor<'c> {
    /// Address of the first row (`a`) or column (`b`).
    pub at: Ptr<'c>,
    /// Bytes from one `k` to the next.
    pub k: Int<'c>,
}

/// Sums of a tile of `rows` (each with its own `a`) by `columns` columns; `init` gives what the sums start from.
pub fn tile<'c>(
    e: &Emit<'c>,
    rows: &[Factor<'c>],
    b: Factor<'c>,
    columns: u32,
    k: Int<'c>,
    init: &dyn Fn(usize, u32) -> Vector<'c>,
) -> Vec<Vec<Vector<'c>>> {
    let lanes = e.level().lanes();
    let vectors = columns / lanes;
    let bases: Vec<Ptr<'c>> = rows.iter().map(|r| e.opaque(r.at)).collect();
    let step = rows[0].k;
    let mut carried: Vec<Any<'c>> = vec![e.i64(0).into(), b.at.into()];
    for r in 0..rows.len() {
        carried.extend((0..vectors).map(|v| Any::from(init(r, v))));
    }
    let done = e.fold(e.i64(0), k, e.i64(1), &carried, |_, carried| {
        let (at, from) = (carried[0].into_int_value(), carried[1].into_pointer_value());
        let mut next = vec![e.add(at, step).into(), e.at(from, b.k).into()];
        let column: Vec<Vector<'c>> = (0..vectors)
            .map(|v| {
                e.load_aligned(
                    e.vector_type(Elem::F32, lanes),
                    e.at_const(from, i64::from(v * lanes * 4)),
                    4,
                )
            })
            .map(|v| v.into_vector_value())
            .collect();
        for (r, base) in bases.iter().enumerate() {
            let a = e.splat(e.load_scalar::<Float<'c>>(Elem::F32, e.at(*base, at)), lanes);
            for (v, b) in column.iter().enumerate() {
                let sum = carried[2 + r * vectors as usize + v].into_vector_value();
                next.push(e.multiply_add(a, *b, sum).into());
            }
        }
        next
    });
    let sums: Vec<Vector<'c>> = done[2..].iter().map(|v| v.into_vector_value()).collect();
    sums.chunks(vectors as usize).map(<[_]>::to_vec).collect()
}
