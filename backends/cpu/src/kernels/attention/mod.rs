//! Attention: a softmax-weighted sum, computed online, so that no score matrix ever exists as a whole.
//!
//! A tile is a block of query rows. For each head, and for each block of [`KEYS`] keys:
//!
//! 1. the keys are packed (turned), and `scores = q k^T` is computed by register tiles, lanes along keys;
//! 2. the score body runs over the scores (scale, masks, biases), 16 keys at a time, and gives the block's maximum of
//!    each row; with the new running maximum `m`, `p = exp(score - m)` replaces the scores and is summed;
//! 3. `out = out * exp(m_old - m) + p v`, by register tiles with lanes along channels.
//!
//! Then `out / sum` goes to a row of floats in scratch. When all heads of the block are there, the region's body runs
//! over these rows as in any row kernel, so that a quantizer with a scale a token sees whole rows.
//!
//! Sums over keys have one order, given by the number of keys: blocks in order, 16 interleaved partials for the sum of
//! weights. Only the two products use fused arithmetic; where they multiply 8-bit codes ([`int8`]), all is exact or in one
//! order and every level gives the same bits. (Online softmax: Milakov and Gimelshein 2018; tiling as in
//! FlashAttention, Dao et al. 2022.)

mod int8;
mod pack;
mod softmax;
mod tile;

use super::access::{Cx, Index, Point, moves};
use super::rows::{self, Place, RowCode, RowPlan};
use crate::llvm::{Elem, Emit, Int, IntCmp, Lanes, Ptr};
use crate::pack::PANEL;
use int8::Coded;
use pack::{ROW, Source, address, copy_run, is_plain, pack, step};
use rsqc_backend::{KernelSpec, Params};
use rsqc_ir::Dim;
use rsqc_ir::eval::attention8;
use rsqc_ir::region::{Anchor, Attention, Products, Region};
use std::cell::Cell;
use tile::{Left, ROWS, Right, Sums};

/// Keys of a block: packed keys, values and scores of a block stay in the second-level cache. Over codes the number is part
/// of what attention means.
const KEYS: i64 = attention8::KEYS as i64;

/// Floats of a row of scores: not a power of two, so that rows do not fall on the same cache sets.
const SCORE_ROW: i64 = KEYS + 16;

/// Most query rows of a tile. Each tile reads all keys and values of its heads, usually from the third-level cache: the
/// more rows share them, the better, as long as rows, scores and a block of keys stay in the second level (0.4 MB with 12
/// heads of 32 channels).
const QUERIES: i64 = 96;

/// The attention kernel of a region.
#[derive(Clone, Debug)]
pub struct AttentionKernel {
    /// The axis that enumerates query rows of a tile, if there is one.
    queries: Option<u32>,
    /// Outer axes but that.
    batch: Vec<u32>,
    /// Row axes but the last.
    heads: Vec<u32>,
    /// The last parallel axis.
    channel: u32,
    /// Number of the parameter that gives the query rows of a tile.
    block_param: u32,
    /// Whether products are of codes.
    coded: bool,
}

/// What else a launch needs.
pub struct Sizes {
    /// The parameters behind those of the spec.
    pub params: Vec<Dim>,
    /// Number of tiles.
    pub tiles: Dim,
    /// Scratch bytes a thread.
    pub scratch: Dim,
}

fn anchor(r: &Region) -> &Attention {
    match &r.anchor {
        Anchor::Attention(a) => a,
        _ => panic!("the region's anchor is attention"),
    }
}

impl AttentionKernel {
    /// The kernel for a region in normal form; `None` if the channel axis is missing or moves queries or keys.
    pub fn of(spec: &KernelSpec) -> Option<AttentionKernel> {
        let r = &spec.region;
        let a = anchor(r);
        let channel = r.parallel().end.checked_sub(1)?;
        let reaches = |n: u32, axis: u32| moves(r, n, axis);
        let fits = r.row().contains(&channel)
            && !reaches(a.q, channel)
            && !reaches(a.k, channel)
            && !reaches(a.q, a.key)
            && !reaches(a.v, a.inner);
        // Prefer an axis of unknown extent, then the longest one.
        let size = |axis: &u32| r.axes[*axis as usize].extent.as_const().unwrap_or(i64::MAX);
        let free = r.outer().filter(|x| !reaches(a.k, *x) && !reaches(a.v, *x));
        let queries = free.max_by_key(size);
        fits.then(|| AttentionKernel {
            queries,
            batch: r.outer().filter(|x| Some(*x) != queries).collect(),
            heads: r.row().filter(|x| *x != channel).collect(),
            channel,
            block_param: Params::of(spec).dims().len() as u32,
            coded: a.products != Products::Float,
        })
    }

