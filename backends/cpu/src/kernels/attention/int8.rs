//! Attention over 8-bit codes, bit for bit as [`rsqc_ir::eval::attention8`] defines it.
//!
//! Both products are int8 tiles of the matrix product: u8 rows times s8 columns, exact in 32 bits. For each head the
//! queries of the block become rows of codes + 128; for each block of keys
//!
//! 1. keys (turned) and values become packed columns, four rows to a word, each column with its scale; of the keys, 128
//!    times the sum of each column's codes is kept, to be taken off the products;
//! 2. the raw products land tile by tile where the scores will be; a pass along each row makes numbers of them, runs the
//!    score body and finds the maximum, another one turns scores into weights and their codes, which are u8 as they are;
//! 3. the second product goes to a small buffer, and from there, scaled, into the head's sums.

use super::pack::{ROW, Source, address, copy_run, is_plain, pack, step};
use super::{Code, KEYS};
use crate::kernels::access::{Cx, Index, Point};
use crate::kernels::body::{LANES, combine, widen};
use crate::kernels::gemm::{Operands, Product, Tile, TileShape};
use crate::level::{Level, LevelFacts};
use crate::llvm::{Any, Elem, Emit, Float, FloatCmp, Int, IntCmp, Ptr, Vector};
use crate::pack::PANEL;
use rsqc_ir::eval::attention8::STEPS;
use rsqc_ir::region::Products;
use rsqc_ir::scalar::{Body, ReduceKind, exponential};
use rsqc_ir::{Dim, ScalarType};
use std::cell::Cell;

/// Query rows of a tile are a multiple of this, and so of every level's register tile.
pub(super) const ROW_STEP: i64 = 12;

/// Keys, or inner indices, in a word of packed codes.
const GROUP: i64 = 4;

/// Bytes from one group of packed rows to the next: a word a column.
const GROUP_BYTES: i64 = 4 * PANEL as i64;

/// Largest magnitude of a code.
const LARGEST: f32 = 127.0;

/// Where a query's scale is in its row of facts, behind the maximum.
const QUERY_SCALE: i64 = 1;

/// Where the factor of a block's sums is, behind that of the old ones.
const FRESH: i64 = 1;

/// Rows of the register tile.
fn height(level: Level) -> u32 {
    match level {
        Level::Portable => 2,
        Level::Avx2 => 4,
        Level::AvxVnni | Level::Avx512Vnni => 6,
    }
}

/// Multiplier and scale of codes, as scalars or lanes.
#[derive(Clone, Copy)]
struct Scale<T> {
    multiplier: T,
    scale: T,
}

/// What attention over codes needs beside the parts of any attention.
pub(super) struct Coded<'c> {
    /// Packed keys, with the scale and what is added to the product of each.
    keys: Ptr<'c>,
    key_scales: Ptr<'c>,
    key_shifts: Ptr<'c>,
    /// Packed values with the scale of each channel.
    values: Ptr<'c>,
    value_scales: Ptr<'c>,
    /// Codes of weights, [`KEYS`] bytes a row.
    weights: Ptr<'c>,
    score_tile: Product8<'c>,
    value_tile: Product8<'c>,
    /// The second product's sums.
    sums: Ptr<'c>,
    /// Static scales of queries, keys and values.
    given: Option<[Scale<Float<'c>>; 3]>,
    exp: Body,
}

/// A register tile with its shape.
struct Product8<'c> {
    tile: Tile<'c>,
    rows: i64,
    columns: i64,
}

impl<'c> Product8<'c> {
    fn new(e: &Emit<'c>, columns: u32) -> Self {
        let shape = TileShape {
            rows: height(e.level()),
            columns: if e.level().lanes() == 16 { columns } else { 16 },
        };
        Product8 {
            tile: Tile::new(e, Product::Int8, shape, 0),
            rows: i64::from(shape.rows),
            columns: i64::from(shape.columns),
        }
    }

    /// Rows of codes `a_row` bytes apart times packed columns.
    fn call(&self, e: &Emit<'c>, (a, a_row): (Ptr<'c>, Int<'c>), b: Ptr<'c>, k: Int<'c>, sums: Ptr<'c>) {
        let operands = Operands {
            a,
            a_row,
            a_k: e.i64(GROUP),
            b,
        };
        // Nothing lies ahead that is not in the cache already.
        self.tile.call(e, operands, (k, &Vec::new()), sums, b);
    }
}

