//! Movement of elements. Facts are moved as facts, repeated values stay narrow, chains of reshapes collapse.

use rsqc_ir::ops::{Op, elementwise, gather, shape};
use rsqc_ir::types::{Dim, ScalarType, TensorType};

use super::{Cx, R, V};
use crate::tensor::Tensor;

impl Cx {
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

    /// A gather along an axis; repeated indices stay narrow.
    pub fn gather(&mut self, x: V, i: V, axis: usize) -> R<V> {
        let op = Op::from(gather::Gather { axis });
        if let Some(folded) = self.fold(&op, &[x, i])? {
            return Ok(folded);
        }
        let ins = [Some(self.data(x)?), Some(self.operand(i)?)];
        let (data, indices) = (self.shape(x).to_vec(), self.shape(i).to_vec());
        let shape = data[..axis]
            .iter()
            .chain(&indices)
            .chain(&data[axis + 1..])
            .cloned()
            .collect();
        let id = self.node(op, &ins)?;
        let v = self.push_narrow(id, shape);
        self.check_size(self.ty(v))?;
        Ok(v)
    }

    /// Conversion to another element type.
    pub fn cast(&mut self, v: V, to: ScalarType) -> R<V> {
        if self.elem(v) == to {
            Ok(v)
        } else {
            self.elementwise(elementwise::Cast { to }, &[v])
        }
    }
}
