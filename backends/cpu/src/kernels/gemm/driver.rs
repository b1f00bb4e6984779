//! The loops around the register tile: blocks, panels, row tiles, and the epilogue's loop.

use super::panel::pack_panel;
use super::tile::{Segments, Tile, fetching_tiles, steps};
use super::{Block, Epilogue, Gemm, Piece, Product, Row, TileShape, param};
use crate::llvm::{Elem, Emit, Int, IntCmp, Lanes, Ptr};
use crate::pack::{BLOCK, PANEL, TAIL};

/// Generates the whole kernel: for each tile of the call, the block's products and `epilogue`.
pub fn emit_gemm<'c>(e: &Emit<'c>, gemm: &Gemm, epilogue: &mut dyn Epilogue<'c>) {
    let p = |position| gemm.param(e, position);
    let shape = TileShape::of(gemm, e.level());
    let (m, n, k) = (p(param::M), p(param::N), p(param::K));
    let panel = e.i64(PANEL as i64);
    let panels = e.div_ceil(n, panel);
    let group = e.imin(p(param::PANEL_GROUP), e.imax(panels, e.i64(1)));
    let segments = gemm.segments(e);
    let count = segments.iter().fold(e.i64(1), |n, (extent, _)| e.mul(n, *extent));
    let driver = Driver {
        e,
        gemm,
        shape,
        n,
        k,
        segments,
        segment_count: count,
        panel_bytes: match gemm.product {
            Product::Int8 | Product::Mixed => {
                let padded = e.mul(e.and(e.add(k, e.i64(3)), e.i64(-4)), count);
                e.add(e.mul(padded, panel), e.i64(TAIL as i64))
            }
            Product::F32 | Product::F32Dynamic => e.mul(e.mul(k, count), e.i64(4 * PANEL as i64)),
        },
        tiles: (1..=shape.rows)
            .map(|rows| Tile::new(e, gemm.product, TileShape { rows, ..shape }, gemm.segment_axes))
            .collect(),
        sums: e.stack(e.vector_type(Elem::I32, 16), shape.rows * shape.columns / 16, 64),
    };
    let groups = e.div_ceil(panels, group);
    let blocks = e.div_ceil(m, p(param::ROW_BLOCK));

    e.for_range(e.tile_begin(), e.tile_end(), e.i64(1), |tile| {
        let (group_index, rest) = (e.urem(tile, groups), e.udiv(tile, groups));
        let (block_index, batch_index) = (e.urem(rest, blocks), e.udiv(rest, blocks));
        let (batch, a, b) = driver.batch(batch_index);
        let first_row = e.mul(block_index, p(param::ROW_BLOCK));
        let first_panel = e.mul(group_index, group);
        let last_panel = e.imin(e.add(first_panel, group), panels);
        let block = Block {
            batch,
            m: first_row,
            rows: e.imin(e.sub(m, first_row), p(param::ROW_BLOCK)),
            n: e.mul(first_panel, panel),
            n_end: e.imin(e.mul(last_panel, panel), n),
        };
        let staged = epilogue.begin_block(e, &block);
        let is_staged = staged.is_some();
        let (a, a_row) = staged.unwrap_or_else(|| {
            let a_row = p(param::A_ROW);
            (e.at(a, e.mul(first_row, a_row)), a_row)
        });
        let a_k = match gemm.product {
            _ if is_staged => e.i64(4),
            Product::Int8 => e.i64(4),
            Product::Mixed | Product::F32 | Product::F32Dynamic => p(param::A_K),
        };
        e.for_range(first_panel, last_panel, e.i64(1), |index| {
            let b = driver.panel(b, index);
            driver.panel_rows(
                &block,
                Operands { a, a_row, a_k, b },
                e.mul(index, panel),
                epilogue,
            );
        });
        epilogue.end_block(e, &block);
    });
}

/// Values that are uniform over the kernel.
struct Driver<'a, 'c> {
    e: &'a Emit<'c>,
    gemm: &'a Gemm,
    shape: TileShape,
    n: Int<'c>,
    /// Length of a segment of the reduction.
    k: Int<'c>,
    segments: Segments<'c>,
    /// How many segments there are.
    segment_count: Int<'c>,
    panel_bytes: Int<'c>,
    /// The register tiles by height, from 1.
    tiles: Vec<Tile<'c>>,
    /// The finished tile: row-major, `shape.columns` wide.
    sums: Ptr<'c>,
}

/// Where a block's operands are.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'c> {
    /// First row of A.
    pub a: Ptr<'c>,
    /// Bytes a row of A.
    pub a_row: Int<'c>,
    /// Bytes from one k (float) or group of 4 k (int8) of A to the next.
    pub a_k: Int<'c>,
    /// Packed panel of B.
    pub b: Ptr<'c>,
}

