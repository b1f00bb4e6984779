//! Adding nodes: operands in the form an operation wants, types inferred and bounded, constants folded.

use std::collections::BTreeMap;

use rsqc_ir::ValueId;
use rsqc_ir::eval::{self, EvalCx};
use rsqc_ir::module::Const;
use rsqc_ir::ops::{InferCx, Op, shape};
use rsqc_ir::types::{Dim, TensorType};

use super::{Cx, FOLD_LIMIT, MAX_TENSOR, R, V, clean, show};
use crate::error::escape;
use crate::facts;
use crate::tensor::Tensor;

impl Cx {
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
    pub(super) fn fit(&mut self, id: ValueId, shape: &[Dim]) -> R<ValueId> {
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
    pub(super) fn fold(&mut self, op: &Op, ins: &[V]) -> R<Option<V>> {
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
}
