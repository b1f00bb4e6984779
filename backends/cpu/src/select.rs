//! Kernel choice: which family runs a region, how it is cut into tiles, what it is called and what it takes.
//!
//! The choice depends on the region's normal form alone, never on the machine. A kernel's name ends in a hash of
//! everything that its code depends on, so equal names mean equal code.

use crate::kernels::attention::AttentionKernel;
use crate::kernels::body;
use crate::kernels::linear::Linear;
use crate::kernels::rows::{self, Schedule};
use crate::level::Level;
use crate::llvm::Emit;
use rsqc_backend::{KernelSpec, Launch, Params};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::quant::Granularity;
use rsqc_ir::region::{Access, Anchor, AxisKind, Products, Region};
use rsqc_ir::{Dim, Elem, Layout, ScalarType, TensorType};
use std::collections::BTreeSet;

/// Changes whenever the code generated for an unchanged spec may change.
const GENERATION: u32 = 3;

/// A kernel generator with its choices.
#[derive(Clone, Debug)]
pub enum Family {
    /// Rows, and contractions in general form.
    Rows(Schedule),
    /// Matrix products on register tiles.
    Linear(Linear),
    /// Attention.
    Attention(AttentionKernel),
}

/// A chosen kernel.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The spec in normal form: what code is generated from.
    pub spec: KernelSpec,
    /// Generator.
    pub family: Family,
    /// Launch description.
    pub launch: Launch,
}

impl Choice {
    /// Generates the kernel's code.
    pub fn emit(&self, e: &Emit<'_>) {
        match &self.family {
            Family::Rows(schedule) => rows::emit(e, &self.spec, *schedule),
            Family::Linear(linear) => linear.emit(e, &self.spec),
            Family::Attention(kernel) => kernel.emit(e, &self.spec),
        }
    }

    /// The level whose code the kernel has at `level`: what AVX-VNNI adds counts in integer products only.
    pub fn code_level(&self, level: Level) -> Level {
        let same = match &self.family {
            Family::Linear(linear) => !linear.is_int8(),
            Family::Attention(kernel) => !kernel.is_int8(),
            Family::Rows(_) => true,
        };
        if same && level == Level::AvxVnni {
            Level::Avx2
        } else {
            level
        }
    }
}

/// Chooses the kernel for a spec.
///
/// # Errors
/// `Unsupported` if no kernel can run it.
pub fn choose(spec: &KernelSpec) -> Result<Choice, Diag> {
    check(spec)?;
    let spec = rows::normalize(spec);
    let mut params = Params::of(&spec).dims().to_vec();
    let (family, what, tiles, scratch_bytes) = if let Some(linear) = Linear::of(&spec) {
        let sizes = linear.sizes(&spec);
        params.extend(sizes.params);
        let what = linear.what().to_owned();
        (Family::Linear(linear), what, sizes.tiles, sizes.scratch)
    } else if let Anchor::Attention(_) = spec.region.anchor {
        let kernel =
            AttentionKernel::of(&spec).ok_or_else(|| unsupported("this form of attention has no kernel"))?;
        let sizes = kernel.sizes(&spec);
        params.extend(sizes.params);
        (
            Family::Attention(kernel),
            attention_name(&spec.region).to_owned(),
            sizes.tiles,
            sizes.scratch,
        )
    } else {
        choose_rows(&spec)?
    };
    let name = name(&spec, &what, &family);
    let macs = macs(&spec);
    let bytes = bytes(&spec);
    let cost_ns = macs.floor_div(&Dim::from(64i64)) + bytes.floor_div(&Dim::from(8i64));
    let launch = Launch {
        kernel: name,
        params,
        tiles,
        scratch_bytes,
        macs,
        bytes,
        cost_ns,
    };
    Ok(Choice { spec, family, launch })
}

/// What attention multiplies: floats, or codes with a scale a token or from calibration.
fn attention_name(r: &Region) -> &'static str {
    match &r.anchor {
        Anchor::Attention(a) => match a.products {
            Products::Float => "attention",
            Products::Int8 { scales: None } => "attention_qd8",
            Products::Int8 { scales: Some(_) } => "attention_qs8",
        },
        _ => "none",
    }
}

type Chosen = (Family, String, Dim, Dim);

fn choose_rows(spec: &KernelSpec) -> Result<Chosen, Diag> {
    let r = &spec.region;
    if spec.operand_layouts.contains(&Some(Layout::PackedWeight)) {
        return Err(unsupported(
            "this contraction has no kernel that reads packed weights",
        ));
    }
    let schedule = Schedule::of(r);
    let plan = rows::plan_of(r);
    let what = match r.anchor {
        Anchor::Contract { .. } => "contract",
        _ if rows::has_reductions(&r.body) => "reduce",
        _ => "map",
    };
    let scratch = rows::kept_bytes(&plan, r);
    let what = format!("{what}_{}", schedule.tile_elements);
    Ok((Family::Rows(schedule), what, schedule.tiles(r), scratch))
}

fn unsupported(message: &str) -> Diag {
    Diag::new(Blame::Unsupported, "", format!("{message} (cpu backend)"))
}

