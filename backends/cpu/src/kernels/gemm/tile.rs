//! The register tile: the inner loop over K.

use super::driver::Operands;
use super::{Product, TileShape};
use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Emit, Float, Int, Parameter, Ptr, Routine, Subroutine, Vector};
use crate::pack::{GROUP, PANEL};
use std::sync::Arc;

/// Bytes from one k (f32) or one group of 4 k (int8) of a panel to the next; both are 64 columns of 4 bytes.
const PANEL_STEP: i64 = 4 * PANEL as i64;

/// Bits from an 8-bit code at the bottom of a word to its top.
const TOP: i64 = 24;

/// Bytes of a cache line.
const LINE: i64 = 64;

/// Steps of a float reduction whose sum is formed on its own before it is added to the rest: the rounding error of a long
/// sum grows with the square root of this number and of the number of blocks, not of their product.
const FLOAT_BLOCK: i64 = 128;

/// Tiles that fetch the whole next panel: each fetches one line a step. A step of the mixed product is a quarter of the
/// step of others: one code of each column.
pub(super) fn fetching_tiles(product: Product) -> i64 {
    let lines = PANEL_STEP / LINE;
    if product == Product::Mixed {
        lines / GROUP as i64
    } else {
        lines
    }
}

/// A tile as a routine, so that its accumulators have all registers, whatever the epilogue keeps.
struct TileRoutine {
    product: Product,
    shape: TileShape,
    segment_axes: u32,
}

impl Routine for TileRoutine {
    fn symbol(&self) -> String {
        let TileShape { rows, columns } = self.shape;
        let what = self.product.name();
        format!("subroutine_tile_{what}_{rows}x{columns}_{}", self.segment_axes)
    }

    fn parameters(&self) -> Vec<Parameter> {
        use Parameter::{Int, Ptr};
        let mut types = vec![Ptr, Int, Int, Ptr, Int, Ptr, Ptr];
        types.extend(vec![Int; 2 * self.segment_axes as usize]);
        types
    }

    fn emit<'c>(&self, e: &Emit<'c>, arguments: &[Any<'c>]) {
        let ptr = |n: usize| arguments[n].into_pointer_value();
        let int = |n: usize| arguments[n].into_int_value();
        let operands = Operands {
            a: ptr(0),
            a_row: int(1),
            a_k: int(2),
            b: ptr(3),
        };
        let segments: Segments<'c> = (0..self.segment_axes as usize)
            .map(|s| (int(7 + 2 * s), int(8 + 2 * s)))
            .collect();
        let reduction = (int(4), &segments);
        emit_tile(e, self.product, self.shape, operands, reduction, (ptr(5), ptr(6)));
    }
}

/// A tile that can be called.
pub(crate) struct Tile<'c>(Subroutine<'c>);

/// Segments of the reduction: extent and stride of A (in bytes) of each axis that counts them, outermost first.
pub(crate) type Segments<'c> = Vec<(Int<'c>, Int<'c>)>;

impl<'c> Tile<'c> {
    /// The tile of this shape, with so many segment axes.
    pub(crate) fn new(e: &Emit<'c>, product: Product, shape: TileShape, segment_axes: u32) -> Tile<'c> {
        Tile(e.routine(Arc::new(TileRoutine {
            product,
            shape,
            segment_axes,
        })))
    }

    /// Runs it on a reduction of length `k` in each segment: the sums go to `sums`, and what lies at `ahead`, one line a
    /// step along K, comes closer meanwhile.
    pub(crate) fn call(
        &self,
        e: &Emit<'c>,
        o: Operands<'c>,
        (k, segments): (Int<'c>, &Segments<'c>),
        sums: Ptr<'c>,
        ahead: Ptr<'c>,
    ) {
        let mut arguments: Vec<Any<'c>> = vec![
            o.a.into(),
            o.a_row.into(),
            o.a_k.into(),
            o.b.into(),
            k.into(),
            sums.into(),
            ahead.into(),
        ];
        for (extent, stride) in segments {
            arguments.extend([Any::from(*extent), Any::from(*stride)]);
        }
        e.call_subroutine(self.0, &arguments);
    }
}

/// Steps along K within a segment: groups of 4 codes where those are multiplied as such, else single elements.
pub(super) fn steps<'c>(e: &Emit<'c>, product: Product, k: Int<'c>) -> Int<'c> {
    match product {
        Product::Int8 => e.div_ceil(k, e.i64(GROUP as i64)),
        Product::Mixed | Product::F32 | Product::F32Dynamic => k,
    }
}