/// Floats of each part in scratch, in the order of [`Coded::new`]; all are multiples of 16.
pub(super) fn dims(block: &Dim, inner: &Dim, channels: &Dim) -> Vec<Dim> {
    let panels = channels.ceil_div(&Dim::from(PANEL)) * Dim::from(PANEL);
    let keys = Dim::from(KEYS);
    vec![
        inner.ceil_div(&Dim::from(GROUP)) * keys.clone(),
        keys.clone(),
        keys.clone(),
        panels.clone() * Dim::from(KEYS / GROUP),
        panels,
        block.clone() * Dim::from(KEYS / GROUP),
    ]
}

impl<'c> Coded<'c> {
    /// With the parts from `next` on, which is moved behind them.
    pub(super) fn new(
        cx: &Cx<'_, 'c>,
        next: &Cell<Ptr<'c>>,
        block: Int<'c>,
        (inner, channels): (Int<'c>, u32),
        products: Products,
    ) -> Option<Self> {
        let Products::Int8 { scales } = products else {
            return None;
        };
        let e = cx.e;
        let part = |floats: Int<'c>| next.replace(e.at_index(next.get(), floats, 4));
        let keys = e.i64(KEYS);
        let groups = e.i64(KEYS / GROUP);
        let panel = PANEL as i64;
        let count = cx.extent(channels);
        let panels = e.and(e.add(count, e.i64(panel - 1)), e.i64(-panel));
        let known = cx.spec.region.axes[channels as usize].extent.as_const();
        let columns = known.map_or(panel, |c| (c + 15) / 16 * 16).clamp(16, panel) as u32;
        // 48 columns would leave a panel's last tile narrower than the others.
        let columns = if columns == 48 { PANEL as u32 } else { columns };
        let value_tile = Product8::new(e, columns);
        let given = scales.map(|n| {
            n.map(|n| {
                let scale: Float<'c> = e.load_scalar(Elem::F32, address(cx, n, &Point::new(0)));
                let multiplier = e.fdiv(e.f32(1.0), scale);
                Scale { multiplier, scale }
            })
        });
        Some(Coded {
            keys: part(e.mul(e.div_ceil(inner, e.i64(GROUP)), keys)),
            key_scales: part(keys),
            key_shifts: part(keys),
            values: part(e.mul(panels, groups)),
            value_scales: part(panels),
            weights: part(e.mul(block, groups)),
            score_tile: Product8::new(e, panel as u32),
            sums: e.stack(
                e.vector_type(Elem::I32, 16),
                (value_tile.rows * value_tile.columns / 16) as u32,
                64,
            ),
            value_tile,
            given,
            exp: exponential(),
        })
    }

    fn given(&self, which: usize) -> Option<Scale<Float<'c>>> {
        self.given.map(|g| g[which])
    }
}

/// The largest bit pattern of |x|, `top`, as multiplier and scale.
fn scale_of<'c>(e: &Emit<'c>, top: Vector<'c>) -> Scale<Vector<'c>> {
    let n = top.get_type().get_size();
    let amax = e.bitcast(top, Elem::F32, n);
    let (zero, limit) = (e.f32s(0.0, n), e.f32s(f32::MAX, n));
    let bad = e.icmp(IntCmp::SGE, top, e.ints(Elem::I32, 0x7f80_0000, n));
    let ratio = e.fdiv(e.f32s(LARGEST, n), amax);
    let bounded = e.select(e.fcmp(FloatCmp::OLT, ratio, limit), ratio, limit);
    let unusable = e.or(bad, e.fcmp(FloatCmp::OEQ, amax, zero));
    let scaled = e.fmul(amax, e.f32s(1.0 / LARGEST, n));
    Scale {
        multiplier: e.select(unusable, zero, bounded),
        scale: e.select(bad, e.f32s(f32::NAN, n), scaled),
    }
}

/// `max(top, |x|)` on bit patterns.
fn magnitude<'c>(e: &Emit<'c>, top: Vector<'c>, x: Vector<'c>) -> Vector<'c> {
    let bits = e.bitcast(x, Elem::I32, LANES);
    e.vmax(top, e.and(bits, e.ints(Elem::I32, 0x7fff_ffff, LANES)))
}