/// Whether the backend has code for everything in a spec.
fn check(spec: &KernelSpec) -> Result<(), Diag> {
    let r = &spec.region;
    body::check(&r.body)?;
    if r.axes.iter().any(|a| a.kind == AxisKind::Ordered) {
        return Err(unsupported("ordered axes have no kernel"));
    }
    let counts = [
        (r.operands.len(), spec.operands.len()),
        (r.operands.len(), spec.operand_layouts.len()),
        (r.stores.len(), spec.results.len()),
        (r.stores.len(), spec.result_layouts.len()),
    ];
    if counts.iter().any(|(a, b)| a != b) {
        return Err(Diag::internal("", "a region and its operands differ in number"));
    }
    for (ty, layout) in spec.operands.iter().zip(&spec.operand_layouts) {
        if *layout == Some(Layout::OffsetBinary) && ty.storage() != ScalarType::I8 {
            return Err(Diag::internal(
                "",
                format!("offset binary codes of type {}", ty.elem),
            ));
        }
    }
    for a in &r.operands {
        for g in &a.gathers {
            let index = spec.operands.get(g.operand as usize);
            if !index.is_some_and(|t| t.storage().is_int()) {
                return Err(Diag::internal("", "a gather's index is no integer operand"));
            }
        }
    }
    for (s, ty) in r.stores.iter().zip(&spec.results) {
        let value = r.body.stmt(s.value).ty;
        if value != ty.storage() {
            let message = format!("a {value} is stored into a result of type {}", ty.elem);
            return Err(Diag::internal("", message));
        }
    }
    match &r.anchor {
        Anchor::Contract { acc, .. } if !matches!(acc, ScalarType::I32 | ScalarType::F32) => {
            Err(unsupported(&format!("no kernel accumulates in {acc}")))
        }
        Anchor::Attention(a) => {
            let score = a.score.stmts.last().map(|s| s.ty);
            if score != Some(ScalarType::F32) {
                return Err(Diag::internal("", "an attention's score is no f32"));
            }
            body::check(&a.score)
        }
        _ => Ok(()),
    }
}

/// Multiply-accumulates of a launch.
fn macs(spec: &KernelSpec) -> Dim {
    let r = &spec.region;
    let all = |skip: &[u32]| -> Dim {
        let axes = r
            .axes
            .iter()
            .enumerate()
            .filter(|(i, _)| !skip.contains(&(*i as u32)));
        axes.map(|(_, a)| a.extent.clone()).product()
    };
    match &r.anchor {
        Anchor::None => Dim::zero(),
        Anchor::Contract { .. } => all(&[]),
        // The scores, and the weighted sum.
        Anchor::Attention(a) => all(&[r.parallel().end.saturating_sub(1)]) + all(&[a.inner]),
    }
}

/// Bytes that a launch moves. Each tensor counts once, however often its elements are read, but no more of it than the
/// loop nest can address: of an embedding table the rows that are looked up, of merged projections the part that is used.
fn bytes(spec: &KernelSpec) -> Dim {
    let r = &spec.region;
    let moved = |(ty, access): (&TensorType, &Access)| -> Dim {
        let extent = |axis: u32| r.axes[axis as usize].extent.clone();
        let reach = axes_of(r, access).into_iter().map(extent).product::<Dim>();
        ty.bytes().smaller(&(reach * Dim::from(ty.storage().size())))
    };
    let read = spec.operands.iter().zip(&r.operands);
    let written = spec.results.iter().zip(r.stores.iter().map(|s| &s.access));
    read.chain(written).map(moved).sum()
}

/// The axes that an address depends on, also through the indices that it gathers by.
fn axes_of(r: &Region, access: &Access) -> BTreeSet<u32> {
    let terms = |a: &Access| a.terms.iter().map(|t| t.axis).collect::<Vec<_>>();
    let indices = |a: &Access| a.gathers.iter().map(|g| g.operand).collect::<Vec<_>>();
    let mut axes = BTreeSet::from_iter(terms(access));
    let (mut seen, mut open) = (BTreeSet::new(), indices(access));
    while let Some(operand) = open.pop() {
        if let Some(index) = r.operands.get(operand as usize).filter(|_| seen.insert(operand)) {
            axes.extend(terms(index));
            open.extend(indices(index));
        }
    }
    axes
}

/// `<act>_<out>[_<weight>]_<op>_<hash>`, in XNNPACK's words for formats.
fn name(spec: &KernelSpec, what: &str, family: &Family) -> String {
    let mut parts: Vec<String> = Vec::new();
    let (act, weight) = match &spec.region.anchor {
        Anchor::None => (0, None),
        Anchor::Contract { lhs, rhs, .. } => (*lhs, Some(*rhs)),
        Anchor::Attention(a) => (a.q, None),
    };
    let operand = |n: u32| spec.operands.get(n as usize);
    parts.push(operand(act).map_or("none".into(), format_name));
    parts.push(spec.results.first().map_or("none".into(), format_name));
    if let Some(w) = weight.and_then(operand) {
        parts.push(format!("{}w", format_name(w)));
    }
    parts.push(what.into());
    let text = format!("{GENERATION} {family:?} {}", spec.key());
    parts.push(blake3::hash(text.as_bytes()).to_hex()[..12].to_string());
    parts.join("_")
}

/// The name of a tensor's format: `f32`, `qd8` (a scale a token), `qc8` (a scale a channel), `qs8` (static).
fn format_name(ty: &TensorType) -> String {
    match &ty.elem {
        Elem::Plain(t) => t.name().into(),
        Elem::Quant(q) => {
            let how = match q.granularity {
                Granularity::Tensor => "qs",
                Granularity::Axis(_) => "qc",
                Granularity::Token => "qd",
                Granularity::Group { .. } | Granularity::Block { .. } => "qb",
            };
            format!("{how}{}", q.bits)
        }
    }
}
