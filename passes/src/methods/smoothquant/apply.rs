//! Writes smoothing vectors into a module: new constants, and products where a vector has no home in front.

use super::{Choice, name, scales};
use crate::analysis::sites::{Carrier, Home, Site};
use crate::methods::const_matrix;
use crate::pass::{PassCx, edit_diag};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::Mul;
use rsqc_ir::{Const, ConstId, Module, NodeId, Rebuild, ValueId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// An operand that becomes another constant: elements in f64, rounded when all factors are in.
struct Operand {
    name: String,
    shape: Vec<usize>,
    data: Vec<f64>,
}

type Operands = BTreeMap<(NodeId, usize), Operand>;

/// Applies what was chosen, one edit a site.
pub(super) fn apply(cx: &mut PassCx<'_>, m: &Module, sites: &[Site], choices: &[Choice]) -> Result<(), Diag> {
    let mut operands = Operands::new();
    // Layer -> the factors in front of its activation.
    let mut in_front: BTreeMap<NodeId, (&Site, Vec<f32>)> = BTreeMap::new();
    for (site, choice) in sites.iter().zip(choices) {
        if !cx.permit() {
            break;
        }
        // What the activation is multiplied with is rounded; weights are divided by just that.
        let inverse: Vec<f32> = choice.s.iter().map(|s| (1.0 / s) as f32).collect();
        let mut trial: Operands = BTreeMap::new();
        let took = write(m, site, &inverse, &operands, &mut trial)?;
        if !took {
            cx.note(format!(
                "{}: not smoothed, a constant would leave the range of f32",
                name(m, site)
            ));
            continue;
        }
        operands.extend(trial);
        if !matches!(site.home, Home::Folded(_)) {
            for id in &site.layers {
                in_front.insert(*id, (site, inverse.clone()));
            }
        }
        remark(cx, m, site, choice);
        cx.count("sites", 1);
    }
    rebuild(cx, m, operands, &in_front)
}

/// Multiplies the operands of a site in `trial`, which starts from what `done` made of them. `false`: they do not fit.
fn write(
    m: &Module,
    site: &Site,
    inverse: &[f32],
    done: &Operands,
    trial: &mut Operands,
) -> Result<bool, Diag> {
    let bug = |what: &str| Diag::internal(name(m, site), what.to_string());
    for id in site.layers.iter().chain(&site.followers) {
        let (_, channel) = scales::weights(m, *id).ok_or_else(|| bug("a layer has no weights"))?;
        let w = operand(m, (*id, 1), done, trial).ok_or_else(|| bug("a weight is no constant"))?;
        for (i, v) in w.data.iter_mut().enumerate() {
            *v /= f64::from(inverse[channel(i)]);
        }
    }
    if let Home::Folded(carriers) = &site.home {
        for c in carriers {
            let o =
                operand(m, (c.node, c.slot), done, trial).ok_or_else(|| bug("a carrier is no constant"))?;
            scale_carrier(o, c, inverse);
        }
    }
    let fits = trial
        .values()
        .all(|o| o.data.iter().all(|v| (*v as f32).is_finite() || !v.is_finite()));
    Ok(fits && inverse.iter().all(|v| v.is_normal()))
}

/// Multiplies each element with the factor of the channel that lies there.
fn scale_carrier(o: &mut Operand, c: &Carrier, inverse: &[f32]) {
    let extents: Vec<usize> = c.axes.iter().map(|a| o.shape[*a]).collect();
    let strides: Vec<usize> = c.axes.iter().map(|a| o.shape[a + 1..].iter().product()).collect();
    let mut factor = vec![1f32; extents.iter().product()];
    for (place, channel) in &c.places {
        let at = place
            .iter()
            .zip(&extents)
            .fold(0usize, |at, (p, e)| at * e + *p as usize);
        factor[at] = inverse[*channel as usize];
    }
    for (i, v) in o.data.iter_mut().enumerate() {
        let at = strides
            .iter()
            .zip(&extents)
            .fold(0usize, |at, (s, e)| at * e + i / s % e);
        *v *= f64::from(factor[at]);
    }
}

/// The operand as changed so far.
fn operand<'t>(
    m: &Module,
    key: (NodeId, usize),
    done: &Operands,
    trial: &'t mut Operands,
) -> Option<&'t mut Operand> {
    match trial.entry(key) {
        Entry::Occupied(e) => Some(e.into_mut()),
        Entry::Vacant(e) => Some(e.insert(match done.get(&key) {
            Some(o) => Operand {
                name: o.name.clone(),
                shape: o.shape.clone(),
                data: o.data.clone(),
            },
            None => original(m, key)?,
        })),
    }
}

