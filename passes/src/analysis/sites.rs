//! Smoothing sites: activations whose channels can be divided by factors that the layers behind take up in their weights.
//!
//! `x W = (x / s) (s W)`: a site is an activation with every layer that reads it and shall be smoothed, and a home for the
//! vector 1/s (Xiao et al., arXiv 2211.10438, section 4):
//!
//! - **folded**: constants in front, if all readers of the activation agree, also through ops that commute with positive
//!   factors: gain and bias of a norm; columns of a product and its bias; filters of a convolution; through movement,
//!   Relu, pools, concatenation, one factor of a product (`up` of a gated MLP), and the values of an attention, whose
//!   grouped heads make channels share a factor;
//! - **pre-scale**: a product in front of the layers alone, which their quantization absorbs: other readers, such as a
//!   residual sum, see the untouched value;
//! - **product**: the same in front of convolutions, where it stays an op and fuses like any other.

mod channels;
#[cfg(test)]
mod tests;
mod trace;

use crate::methods::{is_f32, matrix_shape};
use crate::pass::edit_diag;
use channels::Places;
use rsqc_ir::diag::Diag;
use rsqc_ir::{Module, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// What a node is to smoothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A layer that shall be smoothed.
    Smoothed,
    /// A layer that may take up factors, because it stays float.
    Float,
    /// Anything else.
    Other,
}

/// A constant operand of a node that carries factors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carrier {
    /// The node.
    pub node: NodeId,
    /// Operand slot; a transposed matrix counts as the matrix.
    pub slot: usize,
    /// Axes of the constant that tell channels apart, ascending.
    pub axes: Vec<usize>,
    /// Coordinates along these axes and the channel that lies there.
    pub places: Vec<(Vec<u32>, u32)>,
}

impl Carrier {
    fn new(node: NodeId, slot: usize, at: &Places) -> Carrier {
        let coordinates = |i: usize| at.along.values().map(|c| c[i]).collect();
        Carrier {
            node,
            slot,
            axes: at.along.keys().copied().collect(),
            places: at
                .channels
                .iter()
                .enumerate()
                .map(|(i, c)| (coordinates(i), *c))
                .collect(),
        }
    }
}

/// Where a smoothing vector lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Home {
    /// In constants in front of the activation.
    Folded(Vec<Carrier>),
    /// In front of the layers, absorbed by their quantization.
    PreScale,
    /// In front of the layers, as a product.
    Product,
}

/// A smoothing site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// The activation.
    pub x: ValueId,
    /// Its channel axis.
    pub axis: usize,
    /// Number of channels.
    pub channels: usize,
    /// Layers to be smoothed, in order; all read `x` as operand 0.
    pub layers: Vec<NodeId>,
    /// Float layers that read `x` and take up the factors too (folded sites only).
    pub followers: Vec<NodeId>,
    /// Where 1/s lives.
    pub home: Home,
    /// Of each channel, the first channel with which it shares its factor.
    pub groups: Vec<u32>,
}

impl Site {
    /// The activation function that computes `x`, seen through movement, if it does not commute with factors.
    pub fn activation_function(&self, m: &Module) -> Option<&'static str> {
        let mut at = self.x;
        loop {
            let n = m.graph.node(m.graph.def_node(at)?.0);
            match &n.op {
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) => at = n.input(0)?,
                Op::Gelu(_) | Op::Silu(_) | Op::Sigmoid(_) | Op::Tanh(_) | Op::Elu(_) | Op::Softplus(_) => {
                    return Some(n.op.name());
                }
                _ => return None,
            }
        }
    }

    /// What carries the factors, for reports.
    pub fn home_name(&self, m: &Module) -> String {
        let carriers = match &self.home {
            Home::PreScale => return "pre_scale".into(),
            Home::Product => return "mul".into(),
            Home::Folded(c) => c,
        };
        let mut names: Vec<String> = Vec::new();
        for c in carriers {
            let n = m.graph.node(c.node);
            let what = match &n.op {
                Op::LayerNorm(_) | Op::RmsNorm(_) => "norm",
                Op::MatMul(_) | Op::Conv(_) => "weights of",
                Op::Mul(_) => "factor of",
                _ => continue,
            };
            let name = format!("{what} {}", n.loc);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }
}

