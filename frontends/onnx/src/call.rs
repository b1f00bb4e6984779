//! One node being imported: its operands and attributes, with checked access.

use std::cell::RefCell;
use std::collections::BTreeSet;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto};

use rsqc_ir::types::Dim;

use crate::cx::{Cx, R, V};
use crate::error::escape;

/// A node with its operands. Attributes that nobody asked for are an error in the end.
pub struct Call<'a> {
    /// The node.
    pub node: &'a NodeProto,
    /// Version of the operator set of its domain.
    pub opset: i64,
    /// Operands; `None` for those left out.
    pub ins: Vec<Option<V>>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Call<'a> {
    /// A call; attribute names must be unique.
    pub fn new(cx: &Cx, node: &'a NodeProto, opset: i64, ins: Vec<Option<V>>) -> R<Call<'a>> {
        let mut names = BTreeSet::new();
        for a in &node.attribute {
            if !names.insert(a.name.as_str()) {
                return cx.fail(format!("attribute '{}' is given twice", escape(&a.name)));
            }
        }
        Ok(Call {
            node,
            opset,
            ins,
            asked: RefCell::default(),
        })
    }

    /// Operand `i`.
    pub fn input(&self, cx: &Cx, i: usize) -> R<V> {
        match self.opt(i) {
            Some(v) => Ok(v),
            None => cx.fail(format!("operand {i} is missing")),
        }
    }

    /// Operand `i`, if it is given.
    pub fn opt(&self, i: usize) -> Option<V> {
        self.ins.get(i).copied().flatten()
    }

    /// All operands, none left out.
    pub fn all(&self, cx: &Cx) -> R<Vec<V>> {
        (0..self.ins.len()).map(|i| self.input(cx, i)).collect()
    }

    /// Whether output `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|n| !n.is_empty())
    }

    fn find(&self, cx: &Cx, name: &'static str, kind: AttributeType) -> R<Option<&'a AttributeProto>> {
        self.asked.borrow_mut().insert(name);
        let Some(a) = self.node.attribute.iter().find(|a| a.name == name) else {
            return Ok(None);
        };
        if !a.ref_attr_name.is_empty() {
            return cx.fail(format!(
                "attribute '{name}' refers to a function's attribute outside a function"
            ));
        }
        let found = a.type_.enum_value();
        match found {
            Ok(found) if found == kind => Ok(Some(a)),
            Ok(found) => cx.fail(format!(
                "attribute '{name}' has type {found:?}, expected {kind:?}"
            )),
            Err(code) => cx.fail(format!(
                "attribute '{name}' has the unknown type {code}, expected {kind:?}"
            )),
        }
    }

    /// Whether the attribute is there, of any type.
    pub fn has(&self, name: &str) -> bool {
        self.node.attribute.iter().any(|a| a.name == name)
    }

    /// An integer attribute.
    pub fn int(&self, cx: &Cx, name: &'static str, default: i64) -> R<i64> {
        Ok(self.find(cx, name, AttributeType::INT)?.map_or(default, |a| a.i))
    }

    /// A float attribute; NaN and infinity are refused.
    pub fn float(&self, cx: &Cx, name: &'static str, default: f32) -> R<f32> {
        match self.find(cx, name, AttributeType::FLOAT)? {
            Some(a) if !a.f.is_finite() => {
                cx.fail(format!("attribute '{name}' is {}, expected a finite number", a.f))
            }
            a => Ok(a.map_or(default, |a| a.f)),
        }
    }

    /// A list of integers.
    pub fn ints(&self, cx: &Cx, name: &'static str) -> R<Option<Vec<i64>>> {
        match self.find(cx, name, AttributeType::INTS)? {
            Some(a) if a.ints.len() > 4096 => cx.fail(format!(
                "attribute '{name}' has {} values, over the limit of 4096",
                a.ints.len()
            )),
            a => Ok(a.map(|a| a.ints.clone())),
        }
    }

    /// A string attribute.
    pub fn text(&self, cx: &Cx, name: &'static str, default: &str) -> R<String> {
        match self.find(cx, name, AttributeType::STRING)? {
            Some(a) => Ok(String::from_utf8_lossy(&a.s).into_owned()),
            None => Ok(default.to_owned()),
        }
    }

    /// A tensor attribute.
    pub fn tensor(&self, cx: &Cx, name: &'static str) -> R<Option<&'a onnx_protobuf::TensorProto>> {
        match self.find(cx, name, AttributeType::TENSOR)? {
            Some(a) if a.t.is_none() => cx.fail(format!("attribute '{name}' has no tensor")),
            a => Ok(a.and_then(|a| a.t.as_ref())),
        }
    }

    /// The attribute itself, of a type that the caller checks.
    pub fn raw(&self, name: &'static str) -> Option<&'a AttributeProto> {
        self.asked.borrow_mut().insert(name);
        self.node.attribute.iter().find(|a| a.name == name)
    }

    /// Marks attributes as known that have no influence.
    pub fn ignore(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend(names);
    }

    /// An axis attribute, counted from the front.
    pub fn axis(&self, cx: &Cx, name: &'static str, default: i64, rank: usize) -> R<usize> {
        axis(cx, self.int(cx, name, default)?, rank)
    }

    /// An error if an attribute was given that the operator does not have.
    pub fn finish(&self, cx: &Cx) -> R<()> {
        let asked = self.asked.borrow();
        match self
            .node
            .attribute
            .iter()
            .find(|a| !asked.contains(a.name.as_str()))
        {
            Some(a) => cx.fail(format!(
                "attribute '{}' is not one of this operator",
                escape(&a.name)
            )),
            None => Ok(()),
        }
    }
}

/// An axis counted from the front.
pub fn axis(cx: &Cx, axis: i64, rank: usize) -> R<usize> {
    let r = rank as i64;
    match usize::try_from(if axis < 0 { axis.saturating_add(r) } else { axis }) {
        Ok(a) if a < rank => Ok(a),
        _ => cx.fail(format!("axis {axis} is outside rank {rank}")),
    }
}

/// Axes counted from the front, without repetition, ascending.
pub fn axes(cx: &Cx, list: &[i64], rank: usize) -> R<Vec<usize>> {
    let mut out = list.iter().map(|&a| axis(cx, a, rank)).collect::<R<Vec<_>>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w.first() == w.last()) {
        return cx.fail(format!("axes {list:?} name an axis twice"));
    }
    Ok(out)
}

/// The integer expressions of an operand that must be known while importing.
pub fn known_ints(cx: &Cx, v: V, what: &str) -> R<Vec<Dim>> {
    if cx.rank(v) > 1 {
        return cx.fail(format!("{what} has rank {}, expected 0 or 1", cx.rank(v)));
    }
    match cx.fact(v).and_then(|f| f.ints()) {
        Some(d) => Ok(d),
        None if !cx.elem(v).is_int() => {
            cx.fail(format!("{what} has type {}, expected integers", cx.ty(v).elem))
        }
        None => cx.unsupported(format!("{what} that depends on data")),
    }
}

/// The constant integers of an operand.
pub fn const_ints(cx: &Cx, v: V, what: &str) -> R<Vec<i64>> {
    let dims = known_ints(cx, v, what)?;
    match dims.iter().map(Dim::as_const).collect() {
        Some(list) => Ok(list),
        None => cx.unsupported(format!("{what} that is not constant")),
    }
}
