//! `insert-fake-quant`: marks what the scheme quantizes.
//!
//! Before -> after, for each matrix product with a constant weight: `matmul(x, w)` ->
//! `matmul(quant.fake(x, token, dynamic), quant.fake(w, axis 1))`; for each embedding table over 64 KB:
//! `gather(table, i)` -> `gather(quant.fake(table, token), i)`. Convolutions with constant filters likewise, filters along
//! axis 0, activations one scale a sample, or if they are static one a tensor (one a channel where there are up to four).
//! Static activations get a `quant.fake` without parameters,
//! which `calibrate` fills in. Products that share an activation and say the same about it share its fake quantization. An
//! activation that is a product `x * c` with a constant vector c of channels is quantized from x with pre-scale c, so that
//! the product costs nothing. Under `attn8`, `attention(q, k, v)` -> `quant.attention(q, k, v)` (see `attention.rs` here). What stays float is reported with the reason. Lossy: this is where precision is given up.

use super::activations::{Codes, activation_codes, describe};
use super::{MAX_INNER, attention, const_matrix, is_f32, member};
use crate::pass::{Effect, LayerReport, Pass, PassCx, Phases, edit_diag};
use crate::scheme::{Activations, LayerScheme, Quantized, Scheme, WeightScales};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::quant::FakeQuant;
use rsqc_ir::quant::Granularity;
use rsqc_ir::{Loc, Module, Node, NodeId, Op, Phase, Rebuild, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Embedding tables up to this size stay float.
const TABLE_BYTES: u64 = 64 << 10;

/// See the file documentation.
pub struct InsertFakeQuant {
    /// What each layer becomes.
    pub scheme: Scheme,
}

impl Pass for InsertFakeQuant {
    fn name(&self) -> &'static str {
        "insert-fake-quant"
    }
    fn effect(&self) -> Effect {
        Effect::Lossy
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Canonical, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let m = cx.module();
        let mut r = Rebuild::new(m);
        let mut fakes = Fakes::new();
        let mut reports = Vec::new();
        let mut used: BTreeSet<String> = BTreeSet::new();
        let order = m
            .graph
            .topo_order()
            .map_err(|n| edit_diag(rsqc_ir::EditError::Cycle(n.0)))?;
        for id in order {
            let told = |s: &Site| s.kind != Kind::Attention || self.scheme.uses("attn8");
            let Some(site) = site(m, id).filter(told) else {
                r.copy(m, id);
                continue;
            };
            let node = m.graph.node(id);
            let (chosen, rule) = self.scheme.of_layer(member(&node.loc));
            if let Some(o) = rule {
                used.insert(o.pattern.clone());
            }
            let verdict = match (chosen, &site.refused) {
                (LayerScheme::Float, _) => Err(match rule {
                    Some(o) => format!("the recipe's rule `{}` says so", o.pattern),
                    None => "the scheme is `none`".to_string(),
                }),
                (LayerScheme::Quantized(_), Some(why)) => Err(why.clone()),
                (LayerScheme::Quantized(q), None)
                    if site.kind == Kind::Conv && q.activations == Activations::Float =>
                {
                    Err("convolutions have no kernel for codes of weights alone".to_string())
                }
                (LayerScheme::Quantized(q), None)
                    if site.kind == Kind::Attention && q.method("attn8").is_none() =>
                {
                    Err("products of activations stay float without `attn8`".to_string())
                }
                (LayerScheme::Quantized(q), None) => Ok(q),
            };
            match &verdict {
                Ok(q) if site.kind == Kind::Attention => attention::quantize(m, &mut r, node, q)?,
                Ok(q) => quantize(m, &mut r, &mut fakes, node, &site, q)?,
                Err(_) => r.copy(m, id),
            }
            reports.push(report(m, node, &site, verdict));
        }
        for o in self
            .scheme
            .overrides
            .iter()
            .filter(|o| !used.contains(&o.pattern))
        {
            let line = format!("the recipe's rule `{}` decides for no layer", o.pattern);
            cx.note(line);
        }
        for l in reports {
            cx.report_layer(l);
        }
        cx.rebuild(r)?;
        Ok(())
    }
}

/// Fake quantizations made so far, by (new) value and what they say.
type Fakes = BTreeMap<(ValueId, String), ValueId>;

/// Something that the scheme decides about.
struct Site {
    kind: Kind,
    /// Weight bytes as float and as codes with scales.
    bytes: (u64, u64),
    /// Why it cannot be quantized.
    refused: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Conv,
    Table,
    Attention,
    Other,
}

