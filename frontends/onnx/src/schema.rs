//! The shape of ONNX's protobuf messages, as far as the pre-scan needs it: which field of which message is a nested
//! message, a string, or packed numbers. Source: `onnx.proto3`, IR version 10, plus the fields of later versions that may
//! be skipped.

/// A message type of `onnx.proto3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Msg {
    /// `ModelProto`
    Model,
    /// `GraphProto`
    Graph,
    /// `NodeProto`
    Node,
    /// `AttributeProto`
    Attribute,
    /// `TensorProto`
    Tensor,
    /// `TensorProto.Segment`
    Segment,
    /// `SparseTensorProto`
    Sparse,
    /// `ValueInfoProto`
    ValueInfo,
    /// `TypeProto`
    Type,
    /// `TypeProto.Tensor` and `TypeProto.SparseTensor`
    TensorType,
    /// `TypeProto.Sequence` and `TypeProto.Optional`
    ElemType,
    /// `TypeProto.Map`
    MapType,
    /// `TensorShapeProto`
    Shape,
    /// `TensorShapeProto.Dimension`
    Dimension,
    /// `StringStringEntryProto`
    Entry,
    /// `TensorAnnotation`
    Annotation,
    /// `OperatorSetIdProto`
    Opset,
    /// `FunctionProto`
    Function,
    /// `TrainingInfoProto`
    Training,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// A nested message.
    Sub(Msg),
    /// Text, UTF-8.
    Text,
    /// Raw bytes.
    Bytes,
    /// A varint.
    Varint,
    /// Repeated varints, packed or not; the number is the decoded size of one.
    Varints(usize),
    /// Four bytes.
    Fixed32,
    /// Eight bytes.
    Fixed64,
    /// Repeated four-byte values, packed or not.
    Fixed32s,
    /// Repeated eight-byte values, packed or not.
    Fixed64s,
    /// Not in the schema: legitimate, skipped.
    Unknown,
}

use Field::{Bytes, Fixed32, Fixed32s, Fixed64s, Sub, Text, Unknown, Varint, Varints};

