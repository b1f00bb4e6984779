//! Contractions that are matrix products: recognition, and the epilogue made from the region's body.
//!
//! A region in normal form is a product if it has one reduce axis `k`, its last parallel axis `n` moves only the right
//! factor, some other parallel axis `m` moves only the left one, and the operands come in a form that the register
//! tiles read ([`Product`]). All further axes are batch axes.
//!
//! - **Direct schedule**: the body needs no whole rows. Each piece of 16 accumulators goes through it and is stored.
//! - **Row-block schedule**: the body has reductions over the row. The accumulators of a block of rows and all columns
//!   go to scratch that stays in the second-level cache, and the body then runs row by row, as in any row kernel.

use super::access::{Cx, Index, Point};
use super::body::lanes;
use super::gemm::{Block, Blocking, Epilogue, Gemm, Piece, Product, Row, emit_gemm, param};
use super::rows::{self, Env, LARGE, Place, RowCode, RowPlan, evaluate};
use crate::level::LevelFacts;
use crate::llvm::{Elem, Emit, Int, IntCmp, Lanes, Ptr, Vector};
use crate::pack::{BLOCK, PANEL};
use rsqc_backend::{KernelSpec, Params};
use rsqc_ir::region::{Anchor, Region};
use rsqc_ir::{Dim, Layout, ScalarType, TensorType};
use std::cell::Cell;

/// Bytes of accumulators that a row block keeps in scratch.
const ROW_BLOCK_BYTES: i64 = 256 << 10;

/// Multiply-accumulates that a tile should have at least: some microseconds.
const TILE_MACS: i64 = 1 << 19;

/// Tiles that a launch should have if its size allows.
const TILES: i64 = 16;

/// A region seen as a matrix product.
#[derive(Clone, Debug)]
pub struct Linear {
    gemm: Gemm,
    m: Option<u32>,
    n: Option<u32>,
    batch: Vec<u32>,
    /// Reduce axes around the innermost.
    segments: Vec<u32>,
    /// Whether the body needs whole rows.
    row_block: bool,
}

/// What else a launch of a [`Linear`] needs.
pub struct Sizes {
    /// The parameters behind those of the spec.
    pub params: Vec<Dim>,
    /// Number of tiles.
    pub tiles: Dim,
    /// Scratch bytes a thread.
    pub scratch: Dim,
}

impl Linear {
    /// The product that a region in normal form is, if it is one that register tiles can do.
    pub fn of(spec: &KernelSpec) -> Option<Linear> {
        let r = &spec.region;
        let Anchor::Contract { lhs, rhs, acc, .. } = r.anchor else {
            return None;
        };
        let (a, b) = (&r.operands[lhs as usize], &r.operands[rhs as usize]);
        let reduce: Vec<u32> = rows::reduce_axes(r).collect();
        if !a.is_linear() || !b.is_linear() {
            return None;
        }
        let k = reduce.last().copied();
        let segments = reduce[..reduce.len().saturating_sub(1)].to_vec();
        let of = |n: u32| {
            (
                spec.operands[n as usize].storage(),
                spec.operand_layouts[n as usize],
            )
        };
        let k_adjoins = k.is_none_or(|k| a.stride(k).is(1));
        let product = match (of(lhs), of(rhs), acc) {
            (
                (ScalarType::I8, Some(Layout::OffsetBinary)),
                (ScalarType::I8, Some(Layout::PackedWeight)),
                ScalarType::I32,
            ) if k_adjoins => Product::Int8,
            ((ScalarType::F32, None), (ScalarType::I8, Some(Layout::PackedWeight)), ScalarType::F32) => {
                Product::Mixed
            }
            ((ScalarType::F32, None), (ScalarType::F32, Some(Layout::PackedWeight)), ScalarType::F32) => {
                Product::F32
            }
            ((ScalarType::F32, None), (ScalarType::F32, None), ScalarType::F32) => Product::F32Dynamic,
            _ => return None,
        };
        let row_block = rows::needs_rows(r);
        let mut axes: Vec<u32> = r.parallel().collect();
        let n = axes.pop_if(|n| !a.uses(*n) && b.uses(*n));
        let m = axes.iter().rposition(|m| !b.uses(*m)).map(|at| axes.remove(at));
        // Without an `n` the product is a matrix times a vector, which batches must not be cut into.
        if n.is_none() && r.parallel().any(|x| b.uses(x)) {
            return None;
        }
        // A body's rows must be the product's; without an `n` they are single points.
        let rows_fit = !row_block || r.row() == n.map_or(r.row().end..r.row().end, |n| n..n + 1);
        let packed = product != Product::F32Dynamic;
        let whole = |b: &TensorType| packed_matrix(r, (rhs, b), &reduce, n);
        let rhs_fits = if packed {
            whole(&spec.operands[rhs as usize]) && axes.iter().all(|x| !b.uses(*x))
        } else {
            segments.is_empty()
        };
        (rows_fit && rhs_fits).then(|| Linear {
            gemm: Gemm {
                product,
                a: lhs,
                b: rhs,
                first_param: Params::of(spec).dims().len() as u32,
                batch_axes: axes.len() as u32,
                segment_axes: segments.len() as u32,
                max_columns: few_columns(r, n),
            },
            m,
            n,
            segments,
            batch: axes,
            row_block,
        })
    }

