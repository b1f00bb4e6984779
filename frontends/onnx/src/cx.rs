//! The state of one import: values, the module being built, and the ways to add nodes.
//!
//! A value is known in one or more forms: an IR value of its exact shape, a *narrow* IR value (extents 1 where the full value
//! repeats: an `Expand` that has not been needed yet), a constant tensor, or a [`Fact`]. Forms are turned into
//! nodes only when a consumer asks for data, so shape arithmetic leaves no trace.

use std::collections::BTreeMap;
use std::rc::Rc;

use rsqc_ir::eval::{self, EvalCx};
use rsqc_ir::module::{Check, Const, Module};
use rsqc_ir::ops::{InferCx, Op, elementwise, shape};
use rsqc_ir::types::{Dim, ScalarType, Symbol, TensorType};
use rsqc_ir::{Loc, ValueId};

use crate::dims::solve;
use crate::error::{ErrorKind, escape};
use crate::facts::{self, Cmp, Content, Fact, Prop, Scalar};
use crate::ops::quant::QuantSource;
use crate::source::{Bytes, ExternalFiles};
use crate::tensor::{OnnxType, Tensor};

/// Most elements of constants that are folded while importing.
pub const FOLD_LIMIT: i64 = 1 << 16;
/// Largest tensor that a model may ask for, in bytes.
pub const MAX_TENSOR: i64 = 1 << 42;

/// Why importing a node stopped.
#[derive(Debug)]
pub enum Stop {
    /// The model is wrong.
    Error(ErrorKind),
    /// This is not supported.
    Unsupported(String),
    /// Two dims must be equal: the symbol equals the expression. Importing starts again with that knowledge.
    Unify(Symbol, Dim),
}

impl From<ErrorKind> for Stop {
    fn from(e: ErrorKind) -> Stop {
        match e {
            ErrorKind::Unsupported(items) => Stop::Unsupported(items.join(", ")),
            e => Stop::Error(e),
        }
    }
}

/// Result of importers.
pub type R<T> = Result<T, Stop>;

/// A value of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct V(u32);

/// What is known about a value.
#[derive(Clone)]
struct Slot {
    ty: TensorType,
    exact: Option<ValueId>,
    narrow: Option<ValueId>,
    tensor: Option<Tensor>,
    fact: Option<Fact>,
    quant: Option<Rc<QuantSource>>,
}

/// See the file documentation.
pub struct Cx {
    /// The module being built.
    pub module: Module,
    /// Location of the node being imported.
    pub loc: Loc,
    /// The node being imported, for messages.
    pub place: String,
    /// When each symbol was declared.
    pub order: BTreeMap<Symbol, usize>,
    /// External data, for tensors inside attributes.
    pub files: Option<ExternalFiles>,
    slots: Vec<Slot>,
}

impl Cx {
    /// An empty state around a module.
    pub fn new(module: Module) -> Cx {
        Cx {
            module,
            loc: "".into(),
            place: "model".into(),
            order: BTreeMap::new(),
            files: None,
            slots: Vec::new(),
        }
    }

    /// An error about the current node.
    pub fn fail<T>(&self, what: impl Into<String>) -> R<T> {
        Err(Stop::Error(ErrorKind::Model {
            place: self.place.clone(),
            what: what.into(),
        }))
    }

    /// The current node uses something unsupported.
    pub fn unsupported<T>(&self, what: impl AsRef<str>) -> R<T> {
        Err(Stop::Unsupported(format!("{} at {}", what.as_ref(), self.place)))
    }

    // ---- values

    fn push(&mut self, slot: Slot) -> V {
        self.slots.push(slot);
        V(u32::try_from(self.slots.len() - 1)
            .expect("the number of values is bounded when a model is loaded"))
    }

    fn slot(&self, v: V) -> &Slot {
        &self.slots[v.0 as usize]
    }