impl Msg {
    /// The name in `onnx.proto3`.
    pub fn name(self) -> &'static str {
        match self {
            Msg::Model => "ModelProto",
            Msg::Graph => "GraphProto",
            Msg::Node => "NodeProto",
            Msg::Attribute => "AttributeProto",
            Msg::Tensor => "TensorProto",
            Msg::Segment => "TensorProto.Segment",
            Msg::Sparse => "SparseTensorProto",
            Msg::ValueInfo => "ValueInfoProto",
            Msg::Type => "TypeProto",
            Msg::TensorType => "TypeProto.Tensor",
            Msg::ElemType => "TypeProto.Sequence",
            Msg::MapType => "TypeProto.Map",
            Msg::Shape => "TensorShapeProto",
            Msg::Dimension => "TensorShapeProto.Dimension",
            Msg::Entry => "StringStringEntryProto",
            Msg::Annotation => "TensorAnnotation",
            Msg::Opset => "OperatorSetIdProto",
            Msg::Function => "FunctionProto",
            Msg::Training => "TrainingInfoProto",
        }
    }

    /// Bytes that one decoded message of this type takes, without what its fields hold.
    pub fn decoded_size(self) -> usize {
        match self {
            Msg::Model => size_of::<onnx_protobuf::ModelProto>(),
            Msg::Graph => size_of::<onnx_protobuf::GraphProto>(),
            Msg::Node => size_of::<onnx_protobuf::NodeProto>(),
            Msg::Attribute => size_of::<onnx_protobuf::AttributeProto>(),
            Msg::Tensor => size_of::<onnx_protobuf::TensorProto>(),
            Msg::Segment => size_of::<onnx_protobuf::tensor_proto::Segment>(),
            Msg::Sparse => size_of::<onnx_protobuf::SparseTensorProto>(),
            Msg::ValueInfo => size_of::<onnx_protobuf::ValueInfoProto>(),
            Msg::Type | Msg::TensorType | Msg::ElemType | Msg::MapType => {
                size_of::<onnx_protobuf::TypeProto>()
            }
            Msg::Shape => size_of::<onnx_protobuf::TensorShapeProto>(),
            Msg::Dimension => size_of::<onnx_protobuf::tensor_shape_proto::Dimension>(),
            Msg::Entry => size_of::<onnx_protobuf::StringStringEntryProto>(),
            Msg::Annotation => size_of::<onnx_protobuf::TensorAnnotation>(),
            Msg::Opset => size_of::<onnx_protobuf::OperatorSetIdProto>(),
            Msg::Function => size_of::<onnx_protobuf::FunctionProto>(),
            Msg::Training => size_of::<onnx_protobuf::TrainingInfoProto>(),
        }
    }

    /// What field `number` of this message holds.
    pub fn field(self, number: u32) -> Field {
        match self {
            Msg::Model => match number {
                1 | 5 => Varint,
                2..=4 | 6 => Text,
                7 => Sub(Msg::Graph),
                8 => Sub(Msg::Opset),
                14 => Sub(Msg::Entry),
                20 => Sub(Msg::Training),
                25 => Sub(Msg::Function),
                _ => Unknown,
            },
            Msg::Graph => match number {
                1 => Sub(Msg::Node),
                2 | 10 => Text,
                5 => Sub(Msg::Tensor),
                11..=13 => Sub(Msg::ValueInfo),
                14 => Sub(Msg::Annotation),
                15 => Sub(Msg::Sparse),
                16 => Sub(Msg::Entry),
                _ => Unknown,
            },
            Msg::Node => match number {
                1..=4 | 6..=8 => Text,
                5 => Sub(Msg::Attribute),
                9 => Sub(Msg::Entry),
                _ => Unknown,
            },
            Msg::Attribute => attribute_field(number),
            Msg::Tensor => tensor_field(number),
            Msg::Segment => match number {
                1 | 2 => Varint,
                _ => Unknown,
            },
            Msg::Sparse => match number {
                1 | 2 => Sub(Msg::Tensor),
                3 => Varints(8),
                _ => Unknown,
            },
            Msg::ValueInfo => match number {
                1 | 3 => Text,
                2 => Sub(Msg::Type),
                4 => Sub(Msg::Entry),
                _ => Unknown,
            },
            Msg::Type => match number {
                1 | 8 => Sub(Msg::TensorType),
                4 | 9 => Sub(Msg::ElemType),
                5 => Sub(Msg::MapType),
                6 => Text,
                _ => Unknown,
            },
            Msg::TensorType => match number {
                1 => Varint,
                2 => Sub(Msg::Shape),
                _ => Unknown,
            },
            Msg::ElemType => match number {
                1 => Sub(Msg::Type),
                _ => Unknown,
            },
            Msg::MapType => match number {
                1 => Varint,
                2 => Sub(Msg::Type),
                _ => Unknown,
            },
            Msg::Shape => match number {
                1 => Sub(Msg::Dimension),
                _ => Unknown,
            },
            Msg::Dimension => match number {
                1 => Varint,
                2 | 3 => Text,
                _ => Unknown,
            },
            Msg::Entry => match number {
                1 | 2 => Text,
                _ => Unknown,
            },
            Msg::Annotation => match number {
                1 => Text,
                2 => Sub(Msg::Entry),
                _ => Unknown,
            },
            Msg::Opset => match number {
                1 => Text,
                2 => Varint,
                _ => Unknown,
            },
            Msg::Function => match number {
                1 | 4..=6 | 8 | 10 | 13 => Text,
                7 => Sub(Msg::Node),
                9 => Sub(Msg::Opset),
                11 => Sub(Msg::Attribute),
                12 => Sub(Msg::ValueInfo),
                14 => Sub(Msg::Entry),
                _ => Unknown,
            },
            Msg::Training => match number {
                1 | 2 => Sub(Msg::Graph),
                3 | 4 => Sub(Msg::Entry),
                _ => Unknown,
            },
        }
    }
}

fn attribute_field(number: u32) -> Field {
    match number {
        1 | 13 | 21 => Text,
        2 => Fixed32,
        3 | 20 => Varint,
        4 | 9 => Bytes,
        5 | 10 => Sub(Msg::Tensor),
        6 | 11 => Sub(Msg::Graph),
        7 => Fixed32s,
        8 => Varints(8),
        14 | 15 => Sub(Msg::Type),
        22 | 23 => Sub(Msg::Sparse),
        _ => Unknown,
    }
}

fn tensor_field(number: u32) -> Field {
    match number {
        1 | 7 | 11 => Varints(8),
        2 | 14 => Varint,
        3 => Sub(Msg::Segment),
        4 => Fixed32s,
        5 => Varints(4),
        6 | 9 => Bytes,
        8 | 12 => Text,
        10 => Fixed64s,
        13 | 16 => Sub(Msg::Entry),
        _ => Unknown,
    }
}
