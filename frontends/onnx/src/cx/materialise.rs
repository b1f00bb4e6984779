//! Facts as data: what is known about a value becomes nodes, when somebody needs it.

use rsqc_ir::ValueId;
use rsqc_ir::eval;
use rsqc_ir::ops::{elementwise, shape};
use rsqc_ir::types::{Dim, ScalarType};

use super::{Cx, R};
use crate::facts::{self, Cmp, Content, Fact, Prop, Scalar};

impl Cx {
    /// A narrow IR value with the elements of a fact.
    pub(super) fn materialise(&mut self, fact: &Fact, elem: ScalarType) -> R<ValueId> {
        let rank = fact.shape.len();
        match &fact.content {
            Content::Index(Scalar::Int(d)) => {
                let id = self.index_value(d, &fact.shape)?;
                self.in_elem(id, elem)
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
                self.in_elem(id, elem)
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

    fn in_elem(&mut self, id: ValueId, elem: ScalarType) -> R<ValueId> {
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