    fn blank(ty: TensorType) -> Slot {
        Slot {
            ty,
            exact: None,
            narrow: None,
            tensor: None,
            fact: None,
            quant: None,
        }
    }

    /// A value that is an IR value.
    pub fn push_value(&mut self, id: ValueId) -> V {
        let ty = self.module.graph.ty(id).clone();
        self.push(Slot {
            exact: Some(id),
            ..Cx::blank(ty)
        })
    }

    /// A value that repeats a narrower one up to `shape`.
    fn push_narrow(&mut self, id: ValueId, shape: Vec<Dim>) -> V {
        let have = self.module.graph.ty(id).clone();
        if have.shape == shape {
            return self.push_value(id);
        }
        self.push(Slot {
            narrow: Some(id),
            ..Cx::blank(TensorType {
                elem: have.elem,
                shape,
            })
        })
    }

    /// A constant.
    pub fn push_tensor(&mut self, tensor: Tensor) -> V {
        let ty = TensorType::new(
            tensor.ty.storage,
            tensor.shape.iter().map(|&d| Dim::from(d)).collect(),
        );
        self.push(Slot {
            tensor: Some(tensor),
            ..Cx::blank(ty)
        })
    }

    /// A constant computed while importing.
    pub fn push_eval(&mut self, t: eval::Tensor) -> V {
        let storage = t.elem();
        let ty = OnnxType {
            storage,
            bits: (storage.size() * 8) as u8,
        };
        self.push_tensor(Tensor {
            name: String::new(),
            ty,
            shape: t.shape.clone(),
            data: Bytes::from(t.data.to_bytes()),
        })
    }

    /// A value that is known only as a fact.
    pub fn push_fact(&mut self, elem: ScalarType, fact: Fact) -> V {
        let ty = TensorType::new(elem, fact.shape.clone());
        self.push(Slot {
            fact: Some(fact),
            ..Cx::blank(ty)
        })
    }

    /// Codes that a QuantizeLinear node makes; turned into nodes according to who uses them.
    pub fn push_quant(&mut self, elem: ScalarType, source: QuantSource) -> V {
        let ty = TensorType::new(elem, self.shape(source.x).to_vec());
        self.push(Slot {
            quant: Some(Rc::new(source)),
            ..Cx::blank(ty)
        })
    }

    /// The QuantizeLinear node behind a value.
    pub fn quant_source(&self, v: V) -> Option<Rc<QuantSource>> {
        self.slot(v).quant.clone()
    }

    /// Element type and shape.
    pub fn ty(&self, v: V) -> &TensorType {
        &self.slot(v).ty
    }

    /// Shape.
    pub fn shape(&self, v: V) -> &[Dim] {
        &self.slot(v).ty.shape
    }

    /// Rank.
    pub fn rank(&self, v: V) -> usize {
        self.slot(v).ty.rank()
    }

    /// Element type.
    pub fn elem(&self, v: V) -> ScalarType {
        self.slot(v).ty.storage()
    }

    /// A constant with its bytes.
    pub fn tensor(&self, v: V) -> Option<&Tensor> {
        self.slot(v).tensor.as_ref()
    }

    /// What is known about an integer or boolean value.
    pub fn fact(&self, v: V) -> Option<Fact> {
        let slot = self.slot(v);
        if slot.fact.is_some() {
            return slot.fact.clone();
        }
        let t = slot.tensor.as_ref().filter(|t| t.len() <= facts::MAX_ELEMS)?;
        let elems = match t.ty.storage {
            ScalarType::I64 => t
                .data
                .chunks_exact(8)
                .map(|b| Scalar::int(i64::from_le_bytes(b.try_into().expect("eight bytes"))))
                .collect(),
            ScalarType::I32 => t
                .data
                .chunks_exact(4)
                .map(|b| Scalar::int(i32::from_le_bytes(b.try_into().expect("four bytes")).into()))
                .collect(),
            ScalarType::Bool => t
                .data
                .iter()
                .map(|&b| Scalar::Bool(Prop::Known(b != 0)))
                .collect(),
            _ => return None,
        };
        Some(Fact::of_elems(slot.ty.shape.clone(), elems))
    }

