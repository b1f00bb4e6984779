//! A module: the main graph, sub-graphs, the constant store, the phase, symbols and run-time checks.

use crate::graph::{ConstId, Graph, GraphId, Loc, ValueId};
use crate::types::{Dim, Ranges, Symbol, TensorType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// How far compilation has come. Only moves forward; decides what the verifier allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Phase {
    /// As the frontend made it.
    #[default]
    Imported,
    /// Canonical forms; exact float rewrites happen here.
    Canonical,
    /// Every `quant.fake` has its parameters.
    Calibrated,
    /// No `quant.fake` is left; linear layers are integer.
    Quantized,
    /// Compute is regions.
    Fused,
    /// Only what the backend declared.
    Lowered,
}

impl Phase {
    /// All phases in order, with their names.
    pub const ALL: [(Phase, &'static str); 6] = [
        (Phase::Imported, "imported"),
        (Phase::Canonical, "canonical"),
        (Phase::Calibrated, "calibrated"),
        (Phase::Quantized, "quantized"),
        (Phase::Fused, "fused"),
        (Phase::Lowered, "lowered"),
    ];
    /// Name in the text form.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
    /// The phase of this name.
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == s).map(|(p, _)| *p)
    }
}

/// Bytes that may live in a mapped file.
pub type ByteSource = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A constant tensor's dense little-endian row-major bytes, shared and possibly mapped from disk.
#[derive(Clone)]
pub struct Const {
    /// Type; the shape is static. Quantized constants hold codes.
    pub ty: TensorType,
    /// Name in the model, for messages and dumps.
    pub name: Arc<str>,
    source: ByteSource,
    start: usize,
    len: usize,
    hash: Arc<OnceLock<[u8; 32]>>,
}

impl Const {
    /// A constant over `source[start..start + len]`; `None` if that lies outside or `len` is not what `ty` needs.
    pub fn new(name: &str, ty: TensorType, source: ByteSource, start: usize, len: usize) -> Option<Self> {
        let total = source.as_ref().as_ref().len();
        let fits = start.checked_add(len).is_some_and(|end| end <= total);
        let wanted = ty.bytes().as_const().and_then(|b| usize::try_from(b).ok());
        (fits && wanted == Some(len)).then(|| Const {
            ty,
            name: name.into(),
            source,
            start,
            len,
            hash: Arc::default(),
        })
    }

    /// A constant that owns its bytes; `None` if the length is not what `ty` needs.
    pub fn from_bytes(name: &str, ty: TensorType, bytes: Vec<u8>) -> Option<Self> {
        let len = bytes.len();
        Const::new(name, ty, Arc::new(bytes), 0, len)
    }

    /// The same bytes under another type; `None` if that needs another number of bytes.
    pub fn with_type(&self, ty: TensorType) -> Option<Self> {
        Const::new(&self.name, ty, self.source.clone(), self.start, self.len)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.source.as_ref().as_ref()[self.start..self.start + self.len]
    }

    /// BLAKE3 of type and bytes, computed once.
    pub fn hash(&self) -> [u8; 32] {
        *self.hash.get_or_init(|| {
            let mut h = blake3::Hasher::new();
            h.update(self.ty.to_string().as_bytes());
            h.update(&[0]);
            h.update(self.bytes());
            *h.finalize().as_bytes()
        })
    }
}

impl fmt::Debug for Const {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Const({} {})", self.name, self.ty)
    }
}

/// Constants by id.
#[derive(Clone, Debug, Default)]
pub struct ConstStore {
    items: Vec<Const>,
}

impl ConstStore {
    /// Adds a constant.
    pub fn add(&mut self, c: Const) -> ConstId {
        self.items.push(c);
        ConstId(self.items.len() as u32 - 1)
    }
    /// The constant with this id.
    pub fn get(&self, id: ConstId) -> &Const {
        &self.items[id.index()]
    }
    /// Number of ids given out; the next constant gets this id.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Bounds of a symbol, inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SymbolInfo {
    /// Lowest value.
    pub lo: i64,
    /// Highest value.
    pub hi: i64,
}

impl Default for SymbolInfo {
    fn default() -> Self {
        SymbolInfo { lo: 0, hi: i64::MAX }
    }
}

/// Known symbols and their bounds, in name order.
#[derive(Clone, Debug, Default)]
pub struct SymbolTable(pub BTreeMap<Symbol, SymbolInfo>);

impl Ranges for SymbolTable {
    fn range(&self, s: &Symbol) -> (i64, i64) {
        let i = self.0.get(s).copied().unwrap_or_default();
        (i.lo, i.hi)
    }
}

/// An equality that has to hold at run time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Left side.
    pub a: Dim,
    /// Right side.
    pub b: Dim,
    /// The node that needs it.
    pub loc: Loc,
}

/// A module. See the file documentation.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Name of the model, for messages.
    pub name: String,
    /// Phase.
    pub phase: Phase,
    /// The main graph.
    pub graph: Graph,
    /// Bodies of control-flow nodes.
    pub subgraphs: Vec<Graph>,
    /// Constants.
    pub consts: ConstStore,
    /// Symbols with bounds.
    pub symbols: SymbolTable,
    /// Run-time checks.
    pub checks: Vec<Check>,
    /// What made this module: frontend, scheme, passes run (printed in the text form's header).
    pub provenance: Vec<String>,
}

impl Module {
    /// The sub-graph with this id.
    pub fn subgraph(&self, id: GraphId) -> &Graph {
        &self.subgraphs[id.0 as usize]
    }

    /// The constant behind a value of the main graph.
    pub fn const_of(&self, v: ValueId) -> Option<&Const> {
        self.graph.const_id(v).map(|c| self.consts.get(c))
    }

    /// A constant behind a value, as f32 elements; `None` if it is not an f32 constant.
    pub fn const_f32(&self, v: ValueId) -> Option<Vec<f32>> {
        let c = self.const_of(v)?;
        (c.ty.elem.plain() == Some(crate::types::ScalarType::F32)).then(|| {
            c.bytes()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        })
    }

    /// A single-element constant's value as f64 (any plain element type).
    pub fn const_scalar(&self, v: ValueId) -> Option<f64> {
        let c = self.const_of(v)?;
        if !c.ty.numel().is(1) {
            return None;
        }
        crate::eval::Tensor::from_const(c).ok()?.to_f64().first().copied()
    }
}