impl Kind {
    /// Which elements share a scale where scales are as fine as they get: a token's, or a sample's.
    fn finest(self) -> Granularity {
        match self {
            Kind::Conv => Granularity::Axis(0),
            _ => Granularity::Token,
        }
    }

    /// The axis of the weights that counts outputs.
    fn outputs(self) -> u32 {
        u32::from(self == Kind::Linear)
    }
}

fn refuse(kind: Kind, bytes: u64, why: impl Into<String>) -> Site {
    Site {
        kind,
        bytes: (bytes, bytes),
        refused: Some(why.into()),
    }
}

fn const_bytes(m: &Module, v: Option<ValueId>) -> u64 {
    v.and_then(|v| m.const_of(v))
        .map_or(0, |c| c.bytes().len() as u64)
}

/// Whether a scheme can quantize the activations of this layer.
pub(crate) fn is_quantizable(m: &Module, id: NodeId) -> bool {
    site(m, id).is_some_and(|s| !matches!(s.kind, Kind::Table | Kind::Attention) && s.refused.is_none())
}

/// What the scheme may decide about this node, if anything.
fn site(m: &Module, id: NodeId) -> Option<Site> {
    let n = m.graph.node(id);
    match &n.op {
        Op::MatMul(_) => Some(linear(m, n)),
        Op::Gather(g) if g.axis == 0 => table(m, n),
        Op::Conv(_) => Some(conv(m, n)),
        Op::Attention(_) => Some(Site {
            kind: Kind::Attention,
            bytes: (0, 0),
            refused: attention::refusal(m, n),
        }),
        _ => None,
    }
}

fn linear(m: &Module, n: &Node) -> Site {
    let (Some(x), Some(w)) = (n.input(0), n.input(1)) else {
        return refuse(Kind::Other, 0, "an operand is missing");
    };
    let bytes = const_bytes(m, Some(w));
    if !is_f32(m, x) {
        return refuse(
            Kind::Linear,
            bytes,
            format!("its elements are {}", m.graph.ty(x).elem),
        );
    }
    let Some(w) = const_matrix(m, w) else {
        let why = if bytes == 0 {
            "both factors are computed at run time"
        } else {
            "its weight is not a matrix"
        };
        return refuse(Kind::Linear, bytes, why);
    };
    let bytes = 4 * w.data.len() as u64;
    if w.k > MAX_INNER {
        return refuse(
            Kind::Linear,
            bytes,
            format!("a sum of {} products may exceed 32 bits", w.k),
        );
    }
    if w.data.iter().any(|v| !v.is_finite()) {
        return refuse(Kind::Linear, bytes, "its weight is not finite");
    }
    Site {
        kind: Kind::Linear,
        bytes: (bytes, w.data.len() as u64 + 4 * w.n as u64),
        refused: None,
    }
}

fn conv(m: &Module, n: &Node) -> Site {
    let bytes = const_bytes(m, n.input(1));
    let refuse = |why: String| refuse(Kind::Conv, bytes, why);
    let (Some(x), Some(w)) = (n.input(0), n.input(1)) else {
        return refuse("an operand is missing".into());
    };
    if !is_f32(m, x) {
        return refuse(format!("its elements are {}", m.graph.ty(x).elem));
    }
    let shape = m.const_of(w).and_then(|c| c.ty.static_shape());
    let (Some(filters), Some(shape)) = (m.const_f32(w), shape) else {
        return refuse("its filters are computed at run time".into());
    };
    let k: usize = shape[1..].iter().product();
    if k > MAX_INNER {
        return refuse(format!("a sum of {k} products may exceed 32 bits"));
    }
    if filters.iter().any(|v| !v.is_finite()) {
        return refuse("its filters are not finite".into());
    }
    Site {
        kind: Kind::Conv,
        bytes: (bytes, filters.len() as u64 + 4 * shape[0] as u64),
        refused: None,
    }
}