/// Generates a tile: `shape.rows` rows of A times `shape.columns` columns of B; the raw sums go to `sums`, row-major. The
/// reduction is `k` long in each of the segments.
fn emit_tile<'c>(
    e: &Emit<'c>,
    product: Product,
    shape: TileShape,
    operands: Operands<'c>,
    (k, segments): (Int<'c>, &Segments<'c>),
    (sums, ahead): (Ptr<'c>, Ptr<'c>),
) {
    let lanes = e.level().lanes();
    let vectors = shape.columns / lanes;
    let elem = if product == Product::Int8 {
        Elem::I32
    } else {
        Elem::F32
    };
    let zero: Any<'c> = e.vector_type(elem, lanes).const_zero().into();
    let loops = Loops {
        e,
        product,
        vectors,
        elem,
        rows: (0..shape.rows)
            .map(|r| e.opaque(e.at(operands.a, e.mul(operands.a_row, e.i64(i64::from(r))))))
            .collect(),
        a_k: operands.a_k,
        steps: steps(e, product, k),
    };
    let slots = (shape.rows * vectors) as usize;
    let slot = |i: usize| e.at_const(sums, i as i64 * i64::from(lanes) * 4);
    let store = |i: usize, sum: Vector<'c>| e.store_aligned(sum, slot(i), lanes * 4);
    // Carried: the address of B, what to prefetch, the sums.
    let mut init: Vec<Any<'c>> = vec![operands.b.into(), ahead.into()];
    init.extend(vec![zero; slots]);
    if elem == Elem::I32 || !segments.is_empty() {
        let done = loops.segments(segments, e.i64(0), &init);
        for (i, sum) in done[2..].iter().enumerate() {
            store(i, sum.into_vector_value());
        }
        return;
    }
    (0..slots).for_each(|i| store(i, zero.into_vector_value()));
    let step = e.mul(e.i64(FLOAT_BLOCK), operands.a_k);
    let block = [e.i64(0).into(), operands.b.into(), ahead.into()];
    e.fold(
        e.i64(0),
        loops.steps,
        e.i64(FLOAT_BLOCK),
        &block,
        |first, carried| {
            let start = carried[0].into_int_value();
            let loops = Loops {
                rows: loops.rows.clone(),
                steps: e.imin(e.sub(loops.steps, first), e.i64(FLOAT_BLOCK)),
                ..loops
            };
            init[..2].copy_from_slice(&carried[1..]);
            let done = loops.segment(start, &init);
            for (i, sum) in done[2..].iter().enumerate() {
                let before = e.load_aligned(e.vector_type(elem, lanes), slot(i), lanes * 4);
                store(i, e.fadd(before.into_vector_value(), sum.into_vector_value()));
            }
            vec![e.add(start, step).into(), done[0], done[1]]
        },
    );
}

/// What the loops of a tile share.
struct Loops<'a, 'c> {
    e: &'a Emit<'c>,
    product: Product,
    vectors: u32,
    elem: Elem,
    rows: Vec<Ptr<'c>>,
    a_k: Int<'c>,
    steps: Int<'c>,
}

impl<'c> Loops<'_, 'c> {
    /// Loops over the segments; `start` is where the rows' current segment starts.
    fn segments(&self, segments: &[(Int<'c>, Int<'c>)], start: Int<'c>, carried: &[Any<'c>]) -> Vec<Any<'c>> {
        let e = self.e;
        let Some(((extent, stride), rest)) = segments.split_first() else {
            return self.segment(start, carried);
        };
        e.fold(e.i64(0), *extent, e.i64(1), carried, |i, carried| {
            let start = e.add(start, e.mul(i, *stride));
            self.segments(rest, start, carried)
        })
    }

    /// Loops over a segment.
    fn segment(&self, start: Int<'c>, carried: &[Any<'c>]) -> Vec<Any<'c>> {
        let e = self.e;
        // Carried: the offset into the rows of A, the address of B, what to prefetch, the sums.
        let mut init: Vec<Any<'c>> = vec![start.into()];
        init.extend_from_slice(carried);
        let segment_b = carried[0].into_pointer_value();
        let mut done = e.fold(e.i64(0), self.steps, e.i64(1), &init, |i, carried| {
            let mut next = carried.to_vec();
            let (at, b) = (carried[0].into_int_value(), carried[1].into_pointer_value());
            let columns = if self.product == Product::Mixed {
                unpack(e, segment_b, i, self.vectors)
            } else {
                load_columns(e, self.elem, b, self.vectors)
            };
            if self.product != Product::F32Dynamic {
                let line = carried[2].into_pointer_value();
                e.prefetch(line);
                next[2] = e.at_const(line, LINE).into();
            }
            let step = Step::new(e, self.product, &columns);
            for (r, row) in self.rows.iter().enumerate() {
                let a = step.broadcast(e, e.at(*row, at));
                for v in 0..self.vectors as usize {
                    let slot = &mut next[3 + r * self.vectors as usize + v];
                    *slot = step.accumulate(e, slot.into_vector_value(), a, v).into();
                }
            }
            next[0] = e.add(at, self.a_k).into();
            next[1] = e.at_const(b, PANEL_STEP).into();
            next
        });
        if self.product == Product::Mixed {
            // A step is one code of each column; a segment ends with its last group.
            let groups = e.div_ceil(self.steps, e.i64(GROUP as i64));
            done[1] = e.at_index(segment_b, groups, PANEL_STEP as u32).into();
        }
        done.remove(0);
        done
    }
}