fn original(m: &Module, (id, slot): (NodeId, usize)) -> Option<Operand> {
    let v = m.graph.node(id).input(slot)?;
    let wide = |d: &[f32]| d.iter().map(|v| f64::from(*v)).collect();
    if let Some(c) = m.const_of(v) {
        return Some(Operand {
            name: c.name.to_string(),
            shape: c.ty.static_shape()?,
            data: wide(&m.const_f32(v)?),
        });
    }
    // A transposed matrix becomes a matrix.
    let w = const_matrix(m, v)?;
    Some(Operand {
        name: w.name,
        shape: vec![w.k, w.n],
        data: wide(&w.data),
    })
}

/// What `inspect` shows of each layer of a site.
fn remark(cx: &mut PassCx<'_>, m: &Module, site: &Site, c: &Choice) {
    let (lo, hi) =
        c.s.iter()
            .fold((f64::INFINITY, 0f64), |(lo, hi), s| (lo.min(*s), hi.max(*s)));
    let home = site.home_name(m);
    let site_name = name(m, site);
    for id in &site.layers {
        let loc = m.graph.node(*id).loc.clone();
        let mut say = |key: &str, value: String| cx.remark_layer(&loc, key, value);
        say("smooth", home.clone());
        say("smooth_alpha", c.alpha.to_string());
        say("smooth_min", (lo as f32).to_string());
        say("smooth_max", (hi as f32).to_string());
        if !c.losses.is_empty() {
            let all: Vec<String> = c.losses.iter().map(|(a, l)| format!("{a}:{l:.6e}")).collect();
            say("smooth_losses", all.join(" "));
            let at = |alpha: f64| {
                c.losses
                    .iter()
                    .find(|(a, _)| *a == alpha)
                    .map(|(_, l)| format!("{l:.6e}"))
            };
            if let Some(loss) = at(c.alpha) {
                say("smooth_loss", loss);
            }
            if let Some((alpha, loss)) = c.fixed.and_then(|a| Some((a, at(a)?))) {
                say("smooth_fixed_alpha", alpha.to_string());
                say("smooth_fixed_loss", loss);
            }
        }
    }
    cx.note(format!(
        "{site_name}: alpha {}, s {:.4} to {:.4}, in {home}",
        c.alpha, lo, hi
    ));
}

/// The module with its new constants and products.
fn rebuild(
    cx: &mut PassCx<'_>,
    m: &Module,
    operands: Operands,
    in_front: &BTreeMap<NodeId, (&Site, Vec<f32>)>,
) -> Result<(), Diag> {
    if operands.is_empty() {
        return Ok(());
    }
    let order = m
        .graph
        .topo_order()
        .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
    let mut r = Rebuild::new(m);
    let mut consts: Vec<Const> = Vec::new();
    let constant = |r: &mut Rebuild, consts: &mut Vec<Const>, c: Const| {
        let id = ConstId((m.consts.len() + consts.len()) as u32);
        let v = r.graph.add_const(id, c.ty.clone());
        consts.push(c);
        v
    };
    let mut products: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for id in order {
        let n = m.graph.node(id);
        let slots = operands.range((id, 0)..=(id, usize::MAX));
        let changed: Vec<(usize, &Operand)> = slots.map(|((_, s), o)| (*s, o)).collect();
        if changed.is_empty() {
            r.copy(m, id);
            continue;
        }
        let mut ins: Vec<Option<ValueId>> = n.inputs.iter().map(|v| v.map(|v| r.get(m, v))).collect();
        for (slot, o) in changed {
            let data: Vec<f32> = o.data.iter().map(|v| *v as f32).collect();
            let t = Tensor::new(o.shape.clone(), data);
            ins[slot] = Some(constant(&mut r, &mut consts, t.to_const(&o.name)));
        }
        if let Some((site, inverse)) = in_front.get(&id) {
            let x = r.get(m, site.x);
            let product = match products.get(&x) {
                Some(p) => *p,
                None => {
                    let behind = match site.home {
                        Home::Product => m.graph.ty(site.x).rank() - site.axis - 1,
                        _ => 0,
                    };
                    let mut shape = vec![1; behind + 1];
                    shape[0] = site.channels;
                    let c = Tensor::new(shape, inverse.clone()).to_const(&format!("{}.smooth", n.loc));
                    let c = constant(&mut r, &mut consts, c);
                    let p = r
                        .node(m, Mul {}.into(), vec![Some(x), Some(c)], &n.loc)
                        .map_err(edit_diag)?[0];
                    products.insert(x, p);
                    p
                }
            };
            ins[0] = Some(product);
        }
        let out = r.node(m, n.op.clone(), ins, &n.loc).map_err(edit_diag)?;
        for (old, new) in n.outputs.iter().zip(out) {
            r.set(*old, new);
        }
    }
    for c in consts {
        cx.module_mut().consts.add(c);
    }
    cx.install(r)?;
    Ok(())
}
