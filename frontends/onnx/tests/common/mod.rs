//! A small builder of ONNX models for tests.
#![allow(dead_code)]

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use rsqc_ir::eval::{self, Tensor};
use rsqc_ir::module::Module;
use rsqc_onnx::{ErrorKind, ImportOptions, import_bytes};

pub const F32: i32 = 1;
pub const U8: i32 = 2;
pub const I8: i32 = 3;
pub const I32: i32 = 6;
pub const I64: i32 = 7;
pub const BOOL: i32 = 9;

/// An attribute value.
#[allow(clippy::large_enum_variant)]
pub enum A<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
    Tensor(TensorProto),
}

/// A model under construction.
#[derive(Clone)]
pub struct Build {
    pub model: ModelProto,
    pub graph: GraphProto,
}

impl Build {
    pub fn new(opset: i64) -> Build {
        let mut model = ModelProto::new();
        model.ir_version = 8;
        model.opset_import.push(OperatorSetIdProto {
            version: opset,
            ..Default::default()
        });
        Build {
            model,
            graph: GraphProto {
                name: "g".into(),
                ..Default::default()
            },
        }
    }

    /// Declares an input; dims are numbers, names, or `?`.
    pub fn input(mut self, name: &str, elem: i32, dims: &[&str]) -> Build {
        self.graph.input.push(port(name, elem, Some(dims)));
        self
    }

    pub fn output(mut self, name: &str, elem: i32) -> Build {
        self.graph.output.push(port(name, elem, None));
        self
    }

    pub fn init(mut self, t: TensorProto) -> Build {
        self.graph.initializer.push(t);
        self
    }

    pub fn ints(self, name: &str, values: &[i64]) -> Build {
        self.init(ints(name, &[values.len() as i64], values))
    }

    pub fn node(mut self, op: &str, ins: &[&str], outs: &[&str], attrs: &[(&str, A<'_>)]) -> Build {
        let mut node = NodeProto {
            op_type: op.into(),
            name: format!("n{}", self.graph.node.len()),
            ..Default::default()
        };
        node.input = ins.iter().map(|s| s.to_string()).collect();
        node.output = outs.iter().map(|s| s.to_string()).collect();
        node.attribute = attrs.iter().map(|(n, v)| attribute(n, v)).collect();
        self.graph.node.push(node);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut model = self.model.clone();
        model.graph = Some(self.graph.clone()).into();
        model.write_to_bytes().unwrap()
    }

    pub fn import(&self) -> Result<Module, ErrorKind> {
        import_bytes(&self.bytes().into(), "test", &ImportOptions::default())
    }

    /// Imports and evaluates; the first output.
    pub fn run(&self, inputs: &[Tensor]) -> Tensor {
        let m = self.import().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rsqc_ir::verify::verify(&m), []);
        eval::run(&m, inputs)
            .unwrap_or_else(|e| panic!("{e}"))
            .swap_remove(0)
    }

    /// The text of the import error.
    pub fn error(&self) -> String {
        self.import()
            .err()
            .map(|e| e.to_string())
            .expect("the model must be refused")
    }
}

fn attribute(name: &str, value: &A<'_>) -> AttributeProto {
    let mut a = AttributeProto {
        name: name.into(),
        ..Default::default()
    };
    let kind = match value {
        A::Int(v) => {
            a.i = *v;
            AttributeType::INT
        }
        A::Float(v) => {
            a.f = *v;
            AttributeType::FLOAT
        }
        A::Ints(v) => {
            a.ints = v.to_vec();
            AttributeType::INTS
        }
        A::Text(v) => {
            a.s = v.as_bytes().to_vec();
            AttributeType::STRING
        }
        A::Tensor(t) => {
            a.t = Some(t.clone()).into();
            AttributeType::TENSOR
        }
    };
    a.type_ = kind.into();
    a
}

pub fn port(name: &str, elem: i32, dims: Option<&[&str]>) -> ValueInfoProto {
    let shape = dims.map(|dims| {
        let dim = dims.iter().map(|d| {
            let mut p = tensor_shape_proto::Dimension::new();
            match d.parse::<i64>() {
                Ok(v) => p.value = Some(tensor_shape_proto::dimension::Value::DimValue(v)),
                Err(_) if *d == "?" => {}
                Err(_) => p.value = Some(tensor_shape_proto::dimension::Value::DimParam(d.to_string())),
            }
            p
        });
        TensorShapeProto {
            dim: dim.collect(),
            ..Default::default()
        }
    });
    let tensor = type_proto::Tensor {
        elem_type: elem,
        shape: shape.into(),
        ..Default::default()
    };
    let ty = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..Default::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: Some(ty).into(),
        ..Default::default()
    }
}

pub fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: I64,
        dims: dims.to_vec(),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: F32,
        dims: dims.to_vec(),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn bytes_of(name: &str, elem: i32, dims: &[i64], raw: &[u8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: elem,
        dims: dims.to_vec(),
        raw_data: raw.to_vec(),
        ..Default::default()
    }
}

/// Names of the ops of a module, in order.
pub fn ops(m: &Module) -> Vec<&'static str> {
    m.graph.node_ids().map(|n| m.graph.node(n).op.name()).collect()
}

/// f32 values that count up.
pub fn ramp(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    Tensor::new(shape.to_vec(), (0..n).map(|i| i as f32).collect::<Vec<f32>>())
}
