//! From a file to decoded messages: the graph without its initializers, and the initializers with their data in place.

use std::path::Path;

use onnx_protobuf::{GraphProto, Message, ModelProto};

use crate::error::{ErrorKind, ImportError, Res, model_error};
use crate::source::{Bytes, ExternalFiles, map_file};
use crate::tensor::{Tensor, decode_range};
use crate::wire::scan_model;

/// A decoded model file.
pub struct Loaded {
    /// The model without its main graph.
    pub model: ModelProto,
    /// The main graph without its initializers.
    pub graph: GraphProto,
    /// The initializers of the main graph, in file order.
    pub initializers: Vec<Tensor>,
    /// External data, for tensors inside attributes.
    pub files: ExternalFiles,
}

/// Most nodes, initializers or values of one graph.
pub const MAX_ITEMS: usize = 2_000_000;

/// Opens, checks and decodes the model at `path`.
pub fn load_file(path: &Path) -> Result<Loaded, ImportError> {
    let read = || {
        let bytes = map_file(path)?;
        load_bytes(&bytes, ExternalFiles::beside(path)?)
    };
    read().map_err(|kind| ImportError::new(path, kind))
}

/// Checks and decodes a model held in memory.
pub fn load_bytes(bytes: &Bytes, mut files: ExternalFiles) -> Res<Loaded> {
    if bytes.is_empty() {
        return Err(ErrorKind::Wire {
            offset: 0,
            what: "the file is empty, expected an ONNX model".into(),
        });
    }
    let split = scan_model(bytes)?;
    let Some(graph_parts) = split.graph else {
        return model_error("model", "has no graph");
    };
    let wire = |offset: usize| {
        move |e: protobuf::Error| ErrorKind::Wire {
            offset,
            what: e.to_string(),
        }
    };
    let mut model = ModelProto::new();
    for part in split.model {
        model
            .merge_from_bytes(part_of(bytes, &part))
            .map_err(wire(part.start))?;
    }
    let mut graph = GraphProto::new();
    for part in graph_parts {
        graph
            .merge_from_bytes(part_of(bytes, &part))
            .map_err(wire(part.start))?;
    }
    if split.initializers.len() > MAX_ITEMS {
        let found = split.initializers.len() as u64;
        return Err(ErrorKind::TooLarge {
            what: "the number of initializers".into(),
            found,
            limit: MAX_ITEMS as u64,
        });
    }
    let mut initializers = Vec::with_capacity(split.initializers.len());
    let mut unsupported = Vec::new();
    for range in split.initializers {
        match decode_range(bytes, range, Some(&mut files)) {
            Ok(tensor) => initializers.push(tensor),
            Err(ErrorKind::Unsupported(items)) => unsupported.extend(items),
            Err(e) => return Err(e),
        }
    }
    if !unsupported.is_empty() {
        return Err(ErrorKind::Unsupported(unsupported));
    }
    Ok(Loaded {
        model,
        graph,
        initializers,
        files,
    })
}

/// A piece that the scan found.
fn part_of<'a>(bytes: &'a Bytes, range: &std::ops::Range<usize>) -> &'a [u8] {
    bytes.get(range.clone()).unwrap_or_default()
}
