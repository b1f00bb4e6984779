//! From a lowered module to a plan: buffers with size expressions and live ranges, steps, weights in execution order.
//!
//! - A graph input is the caller's buffer, a result that is a graph output is written straight into the caller's
//!   buffer, everything else lives in the arena.
//! - The caller's buffers have no slack behind them. What an anchor reads in whole vectors (products, attention) is
//!   therefore copied to the arena first, and an output that an anchor also reads is made in the arena and copied out.
//! - Equal constants in the same layout are stored once; weights lie in the order of their first use.

use crate::exprs::ExprTable;
use crate::{Backend, KernelSpec, Launch};
use rsqc_artifact::manifest::{self as pb, buffer, step};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::Op;
use rsqc_ir::region::{Anchor, Region};
use rsqc_ir::{ConstId, Dim, Layout, Module, NodeId, Phase, ScalarType, ValueDef, ValueId};
use std::collections::BTreeMap;

/// A plan without machine code: the manifest (its kernels have no entries yet), the kernels to generate, the weights.
pub struct Plan {
    /// Manifest; `kernels[i].name` are keys of `kernels`.
    pub manifest: pb::Manifest,
    /// Distinct kernels by name.
    pub kernels: BTreeMap<String, KernelSpec>,
    /// The weight segment: ascending offsets, multiples of 64.
    pub weights: Vec<(u64, Vec<u8>)>,
}

impl Plan {
    /// The weight segment in one piece, with 64 bytes of slack.
    pub fn weight_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (offset, bytes) in &self.weights {
            out.resize(*offset as usize, 0);
            out.extend_from_slice(bytes);
        }
        out.resize(out.len().next_multiple_of(64) + 64, 0);
        out
    }
}

/// Builds the plan of a lowered module; reports every region that the backend has no kernel for.
pub fn build_plan(m: &Module, backend: &dyn Backend) -> Result<Plan, Vec<Diag>> {
    if m.phase != Phase::Lowered {
        return Err(vec![Diag::internal(
            "",
            format!("a plan needs a lowered module, found {}", m.phase.name()),
        )]);
    }
    let order = m.graph.topo_order().map_err(|n| {
        vec![Diag::internal(
            m.graph.node(n).loc.to_string(),
            "the graph is cyclic",
        )]
    })?;
    let mut b = Builder::new(m, backend);
    b.declare_io();
    let mut errors = Vec::new();
    for id in order {
        // After an error only selection goes on: what a failed step would have written has no buffer.
        let result = if errors.is_empty() {
            b.node(id)
        } else {
            b.select(id).map(|_| ())
        };
        errors.extend(result.err());
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    b.copy_remaining_outputs();
    Ok(b.finish())
}

struct Builder<'a> {
    m: &'a Module,
    backend: &'a dyn Backend,
    exprs: ExprTable,
    buffers: Vec<pb::Buffer>,
    inputs: Vec<pb::Io>,
    outputs: Vec<pb::Io>,
    /// Buffer that holds a value.
    value_buffer: BTreeMap<ValueId, u32>,
    /// Arena copy of a caller's buffer, made on demand.
    arena_copy: BTreeMap<ValueId, u32>,
    weight_buffer: BTreeMap<([u8; 32], Option<Layout>), u32>,
    weights: Vec<(u64, Vec<u8>)>,
    weight_end: u64,
    steps: Vec<pb::Step>,
    kernels: BTreeMap<String, (u32, KernelSpec)>,
}

impl<'a> Builder<'a> {
    fn new(m: &'a Module, backend: &'a dyn Backend) -> Self {
        Builder {
            m,
            backend,
            exprs: ExprTable::default(),
            buffers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            value_buffer: BTreeMap::new(),
            arena_copy: BTreeMap::new(),
            weight_buffer: BTreeMap::new(),
            weights: Vec::new(),
            weight_end: 0,
            steps: Vec::new(),
            kernels: BTreeMap::new(),
        }
    }

