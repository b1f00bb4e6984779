//! Construction of a region: axes, operands, body, stores.

use rsqc_ir::region::{Access, Anchor, Axis, AxisKind, Region, Store};
use rsqc_ir::scalar::{Body, BodyBuilder, BodyId, ReduceKind};
use rsqc_ir::types::row_major_strides;
use rsqc_ir::{Dim, ScalarType, TensorType, ValueId};

/// A region under construction, with the values it reads.
pub struct RegionBuilder {
    region: Region,
    inputs: Vec<ValueId>,
    types: Vec<TensorType>,
    /// The scalar program so far.
    pub b: BodyBuilder,
}

impl RegionBuilder {
    /// A region over these parallel axes, outermost first, whose last `row_axes` form the row.
    pub fn new(parallel: &[Dim], row_axes: usize) -> Self {
        RegionBuilder {
            region: Region {
                axes: parallel
                    .iter()
                    .map(|e| axis(AxisKind::Parallel, e.clone()))
                    .collect(),
                row_axes: row_axes as u32,
                operands: Vec::new(),
                anchor: Anchor::None,
                body: Body::default(),
                stores: Vec::new(),
            },
            inputs: Vec::new(),
            types: Vec::new(),
            b: BodyBuilder::new(),
        }
    }

    /// Adds a reduce axis; gives its number.
    pub fn reduce_axis(&mut self, extent: &Dim) -> u32 {
        self.region.axes.push(axis(AxisKind::Reduce, extent.clone()));
        self.region.axes.len() as u32 - 1
    }

    /// Adds an operand; gives its number.
    pub fn operand(&mut self, v: ValueId, access: Access) -> u32 {
        self.region.operands.push(access);
        self.inputs.push(v);
        self.inputs.len() as u32 - 1
    }

    /// Adds an operand that the body reads.
    pub fn load(&mut self, v: ValueId, access: Access, ty: ScalarType) -> BodyId {
        let n = self.operand(v, access);
        self.b.operand(n, ty)
    }

    /// Sets the accumulator.
    pub fn anchor(&mut self, a: Anchor) {
        self.region.anchor = a;
    }

    /// Adds a result.
    pub fn store(&mut self, value: BodyId, access: Access, ty: TensorType) {
        self.region.stores.push(Store { value, access });
        self.types.push(ty);
    }

    /// Adds a result of the region's own shape: one element a point, row-major over the parallel axes.
    pub fn store_all(&mut self, value: BodyId, ty: TensorType) {
        let access = self.dense(0..self.region.parallel().len());
        self.store(value, access, ty);
    }

    /// Row-major access over these axes alone.
    pub fn dense(&self, axes: std::ops::Range<usize>) -> Access {
        let extents: Vec<Dim> = self.region.axes[axes.clone()]
            .iter()
            .map(|a| a.extent.clone())
            .collect();
        Access::linear(axes.map(|a| a as u32).zip(row_major_strides(&extents)))
    }

    /// The number of elements as a value of type `ty`.
    pub fn count(&mut self, n: &Dim, ty: ScalarType) -> BodyId {
        let d = self.b.dim(n.clone());
        match n.as_const() {
            Some(v) => {
                let like = self.b.cast(d, ty);
                self.b.lit(like, v as f64)
            }
            None => self.b.cast(d, ty),
        }
    }

    /// Sum over the row.
    pub fn sum(&mut self, x: BodyId) -> BodyId {
        self.b.reduce(ReduceKind::Sum, x)
    }

    /// The region with the values it reads and its result types, or the first type error of its body.
    pub fn finish(self) -> Result<(Region, Vec<ValueId>, Vec<TensorType>), String> {
        let mut region = self.region;
        region.body = self.b.finish()?;
        Ok((region, self.inputs, self.types))
    }
}

fn axis(kind: AxisKind, extent: Dim) -> Axis {
    Axis {
        name: "x".into(),
        kind,
        extent,
    }
}

/// Strides that read a tensor of shape `x` broadcast to shape `to` (aligned at the last axis); 0 where it repeats.
pub fn broadcast_strides(x: &[Dim], to: &[Dim]) -> Vec<Dim> {
    let strides = row_major_strides(x);
    let lead = to.len().saturating_sub(x.len());
    (0..to.len())
        .map(|i| match i.checked_sub(lead) {
            Some(j) if !x[j].is(1) => strides[j].clone(),
            _ => Dim::zero(),
        })
        .collect()
}

/// Access that reads a tensor of shape `x` at the points of axes `0..to.len()` with extents `to`.
pub fn broadcast_access(x: &[Dim], to: &[Dim]) -> Access {
    Access::linear((0..).zip(broadcast_strides(x, to)))
}