    /// Whether the factors are 8-bit codes.
    pub fn is_int8(&self) -> bool {
        self.gemm.product == Product::Int8
    }

    /// What the kernel does, for its name.
    pub fn what(&self) -> &'static str {
        match (self.row_block, self.segments.is_empty()) {
            (true, true) => "gemm_rows",
            (true, false) => "igemm_rows",
            (false, true) => "gemm_6x64",
            (false, false) => "igemm_6x64",
        }
    }

    /// Parameters and sizes.
    pub fn sizes(&self, spec: &KernelSpec) -> Sizes {
        let r = &spec.region;
        let (a, b) = (
            &r.operands[self.gemm.a as usize],
            &r.operands[self.gemm.b as usize],
        );
        let size = Dim::from(spec.operands[self.gemm.a as usize].storage().size());
        let bytes = |d: Dim| d * size.clone();
        let extent = |axis: Option<u32>| axis.map_or(Dim::one(), |x| r.axes[x as usize].extent.clone());
        let k_axis = rows::reduce_axes(r).last();
        let (m, n, piece) = (extent(self.m), extent(self.n), extent(k_axis));
        let k: Dim = rows::reduce_axes(r).map(|x| extent(Some(x))).product();
        let stride = |access: &rsqc_ir::region::Access, axis: Option<u32>| {
            bytes(axis.map_or(Dim::zero(), |x| access.stride(x)))
        };
        let panels = n.ceil_div(&Dim::from(PANEL));
        let row_block = self.row_block_rows(&m, &n, &k);
        let blocks = m.ceil_div(&row_block);
        let batch: Dim = self
            .batch
            .iter()
            .map(|x| r.axes[*x as usize].extent.clone())
            .product();
        let group = if self.row_block {
            panels.larger(&Dim::one())
        } else {
            self.panel_group(
                &(panels.clone() * blocks.clone() * batch.clone()),
                &k,
                &m.smaller(&row_block),
            )
        };
        let mut params = vec![
            m.clone(),
            n.clone(),
            piece,
            row_block.clone(),
            group.clone(),
            bytes(a.offset.clone()),
            stride(a, self.m),
            stride(a, k_axis),
            bytes(b.offset.clone()),
            stride(b, k_axis),
            stride(b, self.n),
        ];
        debug_assert_eq!(params.len(), param::BATCH as usize);
        for x in &self.batch {
            params.extend([extent(Some(*x)), stride(a, Some(*x)), stride(b, Some(*x))]);
        }
        for x in &self.segments {
            params.extend([extent(Some(*x)), stride(a, Some(*x))]);
        }
        let mut scratch = match self.gemm.product {
            Product::F32Dynamic => k * Dim::from(4 * PANEL),
            Product::Int8 | Product::Mixed | Product::F32 => Dim::zero(),
        };
        if self.row_block {
            scratch = scratch + row_block * row_elements(&n) * Dim::from(4i64);
            scratch = scratch + rows::kept_bytes(&self.plan(r), r);
        }
        Sizes {
            params,
            tiles: batch * blocks * panels.ceil_div(&group),
            scratch,
        }
    }

    /// Rows of a block.
    fn row_block_rows(&self, m: &Dim, n: &Dim, k: &Dim) -> Dim {
        let k = k.as_const().and_then(|k| u64::try_from(k).ok()).unwrap_or(1024);
        let most = Dim::from(i64::from(Blocking::rows(self.gemm.product, k).row_block));
        if !self.row_block {
            return most;
        }
        let row_bytes = (n.clone() * Dim::from(4i64)).larger(&Dim::one());
        let fits = Dim::from(ROW_BLOCK_BYTES)
            .floor_div(&row_bytes)
            .floor_div(&Dim::from(6i64))
            * Dim::from(6i64);
        // Blocks of few rows read the right factor too often; many rows are shared out among threads.
        let share = m.ceil_div(&Dim::from(8i64)).ceil_div(&Dim::from(6i64)) * Dim::from(6i64);
        share
            .larger(&Dim::from(24i64))
            .smaller(&fits)
            .smaller(&most)
            .larger(&Dim::from(12i64))
    }

    /// Panels of a tile, of which there are `all` in a launch.
    fn panel_group(&self, all: &Dim, k: &Dim, rows: &Dim) -> Dim {
        let macs = (k.clone() * rows.clone() * Dim::from(PANEL)).larger(&Dim::one());
        let worth = Dim::from(TILE_MACS).floor_div(&macs);
        all.floor_div(&Dim::from(TILES))
            .larger(&worth)
            .larger(&Dim::one())
    }

    fn plan(&self, r: &Region) -> RowPlan {
        RowPlan::new(r, 1)
    }

    /// Generates the kernel.
    pub fn emit(&self, e: &Emit<'_>, spec: &KernelSpec) {
        let cx = Cx::new(e, spec);
        let plan = self.plan(&spec.region);
        if self.row_block {
            emit_gemm(
                e,
                &self.gemm,
                &mut RowBlock {
                    cx: &cx,
                    linear: self,
                    plan: &plan,
                },
            );
        } else {
            let env = vec![None; spec.region.body.stmts.len()];
            emit_gemm(
                e,
                &self.gemm,
                &mut Direct {
                    cx: &cx,
                    linear: self,
                    plan: &plan,
                    env,
                },
            );
        }
    }

    /// The point of a row of a block.
    fn point<'c>(&self, cx: &Cx<'_, 'c>, block: &Block<'c>, m: Int<'c>) -> Point<'c> {
        let mut at = Point::new(cx.spec.region.axes.len());
        for (axis, index) in self.batch.iter().zip(&block.batch) {
            at = at.with(*axis, Index::At(*index));
        }
        match self.m {
            Some(axis) => at.with(axis, Index::At(m)),
            None => at,
        }
    }
}