/// Vectors of 32-bit lanes of B that adjoin.
fn load_columns<'c>(e: &Emit<'c>, elem: Elem, from: Ptr<'c>, vectors: u32) -> Vec<Vector<'c>> {
    let lanes = e.level().lanes();
    let load = |v: u32| {
        let from = e.at_const(from, i64::from(v * lanes * 4));
        e.load_aligned(e.vector_type(elem, lanes), from, lanes * 4)
            .into_vector_value()
    };
    (0..vectors).map(load).collect()
}

/// The codes of row `k` of packed int8 columns as floats: moved to the top of their words, so that one arithmetic shift
/// extends their sign.
fn unpack<'c>(e: &Emit<'c>, b: Ptr<'c>, k: Int<'c>, vectors: u32) -> Vec<Vector<'c>> {
    let lanes = e.level().lanes();
    let group = e.mul(e.and(k, e.i64(-(GROUP as i64))), e.i64(PANEL as i64));
    // The same for all lanes: the baseline has no other variable shift.
    let below = e.mul(e.and(k, e.i64(GROUP as i64 - 1)), e.i64(8));
    let shift = e.splat(e.trunc_to(Elem::I32, e.sub(e.i64(TOP), below)), lanes);
    let top = e.ints(Elem::I32, TOP, lanes);
    load_columns(e, Elem::I32, e.at(b, group), vectors)
        .into_iter()
        .map(|words| e.int_to_float(e.ashr(e.shl(words, shift), top), true, Elem::F32))
        .collect()
}

/// One step along K: B's vectors of this step, prepared for the level's multiply.
enum Step<'c> {
    /// `vpdpbusd` on bytes.
    Dot(Vec<Vector<'c>>),
    /// Even and odd bytes, widened to 16 bits.
    Pairs(Vec<(Vector<'c>, Vector<'c>)>),
    /// Floats.
    Float(Vec<Vector<'c>>),
}

impl<'c> Step<'c> {
    fn new(e: &Emit<'c>, product: Product, columns: &[Vector<'c>]) -> Step<'c> {
        if product != Product::Int8 {
            return Step::Float(columns.to_vec());
        }
        if e.level().has_vnni() {
            return Step::Dot(columns.to_vec());
        }
        let words = 2 * e.level().lanes();
        let eight = e.splat(e.trunc_to(Elem::I16, e.i64(8)), words);
        let widen = |column: &Vector<'c>| {
            let both = e.bitcast(*column, Elem::I16, words);
            (e.ashr(e.shl(both, eight), eight), e.ashr(both, eight))
        };
        Step::Pairs(columns.iter().map(widen).collect())
    }

    /// A's value of this step in all lanes; for [`Step::Pairs`] even and odd bytes.
    fn broadcast(&self, e: &Emit<'c>, from: Ptr<'c>) -> (Vector<'c>, Vector<'c>) {
        let lanes = e.level().lanes();
        match self {
            Step::Float(_) => {
                let a = e.splat(e.load_scalar::<Float<'c>>(Elem::F32, from), lanes);
                (a, a)
            }
            Step::Dot(_) => {
                let a = e.splat(e.load_scalar::<Int<'c>>(Elem::I32, from), lanes);
                (a, a)
            }
            Step::Pairs(_) => {
                let a = e.splat(e.load_scalar::<Int<'c>>(Elem::I32, from), lanes);
                let both = e.bitcast(a, Elem::I16, 2 * lanes);
                let constant = |value| e.splat(e.trunc_to(Elem::I16, e.i64(value)), 2 * lanes);
                (e.and(both, constant(0xff)), e.lshr(both, constant(8)))
            }
        }
    }

    fn accumulate(
        &self,
        e: &Emit<'c>,
        acc: Vector<'c>,
        (a, a_odd): (Vector<'c>, Vector<'c>),
        v: usize,
    ) -> Vector<'c> {
        match self {
            Step::Dot(columns) => e.dot_u8_s8(acc, a, columns[v]),
            Step::Pairs(columns) => {
                let (even, odd) = columns[v];
                e.add(acc, e.add(e.dot_i16(a, even), e.dot_i16(a_odd, odd)))
            }
            Step::Float(columns) => e.multiply_add(a, columns[v], acc),
        }
    }
}