    /// Inputs, outputs and run-time checks. Symbols are numbered in the order in which the inputs name them.
    fn declare_io(&mut self) {
        for p in self.m.graph.inputs() {
            for d in &self.m.graph.ty(p.value).shape {
                if let Some(s) = d.as_symbol() {
                    self.exprs.symbol(s);
                }
            }
        }
        for (i, p) in self.m.graph.inputs().iter().enumerate() {
            let buffer = self.buffer(p.value, buffer::Kind::Input(i as u32), &p.name);
            self.value_buffer.insert(p.value, buffer);
            self.inputs.push(self.io(&p.name, buffer));
        }
        for (i, p) in self.m.graph.outputs().iter().enumerate() {
            let buffer = self.buffer(p.value, buffer::Kind::Output(i as u32), &p.name);
            self.outputs.push(self.io(&p.name, buffer));
            let made_here = matches!(self.m.graph.value(p.value).def, ValueDef::Node(..));
            if made_here && !self.read_by_anchor(p.value) {
                self.value_buffer.entry(p.value).or_insert(buffer);
            }
        }
        for c in &self.m.checks {
            let (a, b) = (self.exprs.dim(&c.a), self.exprs.dim(&c.b));
            let message = format!("`{}` must equal `{}`", c.a, c.b);
            let check = pb::Check {
                a,
                b,
                op: pb::CmpOp::Eq as i32,
                message,
                node: c.loc.to_string(),
            };
            self.steps.push(pb::Step {
                kind: Some(step::Kind::Check(check)),
            });
        }
    }

    fn io(&self, name: &str, buffer: u32) -> pb::Io {
        let b = &self.buffers[buffer as usize];
        pb::Io {
            name: name.into(),
            elem: b.elem,
            dims: b.dims.clone(),
            buffer,
            flags: 0,
        }
    }

    /// Declares a buffer with a value's type.
    fn buffer(&mut self, v: ValueId, kind: buffer::Kind, name: &str) -> u32 {
        let ty = self.m.graph.ty(v);
        let elem = match self.m.graph.value(v).layout {
            Some(Layout::OffsetBinary) => pb::ElemType::U8,
            _ => elem_type(ty.storage()),
        };
        let dims = ty.shape.iter().map(|d| self.exprs.dim(d)).collect();
        let bytes = self.exprs.dim(&ty.bytes());
        let now = self.steps.len() as u32;
        self.buffers.push(pb::Buffer {
            kind: Some(kind),
            elem: elem as i32,
            dims,
            bytes,
            first_step: now,
            last_step: now,
            name: name.into(),
        });
        self.buffers.len() as u32 - 1
    }

    /// Whether an anchor reads `v` in whole vectors.
    fn read_by_anchor(&self, v: ValueId) -> bool {
        self.m
            .graph
            .users(v)
            .any(|(n, slot)| region_of(self.m, n).is_some_and(|r| anchor_reads(r, slot)))
    }

    /// The buffer to pass for an operand.
    fn operand(&mut self, v: ValueId, for_anchor: bool) -> Result<u32, Diag> {
        if let ValueDef::Const(c) = self.m.graph.value(v).def {
            return self.weight(v, c);
        }
        let b = *self
            .value_buffer
            .get(&v)
            .ok_or_else(|| Diag::internal("", format!("value %{} has no buffer", v.0)))?;
        let callers = matches!(self.buffers[b as usize].kind, Some(buffer::Kind::Input(_)));
        if !(for_anchor && callers) {
            return Ok(b);
        }
        if let Some(copy) = self.arena_copy.get(&v) {
            return Ok(*copy);
        }
        let name = self.buffers[b as usize].name.clone();
        let copy = self.buffer(v, buffer::Kind::Arena(pb::Unit {}), &name);
        self.copy(copy, b);
        self.arena_copy.insert(v, copy);
        Ok(copy)
    }

    fn copy(&mut self, dst: u32, src: u32) {
        let bytes = self.buffers[src as usize].bytes;
        self.touch(dst);
        self.touch(src);
        self.steps.push(pb::Step {
            kind: Some(step::Kind::Copy(pb::Copy { dst, src, bytes })),
        });
    }

    /// Extends a buffer's live range to the step about to be pushed.
    fn touch(&mut self, b: u32) {
        self.buffers[b as usize].last_step = self.steps.len() as u32;
    }

