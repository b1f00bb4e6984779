//! Just enough of ONNX's protobuf to write the models that `bench` times. Source of the field numbers: `onnx.proto3`.
//!
//! Every tensor is f32, every model has opset 20 (the first with `Gelu`).

use std::io::{self, Write};

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) -> &mut Self {
        self.raw_varint(field << 3);
        self.raw_varint(value);
        self
    }

    fn float(&mut self, field: u64, value: f32) -> &mut Self {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Self {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(&mut self, field: u64, message: &Message) -> &mut Self {
        self.bytes(field, &message.0)
    }
}

/// An attribute's value.
pub enum Attribute<'a> {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(&'a [i64]),
}

/// A dimension.
#[derive(Clone, Copy)]
pub enum Dim<'a> {
    /// Known.
    Fixed(u64),
    /// Given at run time.
    Named(&'a str),
}

/// A model under construction: one graph.
#[derive(Default)]
pub struct Model {
    graph: Message,
    drawn: u32,
}

impl Model {
    /// Adds a node; its name is that of its first output.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) {
        let mut node = Message::default();
        for input in inputs {
            node.bytes(1, input.as_bytes());
        }
        node.bytes(2, output.as_bytes())
            .bytes(3, output.as_bytes())
            .bytes(4, op.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Message::default();
            attribute.bytes(1, name.as_bytes());
            match value {
                Attribute::Float(f) => attribute.float(2, *f).varint(20, 1),
                Attribute::Int(i) => attribute.varint(3, *i as u64).varint(20, 2),
                Attribute::Ints(ints) => {
                    for i in *ints {
                        attribute.varint(8, *i as u64);
                    }
                    attribute.varint(20, 7)
                }
            };
            node.message(5, &attribute);
        }
        self.graph.message(1, &node);
    }

    fn tensor(&mut self, name: &str, dims: &[u64], data_type: u64, raw: &[u8]) {
        let mut tensor = Message::default();
        for dim in dims {
            tensor.varint(1, *dim);
        }
        tensor
            .varint(2, data_type)
            .bytes(8, name.as_bytes())
            .bytes(9, raw);
        self.graph.message(5, &tensor);
    }

    /// Adds a constant of 64-bit integers, a shape for instance.
    pub fn integers(&mut self, name: &str, values: &[i64]) {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, &[values.len() as u64], 7, &raw);
    }

    /// Adds a constant f32 scalar.
    pub fn scalar(&mut self, name: &str, value: f32) {
        self.tensor(name, &[], 1, &value.to_le_bytes());
    }

    /// Adds a constant of f32 from a fixed random source, evenly spread within `-size..size`.
    pub fn random(&mut self, name: &str, dims: &[u64], size: f32) {
        let count: u64 = dims.iter().product();
        let raw: Vec<u8> = (0..count)
            .flat_map(|_| (self.draw() * size).to_le_bytes())
            .collect();
        self.tensor(name, dims, 1, &raw);
    }

    /// A number in -1..1.
    fn draw(&mut self) -> f32 {
        // Numerical Recipes' generator; the low bits are poor and left out.
        self.drawn = self.drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.drawn >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Names an f32 value as input.
    pub fn input(&mut self, name: &str, dims: &[Dim<'_>]) {
        self.value(11, name, dims);
    }

    /// Names an f32 value as output.
    pub fn output(&mut self, name: &str, dims: &[Dim<'_>]) {
        self.value(12, name, dims);
    }

    fn value(&mut self, field: u64, name: &str, dims: &[Dim<'_>]) {
        let mut shape = Message::default();
        for dim in dims {
            let mut one = Message::default();
            match dim {
                Dim::Fixed(n) => one.varint(1, *n),
                Dim::Named(name) => one.bytes(2, name.as_bytes()),
            };
            shape.message(1, &one);
        }
        let (mut tensor, mut ty, mut value) = (Message::default(), Message::default(), Message::default());
        tensor.varint(1, 1).message(2, &shape);
        ty.message(1, &tensor);
        value.bytes(1, name.as_bytes()).message(2, &ty);
        self.graph.message(field, &value);
    }

    /// Writes the model.
    pub fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        self.graph.bytes(2, b"bench");
        let (mut opset, mut model) = (Message::default(), Message::default());
        opset.bytes(1, b"").varint(2, 20);
        model.varint(1, 9).message(8, &opset);
        // The graph's bytes follow without being copied: they may be hundreds of megabytes.
        model.raw_varint(7 << 3 | 2);
        model.raw_varint(self.graph.0.len() as u64);
        out.write_all(&model.0)?;
        out.write_all(&self.graph.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_wire_format() {
        let mut model = Model::default();
        model.node("Relu", &["x"], "y", &[("n", Attribute::Int(300))]);
        model.scalar("s", 1.0);
        model.input("x", &[Dim::Named("m"), Dim::Fixed(2)]);
        let mut bytes = Vec::new();
        model.write(&mut bytes).expect("a vector takes all");
        let node = b"\x0a\x01x\x12\x01y\x1a\x01y\x22\x04Relu\x2a\x09\x0a\x01n\x18\xac\x02\xa0\x01\x02";
        let scalar = b"\x10\x01\x42\x01s\x4a\x04\x00\x00\x80\x3f";
        let input = b"\x0a\x01x\x12\x0f\x0a\x0d\x08\x01\x12\x09\x0a\x03\x12\x01m\x0a\x02\x08\x02";
        let graph = [
            &[0x0a, node.len() as u8],
            &node[..],
            &[0x2a, scalar.len() as u8],
            scalar,
            &[0x5a, input.len() as u8],
            input,
            b"\x12\x05bench",
        ]
        .concat();
        let head = b"\x08\x09\x42\x04\x0a\x00\x10\x14";
        assert_eq!(bytes, [head, &[0x3a, graph.len() as u8][..], &graph].concat());
    }

    #[test]
    fn draws_within_bounds() {
        let mut model = Model::default();
        let drawn: Vec<f32> = (0..1000).map(|_| model.draw()).collect();
        assert!(drawn.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = drawn.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
    }
}
