//! A manifest's inputs and outputs as typed specs.

use crate::data::inputs::Spec;
use rsqc_artifact::Manifest;
use rsqc_artifact::manifest::{ElemType, Io, Pair, expr::Node};
use rsqc_ir::{Dim, ScalarType, TensorType};

/// The dims of the expression table, by id. The manifest has been validated: operands come first.
fn dims(m: &Manifest) -> Vec<Dim> {
    let mut out: Vec<Dim> = Vec::with_capacity(m.exprs.len());
    for e in &m.exprs {
        let pair = |p: &Pair| (dim_at(&out, p.a), dim_at(&out, p.b));
        let d = match &e.node {
            Some(Node::Constant(c)) => Dim::from(*c),
            Some(Node::Symbol(s)) => m
                .symbols
                .get(*s as usize)
                .map_or(Dim::zero(), |s| Dim::sym(&s.name)),
            Some(Node::Add(p)) => pair(p).0 + pair(p).1,
            Some(Node::Mul(p)) => pair(p).0 * pair(p).1,
            Some(Node::FloorDiv(p)) => pair(p).0.floor_div(&pair(p).1),
            Some(Node::Modulo(p)) => pair(p).0.modulo(&pair(p).1),
            Some(Node::Min(p)) => pair(p).0.smaller(&pair(p).1),
            Some(Node::Max(p)) => pair(p).0.larger(&pair(p).1),
            None => Dim::zero(),
        };
        out.push(d);
    }
    out
}

fn dim_at(all: &[Dim], id: u32) -> Dim {
    all.get(id as usize).cloned().unwrap_or_else(Dim::zero)
}

fn specs(m: &Manifest, ios: &[Io]) -> Vec<Spec> {
    let all = dims(m);
    let spec = |io: &Io| Spec {
        name: io.name.clone(),
        ty: TensorType::new(
            scalar_type(io.elem()),
            io.dims.iter().map(|d| dim_at(&all, *d)).collect(),
        ),
    };
    ios.iter().map(spec).collect()
}

/// The inputs of a manifest.
pub fn inputs(m: &Manifest) -> Vec<Spec> {
    specs(m, &m.inputs)
}

/// The outputs of a manifest.
pub fn outputs(m: &Manifest) -> Vec<Spec> {
    specs(m, &m.outputs)
}

/// The expressions of a manifest as texts, by id.
pub fn expr_texts(m: &Manifest) -> Vec<String> {
    dims(m).iter().map(Dim::to_string).collect()
}

/// The machine type of a manifest's element type.
pub fn scalar_type(t: ElemType) -> ScalarType {
    match t {
        ElemType::F32 => ScalarType::F32,
        ElemType::F16 => ScalarType::F16,
        ElemType::Bf16 => ScalarType::BF16,
        ElemType::F64 => ScalarType::F64,
        ElemType::I8 => ScalarType::I8,
        ElemType::I16 => ScalarType::I16,
        ElemType::I32 => ScalarType::I32,
        ElemType::I64 => ScalarType::I64,
        ElemType::U8 => ScalarType::U8,
        ElemType::U16 => ScalarType::U16,
        ElemType::U32 => ScalarType::U32,
        ElemType::U64 => ScalarType::U64,
        ElemType::Bool => ScalarType::Bool,
    }
}

/// A manifest's element type for a machine type.
pub fn elem_type(t: ScalarType) -> ElemType {
    let all = (0..).map_while(|i| ElemType::try_from(i).ok());
    all.into_iter()
        .find(|e| scalar_type(*e) == t)
        .expect("every machine type has a number")
}
