//! The models that hold one kernel family each, in the surroundings it has in a transformer.
//!
//! Layers are stacked, each with weights of its own, so that a layer's weights come from where they come from in a real
//! model: after a run of the others, out of the last cache or memory. The names of nodes say which step is which.

use super::onnx::{Attribute, Dim, Model};
use crate::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Width of the layers, as in MiniLM.
pub const WIDTH: u64 = 384;
/// Width between the two layers of a feed-forward block.
pub const INNER: u64 = 1536;
/// Blocks of `chain` and `feed_forward`.
const BLOCKS: usize = 6;
const HEADS: i64 = 12;

/// `x @ w + b` as the nodes `name.product` and `name`.
fn linear(model: &mut Model, name: &str, x: &str, (k, n): (u64, u64)) -> String {
    let (weight, bias, product) = (
        format!("{name}.weight"),
        format!("{name}.bias"),
        format!("{name}.product"),
    );
    model.random(&weight, &[k, n], (3.0 / k as f32).sqrt());
    model.random(&bias, &[n], 0.1);
    model.node("MatMul", &[x, &weight], &product, &[]);
    model.node("Add", &[&product, &bias], name, &[]);
    name.into()
}

fn rows(width: u64) -> [Dim<'static>; 2] {
    [Dim::Named("m"), Dim::Fixed(width)]
}

/// Linear layers one after another, `blocks` times up from `width` to `inner` (`upN`) and down again (`downN`).
pub fn chain(width: u64, inner: u64, blocks: usize) -> Model {
    let mut model = Model::default();
    model.input("x", &rows(width));
    let mut x = String::from("x");
    for i in 0..blocks {
        x = linear(&mut model, &format!("up{i}"), &x, (width, inner));
        x = linear(&mut model, &format!("down{i}"), &x, (inner, width));
    }
    model.output(&x, &rows(width));
    model
}

/// Feed-forward blocks with their norm and residual: `x + downN(gelu(upN(norm(x))))`.
fn feed_forward() -> Model {
    let mut model = Model::default();
    model.input("x", &rows(WIDTH));
    model.random("gamma", &[WIDTH], 1.0);
    model.random("beta", &[WIDTH], 0.1);
    let mut x = String::from("x");
    for i in 0..BLOCKS {
        let (norm, gelu, sum) = (format!("norm{i}"), format!("gelu{i}"), format!("sum{i}"));
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(1e-5))];
        model.node("LayerNormalization", &[&x, "gamma", "beta"], &norm, &attributes);
        let up = linear(&mut model, &format!("up{i}"), &norm, (WIDTH, INNER));
        model.node("Gelu", &[&up], &gelu, &[]);
        let down = linear(&mut model, &format!("down{i}"), &gelu, (INNER, WIDTH));
        model.node("Add", &[&x, &down], &sum, &[]);
        x = sum;
    }
    model.output(&x, &rows(WIDTH));
    model
}

/// Attention without its projections: 12 heads of 32, batch and sequence free.
fn attention() -> Model {
    let mut model = Model::default();
    let dims = [Dim::Named("batch"), Dim::Named("sequence"), Dim::Fixed(WIDTH)];
    model.integers("split", &[0, 0, HEADS, WIDTH as i64 / HEADS]);
    model.integers("merge", &[0, 0, WIDTH as i64]);
    model.scalar("scale", (HEADS as f32 / WIDTH as f32).sqrt());
    for (name, order) in [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])] {
        model.input(name, &dims);
        let (split, heads) = (format!("{name}.split"), format!("{name}.heads"));
        model.node("Reshape", &[name, "split"], &split, &[]);
        model.node(
            "Transpose",
            &[&split],
            &heads,
            &[("perm", Attribute::Ints(&order))],
        );
    }
    model.node("MatMul", &["q.heads", "k.heads"], "scores", &[]);
    model.node("Mul", &["scores", "scale"], "scaled", &[]);
    model.node("Softmax", &["scaled"], "weights", &[("axis", Attribute::Int(-1))]);
    model.node("MatMul", &["weights", "v.heads"], "context", &[]);
    model.node(
        "Transpose",
        &["context"],
        "rows",
        &[("perm", Attribute::Ints(&[0, 2, 1, 3]))],
    );
    model.node("Reshape", &["rows", "merge"], "y", &[]);
    model.output("y", &dims);
    model
}

fn gelu() -> Model {
    let mut model = Model::default();
    model.input("x", &rows(INNER));
    model.node("Gelu", &["x"], "y", &[]);
    model.output("y", &rows(INNER));
    model
}

/// A model that kernels are timed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// Linear layers only.
    Chain,
    /// Linear layers of a large language model's size: 4096 and 11008.
    Wide,
    /// Norm, linear, GELU, linear, residual.
    FeedForward,
    /// Attention.
    Attention,
    /// GELU.
    Gelu,
}

impl Name {
    /// The name as tables and files have it.
    pub fn text(self) -> &'static str {
        match self {
            Name::Chain => "chain",
            Name::Wide => "wide",
            Name::FeedForward => "feed-forward",
            Name::Attention => "attention",
            Name::Gelu => "gelu",
        }
    }

    fn build(self) -> Model {
        match self {
            Name::Chain => chain(WIDTH, INNER, BLOCKS),
            Name::Wide => chain(4096, 11008, 1),
            Name::FeedForward => feed_forward(),
            Name::Attention => attention(),
            Name::Gelu => gelu(),
        }
    }

    /// Width of the input `x`.
    fn width(self) -> u64 {
        match self {
            Name::Wide => 4096,
            Name::Gelu => INNER,
            Name::Chain | Name::FeedForward | Name::Attention => WIDTH,
        }
    }

    /// Writes the model and, beside it, a folder of calibration rows, unless they are there; returns both.
    pub fn write(self, folder: &Path) -> Result<(PathBuf, PathBuf), Error> {
        let (model, calib) = (
            folder.join(format!("{}.onnx", self.text())),
            folder.join(format!("{}-calib", self.text())),
        );
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::File { path, source }
        };
        if model.exists() {
            return Ok((model, calib));
        }
        let mut out = BufWriter::new(File::create(&model).map_err(fail(&model))?);
        self.build().write(&mut out).map_err(fail(&model))?;
        out.flush().map_err(fail(&model))?;
        std::fs::create_dir_all(&calib).map_err(fail(&calib))?;
        let rows = calib.join("x.npy");
        std::fs::write(&rows, npy(8, self.width())).map_err(fail(&rows))?;
        Ok((model, calib))
    }
}

/// A `.npy` file of `rows` times `width` floats from -1 to 1. Source: NumPy enhancement proposal 1.
fn npy(rows: u64, width: u64) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - 1 - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    let value = |i: u64| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0;
    bytes.extend((0..rows * width).flat_map(|i| value(i).to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_data_starts_at_a_multiple_of_64() {
        let bytes = npy(2, 3);
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + header) % 64, 0);
        assert_eq!(bytes.len(), 10 + header + 24);
        assert_eq!(&bytes[10 + header..][..4], (-1f32).to_le_bytes());
    }

    #[test]
    fn writes_every_small_model() {
        let folder = std::env::temp_dir().join(format!("rsqc-xtask-models-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        for name in [Name::Chain, Name::FeedForward, Name::Attention, Name::Gelu] {
            let (model, calib) = name.write(&folder).expect("written");
            assert!(model.is_file() && calib.join("x.npy").is_file());
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
