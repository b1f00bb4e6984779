//! Methods: what decides how layers are quantized. One file a method.

mod activations;
mod attention;
mod insert_fake_quant;
mod smoothquant;

pub use insert_fake_quant::InsertFakeQuant;
pub use smoothquant::SmoothQuant;

use rsqc_ir::{Module, Op, ScalarType, ValueId};

/// Longest inner extent of an exact i32 sum of products of weights up to 127 in magnitude and activations up to 255 from
/// their zero point.
const MAX_INNER: usize = (i32::MAX as usize) / (127 * 255);

/// A merged layer bears the names of its members, joined; they share one scheme.
pub(crate) fn member(loc: &str) -> &str {
    loc.split(" + ").next().unwrap_or(loc)
}

/// A constant f32 matrix `[k, n]` behind a value, seen through a transposition.
pub(crate) struct Matrix {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Name of the constant.
    pub name: String,
    /// Elements, row-major `[k, n]`.
    pub data: Vec<f32>,
}

/// The constant matrix behind `v`.
pub(crate) fn const_matrix(m: &Module, v: ValueId) -> Option<Matrix> {
    let (source, swapped) = match m.graph.def_node(v).map(|(n, _)| m.graph.node(n)) {
        Some(n) => match &n.op {
            Op::Transpose(t) if t.perm == [1, 0] => (n.input(0)?, true),
            _ => return None,
        },
        None => (v, false),
    };
    let c = m.const_of(source)?;
    let [rows, columns] = <[usize; 2]>::try_from(c.ty.static_shape()?).ok()?;
    let data = m.const_f32(source)?;
    if !swapped {
        return Some(Matrix {
            k: rows,
            n: columns,
            name: c.name.to_string(),
            data,
        });
    }
    let turned = (0..columns)
        .flat_map(|j| (0..rows).map(move |i| (i, j)))
        .map(|(i, j)| data[i * columns + j])
        .collect();
    Some(Matrix {
        k: columns,
        n: rows,
        name: c.name.to_string(),
        data: turned,
    })
}

/// Extents `[k, n]` of the constant matrix behind `v`; see [`const_matrix`].
pub(crate) fn matrix_shape(m: &Module, v: ValueId) -> Option<(usize, usize)> {
    let source = match m.graph.def_node(v).map(|(n, _)| m.graph.node(n)) {
        Some(n) => match &n.op {
            Op::Transpose(t) if t.perm == [1, 0] => n.input(0)?,
            _ => return None,
        },
        None => v,
    };
    m.const_of(source)?;
    let [k, n] = <[usize; 2]>::try_from(m.graph.ty(v).static_shape()?).ok()?;
    Some((k, n))
}

/// Which input channel each weight of filters `[o, c / group, kernel...]` multiplies.
pub(crate) struct InputChannels {
    /// Weights of one filter and channel.
    window: usize,
    /// Channels that a filter reads.
    own: usize,
    /// Filters of a group.
    filters: usize,
}

impl InputChannels {
    /// For filters of this shape; `None` if they are no filters in so many groups.
    pub fn new(shape: &[usize], group: i64) -> Option<InputChannels> {
        let [filters, own, kernel @ ..] = shape else {
            return None;
        };
        let filters = filters.checked_div(usize::try_from(group).ok()?)?;
        Some(InputChannels {
            window: kernel.iter().product::<usize>().max(1),
            own: (*own).max(1),
            filters: filters.max(1),
        })
    }

    /// The channel of weight `i`.
    pub fn of(&self, i: usize) -> usize {
        let (filter, inner) = (i / self.window / self.own, i / self.window % self.own);
        filter / self.filters * self.own + inner
    }
}

/// Whether `v` has the plain type f32.
pub(crate) fn is_f32(m: &Module, v: ValueId) -> bool {
    m.graph.ty(v).elem.plain() == Some(ScalarType::F32)
}