/// Whether an operand is read as the dense `[reduce..., n]` tensor that it was packed as.
fn packed_matrix(r: &Region, (operand, ty): (u32, &TensorType), reduce: &[u32], n: Option<u32>) -> bool {
    let b = &r.operands[operand as usize];
    let extent = |x: u32| r.axes[x as usize].extent.clone();
    let mut step = n.map_or(Dim::one(), extent);
    let mut dense = b.offset.is(0) && n.is_none_or(|n| b.stride(n).is(1));
    for x in reduce.iter().rev() {
        dense &= b.stride(*x) == step || extent(*x).is(1);
        step = step * extent(*x);
    }
    // It was packed in pieces of its last axis but one.
    let rows = &ty.shape[..ty.rank().saturating_sub(1)];
    let longer = |d: &&Dim| !d.is(1);
    let axes: Vec<Dim> = reduce.iter().map(|x| extent(*x)).collect();
    dense && rows.iter().filter(longer).eq(axes.iter().filter(longer))
}

/// Columns that a tile needs to have, where the product is known to have fewer than a panel.
fn few_columns(r: &Region, n: Option<u32>) -> u32 {
    let columns = n.map_or(Some(1), |n| r.axes[n as usize].extent.as_const());
    let block = columns.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    block.clamp(1, PANEL as u32).next_multiple_of(BLOCK as u32)
}

/// Elements of a row of accumulators in scratch.
fn row_elements(n: &Dim) -> Dim {
    n.ceil_div(&Dim::from(PANEL)) * Dim::from(PANEL)
}

/// The accumulator's value at a place whose lanes are those of `acc`.
fn as_lanes<'c>(e: &Emit<'c>, n: Option<u32>, acc: Vector<'c>) -> Vector<'c> {
    if n.is_some() || lanes(acc) == 1 {
        acc
    } else {
        e.shuffle(acc, acc, &[0])
    }
}

/// The direct schedule.
struct Direct<'x, 'a, 'c> {
    cx: &'x Cx<'a, 'c>,
    linear: &'x Linear,
    plan: &'x RowPlan,
    /// Values that are uniform in the current row.
    env: Env<'c>,
}

impl<'c> Direct<'_, '_, 'c> {
    fn is_large(&self) -> bool {
        self.plan.phases.iter().map(|p| p.varying.len()).sum::<usize>() >= LARGE
    }