    /// Whether the products are those of codes.
    pub fn is_int8(&self) -> bool {
        self.coded
    }

    /// Parameters and sizes.
    pub fn sizes(&self, spec: &KernelSpec) -> Sizes {
        let r = &spec.region;
        let a = anchor(r);
        let extent = |axis: u32| r.axes[axis as usize].extent.clone();
        let rows = self.queries.map_or(Dim::one(), extent);
        let step = Dim::from(if self.coded {
            int8::ROW_STEP
        } else {
            i64::from(ROWS)
        });
        let share = rows.ceil_div(&Dim::from(4i64)).ceil_div(&step) * step.clone();
        let block = share.smaller(&Dim::from(QUERIES)).larger(&step);
        let batch: Dim = self.batch.iter().map(|x| extent(*x)).product();
        let plan = RowPlan::new(r, 1);
        let (inner, channels) = (extent(a.inner), extent(self.channel));
        let mut layout = Layout::dims(&block, &inner, &channels, &r.extent(r.row()));
        if self.coded {
            layout.extend(int8::dims(&block, &inner, &channels));
        }
        let floats: Dim = layout.into_iter().sum();
        let scratch = floats * Dim::from(4i64) + rows::kept_bytes(&plan, r);
        Sizes {
            tiles: batch * rows.ceil_div(&block),
            params: vec![block],
            scratch,
        }
    }

    /// Generates the kernel.
    pub fn emit(&self, e: &Emit<'_>, spec: &KernelSpec) {
        let cx = Cx::new(e, spec);
        let a = anchor(&spec.region);
        let one = e.i64(1);
        let block = e.param(self.block_param);
        let rows = self.queries.map_or(one, |x| cx.extent(x));
        let blocks = e.div_ceil(rows, block);
        let row = spec
            .region
            .row()
            .map(|x| cx.extent(x))
            .reduce(|x, y| e.mul(x, y))
            .unwrap_or(one);
        let inner = cx.extent(a.inner);
        let next = Cell::new(e.scratch());
        let mut layout = Layout::new(e, &next, block, (inner, cx.extent(self.channel)), row);
        let coded = Coded::new(&cx, &next, block, (inner, self.channel), a.products);
        layout.kept = next.get();
        let plan = RowPlan::new(&spec.region, 1);
        e.for_range(e.tile_begin(), e.tile_end(), one, |tile| {
            let mut at = Point::new(spec.region.axes.len());
            let mut left = e.udiv(tile, blocks);
            for axis in self.batch.iter().rev() {
                at = at.with(*axis, Index::At(e.urem(left, cx.extent(*axis))));
                left = e.udiv(left, cx.extent(*axis));
            }
            let first = e.mul(e.urem(tile, blocks), block);
            let count = e.imin(e.sub(rows, first), block);
            let code = Code {
                cx: &cx,
                kernel: self,
                a,
                layout: &layout,
                coded: coded.as_ref(),
                at,
                first,
                count,
            };
            code.heads();
            code.rows(&plan);
        });
    }
}

/// Where things are in scratch.
struct Layout<'c> {
    /// Finished rows, `row` floats apart.
    rows: Ptr<'c>,
    row: Int<'c>,
    /// Scores, [`SCORE_ROW`] floats apart.
    scores: Ptr<'c>,
    /// Output of the current head, `head` floats apart.
    head_out: Ptr<'c>,
    head: Int<'c>,
    /// For each query row: maximum, factor of the old sums, and 16 partial sums of weights.
    max: Ptr<'c>,
    alpha: Ptr<'c>,
    sum: Ptr<'c>,
    queries: Ptr<'c>,
    /// Floats of a staged query.
    query: Int<'c>,
    keys: Ptr<'c>,
    values: Ptr<'c>,
    /// Kept values of the body.
    kept: Ptr<'c>,
}

impl<'c> Layout<'c> {
    /// Floats of each part in order; all are multiples of 16.
    fn dims(block: &Dim, inner: &Dim, channels: &Dim, row: &Dim) -> Vec<Dim> {
        let up = |d: &Dim| d.ceil_div(&Dim::from(PANEL)) * Dim::from(PANEL);
        // The block is a multiple of 6 only; a row of 16 floats a query keeps the parts aligned.
        let sixteen = || block.clone() * Dim::from(16i64);
        vec![
            block.clone() * (up(row) + Dim::from(PANEL)),
            block.clone() * Dim::from(SCORE_ROW),
            block.clone() * up(channels),
            sixteen(),
            sixteen(),
            sixteen(),
            block.clone() * up(inner),
            inner.clone() * Dim::from(KEYS),
            up(channels) * Dim::from(KEYS),
        ]
    }