impl<'c> Driver<'_, 'c> {
    /// Indices along the batch axes, and A's and B's addresses there.
    fn batch(&self, index: Int<'c>) -> (Vec<Int<'c>>, Ptr<'c>, Ptr<'c>) {
        let (e, gemm) = (self.e, self.gemm);
        let mut a = gemm.param(e, param::A_OFFSET);
        let mut b = gemm.param(e, param::B_OFFSET);
        let mut rest = index;
        let mut indices = Vec::new();
        for axis in (0..gemm.batch_axes).rev() {
            let p = |which| gemm.param(e, param::BATCH + axis * param::PER_BATCH + which);
            let i = if axis == 0 {
                rest
            } else {
                e.urem(rest, p(param::BATCH_EXTENT))
            };
            if axis > 0 {
                rest = e.udiv(rest, p(param::BATCH_EXTENT));
            }
            a = e.add(a, e.mul(i, p(param::BATCH_A)));
            b = e.add(b, e.mul(i, p(param::BATCH_B)));
            indices.push(i);
        }
        indices.reverse();
        (indices, e.at(e.buf(gemm.a), a), e.at(e.buf(gemm.b), b))
    }

    /// The packed panel `index` of the B at `b`.
    fn panel(&self, b: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        let e = self.e;
        match self.gemm.product {
            Product::Int8 | Product::Mixed | Product::F32 => e.at(b, e.mul(index, self.panel_bytes)),
            Product::F32Dynamic => {
                let p = |position| self.gemm.param(e, position);
                let (b_k, b_n) = (p(param::B_K), p(param::B_N));
                let first = e.mul(index, e.i64(PANEL as i64));
                let columns = e.imin(e.sub(self.n, first), e.i64(PANEL as i64));
                pack_panel(
                    e,
                    e.at(b, e.mul(first, b_n)),
                    (b_k, b_n),
                    (self.k, columns),
                    e.scratch(),
                );
                e.scratch()
            }
        }
    }

    /// All rows of a block times one panel, whose first column is `first`.
    fn panel_rows(
        &self,
        block: &Block<'c>,
        operands: Operands<'c>,
        first: Int<'c>,
        epilogue: &mut dyn Epilogue<'c>,
    ) {
        let e = self.e;
        let end = e.imin(e.add(first, e.i64(PANEL as i64)), self.n);
        let height = e.i64(i64::from(self.shape.rows));
        e.for_range(first, end, e.i64(i64::from(self.shape.columns)), |column| {
            let in_panel = e.sub(column, first);
            let b = e.at_index(operands.b, in_panel, 4);
            e.for_range(e.i64(0), block.rows, height, |row| {
                let rows = e.imin(e.sub(block.rows, row), height);
                let a = e.at(operands.a, e.mul(row, operands.a_row));
                let here = Operands { a, b, ..operands };
                let ahead = self.ahead(operands.b, e.udiv(row, height));
                e.match_count(rows, self.shape.rows, |rows| {
                    let reduction = (self.k, &self.segments);
                    self.tiles[rows as usize - 1].call(e, here, reduction, self.sums, ahead);
                });
                let tail = e.at_index(e.at(operands.b, self.codes_bytes()), in_panel, 4);
                self.pieces(block, (row, rows), (column, end), tail, epilogue);
            });
        });
    }

    /// What the tile of this number in a panel fetches meanwhile: the first ones share the next panel, since weights
    /// come from the third-level cache or memory once for each block of rows, and a core that waits for them
    /// loses a third of its time at 128 rows. Later tiles fetch what is there already.
    fn ahead(&self, panel: Ptr<'c>, tile: Int<'c>) -> Ptr<'c> {
        let e = self.e;
        let lines = e.mul(steps(e, self.gemm.product, self.k), self.segment_count);
        let next = e.at(panel, self.panel_bytes);
        let share = e.at_index(next, e.mul(tile, lines), 64);
        let fetches = e.icmp(IntCmp::SLT, tile, e.i64(fetching_tiles(self.gemm.product)));
        e.select(fetches, share, panel)
    }

    /// Bytes of a panel before its corrections and scales.
    fn codes_bytes(&self) -> Int<'c> {
        self.e.sub(self.panel_bytes, self.e.i64(TAIL as i64))
    }

    /// The epilogue of a finished tile: rows `row..row + rows` of the block, columns `column..end` at most.
    fn pieces(
        &self,
        block: &Block<'c>,
        (row, rows): (Int<'c>, Int<'c>),
        (column, end): (Int<'c>, Int<'c>),
        tail: Ptr<'c>,
        epilogue: &mut dyn Epilogue<'c>,
    ) {
        let e = self.e;
        let width = i64::from(self.shape.columns);
        let end = e.imin(end, e.add(column, e.i64(width)));
        e.for_range(e.i64(0), rows, e.i64(1), |tile_row| {
            let local = e.add(row, tile_row);
            let m = e.add(block.m, local);
            epilogue.begin_row(e, &Row { block, m, local });
            let sums = e.at(self.sums, e.mul(tile_row, e.i64(width * 4)));
            e.for_range(column, end, e.i64(BLOCK as i64), |n| {
                let offset = e.mul(e.sub(n, column), e.i64(4));
                let elem = if self.gemm.product == Product::Int8 {
                    Elem::I32
                } else {
                    Elem::F32
                };
                let load = |from| {
                    e.load_aligned(e.vector_type(elem, 16), from, 64)
                        .into_vector_value()
                };
                let mut acc = load(e.at(sums, offset));
                let mut scales = None;
                if self.gemm.product == Product::Int8 {
                    let corrections = e.at(tail, offset);
                    acc = e.add(acc, load(corrections));
                    scales = Some(e.at_const(corrections, 4 * PANEL as i64));
                }
                let lanes = Lanes::First(e.imin(e.sub(end, n), e.i64(BLOCK as i64)));
                let row = Row { block, m, local };
                epilogue.piece(
                    e,
                    &Piece {
                        row,
                        n,
                        acc,
                        lanes,
                        scales,
                    },
                );
            });
        });
    }
}