    fn store(&self, piece: &Piece<'_, 'c>, part: Lanes<'c>) {
        let (cx, linear) = (self.cx, self.linear);
        let body = &cx.spec.region.body;
        let mut at = linear.point(cx, piece.row.block, piece.row.m);
        if let Some(n) = linear.n {
            at = at.with(n, Index::Run(piece.n));
            at.part = part;
        }
        let place = Place { at, element: piece.n };
        let mut env = self.env.clone();
        let anchor = |cx: &Cx<'_, 'c>, _: &Place<'c>| as_lanes(cx.e, linear.n, piece.acc);
        for phase in &self.plan.phases {
            if linear.n.is_none() {
                evaluate(cx, body, &phase.uniform, &mut env, &place, &anchor);
            }
            evaluate(cx, body, &phase.varying, &mut env, &place, &anchor);
        }
        for (n, s) in cx.spec.region.stores.iter().enumerate() {
            let value = env[s.value.index()].expect("everything stored has been evaluated");
            cx.store(n, value, &place.at);
        }
    }
}

impl<'c> Epilogue<'c> for Direct<'_, '_, 'c> {
    fn begin_row(&mut self, _: &Emit<'c>, row: &Row<'_, 'c>) {
        if self.linear.n.is_none() {
            return;
        }
        let cx = self.cx;
        let place = Place {
            at: self.linear.point(cx, row.block, row.m),
            element: cx.e.i64(0),
        };
        let body = &cx.spec.region.body;
        let no_anchor = |_: &Cx<'_, 'c>, _: &Place<'c>| panic!("the accumulator varies along its row");
        for phase in &self.plan.phases {
            evaluate(cx, body, &phase.uniform, &mut self.env, &place, &no_anchor);
        }
    }

    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        match piece.lanes {
            // Where partial loads are loops, whole pieces get code of their own, unless it is much.
            Lanes::First(count) if !e.level().has_masks() && self.linear.n.is_some() && !self.is_large() => e
                .if_else(
                    e.icmp(IntCmp::SGE, count, e.i64(16)),
                    || self.store(piece, Lanes::All),
                    || self.store(piece, Lanes::First(count)),
                ),
            part => self.store(piece, part),
        }
    }
}

/// The row-block schedule.
struct RowBlock<'x, 'a, 'c> {
    cx: &'x Cx<'a, 'c>,
    linear: &'x Linear,
    plan: &'x RowPlan,
}

impl<'c> RowBlock<'_, '_, 'c> {
    /// Where row `local` of the block keeps its accumulators.
    fn row(&self, local: Int<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        let start = e.at(e.scratch(), self.linear.gemm.scratch_end(e));
        e.at(start, e.mul(local, self.row_bytes()))
    }

    fn row_bytes(&self) -> Int<'c> {
        let e = self.cx.e;
        let n = self.linear.gemm.param(e, param::N);
        let panels = e.div_ceil(n, e.i64(PANEL as i64));
        e.mul(panels, e.i64(4 * PANEL as i64))
    }

    fn elem(&self) -> Elem {
        if self.linear.gemm.product == Product::Int8 {
            Elem::I32
        } else {
            Elem::F32
        }
    }
}

impl<'c> Epilogue<'c> for RowBlock<'_, '_, 'c> {
    fn piece(&mut self, e: &Emit<'c>, piece: &Piece<'_, 'c>) {
        let to = e.at_index(self.row(piece.row.local), piece.n, 4);
        e.store_aligned(piece.acc, to, 64);
    }

    fn end_block(&mut self, e: &Emit<'c>, block: &Block<'c>) {
        let current: Cell<Ptr<'c>> = Cell::new(e.scratch());
        let linear = self.linear;
        let elem = self.elem();
        let anchor = |cx: &Cx<'_, 'c>, place: &Place<'c>| {
            let from = cx.e.at_index(current.get(), place.element, 4);
            let acc = cx.e.load_aligned(cx.e.vector_type(elem, 16), from, 4);
            as_lanes(cx.e, linear.n, acc.into_vector_value())
        };
        let code = RowCode {
            cx: self.cx,
            plan: self.plan,
            anchor: &anchor,
            scratch: self.row(linear.gemm.param(e, param::ROW_BLOCK)),
        };
        e.for_range(e.i64(0), block.rows, e.i64(1), |local| {
            current.set(self.row(local));
            code.emit(&linear.point(self.cx, block, e.add(block.m, local)), None);
        });
    }
}