/// Codes in i32 lanes. Computed scales need no bounds: `|x| * m` is at most 127, or the scale is NaN and codes do not matter.
fn codes<'c>(e: &Emit<'c>, x: Vector<'c>, multiplier: Vector<'c>, bounded: bool) -> Vector<'c> {
    let mut v = e.fmul(x, multiplier);
    if bounded {
        let (low, high) = (e.f32s(-LARGEST, LANES), e.f32s(LARGEST, LANES));
        v = e.select(e.fcmp(FloatCmp::OGT, v, low), v, low);
        v = e.select(e.fcmp(FloatCmp::OLT, v, high), v, high);
    }
    e.round_to_i32(v)
}

/// Sixteen columns of floats that become packed codes.
struct Columns<'c> {
    /// The first row, and bytes from one to the next.
    from: Ptr<'c>,
    row: Int<'c>,
    rows: Int<'c>,
    /// The first group's words.
    to: Ptr<'c>,
    scales: Ptr<'c>,
    /// Where -128 times the sums of codes go.
    shifts: Option<Ptr<'c>>,
}

impl<'c> Columns<'c> {
    fn load(&self, e: &Emit<'c>, row: Int<'c>) -> Vector<'c> {
        let from = e.at(self.from, e.mul(row, self.row));
        let value = e.load_aligned(e.vector_type(Elem::F32, LANES), from, 4);
        value.into_vector_value()
    }

    fn quantize(&self, e: &Emit<'c>, given: Option<Scale<Float<'c>>>) {
        let none: Any<'c> = e.vector_type(Elem::I32, LANES).const_zero().into();
        let (zero, one) = (e.i64(0), e.i64(1));
        let scale = match given {
            Some(s) => Scale {
                multiplier: e.splat(s.multiplier, LANES),
                scale: e.splat(s.scale, LANES),
            },
            None => {
                let top = e.fold(zero, self.rows, one, &[none], |row, carried| {
                    vec![magnitude(e, carried[0].into_vector_value(), self.load(e, row)).into()]
                });
                scale_of(e, top[0].into_vector_value())
            }
        };
        e.store_aligned(scale.scale, self.scales, 64);
        let code = |row: Int<'c>| codes(e, self.load(e, row), scale.multiplier, given.is_some());
        let whole = e.and(self.rows, e.i64(-GROUP));
        let sum = e.fold(zero, whole, e.i64(GROUP), &[none], |first, carried| {
            let four: Vec<Vector<'c>> = (0..GROUP).map(|i| code(e.add(first, e.i64(i)))).collect();
            vec![self.store(e, first, &four, carried[0].into_vector_value()).into()]
        });
        // What is left of a group; rows that do not exist are 0.
        let last = e.sub(self.rows, one);
        let sum = e.fold(whole, self.rows, e.i64(GROUP), &sum, |first, carried| {
            let some = (0..GROUP).map(|i| {
                let row = e.add(first, e.i64(i));
                let value = code(e.imin(row, last));
                let exists = e.icmp(IntCmp::SLT, row, self.rows);
                e.select(exists, value, e.ints(Elem::I32, 0, LANES))
            });
            let some: Vec<Vector<'c>> = some.collect();
            vec![self.store(e, first, &some, carried[0].into_vector_value()).into()]
        });
        if let Some(to) = self.shifts {
            let shift = e.mul(sum[0].into_vector_value(), e.ints(Elem::I32, -128, LANES));
            e.store_aligned(shift, to, 64);
        }
    }

    /// Stores a group's words; gives the sum of codes so far.
    fn store(&self, e: &Emit<'c>, first: Int<'c>, four: &[Vector<'c>], sum: Vector<'c>) -> Vector<'c> {
        let constant = |v: i64| e.ints(Elem::I32, v, LANES);
        let mut words = constant(0);
        let mut sum = sum;
        for (i, code) in four.iter().enumerate() {
            let byte = e.and(*code, constant(0xff));
            words = e.or(words, e.shl(byte, constant(8 * i as i64)));
            sum = e.add(sum, *code);
        }
        // A group is a quarter of its rows' bytes as floats.
        e.store_aligned(words, e.at(self.to, e.mul(first, e.i64(GROUP_BYTES / GROUP))), 64);
        sum
    }
}

impl<'c> Code<'_, '_, 'c> {
    /// Address of the sixteen scores from `column` on: tiles are stored one behind the other.
    fn score(&self, c: &Coded<'c>, row: Int<'c>, column: Int<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        let (rows, columns) = (e.i64(c.score_tile.rows), e.i64(c.score_tile.columns));
        let (inside_row, inside) = (e.urem(row, rows), e.urem(column, columns));
        let band = e.mul(e.sub(row, inside_row), e.i64(KEYS));
        let tile = e.add(band, e.mul(e.sub(column, inside), rows));
        let at = e.add(tile, e.add(e.mul(inside_row, columns), inside));
        e.at_index(self.layout.scores, at, 4)
    }

