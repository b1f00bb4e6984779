//! The parser of modules. It checks syntax, names and SSA order; types and everything else are the verifier's.

use super::cursor::{Cursor, ParseError, Parsed};
use super::dim::dim;
use super::literal;
use super::parse_region::region;
use super::print::{SPLAT_BYTES, hex};
use super::types::{dims, quant_body, tensor_type};
use crate::graph::{ConstId, Graph, Layout, Port, ValueId};
use crate::module::{ByteSource, Check, Const, Module, Phase, SymbolInfo};
use crate::ops::{Attr, AttrMap, Op};
use crate::types::{ScalarType, Symbol, TensorType};
use std::collections::BTreeMap;

/// Parses a module whose constants are all in the text.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    Parser::new(text, None).module()
}

/// Parses a module with the contents of its data file.
pub fn parse_with_data(text: &str, data: ByteSource) -> Result<Module, ParseError> {
    Parser::new(text, Some(data)).module()
}

struct Parser<'a> {
    c: Cursor<'a>,
    data: Option<ByteSource>,
    m: Module,
    /// Values of the current graph, by number.
    values: BTreeMap<u64, ValueId>,
    /// Plain values of constants in the current graph.
    consts: BTreeMap<u32, ValueId>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, data: Option<ByteSource>) -> Self {
        Parser {
            c: Cursor::new(text),
            data,
            m: Module::default(),
            values: BTreeMap::new(),
            consts: BTreeMap::new(),
        }
    }

    fn module(mut self) -> Parsed<Module> {
        self.c.want("rsqc")?;
        let at = self.c.pos();
        let version = self.c.unsigned("a version")?;
        if version != 1 {
            return Err(self.c.error_at(
                at,
                format!("version {version} of the text form; this is version 1"),
            ));
        }
        self.c.want("module")?;
        self.m.name = self.c.quoted('"')?;
        self.c.want("phase")?;
        let at = self.c.pos();
        let phase = self.c.word("a phase")?;
        self.m.phase =
            Phase::parse(phase).ok_or_else(|| self.c.error_at(at, format!("unknown phase `{phase}`")))?;
        while self.c.eat("provenance") {
            let text = self.c.quoted('"')?;
            self.m.provenance.push(text);
        }
        while self.c.eat("symbol") {
            self.symbol()?;
        }
        while self.c.eat("check") {
            let a = self.braced_dim()?;
            self.c.want("==")?;
            let b = self.braced_dim()?;
            let loc = self.loc()?;
            self.m.checks.push(Check { a, b, loc });
        }
        while self.c.eat("const") {
            self.constant()?;
        }
        self.c.want("graph")?;
        self.m.graph = self.graph()?;
        while self.c.eat("subgraph") {
            let g = self.graph()?;
            self.m.subgraphs.push(g);
        }
        if !self.c.at_end() {
            return self.c.expected("`subgraph` or the end");
        }
        Ok(self.m)
    }

    fn braced_dim(&mut self) -> Parsed<crate::types::Dim> {
        braced_dim(&mut self.c)
    }

    fn symbol(&mut self) -> Parsed<()> {
        let at = self.c.pos();
        let d = dim(&mut self.c)?;
        let name: Option<Symbol> = d.as_symbol().cloned();
        let name = name.ok_or_else(|| self.c.error_at(at, "expected a symbol"))?;
        self.c.want("in")?;
        let lo = self.c.integer("a lower bound")?;
        self.c.want("..")?;
        let bounded = self.c.peek().is_some_and(|c| c.is_ascii_digit() || c == '-');
        let hi = if bounded {
            self.c.integer("an upper bound")?
        } else {
            i64::MAX
        };
        if self.m.symbols.0.insert(name, SymbolInfo { lo, hi }).is_some() {
            return Err(self.c.error_at(at, "the symbol is declared twice"));
        }
        Ok(())
    }

    fn loc(&mut self) -> Parsed<crate::graph::Loc> {
        Ok(if self.c.eat("loc") {
            self.c.quoted('"')?.into()
        } else {
            "".into()
        })
    }

    fn constant(&mut self) -> Parsed<()> {
        self.c.want("@")?;
        let at = self.c.pos();
        let n = self.c.unsigned("a number")?;
        if n != self.m.consts.len() as u64 {
            let next = self.m.consts.len();
            return Err(self
                .c
                .error_at(at, format!("constants are numbered in order: this is @{next}")));
        }
        let name = self.c.quoted('"')?;
        self.c.want(":")?;
        let at = self.c.pos();
        let ty = tensor_type(&mut self.c)?;
        let len = ty.bytes().as_const().and_then(|b| usize::try_from(b).ok());
        let len = len.ok_or_else(|| self.c.error_at(at, format!("a constant of type {ty}")))?;
        self.c.want("=")?;
        let at = self.c.pos();
        let made = if self.c.eat("file") {
            self.file_constant(&name, ty, len)?
        } else {
            let bytes = self.bytes(ty.storage(), len)?;
            Const::from_bytes(&name, ty, bytes)
        };
        let c = made.ok_or_else(|| self.c.error_at(at, format!("the data does not fill {len} bytes")))?;
        self.m.consts.add(c);
        Ok(())
    }

    fn literal(&mut self, ty: ScalarType) -> Parsed<u64> {
        let at = self.c.pos();
        let text = self.c.raw_while(literal::is_char);
        literal::parse(ty, text).ok_or_else(|| self.c.error_at(at, format!("`{text}` is no {ty}")))
    }

    fn bytes(&mut self, ty: ScalarType, len: usize) -> Parsed<Vec<u8>> {
        let mut out = Vec::new();
        if self.c.eat("splat") {
            let at = self.c.pos();
            let bits = self.literal(ty)?.to_le_bytes();
            if len > SPLAT_BYTES {
                return Err(self
                    .c
                    .error_at(at, format!("a constant of {len} bytes in the text")));
            }
            return Ok(bits[..ty.size()].repeat(len / ty.size()));
        }
        if self.c.eat("hex") {
            let at = self.c.pos();
            let text = self.c.raw_while(|c| c.is_ascii_hexdigit());
            let digits: Vec<u8> = text
                .chars()
                .filter_map(|c| c.to_digit(16))
                .map(|d| d as u8)
                .collect();
            if !digits.len().is_multiple_of(2) {
                return Err(self.c.error_at(at, "an odd number of hexadecimal digits"));
            }
            return Ok(digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect());
        }
        self.c.want("[")?;
        while !self.c.eat("]") {
            if !out.is_empty() {
                self.c.want(",")?;
            }
            let bits = self.literal(ty)?.to_le_bytes();
            out.extend_from_slice(&bits[..ty.size()]);
        }
        Ok(out)
    }

    fn file_constant(&mut self, name: &str, ty: TensorType, len: usize) -> Parsed<Option<Const>> {
        let at = self.c.pos();
        let start = self.c.unsigned("an offset")?;
        self.c.skip();
        let want = self.c.raw_while(|c| c.is_ascii_hexdigit());
        let Some(data) = self.data.clone() else {
            return Err(self
                .c
                .error_at(at, "the constant is in a data file, which was not given"));
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let c = Const::new(name, ty, data, start, len)
            .ok_or_else(|| self.c.error_at(at, "the data file is too short"))?;
        if hex(&c.hash()[..16]) != want {
            return Err(self.c.error_at(
                at,
                "the data file holds other data than the text was printed with",
            ));
        }
        Ok(Some(c))
    }

    fn graph(&mut self) -> Parsed<Graph> {
        let mut g = Graph::new();
        self.values.clear();
        self.consts.clear();
        self.c.want("{")?;
        while self.c.eat("input") {
            let number = self.new_name()?;
            let name = self.c.quoted('"')?;
            self.c.want(":")?;
            let (ty, layout) = self.typed()?;
            let v = g.add_input(&name, ty);
            g.set_layout(v, layout);
            self.values.insert(number, v);
        }
        while self.c.peek() == Some('%') {
            self.definition(&mut g)?;
        }
        let mut outputs = Vec::new();
        while self.c.eat("output") {
            let name = self.c.quoted('"')?;
            self.c.want("=")?;
            let value = self.operand(&mut g)?;
            outputs.push(Port { name, value });
        }
        g.set_outputs(outputs);
        self.c.want("}")?;
        Ok(g)
    }

    /// A value number that is not yet used.
    fn new_name(&mut self) -> Parsed<u64> {
        self.c.want("%")?;
        let at = self.c.pos();
        let n = self.c.unsigned("a number")?;
        if self.values.contains_key(&n) {
            return Err(self.c.error_at(at, format!("%{n} is defined twice")));
        }
        Ok(n)
    }

    fn typed(&mut self) -> Parsed<(TensorType, Option<Layout>)> {
        let ty = tensor_type(&mut self.c)?;
        if !self.c.eat("layout") {
            return Ok((ty, None));
        }
        let at = self.c.pos();
        let w = self.c.word("a layout")?;
        let layout = Layout::parse(w).ok_or_else(|| self.c.error_at(at, format!("unknown layout `{w}`")))?;
        Ok((ty, Some(layout)))
    }

    fn const_id(&mut self) -> Parsed<u32> {
        self.c.want("@")?;
        let at = self.c.pos();
        let n = self.c.unsigned("a number")?;
        let found = u32::try_from(n)
            .ok()
            .filter(|n| (*n as usize) < self.m.consts.len());
        found.ok_or_else(|| self.c.error_at(at, format!("@{n} is not declared")))
    }

    fn operand(&mut self, g: &mut Graph) -> Parsed<ValueId> {
        if self.c.peek() == Some('@') {
            let n = self.const_id()?;
            let ty = self.m.consts.get(ConstId(n)).ty.clone();
            return Ok(*self
                .consts
                .entry(n)
                .or_insert_with(|| g.add_const(ConstId(n), ty)));
        }
        self.c.want("%")?;
        let at = self.c.pos();
        let n = self.c.unsigned("a number")?;
        self.values.get(&n).copied().ok_or_else(|| {
            self.c
                .error_at(at, format!("%{n} is not defined before this use"))
        })
    }

    /// `%1 = @0 : type` or `%1, %2 = op(..) {..} : types loc ".." { region }`.
    fn definition(&mut self, g: &mut Graph) -> Parsed<()> {
        let mut names = vec![self.new_name()?];
        while self.c.eat(",") {
            let at = self.c.pos();
            let n = self.new_name()?;
            if names.contains(&n) {
                return Err(self.c.error_at(at, format!("%{n} is defined twice")));
            }
            names.push(n);
        }
        self.c.want("=")?;
        if self.c.peek() == Some('@') {
            let at = self.c.pos();
            let n = self.const_id()?;
            self.c.want(":")?;
            let (ty, layout) = self.typed()?;
            let [name] = names[..] else {
                return Err(self.c.error_at(at, "a constant is one value"));
            };
            if ty.bytes() != self.m.consts.get(ConstId(n)).ty.bytes() {
                return Err(self.c.error_at(at, format!("@{n} does not fill {ty}")));
            }
            let v = g.add_const(ConstId(n), ty);
            g.set_layout(v, layout);
            self.values.insert(name, v);
            return Ok(());
        }
        self.node(g, &names)
    }

    fn node(&mut self, g: &mut Graph, names: &[u64]) -> Parsed<()> {
        let at = self.c.pos();
        let op_name = self.c.word("an op")?;
        let mut ins = Vec::new();
        self.c.want("(")?;
        while !self.c.eat(")") {
            if !ins.is_empty() {
                self.c.want(",")?;
            }
            let absent = self.c.eat("_");
            ins.push(if absent { None } else { Some(self.operand(g)?) });
        }
        let mut attrs = AttrMap::default();
        if self.c.eat("{") {
            self.attributes(&mut attrs)?;
        }
        self.c.want(":")?;
        let mut types = vec![self.typed()?];
        while self.c.eat(",") {
            types.push(self.typed()?);
        }
        if types.len() != names.len() {
            let (n, t) = (names.len(), types.len());
            return Err(self.c.error_at(at, format!("{n} results with {t} types")));
        }
        let loc = self.loc()?;
        let plain: Vec<TensorType> = types.iter().map(|(t, _)| t.clone()).collect();
        if self.c.eat("{") {
            let r = region(&mut self.c)?;
            attrs.0.insert("region".into(), Attr::Region(Box::new(r)));
            attrs.0.insert("types".into(), Attr::Types(plain.clone()));
        }
        let op = Op::parse(op_name, attrs).map_err(|e| self.c.error_at(at, e))?;
        let id = g.add_node(op, ins, plain, loc);
        let outs = g.node(id).outputs.clone();
        for ((name, v), (_, layout)) in names.iter().zip(outs).zip(types) {
            g.set_layout(v, layout);
            self.values.insert(*name, v);
        }
        Ok(())
    }

    fn attributes(&mut self, attrs: &mut AttrMap) -> Parsed<()> {
        loop {
            let at = self.c.pos();
            let name = self.c.word("an attribute")?;
            self.c.want("=")?;
            let a = self.attribute()?;
            if attrs.0.insert(name.into(), a).is_some() {
                return Err(self.c.error_at(at, format!("attribute `{name}` is given twice")));
            }
            if self.c.eat("}") {
                return Ok(());
            }
            self.c.want(",")?;
        }
    }

    fn attribute(&mut self) -> Parsed<Attr> {
        match self.c.peek() {
            Some('{') => self.braced_dim().map(Attr::Dim),
            Some('(') => dims(&mut self.c, "(", ")").map(Attr::Dims),
            Some('[') => {
                self.c.eat("[");
                let mut out = Vec::new();
                while !self.c.eat("]") {
                    if !out.is_empty() {
                        self.c.want(",")?;
                    }
                    out.push(self.c.integer("an integer")?);
                }
                Ok(Attr::Ints(out))
            }
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => {
                let at = self.c.pos();
                let text = self.c.raw_while(literal::is_char);
                if let Ok(v) = text.parse::<i64>() {
                    return Ok(Attr::Int(v));
                }
                let bits = literal::parse(ScalarType::F32, text);
                bits.map(|b| Attr::F32(f32::from_bits(b as u32)))
                    .ok_or_else(|| self.c.error_at(at, format!("`{text}` is no number")))
            }
            _ => {
                if self.c.eat("quant") {
                    return quant_body(&mut self.c).map(Attr::Quant);
                }
                let w = self.c.word("an attribute value")?;
                Ok(match (w, ScalarType::parse(w)) {
                    ("true", _) => Attr::Bool(true),
                    ("false", _) => Attr::Bool(false),
                    (_, Some(t)) => Attr::Elem(t),
                    _ => Attr::Text(w.into()),
                })
            }
        }
    }
}

/// A dim in braces.
pub(super) fn braced_dim(c: &mut Cursor<'_>) -> Parsed<crate::types::Dim> {
    c.want("{")?;
    let d = dim(c)?;
    c.want("}")?;
    Ok(d)
}