/// Embedding tables: constant matrices gathered by rows. Smaller constants are no layers.
fn table(m: &Module, n: &Node) -> Option<Site> {
    let table = n.input(0)?;
    let c = m.const_of(table)?;
    let bytes = c.bytes().len() as u64;
    let shape = c.ty.static_shape()?;
    if shape.len() != 2 || !is_f32(m, table) {
        return None;
    }
    if bytes <= TABLE_BYTES {
        return Some(refuse(Kind::Table, bytes, "tables up to 64 KB stay float"));
    }
    if m.const_f32(table)?.iter().any(|v| !v.is_finite()) {
        return Some(refuse(Kind::Table, bytes, "its table is not finite"));
    }
    Some(Site {
        kind: Kind::Table,
        bytes: (bytes, bytes / 4 + 4 * shape[0] as u64),
        refused: None,
    })
}

/// Rebuilds a node with fake-quantized operands.
fn quantize(
    m: &Module,
    r: &mut Rebuild,
    fakes: &mut Fakes,
    n: &Node,
    site: &Site,
    q: &Quantized,
) -> Result<(), Diag> {
    let codes = match site.kind {
        Kind::Linear | Kind::Conv => {
            let weight = match q.weight_scales {
                WeightScales::Channel => Granularity::Axis(site.kind.outputs()),
                WeightScales::Tensor => Granularity::Tensor,
            };
            let x = n
                .input(0)
                .and_then(|x| activation_codes(m, q, x, site.kind.finest()));
            [x, Some(Codes::weight(weight))]
        }
        Kind::Table => [Some(Codes::weight(Granularity::Token)), None],
        Kind::Attention | Kind::Other => [None, None],
    };
    let mut ins = Vec::new();
    for (i, c) in codes.into_iter().enumerate() {
        let Some(old) = n.input(i) else { continue };
        let v = r.get(m, old);
        ins.push(Some(match c {
            Some(c) => {
                let key = (v, c.key());
                match fakes.get(&key) {
                    Some(f) => *f,
                    None => {
                        let f = fake(m, r, old, c, &n.loc)?;
                        fakes.insert(key, f);
                        f
                    }
                }
            }
            None => v,
        }));
    }
    for v in n.inputs.iter().skip(2) {
        ins.push(v.map(|v| r.get(m, v)));
    }
    let out = r.node(m, n.op.clone(), ins, &n.loc).map_err(edit_diag)?;
    r.set(n.output(), out[0]);
    Ok(())
}

/// x and c of a product `x * c` with a constant vector of x's channels (its last axis).
fn pre_scaled(m: &Module, v: ValueId) -> Option<(ValueId, ValueId)> {
    let n = m.graph.node(m.graph.def_node(v)?.0);
    let Op::Mul(_) = n.op else { return None };
    let (a, b) = (n.input(0)?, n.input(1)?);
    [(a, b), (b, a)].into_iter().find(|(x, c)| {
        let (x, c) = (m.graph.ty(*x), m.const_of(*c).map(|c| &c.ty));
        c.is_some_and(|c| c.rank() == 1 && c.shape.last() == x.shape.last() && c.elem == x.elem)
            && x == m.graph.ty(v)
    })
}

/// The fake quantization of the old value `v` with these codes.
fn fake(m: &Module, r: &mut Rebuild, v: ValueId, c: Codes, loc: &Loc) -> Result<ValueId, Diag> {
    let ins = match pre_scaled(m, v) {
        Some((x, factors)) => vec![Some(r.get(m, x)), None, None, Some(r.get(m, factors))],
        None => vec![Some(r.get(m, v))],
    };
    let op = FakeQuant {
        qtype: c.qtype,
        dynamic: c.dynamic,
    };
    Ok(r.node(m, op.into(), ins, loc).map_err(edit_diag)?[0])
}

fn report(m: &Module, n: &Node, site: &Site, verdict: Result<&Quantized, String>) -> LayerReport {
    let (scheme, reason, after) = match verdict {
        Ok(_) if site.kind == Kind::Table => (
            "int8 table".to_string(),
            "symmetric codes with one scale a row, dequantized on gather".to_string(),
            site.bytes.1,
        ),
        Ok(q) if site.kind == Kind::Attention => (q.to_string(), attention::describe(q), 0),
        Ok(q) => {
            let x = n
                .input(0)
                .and_then(|x| activation_codes(m, q, x, site.kind.finest()));
            (q.to_string(), describe(q, x.as_ref()), site.bytes.1)
        }
        Err(why) => ("float".to_string(), why, site.bytes.0),
    };
    LayerReport {
        node: n.loc.to_string(),
        op: n.op.name().to_string(),
        scheme,
        reason,
        bytes_before: site.bytes.0,
        bytes_after: after,
        extra: Vec::new(),
    }
}