    /// The codes of the block's queries, and their scales.
    pub(super) fn code_queries(&self, c: &Coded<'c>, at: &Point<'c>) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let (zero, by) = (e.i64(0), e.i64(i64::from(LANES)));
        let inner = cx.extent(self.a.inner);
        let vector = e.vector_type(Elem::F32, LANES);
        // The place of packed keys is free as yet.
        let staged = l.keys;
        let load = |i: Int<'c>| {
            let value = e.load_aligned(vector, e.at_index(staged, i, 4), 64);
            value.into_vector_value()
        };
        e.for_range(zero, self.count, e.i64(1), |row| {
            let run = (self.a.inner, zero, inner);
            copy_run(cx, self.a.q, &self.query(at, row), run, staged);
            let scale = match c.given(0) {
                Some(s) => Scale {
                    multiplier: e.splat(s.multiplier, 1),
                    scale: e.splat(s.scale, 1),
                },
                None => {
                    let none: Any<'c> = e.vector_type(Elem::I32, LANES).const_zero().into();
                    let top = e.fold(zero, inner, by, &[none], |i, carried| {
                        vec![magnitude(e, carried[0].into_vector_value(), load(i)).into()]
                    });
                    let top: Int<'c> = e.reduce(top[0].into_vector_value(), |x, y| e.vmax(x, y));
                    scale_of(e, e.splat(top, 1))
                }
            };
            let to = self.cell(l.max, row, e.i64(16), e.i64(QUERY_SCALE));
            e.store_aligned(scale.scale, to, 4);
            let multiplier = widen(e, scale.multiplier, LANES);
            e.for_range(zero, inner, by, |i| {
                let code = codes(e, load(i), multiplier, c.given.is_some());
                let moved = e.add(code, e.ints(Elem::I32, 128, LANES));
                let to = e.at(l.queries, e.add(e.mul(row, l.query), i));
                e.store_aligned(e.narrow(moved, Elem::I8), to, 16);
            });
        });
    }

    /// A block of keys: products, weights, products.
    pub(super) fn coded_block(&self, c: &Coded<'c>, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let (e, l) = (self.cx.e, self.layout);
        self.code_keys(c, at, (t, count));
        let inner = self.cx.extent(self.a.inner);
        let padded = e.and(e.add(count, e.i64(15)), e.i64(-16));
        let zero = e.i64(0);
        let tile = &c.score_tile;
        e.for_range(zero, self.count, e.i64(tile.rows), |first| {
            e.for_range(zero, padded, e.i64(tile.columns), |column| {
                let a = e.at(l.queries, e.mul(first, l.query));
                let b = self.packed_key(c, column);
                tile.call(e, (a, l.query), b, inner, self.score(c, first, column));
            });
        });
        e.for_range(zero, self.count, e.i64(1), |row| {
            let top = self.coded_scores(c, &self.query(at, row), row, (t, count));
            self.coded_weights(c, row, (t, count), top);
        });
        self.code_values(c, at, (t, count));
        self.weigh_codes(c, count);
    }

    /// Where the codes of the key `column` of the block start, a multiple of 16.
    fn packed_key(&self, c: &Coded<'c>, column: Int<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        let panel = e.i64(PANEL as i64);
        let groups = e.div_ceil(self.cx.extent(self.a.inner), e.i64(GROUP));
        let bytes = e.mul(groups, e.i64(GROUP_BYTES));
        let from = e.at(c.keys, e.mul(e.udiv(column, panel), bytes));
        e.at_index(from, e.urem(column, panel), 4)
    }

    fn code_keys(&self, c: &Coded<'c>, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let inner = cx.extent(self.a.inner);
        let panel_bytes = e.mul(inner, e.i64(ROW));
        let source = Source {
            operand: self.a.k,
            rows: self.a.inner,
            columns: self.a.key,
        };
        pack(
            cx,
            source,
            at,
            (e.i64(0), inner),
            (t, count),
            (l.keys, panel_bytes),
        );
        let panel = e.i64(PANEL as i64);
        e.for_range(e.i64(0), count, e.i64(16), |column| {
            let from = e.at(l.keys, e.mul(e.udiv(column, panel), panel_bytes));
            let columns = Columns {
                from: e.at_index(from, e.urem(column, panel), 4),
                row: e.i64(ROW),
                rows: inner,
                to: self.packed_key(c, column),
                scales: e.at_index(c.key_scales, column, 4),
                shifts: Some(e.at_index(c.key_shifts, column, 4)),
            };
            columns.quantize(e, c.given(1));
        });
    }

    /// Values are read where they are if whole vectors of channels can be, else through a copy.
    fn code_values(&self, c: &Coded<'c>, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let channel = self.kernel.channel;
        let region = &cx.spec.region;
        let extent = &region.axes[channel as usize].extent;
        let whole = extent.as_const().is_some_and(|c| c % 16 == 0);
        let adjoins = region.operands[self.a.v as usize].stride(channel).is(1);
        let in_place = is_plain(cx, self.a.v) && adjoins && whole;
        let channels = cx.extent(channel);
        if !in_place {
            let source = Source {
                operand: self.a.v,
                rows: self.a.key,
                columns: channel,
            };
            let to = (l.values, e.i64(KEYS * ROW));
            pack(cx, source, at, (t, count), (e.i64(0), channels), to);
        }
        let panel = e.i64(PANEL as i64);
        e.for_range(e.i64(0), channels, e.i64(16), |column| {
            let (from, row) = if in_place {
                let here = at.with(self.a.key, Index::At(t)).with(channel, Index::At(column));
                (address(cx, self.a.v, &here), step(cx, self.a.v, self.a.key))
            } else {
                let from = e.at(l.values, e.mul(e.udiv(column, panel), e.i64(KEYS * ROW)));
                (e.at_index(from, e.urem(column, panel), 4), e.i64(ROW))
            };
            let columns = Columns {
                from,
                row,
                rows: count,
                to: self.packed_value(c, column),
                scales: e.at_index(c.value_scales, column, 4),
                shifts: None,
            };
            columns.quantize(e, c.given(2));
        });
    }

    fn packed_value(&self, c: &Coded<'c>, column: Int<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        let panel = e.i64(PANEL as i64);
        let bytes = e.i64(KEYS / GROUP * GROUP_BYTES);
        let from = e.at(c.values, e.mul(e.udiv(column, panel), bytes));
        e.at_index(from, e.urem(column, panel), 4)
    }

    /// From a row's raw products to its scores; gives their maximum, one lane.
    fn coded_scores(
        &self,
        c: &Coded<'c>,
        at: &Point<'c>,
        row: Int<'c>,
        keys: (Int<'c>, Int<'c>),
    ) -> Vector<'c> {
        let (e, l) = (self.cx.e, self.layout);
        let scale = self.cell(l.max, row, e.i64(16), e.i64(QUERY_SCALE));
        let scale = e.splat(e.load_scalar::<Float<'c>>(Elem::F32, scale), LANES);
        let lanes = |elem, part, i: Int<'c>| {
            let from = e.at_index(part, i, 4);
            e.load_aligned(e.vector_type(elem, LANES), from, 64)
                .into_vector_value()
        };
        let raw = |cell: Ptr<'c>, i: Int<'c>| {
            let sums = e
                .load_aligned(e.vector_type(Elem::I32, LANES), cell, 64)
                .into_vector_value();
            let exact = e.add(sums, lanes(Elem::I32, c.key_shifts, i));
            let by_query = e.fmul(e.int_to_float(exact, true, Elem::F32), scale);
            e.fmul(by_query, lanes(Elem::F32, c.key_scales, i))
        };
        self.score_row(at, keys, &|i| self.score(c, row, i), &raw)
    }

    /// A row's weights as codes, and its sum, maximum and factors.
    fn coded_weights(&self, c: &Coded<'c>, row: Int<'c>, (t, count): (Int<'c>, Int<'c>), top: Vector<'c>) {
        let (e, l) = (self.cx.e, self.layout);
        let (zero, sixteen) = (e.i64(0), e.i64(16));
        let one = e.vector_type(Elem::F32, 1);
        let max_cell = self.cell(l.max, row, sixteen, zero);
        let old = e.load_aligned(one, max_cell, 4).into_vector_value();
        let new = combine(e, ReduceKind::Max, ScalarType::F32, old, top);
        let lowest = e.f32s(f32::NEG_INFINITY, 1);
        let nothing = e.f32s(0.0, 1);
        let finite = |m: Vector<'c>| e.select(e.fcmp(FloatCmp::OEQ, m, lowest), nothing, m);
        // In the first block there is nothing old, and the exponent of `fresh` is 0, -inf or NaN.
        let (kept, fresh) = (e.var(nothing), e.var(nothing));
        e.if_else(
            e.icmp(IntCmp::SGT, t, zero),
            || {
                e.set(kept, self.exp(&c.exp, e.fsub(old, finite(new))));
                e.set(fresh, self.exp(&c.exp, e.fsub(top, finite(new))));
            },
            || {
                let x = e.fsub(top, finite(top));
                let is_zero = e.fcmp(FloatCmp::OEQ, x, nothing);
                let is_lowest = e.fcmp(FloatCmp::OEQ, x, lowest);
                let other = e.select(is_lowest, nothing, x);
                e.set(fresh, e.select(is_zero, e.f32s(1.0, 1), other));
            },
        );
        let (kept, fresh): (Vector<'c>, Vector<'c>) = (e.get(kept), e.get(fresh));
        e.store_aligned(new, max_cell, 4);
        e.store_aligned(kept, self.cell(l.alpha, row, sixteen, zero), 4);
        e.store_aligned(fresh, self.cell(l.alpha, row, sixteen, e.i64(FRESH)), 4);
        let shift = widen(e, finite(top), LANES);
        let vector = e.vector_type(Elem::F32, LANES);
        let by = e.i64(i64::from(LANES));
        let none: Any<'c> = vector.const_zero().into();
        let sums = e.fold(zero, count, by, &[none], |i, carried| {
            let score = e
                .load_aligned(vector, self.score(c, row, i), 64)
                .into_vector_value();
            let weight = self.exp(&c.exp, e.fsub(score, shift));
            // As floats, so that NaN shows; the codes of such a row do not matter.
            let rounded = e.round_even(e.fmul(weight, e.f32s(STEPS, LANES)));
            let code = e.narrow(e.round_to_i32(rounded), Elem::I8);
            let to = e.at(c.weights, e.add(e.mul(row, e.i64(KEYS)), i));
            e.store_aligned(code, to, 16);
            vec![e.fadd(carried[0].into_vector_value(), rounded).into()]
        });
        // Exact in any order.
        let total: Float<'c> = e.reduce_sum(sums[0].into_vector_value());
        let sum_cell = self.cell(l.sum, row, sixteen, zero);
        let sum = e.load_aligned(one, sum_cell, 4).into_vector_value();
        let sum = e.fadd(e.fmul(sum, kept), e.fmul(e.splat(total, 1), fresh));
        e.store_aligned(sum, sum_cell, 4);
    }

    /// `out = out * kept + (weights * values) * scales * fresh` for all rows.
    fn weigh_codes(&self, c: &Coded<'c>, count: Int<'c>) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let (zero, tile) = (e.i64(0), &c.value_tile);
        let vector = e.vector_type(Elem::F32, LANES);
        let columns = tile.columns;
        let channels = cx.extent(self.kernel.channel);
        e.for_range(zero, self.count, e.i64(tile.rows), |first| {
            e.for_range(zero, channels, e.i64(columns), |column| {
                let a = e.at(c.weights, e.mul(first, e.i64(KEYS)));
                tile.call(e, (a, e.i64(KEYS)), self.packed_value(c, column), count, c.sums);
                e.for_range(zero, e.i64(tile.rows), e.i64(1), |r| {
                    let row = e.add(first, r);
                    let factor = |n: i64| {
                        let from = self.cell(l.alpha, row, e.i64(16), e.i64(n));
                        e.splat(e.load_scalar::<Float<'c>>(Elem::F32, from), LANES)
                    };
                    let (kept, fresh) = (factor(0), factor(FRESH));
                    for v in (0..columns).step_by(16) {
                        let inside = e.add(e.mul(r, e.i64(columns)), e.i64(v));
                        let sums = e.at_index(c.sums, inside, 4);
                        let sums = e
                            .load_aligned(e.vector_type(Elem::I32, LANES), sums, 64)
                            .into_vector_value();
                        let place = e.add(column, e.i64(v));
                        let scales = e
                            .load_aligned(vector, e.at_index(c.value_scales, place, 4), 64)
                            .into_vector_value();
                        let to = self.cell(l.head_out, row, l.head, place);
                        let old = e.load_aligned(vector, to, 64).into_vector_value();
                        let new = e.fmul(e.int_to_float(sums, true, Elem::F32), scales);
                        let sum = e.fadd(e.fmul(old, kept), e.fmul(new, fresh));
                        e.store_aligned(sum, to, 64);
                    }
                });
            });
        });
    }
}