    /// The parts from `next` on, which is moved behind them.
    fn new(
        e: &Emit<'c>,
        next: &Cell<Ptr<'c>>,
        block: Int<'c>,
        (inner, channels): (Int<'c>, Int<'c>),
        row: Int<'c>,
    ) -> Self {
        let panel = PANEL as i64;
        let up = |d: Int<'c>| e.and(e.add(d, e.i64(panel - 1)), e.i64(-panel));
        let row = e.add(up(row), e.i64(panel));
        let part = |floats: Int<'c>| next.replace(e.at_index(next.get(), floats, 4));
        let (head, query) = (up(channels), up(inner));
        let sixteen = e.mul(block, e.i64(16));
        Layout {
            row,
            rows: part(e.mul(block, row)),
            scores: part(e.mul(block, e.i64(SCORE_ROW))),
            head,
            head_out: part(e.mul(block, head)),
            max: part(sixteen),
            alpha: part(sixteen),
            sum: part(sixteen),
            query,
            queries: part(e.mul(block, query)),
            keys: part(e.mul(inner, e.i64(KEYS))),
            values: part(e.mul(head, e.i64(KEYS))),
            kept: next.get(),
        }
    }
}

/// Code of one tile.
struct Code<'x, 'a, 'c> {
    cx: &'x Cx<'a, 'c>,
    kernel: &'x AttentionKernel,
    a: &'x Attention,
    layout: &'x Layout<'c>,
    /// What products of codes need besides.
    coded: Option<&'x Coded<'c>>,
    /// Indices of the batch axes.
    at: Point<'c>,
    /// First query row of the block.
    first: Int<'c>,
    /// Query rows of the block.
    count: Int<'c>,
}

impl<'c> Code<'_, '_, 'c> {
    /// Address of float `column` in row `row` of a part whose rows are `stride` floats apart.
    fn cell(&self, part: Ptr<'c>, row: Int<'c>, stride: Int<'c>, column: Int<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        e.at_index(e.at_index(part, e.mul(row, stride), 4), column, 4)
    }