    fn weight(&mut self, v: ValueId, c: ConstId) -> Result<u32, Diag> {
        let constant = self.m.consts.get(c);
        let layout = self.m.graph.value(v).layout;
        let key = (constant.hash(), layout);
        if let Some(b) = self.weight_buffer.get(&key) {
            return Ok(*b);
        }
        let bytes = match layout {
            None => constant.bytes().to_vec(),
            Some(l) => self.backend.pack(constant, l)?,
        };
        let (offset, length) = (self.weight_end, bytes.len() as u64);
        self.weight_end = (offset + length).next_multiple_of(64);
        self.weights.push((offset, bytes));
        let b = self.buffer(
            v,
            buffer::Kind::Weight(pb::WeightRange { offset, length }),
            &constant.name,
        );
        self.buffers[b as usize].bytes = self.exprs.dim(&Dim::from(length as i64));
        self.weight_buffer.insert(key, b);
        Ok(b)
    }

    /// The spec of a region node and the backend's answer to it.
    fn select(&self, id: NodeId) -> Result<(&'a Region, KernelSpec, Launch), Diag> {
        let g = &self.m.graph;
        let n = g.node(id);
        let Some(region) = region_of(self.m, id) else {
            return Err(Diag::internal(
                n.loc.to_string(),
                format!("`{}` is left in a lowered module", n.op.name()),
            ));
        };
        let spec = KernelSpec {
            region: region.clone(),
            operands: n.inputs.iter().flatten().map(|v| g.ty(*v).clone()).collect(),
            operand_layouts: n.inputs.iter().flatten().map(|v| g.value(*v).layout).collect(),
            results: n.outputs.iter().map(|v| g.ty(*v).clone()).collect(),
            result_layouts: n.outputs.iter().map(|v| g.value(*v).layout).collect(),
        };
        let launch = self.backend.select(&spec).map_err(|d| Diag {
            loc: n.loc.to_string(),
            ..d
        })?;
        Ok((region, spec, launch))
    }

    fn node(&mut self, id: NodeId) -> Result<(), Diag> {
        let (region, spec, launch) = self.select(id)?;
        let n = self.m.graph.node(id);
        let operands: Vec<ValueId> = n.inputs.iter().flatten().copied().collect();
        let mut args = Vec::new();
        for (slot, v) in operands.iter().enumerate() {
            let b = self.operand(*v, anchor_reads(region, slot as u32))?;
            args.push(pb::Arg {
                buffer: b,
                byte_offset: None,
                access: pb::Access::Read as i32,
            });
        }
        for v in &n.outputs {
            let b = match self.value_buffer.get(v) {
                Some(b) => *b,
                None => {
                    let b = self.buffer(*v, buffer::Kind::Arena(pb::Unit {}), &format!("%{}", v.0));
                    self.value_buffer.insert(*v, b);
                    b
                }
            };
            args.push(pb::Arg {
                buffer: b,
                byte_offset: None,
                access: pb::Access::Write as i32,
            });
        }
        let kernel = self.kernel(launch.kernel.clone(), spec)?;
        args.iter().for_each(|a| self.touch(a.buffer));
        let launch = self.launch(&launch, kernel, args, &n.loc);
        self.steps.push(pb::Step {
            kind: Some(step::Kind::Launch(launch)),
        });
        Ok(())
    }

    fn launch(&mut self, l: &Launch, kernel: u32, args: Vec<pb::Arg>, loc: &str) -> pb::Launch {
        let params = l.params.iter().map(|d| self.exprs.dim(d)).collect();
        let optional = |e: &mut ExprTable, d: &Dim| (!d.is(0)).then(|| e.dim(d));
        pb::Launch {
            variants: vec![pb::Variant {
                guards: vec![],
                kernel,
                tiles: None,
                scratch_bytes: None,
                cost: None,
            }],
            args,
            params,
            tiles: self.exprs.dim(&l.tiles),
            scratch_bytes: optional(&mut self.exprs, &l.scratch_bytes),
            cost: optional(&mut self.exprs, &l.cost_ns),
            name: l.kernel.clone(),
            node: loc.into(),
            scheme: String::new(),
            note: String::new(),
            macs: optional(&mut self.exprs, &l.macs),
            bytes: optional(&mut self.exprs, &l.bytes),
        }
    }

