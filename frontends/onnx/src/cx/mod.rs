//! The state of one import: values, the module being built, and the ways to add nodes.
//!
//! A value is known in one or more forms: an IR value of its exact shape, a *narrow* IR value (extents 1 where the full value
//! repeats: an `Expand` that has not been needed yet), a constant tensor, or a [`Fact`]. Forms are turned into
//! nodes only when a consumer asks for data, so shape arithmetic leaves no trace.

use std::collections::BTreeMap;
use std::rc::Rc;

use rsqc_ir::eval;
use rsqc_ir::module::{Check, Module};
use rsqc_ir::types::{Dim, ScalarType, Symbol, TensorType};
use rsqc_ir::{Loc, ValueId};

use crate::dims::solve;
use crate::error::{ErrorKind, escape};
use crate::facts::{self, Fact, Prop, Scalar};
use crate::ops::quant::QuantSource;
use crate::source::{Bytes, ExternalFiles};
use crate::tensor::{OnnxType, Tensor};

mod emit;
mod materialise;
mod views;

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