    /// The point of a query row of the block.
    fn query(&self, at: &Point<'c>, row: Int<'c>) -> Point<'c> {
        match self.kernel.queries {
            Some(axis) => at.with(axis, Index::At(self.cx.e.add(self.first, row))),
            None => at.clone(),
        }
    }

    /// All heads, each into its columns of the rows in scratch.
    fn heads(&self) {
        let (cx, e) = (self.cx, self.cx.e);
        let one = e.i64(1);
        let heads = self
            .kernel
            .heads
            .iter()
            .map(|x| cx.extent(*x))
            .reduce(|a, b| e.mul(a, b))
            .unwrap_or(one);
        e.for_range(e.i64(0), heads, one, |number| {
            let mut at = self.at.clone();
            let mut left = number;
            for axis in self.kernel.heads.iter().rev() {
                at = at.with(*axis, Index::At(e.urem(left, cx.extent(*axis))));
                left = e.udiv(left, cx.extent(*axis));
            }
            self.head(&at, number);
        });
    }

    fn head(&self, at: &Point<'c>, number: Int<'c>) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let zero = e.i64(0);
        let floats = |value: f32| e.f32s(value, 16);
        let by = e.i64(16);
        e.for_range(zero, self.count, e.i64(1), |row| {
            e.store_aligned(e.f32(f32::NEG_INFINITY), self.cell(l.max, row, by, zero), 4);
            e.store_aligned(floats(0.0), self.cell(l.sum, row, by, zero), 64);
            e.for_range(zero, l.head, by, |c| {
                e.store_aligned(floats(0.0), self.cell(l.head_out, row, l.head, c), 64);
            });
            if self.coded.is_none() && !is_plain(cx, self.a.q) {
                let here = self.query(at, row);
                let run = (self.a.inner, zero, cx.extent(self.a.inner));
                copy_run(cx, self.a.q, &here, run, self.cell(l.queries, row, l.query, zero));
            }
        });
        if let Some(coded) = self.coded {
            self.code_queries(coded, at);
        }
        let keys = cx.extent(self.a.key);
        e.for_range(zero, keys, e.i64(KEYS), |t| {
            let count = e.imin(e.sub(keys, t), e.i64(KEYS));
            match self.coded {
                Some(coded) => self.coded_block(coded, at, (t, count)),
                None => {
                    self.scores(at, (t, count));
                    self.softmax(at, (t, count));
                    self.weigh(at, (t, count));
                }
            }
        });
        self.finish_head(number);
    }

    fn is_single(&self) -> Int<'c> {
        self.cx.e.icmp(IntCmp::EQ, self.count, self.cx.e.i64(1))
    }

    /// Calls `tile((first row, rows))` for full tiles that cover the block; the last one may hang over.
    fn full_tiles(&self, tile: &dyn Fn((Int<'c>, u32))) {
        let e = self.cx.e;
        e.for_range(e.i64(0), self.count, e.i64(i64::from(ROWS)), |row| {
            tile((row, ROWS))
        });
    }

    /// Covers the block with full tiles, or with a tile of one row if it has only one.
    fn row_tiles(&self, tile: &dyn Fn((Int<'c>, u32))) {
        let e = self.cx.e;
        match self.kernel.queries {
            Some(_) => e.if_else(self.is_single(), || tile((e.i64(0), 1)), || self.full_tiles(tile)),
            None => tile((e.i64(0), 1)),
        }
    }

    /// `scores = q k^T` for a block of keys.
    fn scores(&self, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let inner = cx.extent(self.a.inner);
        let zero = e.i64(0);
        let panel_bytes = e.mul(inner, e.i64(ROW));
        let source = Source {
            operand: self.a.k,
            rows: self.a.inner,
            columns: self.a.key,
        };
        pack(cx, source, at, (zero, inner), (t, count), (l.keys, panel_bytes));
        let plain = is_plain(cx, self.a.q);
        let width = tile::columns(e);
        let padded = e.and(e.add(count, e.i64(15)), e.i64(-16));
        self.row_tiles(&|(first, height)| {
            let (a, row, k) = if plain {
                let here = self.query(at, first);
                let row = self.kernel.queries.map_or(zero, |axis| step(cx, self.a.q, axis));
                (
                    address(cx, self.a.q, &here),
                    row,
                    step(cx, self.a.q, self.a.inner),
                )
            } else {
                let row = e.mul(l.query, e.i64(4));
                (self.cell(l.queries, first, l.query, zero), row, e.i64(4))
            };
            let a = Left {
                at: a,
                row,
                k,
                last: e.sub(e.sub(self.count, first), e.i64(1)),
            };
            e.for_range(zero, padded, e.i64(i64::from(width)), |column| {
                let panel = e.udiv(column, e.i64(PANEL as i64));
                let inside = e.urem(column, e.i64(PANEL as i64));
                let b = Right {
                    at: e.at_index(e.at(l.keys, e.mul(panel, panel_bytes)), inside, 4),
                    k: e.i64(ROW),
                };
                let sums = Sums {
                    at: self.cell(l.scores, first, e.i64(SCORE_ROW), column),
                    row: e.i64(SCORE_ROW * 4),
                    factors: None,
                };
                tile::tile(e, (height, width), a, b, inner, sums);
            });
        });
    }

    /// `out = out * alpha + p v` for a block of keys. Values whose channels adjoin are read where they are if that is
    /// done once or their rows adjoin as well; otherwise their rows, which may lie a page apart, are packed first.
    fn weigh(&self, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let channel = self.kernel.channel;
        let value = &cx.spec.region.operands[self.a.v as usize];
        let extent = &cx.spec.region.axes[channel as usize].extent;
        let whole = extent.as_const().filter(|c| c % 16 == 0);
        let readable = is_plain(cx, self.a.v) && value.stride(channel).is(1) && whole.is_some();
        let dense = readable && value.stride(self.a.key) == *extent;
        let in_place = |column: Int<'c>| {
            let here = at.with(self.a.key, Index::At(t)).with(channel, Index::At(column));
            Right {
                at: address(cx, self.a.v, &here),
                k: step(cx, self.a.v, self.a.key),
            }
        };
        let packed = |column: Int<'c>| {
            let panel = e.udiv(column, e.i64(PANEL as i64));
            let inside = e.urem(column, e.i64(PANEL as i64));
            let from = e.at_index(e.at(l.values, e.mul(panel, e.i64(KEYS * ROW))), inside, 4);
            Right {
                at: from,
                k: e.i64(ROW),
            }
        };
        let pack_values = || {
            let source = Source {
                operand: self.a.v,
                rows: self.a.key,
                columns: channel,
            };
            let to = (l.values, e.i64(KEYS * ROW));
            pack(cx, source, at, (t, count), (e.i64(0), cx.extent(channel)), to);
        };
        if dense {
            self.row_tiles(&|rows| self.weigh_columns(rows, &in_place, whole, count));
        } else if readable && self.kernel.queries.is_some() {
            e.if_else(
                self.is_single(),
                || self.weigh_columns((e.i64(0), 1), &in_place, whole, count),
                || {
                    pack_values();
                    self.full_tiles(&|rows| self.weigh_columns(rows, &packed, whole, count));
                },
            );
        } else if readable {
            self.weigh_columns((e.i64(0), 1), &in_place, whole, count);
        } else {
            pack_values();
            self.row_tiles(&|rows| self.weigh_columns(rows, &packed, whole, count));
        }
    }

    /// All channels of a few rows. `whole` is the number of channels if it is known and a multiple of 16: then nothing
    /// beyond the last one is read, so that the last tile is as narrow as it must be.
    fn weigh_columns(
        &self,
        rows: (Int<'c>, u32),
        values: &dyn Fn(Int<'c>) -> Right<'c>,
        whole: Option<i64>,
        count: Int<'c>,
    ) {
        let (cx, e) = (self.cx, self.cx.e);
        let full = tile::columns(e);
        let rest = whole.map_or(0, |c| c as u32 % full);
        let padded = match whole {
            Some(c) => e.i64(c - i64::from(rest)),
            None => e.and(e.add(cx.extent(self.kernel.channel), e.i64(15)), e.i64(-16)),
        };
        e.for_range(e.i64(0), padded, e.i64(i64::from(full)), |column| {
            self.weigh_tile(rows, (column, full), values(column), count);
        });
        if rest > 0 {
            self.weigh_tile(rows, (padded, rest), values(padded), count);
        }
    }

    fn weigh_tile(
        &self,
        (first, height): (Int<'c>, u32),
        (column, width): (Int<'c>, u32),
        b: Right<'c>,
        count: Int<'c>,
    ) {
        let (e, l) = (self.cx.e, self.layout);
        let zero = e.i64(0);
        let a = Left {
            at: self.cell(l.scores, first, e.i64(SCORE_ROW), zero),
            row: e.i64(SCORE_ROW * 4),
            k: e.i64(4),
            // Blocks of scratch are whole tiles.
            last: e.i64(i64::from(height) - 1),
        };
        let sums = Sums {
            at: self.cell(l.head_out, first, l.head, column),
            row: e.mul(l.head, e.i64(4)),
            factors: Some(self.cell(l.alpha, first, e.i64(16), zero)),
        };
        tile::tile(e, (height, width), a, b, count, sums);
    }

    /// The region's body over the finished rows.
    fn rows(&self, plan: &RowPlan) {
        let (e, l) = (self.cx.e, self.layout);
        let current: Cell<Int<'c>> = Cell::new(e.i64(0));
        let anchor = |cx: &Cx<'_, 'c>, place: &Place<'c>| {
            let from = self.cell(l.rows, current.get(), l.row, place.element);
            cx.e.load_aligned(cx.e.vector_type(Elem::F32, 16), from, 4)
                .into_vector_value()
        };
        let code = RowCode {
            cx: self.cx,
            plan,
            anchor: &anchor,
            scratch: l.kept,
        };
        e.for_range(e.i64(0), self.count, e.i64(1), |row| {
            current.set(row);
            code.emit(&self.query(&self.at, row), None);
        });
    }

    /// Divides the head's sums by the sums of weights, into the rows.
    fn finish_head(&self, number: Int<'c>) {
        let (cx, e, l) = (self.cx, self.cx.e, self.layout);
        let channels = cx.extent(self.kernel.channel);
        let zero = e.i64(0);
        let vector = e.vector_type(Elem::F32, 16);
        e.for_range(zero, self.count, e.i64(1), |row| {
            let divisor = self.divisor(row);
            let start = e.mul(number, channels);
            e.for_range(zero, channels, e.i64(16), |c| {
                let sum = e
                    .load_aligned(vector, self.cell(l.head_out, row, l.head, c), 64)
                    .into_vector_value();
                let to = self.cell(l.rows, row, l.row, e.add(start, c));
                let part = Lanes::First(e.sub(channels, c));
                e.store(e.fdiv(sum, divisor), to, part);
            });
        });
    }
}