    fn kernel(&mut self, name: String, spec: KernelSpec) -> Result<u32, Diag> {
        let next = self.kernels.len() as u32;
        match self.kernels.get(&name) {
            Some((_, known)) if known.key() != spec.key() => Err(Diag::internal(
                "",
                format!("two different kernels are named `{name}`"),
            )),
            Some((n, _)) => Ok(*n),
            None => {
                self.kernels.insert(name, (next, spec));
                Ok(next)
            }
        }
    }

    /// Outputs that no step wrote directly: inputs and constants passed through, values that anchors read as well, and
    /// values that are several outputs.
    fn copy_remaining_outputs(&mut self) {
        for (i, p) in self.m.graph.outputs().iter().enumerate() {
            let dst = self.outputs[i].buffer;
            let src = match self.m.graph.value(p.value).def {
                ValueDef::Const(c) => self.weight(p.value, c).ok(),
                _ => self.value_buffer.get(&p.value).copied(),
            };
            if let Some(src) = src.filter(|s| *s != dst) {
                self.copy(dst, src);
            }
        }
    }

    fn finish(self) -> Plan {
        let mut kernels: Vec<(u32, pb::Kernel)> = self
            .kernels
            .iter()
            .map(|(name, (n, _))| {
                (
                    *n,
                    pb::Kernel {
                        name: name.clone(),
                        entries: vec![],
                    },
                )
            })
            .collect();
        kernels.sort_by_key(|(n, _)| *n);
        let (symbols, exprs) = self.exprs.finish();
        let symbols = symbols
            .iter()
            .map(|s| {
                let (lo, hi) = rsqc_ir::types::Ranges::range(&self.m.symbols, s);
                pb::Symbol {
                    name: s.name().into(),
                    lo,
                    hi,
                }
            })
            .collect();
        let manifest = pb::Manifest {
            version_major: pb::VERSION.0,
            version_minor: pb::VERSION.1,
            model_name: self.m.name.clone(),
            symbols,
            exprs,
            buffers: self.buffers,
            inputs: self.inputs,
            outputs: self.outputs,
            kernels: kernels.into_iter().map(|(_, k)| k).collect(),
            blocks: vec![pb::Block { steps: self.steps }],
            ..Default::default()
        };
        Plan {
            manifest,
            kernels: self
                .kernels
                .into_iter()
                .map(|(name, (_, spec))| (name, spec))
                .collect(),
            weights: self.weights,
        }
    }
}

fn region_of(m: &Module, n: NodeId) -> Option<&Region> {
    match &m.graph.node(n).op {
        Op::Region(r) => Some(&r.region),
        _ => None,
    }
}

/// Whether operand `slot` belongs to the region's anchor.
fn anchor_reads(r: &Region, slot: u32) -> bool {
    match &r.anchor {
        Anchor::None => false,
        Anchor::Contract { lhs, rhs, .. } => slot == *lhs || slot == *rhs,
        Anchor::Attention(a) => a.operands().any(|n| n == slot),
    }
}

fn elem_type(t: ScalarType) -> pb::ElemType {
    match t {
        ScalarType::F64 => pb::ElemType::F64,
        ScalarType::F32 => pb::ElemType::F32,
        ScalarType::F16 => pb::ElemType::F16,
        ScalarType::BF16 => pb::ElemType::Bf16,
        ScalarType::I64 => pb::ElemType::I64,
        ScalarType::I32 => pb::ElemType::I32,
        ScalarType::I16 => pb::ElemType::I16,
        ScalarType::I8 => pb::ElemType::I8,
        ScalarType::U64 => pb::ElemType::U64,
        ScalarType::U32 => pb::ElemType::U32,
        ScalarType::U16 => pb::ElemType::U16,
        ScalarType::U8 => pb::ElemType::U8,
        ScalarType::Bool => pb::ElemType::Bool,
    }
}
