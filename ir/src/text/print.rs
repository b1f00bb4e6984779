//! The canonical printer. Values and constants are numbered in the order in which they appear.

use super::cursor::quote;
use super::literal;
use super::print_region::region;
use crate::graph::{ConstId, Graph, NodeId, ValueId};
use crate::module::{Const, Module};
use crate::ops::Attr;
use crate::types::Dim;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Constants of at most this many elements are printed as values.
pub(super) const INLINE_ELEMENTS: usize = 16;
/// Constants of at most this many bytes are printed in hexadecimal.
pub(super) const HEX_BYTES: usize = 1024;
/// Constants of equal elements of at most this many bytes are printed as one value.
pub(super) const SPLAT_BYTES: usize = 1 << 26;

/// The canonical text of a module. Large constants are references into a data file, see [`print_with_data`].
pub fn print(m: &Module) -> String {
    Printer::new(m, false).module().0
}

/// The canonical text and the contents of the data file it refers to (`NAME.rsq.bin`; empty if it is not needed).
pub fn print_with_data(m: &Module) -> (String, Vec<u8>) {
    Printer::new(m, true).module()
}

/// One node as text, for messages; values by their ids in the graph.
pub fn print_node(m: &Module, g: &Graph, id: NodeId) -> String {
    let mut p = Printer::new(m, false);
    p.raw_ids = true;
    p.node(g, id);
    p.out.trim().to_string()
}

struct Printer<'a> {
    m: &'a Module,
    out: String,
    /// Names of the current graph's values.
    values: BTreeMap<ValueId, String>,
    next_value: u32,
    /// Constants in order of first use.
    consts: Vec<ConstId>,
    numbers: BTreeMap<ConstId, usize>,
    want_data: bool,
    raw_ids: bool,
}