    /// The constant elements of a value, if it is constant and not large.
    pub fn constant(&self, v: V) -> Option<eval::Tensor> {
        let slot = self.slot(v);
        if let Some(t) = slot.tensor.as_ref().filter(|t| t.len() as i64 <= FOLD_LIMIT) {
            return eval::Tensor::from_bytes(t.ty.storage, t.shape.clone(), &t.data);
        }
        let ints = slot.fact.as_ref()?.const_ints()?;
        let shape = slot.ty.static_shape()?;
        match slot.ty.storage() {
            ScalarType::I64 => Some(eval::Tensor::new(shape, ints)),
            ScalarType::I32 => Some(eval::Tensor::new(
                shape,
                ints.into_iter().map(|v| v as i32).collect(),
            )),
            ScalarType::Bool => Some(eval::Tensor::new(
                shape,
                ints.into_iter().map(|v| v != 0).collect(),
            )),
            _ => None,
        }
    }

    /// The only element of a constant, as f64.
    pub fn constant_scalar(&self, v: V) -> Option<f64> {
        let c = self.constant(v)?;
        if c.len() == 1 {
            c.to_f64().first().copied()
        } else {
            None
        }
    }

    /// A constant scalar of type `elem`.
    pub fn lit(&mut self, elem: ScalarType, value: f64) -> V {
        let bits = rsqc_ir::scalar::ScalarConst::from_f64(elem, value).bits;
        let data = bits.to_le_bytes()[..elem.size()].to_vec();
        let ty = OnnxType {
            storage: elem,
            bits: (elem.size() * 8) as u8,
        };
        self.push_tensor(Tensor {
            name: String::new(),
            ty,
            shape: vec![],
            data: data.into(),
        })
    }

    // ---- dims

    /// Makes two dims equal: nothing if they are, an equation if one can be solved, else a run-time check.
    pub fn same_dim(&mut self, a: &Dim, b: &Dim, what: &str) -> R<()> {
        if a == b {
            return Ok(());
        }
        if a.never_eq(b, &self.module.symbols) {
            return self.fail(format!("{what}: extents {} and {} differ", show(a), show(b)));
        }
        if let Some((symbol, value)) = solve(a, b, &self.order) {
            return Err(Stop::Unify(symbol, value));
        }
        let check = Check {
            a: a.clone(),
            b: b.clone(),
            loc: self.loc.clone(),
        };
        if !self.module.checks.contains(&check) {
            self.module.checks.push(check);
        }
        Ok(())
    }

    /// Requires `a <= b`: derives a bound of a symbol, or a run-time check.
    pub fn require_le(&mut self, a: &Dim, b: &Dim) -> R<()> {
        if a.always_le(b, &self.module.symbols) {
            return Ok(());
        }
        if b.clone().bounds(&self.module.symbols).1 < a.bounds(&self.module.symbols).0 {
            return self.fail(format!("{} is larger than {}", show(a), show(b)));
        }
        match (a.as_symbol(), b.as_const(), a.as_const(), b.as_symbol()) {
            (Some(s), Some(hi), ..) => {
                let info = self.module.symbols.0.entry(s.clone()).or_default();
                info.hi = info.hi.min(hi);
            }
            (_, _, Some(lo), Some(s)) => {
                let info = self.module.symbols.0.entry(s.clone()).or_default();
                info.lo = info.lo.max(lo);
            }
            _ => {
                let check = Check {
                    a: Dim::smaller(a, b),
                    b: a.clone(),
                    loc: self.loc.clone(),
                };
                if !self.module.checks.contains(&check) {
                    self.module.checks.push(check);
                }
            }
        }
        Ok(())
    }