/// The sites of a canonical module, in the order of their first layers.
pub fn sites(m: &Module, role: &dyn Fn(NodeId) -> Role) -> Result<Vec<Site>, Diag> {
    let order = m
        .graph
        .topo_order()
        .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
    let mut layers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
    let mut firsts = Vec::new();
    for id in order {
        if role(id) == Role::Smoothed
            && let Some((x, _, _)) = layer(m, id)
        {
            let of_x = layers.entry(x).or_default();
            if of_x.is_empty() {
                firsts.push(x);
            }
            of_x.push(id);
        }
    }
    let site = |x: ValueId| site(m, x, layers.remove(&x)?, role);
    Ok(firsts.into_iter().filter_map(site).collect())
}

/// Activation, channel axis and number of channels of a layer with constant f32 weights.
pub(crate) fn layer(m: &Module, id: NodeId) -> Option<(ValueId, usize, usize)> {
    let n = m.graph.node(id);
    let (x, w) = (n.input(0)?, n.input(1)?);
    let rank = m.graph.ty(x).rank();
    if !is_f32(m, x) || m.graph.const_id(x).is_some() {
        return None;
    }
    match &n.op {
        Op::MatMul(_) => {
            let (k, _) = matrix_shape(m, w).filter(|_| is_f32(m, w))?;
            Some((x, rank.checked_sub(1)?, k))
        }
        Op::Conv(_) => {
            let c = m.const_of(w).filter(|_| is_f32(m, w))?;
            c.ty.static_shape()?;
            let channels = m.graph.ty(x).shape.get(1)?.as_const()?;
            Some((x, 1, usize::try_from(channels).ok()?))
        }
        _ => None,
    }
}

fn site(m: &Module, x: ValueId, layers: Vec<NodeId>, role: &dyn Fn(NodeId) -> Role) -> Option<Site> {
    let (_, axis, channels) = layer(m, *layers.first()?)?;
    // A convolution and a product may read one value, but not along one axis.
    let layers: Vec<NodeId> = layers
        .into_iter()
        .filter(|id| layer(m, *id).is_some_and(|l| (l.1, l.2) == (axis, channels)))
        .collect();
    let takes_up = |id: NodeId, slot: u32| {
        let readable = layers.contains(&id) || role(id) == Role::Float;
        slot == 0 && readable && layer(m, id).is_some_and(|l| (l.1, l.2) == (axis, channels))
    };
    let agree = !m.graph.is_output(x) && m.graph.users(x).all(|(id, slot)| takes_up(id, slot));
    let folded = agree
        .then(|| trace::carriers(m, x, &Places::axis(axis, channels)))
        .flatten()
        .map(|c| (groups(channels, &c), c))
        // One factor for all channels smooths nothing.
        .filter(|(g, _)| channels == 1 || g.iter().any(|c| *c != g[0]));
    let (home, groups, followers) = match folded {
        Some((g, carriers)) => {
            let all = m.graph.users(x).map(|(id, _)| id);
            let followers = all.filter(|id| !layers.contains(id)).collect();
            (Home::Folded(carriers), g, followers)
        }
        None => {
            let linear = layers
                .iter()
                .all(|id| matches!(m.graph.node(*id).op, Op::MatMul(_)));
            let home = if linear { Home::PreScale } else { Home::Product };
            (home, (0..channels as u32).collect(), Vec::new())
        }
    };
    Some(Site {
        x,
        axis,
        channels,
        layers,
        followers,
        home,
        groups,
    })
}

/// Channels that lie at one place of a carrier share a factor.
fn groups(channels: usize, carriers: &[Carrier]) -> Vec<u32> {
    let mut first: Vec<u32> = (0..channels as u32).collect();
    fn root(first: &[u32], mut c: u32) -> u32 {
        while first[c as usize] != c {
            c = first[c as usize];
        }
        c
    }
    for carrier in carriers {
        let mut at: BTreeMap<&[u32], u32> = BTreeMap::new();
        for (place, c) in &carrier.places {
            let other = *at.entry(place).or_insert(*c);
            let (a, b) = (root(&first, other), root(&first, *c));
            first[a.max(b) as usize] = a.min(b);
        }
    }
    (0..channels as u32).map(|c| root(&first, c)).collect()
}