impl<'a> Printer<'a> {
    fn new(m: &'a Module, want_data: bool) -> Self {
        Printer {
            m,
            out: String::new(),
            values: BTreeMap::new(),
            next_value: 0,
            consts: Vec::new(),
            numbers: BTreeMap::new(),
            want_data,
            raw_ids: false,
        }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn module(mut self) -> (String, Vec<u8>) {
        self.graph("graph", &self.m.graph);
        for g in &self.m.subgraphs {
            self.graph("subgraph", g);
        }
        let graphs = std::mem::take(&mut self.out);
        let m = self.m;
        self.line("rsqc 1");
        self.line(&format!("module {} phase {}", quote(&m.name), m.phase.name()));
        for p in &m.provenance {
            self.line(&format!("provenance {}", quote(p)));
        }
        for (s, info) in &m.symbols.0 {
            let hi = if info.hi == i64::MAX {
                String::new()
            } else {
                info.hi.to_string()
            };
            self.line(&format!("symbol {s} in {}..{hi}", info.lo));
        }
        for c in &m.checks {
            self.line(&format!("check {{{}}} == {{{}}}{}", c.a, c.b, loc(&c.loc)));
        }
        let mut data = Vec::new();
        let mut offset = 0usize;
        for (n, id) in std::mem::take(&mut self.consts).into_iter().enumerate() {
            let c = m.consts.get(id);
            let value = constant(c, offset);
            if value.starts_with("file ") {
                offset += c.bytes().len();
                if self.want_data {
                    data.extend_from_slice(c.bytes());
                }
            }
            self.line(&format!("const @{n} {} : {} = {value}", quote(&c.name), c.ty));
        }
        self.out.push_str(&graphs);
        (self.out, data)
    }

    fn graph(&mut self, head: &str, g: &Graph) {
        self.values.clear();
        self.next_value = 0;
        self.line(&format!("{head} {{"));
        for p in g.inputs() {
            let name = self.define(p.value);
            let text = format!("  input {name} {} : {}", quote(&p.name), self.typed(g, p.value));
            self.line(&text);
        }
        // A cyclic graph is printed in id order: the text is for reading then.
        let order = g.topo_order().unwrap_or_else(|_| g.node_ids().collect());
        for id in order {
            for v in g.node(id).inputs.clone().into_iter().flatten() {
                self.special_const(g, v);
            }
            self.node(g, id);
        }
        for p in g.outputs() {
            self.special_const(g, p.value);
            let v = self.value(g, p.value);
            self.line(&format!("  output {} = {v}", quote(&p.name)));
        }
        self.line("}");
    }

    fn define(&mut self, v: ValueId) -> String {
        let n = if self.raw_ids { v.0 } else { self.next_value };
        let name = format!("%{n}");
        self.next_value += 1;
        self.values.insert(v, name.clone());
        name
    }

    /// A constant's value with a type or layout of its own gets a line.
    fn special_const(&mut self, g: &Graph, v: ValueId) {
        let Some(id) = g.const_id(v) else { return };
        let plain = g.value(v).layout.is_none() && *g.ty(v) == self.m.consts.get(id).ty;
        if plain || self.values.contains_key(&v) {
            return;
        }
        let c = self.const_name(id);
        let name = self.define(v);
        let text = format!("  {name} = {c} : {}", self.typed(g, v));
        self.line(&text);
    }

    fn const_name(&mut self, id: ConstId) -> String {
        if self.raw_ids {
            return format!("@{}", id.0);
        }
        let next = self.consts.len();
        let n = *self.numbers.entry(id).or_insert(next);
        if n == next {
            self.consts.push(id);
        }
        format!("@{n}")
    }

    fn value(&mut self, g: &Graph, v: ValueId) -> String {
        if let Some(name) = self.values.get(&v) {
            return name.clone();
        }
        match g.const_id(v) {
            Some(id) => self.const_name(id),
            None => format!("%{}", v.0),
        }
    }

    fn typed(&self, g: &Graph, v: ValueId) -> String {
        match g.value(v).layout {
            Some(l) => format!("{} layout {}", g.ty(v), l.name()),
            None => g.ty(v).to_string(),
        }
    }

    fn node(&mut self, g: &Graph, id: NodeId) {
        let n = g.node(id);
        let ins: Vec<String> = n
            .inputs
            .iter()
            .map(|v| v.map_or_else(|| "_".into(), |v| self.value(g, v)))
            .collect();
        let outs: Vec<String> = n.outputs.iter().map(|v| self.define(*v)).collect();
        let types: Vec<String> = n.outputs.iter().map(|v| self.typed(g, *v)).collect();
        let mut body = None;
        let mut attrs = Vec::new();
        for (name, a) in n.op.attrs() {
            match a {
                // The result types of a region are those of the node.
                Attr::None | Attr::Types(_) => {}
                Attr::Region(r) => body = Some(r),
                a => attrs.push(format!("{name} = {}", attr(&a))),
            }
        }
        let attrs = if attrs.is_empty() {
            String::new()
        } else {
            format!(" {{{}}}", attrs.join(", "))
        };
        let _ = write!(
            self.out,
            "  {} = {}({}){attrs} : {}{}",
            outs.join(", "),
            n.op.name(),
            ins.join(", "),
            types.join(", "),
            loc(&n.loc)
        );
        match body {
            None => self.out.push('\n'),
            Some(r) => {
                self.out.push_str(" {\n");
                region(&mut self.out, &r);
                self.out.push_str("  }\n");
            }
        }
    }
}

fn loc(l: &str) -> String {
    if l.is_empty() {
        String::new()
    } else {
        format!(" loc {}", quote(l))
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn attr(a: &Attr) -> String {
    match a {
        Attr::Bool(b) => b.to_string(),
        Attr::Int(v) => v.to_string(),
        Attr::Ints(v) => format!("[{}]", list(v)),
        Attr::F32(v) => float(*v),
        Attr::Word(w) => (*w).to_string(),
        Attr::Text(w) => w.clone(),
        Attr::Dim(d) => format!("{{{d}}}"),
        Attr::Dims(d) => format!("({})", list::<Dim>(d)),
        Attr::Elem(t) => t.to_string(),
        Attr::Quant(q) => q.to_string(),
        Attr::Types(t) => format!("<{}>", list(t)),
        Attr::Region(_) | Attr::None => String::new(),
    }
}

/// An f32 attribute: never like an integer or a keyword (a NaN is printed as its bits).
fn float(v: f32) -> String {
    if v.is_nan() {
        return format!("0x{:x}", v.to_bits());
    }
    literal::print(crate::types::ScalarType::F32, u64::from(v.to_bits()))
}

fn constant(c: &Const, offset: usize) -> String {
    let (ty, bytes) = (c.ty.storage(), c.bytes());
    let n = bytes.len() / ty.size();
    let element = |i| literal::print(ty, bool_bits(ty, literal::element(ty, bytes, i)));
    if n <= INLINE_ELEMENTS {
        return format!("[{}]", (0..n).map(element).collect::<Vec<_>>().join(", "));
    }
    let first = &bytes[..ty.size()];
    if bytes.len() <= SPLAT_BYTES && bytes.chunks_exact(ty.size()).all(|e| e == first) {
        return format!("splat {}", element(0));
    }
    if bytes.len() <= HEX_BYTES {
        return format!("hex {}", hex(bytes));
    }
    format!("file {offset} {}", hex(&c.hash()[..16]))
}

/// Any nonzero byte is true.
fn bool_bits(ty: crate::types::ScalarType, bits: u64) -> u64 {
    if ty == crate::types::ScalarType::Bool {
        u64::from(bits != 0)
    } else {
        bits
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for b in bytes {
        let _ = write!(out, "{b:02x}");
    }
    out
}