    /// The shape that shapes broadcast to; undecided extents are made equal.
    pub fn broadcast(&mut self, shapes: &[&[Dim]]) -> R<Vec<Dim>> {
        let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut out = vec![Dim::one(); rank];
        for s in shapes {
            for (slot, d) in out[rank - s.len()..].iter_mut().zip(s.iter()) {
                if slot.is(1) {
                    *slot = d.clone();
                } else if !d.is(1) {
                    self.same_dim(slot, d, "broadcast")?;
                }
            }
        }
        Ok(out)
    }

    // ---- data

    /// The value as an IR value of its exact type.
    pub fn data(&mut self, v: V) -> R<ValueId> {
        if let Some(id) = self.slot(v).exact {
            return Ok(id);
        }
        let narrow = self.operand(v)?;
        let shape = self.shape(v).to_vec();
        let id = if self.module.graph.ty(narrow).shape == shape {
            narrow
        } else {
            self.node(shape::Expand { shape }, &[Some(narrow)])?
        };
        self.slots[v.0 as usize].exact = Some(id);
        Ok(id)
    }

    /// The value as an IR value that broadcasts to its shape: of the same rank, with extent 1 where it repeats.
    pub fn operand(&mut self, v: V) -> R<ValueId> {
        let slot = self.slot(v);
        if let Some(id) = slot.exact.or(slot.narrow) {
            return Ok(id);
        }
        let id = if let Some(t) = slot.tensor.clone() {
            self.constant_value(t)
        } else if let Some(fact) = slot.fact.clone() {
            let elem = slot.ty.storage();
            self.materialise(&fact, elem)?
        } else if let Some(q) = slot.quant.clone() {
            let codes = crate::ops::quant::codes(self, &q)?;
            self.operand(codes)?
        } else {
            return self.fail("a value has no definition");
        };
        self.slots[v.0 as usize].narrow = Some(id);
        Ok(id)
    }

    /// Adds a constant to the module.
    fn constant_value(&mut self, t: Tensor) -> ValueId {
        let ty = TensorType::new(t.ty.storage, t.shape.iter().map(|&d| Dim::from(d)).collect());
        self.constant_of_type(t, ty)
    }

    /// Adds a constant under another type of the same storage and shape (codes of a quantized type).
    pub fn constant_of_type(&mut self, t: Tensor, ty: TensorType) -> ValueId {
        let (owner, range) = t.data.into_parts();
        let constant = Const::new(&escape(&t.name), ty.clone(), owner, range.start, range.len())
            .expect("a tensor's data fills its shape");
        let id = self.module.consts.add(constant);
        self.module.graph.add_const(id, ty)
    }

    /// Adds a node with one result, operands as they are.
    pub fn node(&mut self, op: impl Into<Op>, ins: &[Option<ValueId>]) -> R<ValueId> {
        let op = op.into();
        let ty = self.infer(
            &op,
            &ins.iter()
                .map(|i| i.map(|i| self.module.graph.ty(i).clone()))
                .collect::<Vec<_>>(),
        )?;
        let id = self
            .module
            .graph
            .add_node(op, ins.to_vec(), vec![ty], self.loc.clone());
        Ok(self.module.graph.node(id).output())
    }

    /// The type of an op's first result, within the size limits.
    fn infer(&self, op: &Op, ins: &[Option<TensorType>]) -> R<TensorType> {
        let refs: Vec<Option<&TensorType>> = ins.iter().map(Option::as_ref).collect();
        let types = match op.infer(
            &InferCx {
                symbols: &self.module.symbols,
            },
            &refs,
        ) {
            Ok(types) => types,
            Err(what) => return self.fail(clean(&what)),
        };
        let Some(ty) = types.into_iter().next() else {
            return self.fail("an operation has no result");
        };
        self.check_size(&ty)?;
        Ok(ty)
    }

    /// No negative extents, no absurd sizes.
    pub fn check_size(&self, ty: &TensorType) -> R<()> {
        if ty.shape.iter().any(|d| facts::weight(d) > facts::MAX_WEIGHT) {
            return self.fail("an extent is too long an expression");
        }
        if let Some(d) = ty.shape.iter().find(|d| d.bounds(&self.module.symbols).1 < 0) {
            return self.fail(format!("an extent is {}, expected 0 or more", show(d)));
        }
        if ty.shape.iter().any(|d| d.is(0)) {
            return Ok(());
        }
        let mut smallest = ty.storage().size() as i64;
        for d in &ty.shape {
            smallest = smallest.saturating_mul(d.bounds(&self.module.symbols).0.max(1));
        }
        if smallest > MAX_TENSOR {
            return self.fail(format!(
                "a tensor of type {} takes {smallest} bytes, over the limit of {MAX_TENSOR}",
                clean(&ty.to_string())
            ));
        }
        Ok(())
    }

    /// An operation on exact operands; computed at once if all are small constants.
    pub fn emit(&mut self, op: impl Into<Op>, ins: &[V]) -> R<V> {
        let op = op.into();
        if let Some(v) = self.fold(&op, ins)? {
            return Ok(v);
        }
        let ids = ins
            .iter()
            .map(|&v| self.data(v).map(Some))
            .collect::<R<Vec<_>>>()?;
        let id = self.node(op, &ids)?;
        Ok(self.push_value(id))
    }

    /// As [`Cx::emit`] with optional operands.
    pub fn emit_optional(&mut self, op: impl Into<Op>, ins: &[Option<V>]) -> R<V> {
        let ids = ins
            .iter()
            .map(|v| v.map(|v| self.data(v)).transpose())
            .collect::<R<Vec<_>>>()?;
        let id = self.node(op, &ids)?;
        Ok(self.push_value(id))
    }

    /// An elementwise operation: operands broadcast, repeated ones stay narrow.
    pub fn elementwise(&mut self, op: impl Into<Op>, ins: &[V]) -> R<V> {
        let op = op.into();
        if let Some(v) = self.fold(&op, ins)? {
            return Ok(v);
        }
        let shapes: Vec<Vec<Dim>> = ins.iter().map(|&v| self.shape(v).to_vec()).collect();
        let shape = self.broadcast(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let mut ids = Vec::with_capacity(ins.len());
        for &v in ins {
            let id = self.operand(v)?;
            ids.push(Some(self.fit(id, &shape)?));
        }
        let id = self.node(op, &ids)?;
        let ty = TensorType {
            elem: self.module.graph.ty(id).elem.clone(),
            shape: shape.clone(),
        };
        self.check_size(&ty)?;
        Ok(self.push_narrow(id, shape))
    }

    /// Renames extents that were only checked to be equal, so that the operand broadcasts to `shape` by the letter.
    fn fit(&mut self, id: ValueId, shape: &[Dim]) -> R<ValueId> {
        let have = self.module.graph.ty(id).shape.clone();
        let shift = shape.len() - have.len();
        let want: Vec<Dim> = have
            .iter()
            .enumerate()
            .map(|(i, d)| {
                if d.is(1) {
                    d.clone()
                } else {
                    shape[i + shift].clone()
                }
            })
            .collect();
        if want == have {
            Ok(id)
        } else {
            self.node(shape::Reshape { shape: want }, &[Some(id)])
        }
    }

    /// The value with extents renamed to `shape`, which was made equal before.
    pub fn coerce(&mut self, v: V, shape: &[Dim]) -> R<V> {
        if self.shape(v) == shape {
            Ok(v)
        } else {
            self.emit(
                shape::Reshape {
                    shape: shape.to_vec(),
                },
                &[v],
            )
        }
    }

    /// Evaluates an operation on small constants.
    fn fold(&mut self, op: &Op, ins: &[V]) -> R<Option<V>> {
        if ins.is_empty() {
            return Ok(None);
        }
        let Some(tensors) = ins.iter().map(|&v| self.constant(v)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let ty = self.infer(
            op,
            &ins.iter().map(|&v| Some(self.ty(v).clone())).collect::<Vec<_>>(),
        )?;
        if ty.elem.plain().is_none() || ty.numel().as_const().is_none_or(|n| n > FOLD_LIMIT) {
            return Ok(None);
        }
        let none = BTreeMap::new();
        let refs: Vec<Option<&eval::Tensor>> = tensors.iter().map(Some).collect();
        match op.eval(&EvalCx { symbols: &none }, &refs) {
            Ok(mut out) if !out.is_empty() => Ok(Some(self.push_eval(out.swap_remove(0)))),
            Ok(_) => Ok(None),
            Err(what) => self.fail(clean(&what)),
        }
    }

    /// A view that repeats `v` up to `shape`. Costs nothing until exact data is asked for.
    pub fn expand(&mut self, v: V, shape: Vec<Dim>) -> R<V> {
        let elem = self.elem(v);
        self.check_size(&TensorType::new(elem, shape.clone()))?;
        if self.shape(v) == shape {
            return Ok(v);
        }
        if let Some(f) = self.fact(v).and_then(|f| f.expand(&shape)) {
            return Ok(self.push_fact(elem, f));
        }
        let id = self.operand(v)?;
        let rank = self.module.graph.ty(id).rank();
        let mut padded = vec![Dim::one(); shape.len() - rank];
        padded.extend(self.module.graph.ty(id).shape.iter().cloned());
        let id = if rank == shape.len() {
            id
        } else {
            self.node(shape::Reshape { shape: padded }, &[Some(id)])?
        };
        let id = self.fit(id, &shape)?;
        Ok(self.push_narrow(id, shape))
    }

    /// Reorders axes; narrow values stay narrow.
    pub fn transpose(&mut self, v: V, perm: &[usize]) -> R<V> {
        if perm.iter().copied().eq(0..perm.len()) {
            return Ok(v);
        }
        let elem = self.elem(v);
        if let Some(f) = self.slot(v).fact.as_ref().and_then(|f| f.transpose(perm)) {
            return Ok(self.push_fact(elem, f));
        }
        let op = shape::Transpose {
            perm: perm.iter().map(|&p| p as i64).collect(),
        };
        if let Some(folded) = self.fold(&op.clone().into(), &[v])? {
            return Ok(folded);
        }
        let shape: Vec<Dim> = perm.iter().map(|&p| self.shape(v)[p].clone()).collect();
        let id = self.operand(v)?;
        let id = self.node(op, &[Some(id)])?;
        Ok(self.push_narrow(id, shape))
    }

    /// Part of a value, every index inside; nothing if it is the whole. Narrow values stay narrow.
    pub fn slice(&mut self, v: V, starts: Vec<Dim>, sizes: Vec<Dim>, steps: Vec<i64>) -> R<V> {
        let whole = |a: usize| starts[a].is(0) && steps[a] == 1 && sizes[a] == self.shape(v)[a];
        if (0..sizes.len()).all(whole) {
            return Ok(v);
        }
        let elem = self.elem(v);
        if let Some(f) = self.fact(v).and_then(|f| f.slice(&starts, &sizes, &steps)) {
            return Ok(self.push_fact(elem, f));
        }
        let op = shape::Slice { starts, sizes, steps };
        if let Some(folded) = self.fold(&op.clone().into(), &[v])? {
            return Ok(folded);
        }
        let id = self.operand(v)?;
        let have = self.module.graph.ty(id).shape.clone();
        let mut narrow = op.clone();
        for (a, d) in have.iter().enumerate() {
            // An axis along which the value repeats: any part of it repeats the same element.
            if d.is(1) && !self.shape(v)[a].is(1) {
                (narrow.starts[a], narrow.sizes[a], narrow.steps[a]) = (Dim::zero(), Dim::one(), 1);
            }
        }
        let unchanged = (0..have.len())
            .all(|a| narrow.starts[a].is(0) && narrow.steps[a] == 1 && narrow.sizes[a] == have[a]);
        let id = if unchanged {
            id
        } else {
            self.node(narrow, &[Some(id)])?
        };
        Ok(self.push_narrow(id, op.sizes))
    }

    /// Another shape of the same elements, which must have the same number.
    pub fn reshape(&mut self, v: V, shape: Vec<Dim>) -> R<V> {
        if self.shape(v) == shape {
            return Ok(v);
        }
        let elem = self.elem(v);
        if let Some(f) = self.fact(v).and_then(|f| f.reshape(&shape)) {
            return Ok(self.push_fact(elem, f));
        }
        if let Some(t) = self.tensor(v).cloned()
            && let Some(extents) = TensorType::new(elem, shape.clone()).static_shape()
        {
            return Ok(self.push_tensor(Tensor { shape: extents, ..t }));
        }
        // Only the last of a chain of reshapes matters.
        let mut id = self.data(v)?;
        if let Some((node, _)) = self.module.graph.def_node(id)
            && let Op::Reshape(_) = self.module.graph.node(node).op
            && let Some(source) = self.module.graph.node(node).input(0)
        {
            id = source;
        }
        if self.module.graph.ty(id).shape == shape {
            return Ok(self.push_value(id));
        }
        let id = self.node(shape::Reshape { shape }, &[Some(id)])?;
        Ok(self.push_value(id))
    }

    /// Conversion to another element type.
    pub fn cast(&mut self, v: V, to: ScalarType) -> R<V> {
        if self.elem(v) == to {
            Ok(v)
        } else {
            self.elementwise(elementwise::Cast { to }, &[v])
        }
    }

    // ---- facts as data

    /// A narrow IR value with the elements of a fact.
    fn materialise(&mut self, fact: &Fact, elem: ScalarType) -> R<ValueId> {
        let rank = fact.shape.len();
        match &fact.content {
            Content::Index(Scalar::Int(d)) => {
                let id = self.index_value(d, &fact.shape)?;
                self.to_elem(id, elem)
            }
            Content::Index(Scalar::Bool(p)) => self.prop_value(p, &fact.shape),
            Content::Elems(elems) => {
                let ints: Vec<Dim> = elems
                    .iter()
                    .map(|s| match s {
                        Scalar::Int(d) => Some(d.clone()),
                        Scalar::Bool(_) => s.as_const().map(Dim::from),
                    })
                    .collect::<Option<_>>()
                    .expect("facts over single elements are integers or known truth values");
                if let Some(values) = ints.iter().map(Dim::as_const).collect::<Option<Vec<_>>>() {
                    let shape = fact
                        .shape
                        .iter()
                        .map(|d| d.as_const().unwrap_or(0) as usize)
                        .collect();
                    let t = eval::Tensor::new(shape, values);
                    let v = self.push_eval(t);
                    let v = self.cast(v, elem)?;
                    return self.operand(v);
                }
                let id = self.node(
                    shape::DimValue {
                        values: ints,
                        shape: fact.shape.clone(),
                    },
                    &[],
                )?;
                self.to_elem(id, elem)
            }
            Content::Tuples(columns) => {
                let mut column_shape = fact.shape.clone();
                column_shape[rank - 1] = Dim::one();
                let mut parts = Vec::new();
                for d in columns {
                    let v =
                        self.push_fact(elem, Fact::of_index(column_shape.clone(), Scalar::Int(d.clone())));
                    parts.push(Some(self.data(v)?));
                }
                self.node(shape::Concat { axis: rank - 1 }, &parts)
            }
        }
    }

    fn to_elem(&mut self, id: ValueId, elem: ScalarType) -> R<ValueId> {
        if elem == ScalarType::I64 {
            Ok(id)
        } else {
            self.node(elementwise::Cast { to: elem }, &[Some(id)])
        }
    }

    /// An i64 value of an expression of indices: a sum of products of `iota`s and dims.
    fn index_value(&mut self, d: &Dim, shape: &[Dim]) -> R<ValueId> {
        let mut groups = facts::by_indices(d);
        let mut base = groups.remove(&Vec::new()).unwrap_or_else(Dim::zero);
        let mut total: Option<ValueId> = None;
        for (axes, coefficient) in groups {
            let mut part: Option<ValueId> = None;
            for (n, &axis) in axes.iter().enumerate() {
                // The first iota carries the factor; the first single one the constant part too.
                let step = if n == 0 { coefficient.clone() } else { Dim::one() };
                let start = if axes.len() == 1 {
                    std::mem::replace(&mut base, Dim::zero())
                } else {
                    Dim::zero()
                };
                let iota = self.node(
                    shape::Iota {
                        start,
                        step,
                        len: shape[axis].clone(),
                    },
                    &[],
                )?;
                let mut placed = vec![Dim::one(); shape.len()];
                placed[axis] = shape[axis].clone();
                let iota = if shape.len() == 1 {
                    iota
                } else {
                    self.node(shape::Reshape { shape: placed }, &[Some(iota)])?
                };
                part = Some(match part {
                    Some(p) => self.node(elementwise::Mul {}, &[Some(p), Some(iota)])?,
                    None => iota,
                });
            }
            total = Some(match (total, part) {
                (Some(t), Some(p)) => self.node(elementwise::Add {}, &[Some(t), Some(p)])?,
                (t, p) => t.or(p).expect("a group has at least one index"),
            });
        }
        match total {
            Some(t) if base.is(0) => Ok(t),
            total => {
                let ones = vec![Dim::one(); shape.len()];
                let constant = match base.as_const() {
                    Some(c) => self.constant_value_of(eval::Tensor::new(vec![1; shape.len()], vec![c])),
                    None => self.node(
                        shape::DimValue {
                            values: vec![base],
                            shape: ones,
                        },
                        &[],
                    )?,
                };
                match total {
                    Some(t) => self.node(elementwise::Add {}, &[Some(t), Some(constant)]),
                    None => Ok(constant),
                }
            }
        }
    }

    fn constant_value_of(&mut self, t: eval::Tensor) -> ValueId {
        let constant = t.to_const("");
        let ty = constant.ty.clone();
        let id = self.module.consts.add(constant);
        self.module.graph.add_const(id, ty)
    }

    /// A bool value of a proposition. The depth of a proposition is that of the expression that made it, which the
    /// importer bounds.
    fn prop_value(&mut self, p: &Prop, shape: &[Dim]) -> R<ValueId> {
        match p {
            Prop::Known(v) => Ok(self.constant_value_of(eval::Tensor::new(vec![1; shape.len()], vec![*v]))),
            Prop::Cmp(cmp, a, b) => {
                let ins = [
                    Some(self.index_value(a, shape)?),
                    Some(self.index_value(b, shape)?),
                ];
                match cmp {
                    Cmp::Eq => self.node(elementwise::Equal {}, &ins),
                    Cmp::Lt => self.node(elementwise::Less {}, &ins),
                    Cmp::Le => self.node(elementwise::LessEqual {}, &ins),
                }
            }
            Prop::And(a, b) => {
                let ins = [Some(self.prop_value(a, shape)?), Some(self.prop_value(b, shape)?)];
                self.node(elementwise::And {}, &ins)
            }
            Prop::Or(a, b) => {
                let ins = [Some(self.prop_value(a, shape)?), Some(self.prop_value(b, shape)?)];
                self.node(elementwise::Or {}, &ins)
            }
            Prop::Not(a) => {
                let a = self.prop_value(a, shape)?;
                self.node(elementwise::Not {}, &[Some(a)])
            }
        }
    }
}

/// A dim for a message.
pub fn show(d: &Dim) -> String {
    escape(&d.to_string())
}

/// Text of the IR for a message: it may contain names from the file.
fn clean(text: &str) -> String {
    text.chars()
        .take(300)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}
