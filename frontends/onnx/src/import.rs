//! The importer: walks the graph once, in the order of the file, and hands each node to its row in [`crate::ops::TABLE`].
//!
//! Where two dims turn out to be equal (`s10` of one input, `batch` of another), importing starts again with that
//! equation. Everything unsupported is collected and reported together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use onnx_protobuf::{NodeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto};
use rsqc_ir::module::{Module, SymbolInfo};
use rsqc_ir::types::{Dim, ScalarType, Symbol, TensorType};
use rsqc_ir::{Loc, Port};

use crate::call::Call;
use crate::cx::{Cx, Stop, V, show};
use crate::dims::{clean_name, parse_dim};
use crate::error::{ErrorKind, ImportError, Res, escape, model_error};
use crate::load::{Loaded, MAX_ITEMS, load_bytes, load_file};
use crate::ops::{self, NEWEST, OLDEST};
use crate::source::{Bytes, ExternalFiles};
use crate::tensor::OnnxType;

/// What `--dim NAME=...` says about a symbolic dim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DimSpec {
    /// Always this value.
    Fixed(i64),
    /// Between these bounds, inclusive.
    Range(i64, i64),
}

/// Options of an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Values or bounds of symbolic dims, by name.
    pub dims: BTreeMap<String, DimSpec>,
}

/// Newest IR version of the file format that was looked at.
const NEWEST_IR: i64 = 14;
/// Restarts times nodes: what solving equations may cost.
const RESTART_WORK: usize = 2_000_000;

/// Imports the model at `path`.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let mut loaded = load_file(path)?;
    let name = path
        .file_stem()
        .map(|s| escape(&s.to_string_lossy()))
        .unwrap_or_default();
    import_loaded(&mut loaded, &name, options).map_err(|kind| ImportError::new(path, kind))
}

/// Imports a model held in memory; external data is refused.
pub fn import_bytes(bytes: &Bytes, name: &str, options: &ImportOptions) -> Res<Module> {
    let mut loaded = load_bytes(bytes, ExternalFiles::default())?;
    import_loaded(&mut loaded, name, options)
}

fn import_loaded(loaded: &mut Loaded, name: &str, options: &ImportOptions) -> Res<Module> {
    let opset = check_model(loaded)?;
    check_operators(loaded, opset)?;
    check_names(loaded)?;
    let mut equations: Vec<(Symbol, Dim)> = Vec::new();
    let restarts = RESTART_WORK
        .checked_div(loaded.graph.node.len())
        .unwrap_or(2000)
        .clamp(8, 2000);
    let mut files = Some(std::mem::take(&mut loaded.files));
    let typed = loaded.graph.value_info.iter().filter(|i| i.type_.is_some());
    let declared: HashMap<&str, &ValueInfoProto> = typed.map(|i| (i.name.as_str(), i)).collect();
    loop {
        let mut run = Run {
            loaded: &*loaded,
            opset,
            options,
            equations: &equations,
            values: HashMap::new(),
            declared: &declared,
            used: BTreeSet::new(),
        };
        let mut cx = Cx::new(Module {
            name: name.to_owned(),
            ..Module::default()
        });
        cx.files = files.take();
        let result = run.all(&mut cx);
        let unused = options
            .dims
            .keys()
            .find(|n| !run.used.contains(n.as_str()))
            .cloned();
        match result {
            Ok(()) => {
                if let Some(name) = unused {
                    return model_error("--dim", format!("the model has no dimension '{}'", escape(&name)));
                }
                return Ok(cx.module);
            }
            Err(Stop::Error(e)) => return Err(e),
            Err(Stop::Unsupported(item)) => return Err(ErrorKind::Unsupported(vec![item])),
            Err(Stop::Unify(symbol, value)) => {
                if value.as_const().is_some_and(|v| v < 0) || equations.len() >= restarts {
                    return model_error(
                        cx.place,
                        format!(
                            "dimension '{}' would have to be {}",
                            escape(symbol.name()),
                            show(&value)
                        ),
                    );
                }
                equations.push((symbol, value));
                files = cx.files.take();
            }
        }
    }
}

/// Versions and the operator set of the default domain.
fn check_model(loaded: &Loaded) -> Res<i64> {
    let model = &loaded.model;
    if model.ir_version < 1 {
        return model_error(
            "model",
            format!("IR version is {}, expected 1 or more", model.ir_version),
        );
    }
    if model.ir_version > NEWEST_IR {
        return Err(ErrorKind::Unsupported(vec![format!(
            "IR version {} (newest known is {NEWEST_IR})",
            model.ir_version
        )]));
    }
    let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
    for o in &model.opset_import {
        let domain = if o.domain == "ai.onnx" {
            ""
        } else {
            o.domain.as_str()
        };
        if o.version < 1 {
            return model_error(
                "model",
                format!(
                    "operator set version of domain '{}' is {}",
                    escape(domain),
                    o.version
                ),
            );
        }
        if versions.insert(domain, o.version).is_some_and(|v| v != o.version) {
            return model_error(
                "model",
                format!("operator set of domain '{}' is given twice", escape(domain)),
            );
        }
    }
    let Some(&opset) = versions.get("") else {
        return model_error("model", "operator set of the default domain is missing");
    };
    if !(OLDEST..=NEWEST).contains(&opset) {
        return Err(ErrorKind::Unsupported(vec![format!(
            "operator set {opset} (supported are {OLDEST} to {NEWEST})"
        )]));
    }
    if !loaded.graph.sparse_initializer.is_empty() {
        return Err(ErrorKind::Unsupported(vec!["sparse initializers".into()]));
    }
    let counts = [
        ("nodes", loaded.graph.node.len()),
        ("inputs", loaded.graph.input.len()),
        ("outputs", loaded.graph.output.len()),
    ];
    for (what, n) in counts {
        if n > MAX_ITEMS {
            let what = format!("the number of {what}");
            return Err(ErrorKind::TooLarge {
                what,
                found: n as u64,
                limit: MAX_ITEMS as u64,
            });
        }
    }
    Ok(opset)
}

/// All operators that have no importer, in the order of first use.
fn check_operators(loaded: &Loaded, opset: i64) -> Res<()> {
    let mut missing: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, node) in loaded.graph.node.iter().enumerate() {
        let what = match unsupported_operator(loaded, node, opset) {
            Some(what) => what,
            None => continue,
        };
        if seen.insert((node.domain.as_str(), node.op_type.as_str())) {
            missing.push(format!("{what} (first at {})", place(node, i)));
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(ErrorKind::Unsupported(missing))
    }
}

fn unsupported_operator(loaded: &Loaded, node: &NodeProto, opset: i64) -> Option<String> {
    let op = escape(&node.op_type);
    if loaded
        .model
        .functions
        .iter()
        .any(|f| f.domain == node.domain && f.name == node.op_type)
    {
        return Some(format!("model-local function {op}"));
    }
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return Some(format!("operator {}.{op}", escape(&node.domain)));
    }
    match ops::find(&node.op_type) {
        None => Some(format!("operator {op}")),
        Some(row) if !row.opset.contains(&opset) => Some(format!(
            "operator {op} at operator set {opset} (supported from {})",
            row.opset.start()
        )),
        Some(_) => None,
    }
}

/// Names are defined once; the graph has outputs.
fn check_names(loaded: &Loaded) -> Res<()> {
    let g = &loaded.graph;
    let mut defined: HashMap<&str, ()> = HashMap::new();
    for t in &loaded.initializers {
        if t.name.is_empty() {
            return model_error("graph", "an initializer has no name");
        }
        if defined.insert(&t.name, ()).is_some() {
            return model_error(
                "graph",
                format!("initializer '{}' is defined twice", escape(&t.name)),
            );
        }
    }
    let mut inputs: HashMap<&str, ()> = HashMap::new();
    for i in &g.input {
        if i.name.is_empty() {
            return model_error("graph", "an input has no name");
        }
        if inputs.insert(&i.name, ()).is_some() {
            return model_error("graph", format!("input '{}' is defined twice", escape(&i.name)));
        }
        defined.insert(&i.name, ());
    }
    for (i, node) in g.node.iter().enumerate() {
        for o in node.output.iter().filter(|o| !o.is_empty()) {
            if defined.insert(o, ()).is_some() {
                return model_error(
                    place(node, i),
                    format!("defines '{}', which is already defined", escape(o)),
                );
            }
        }
    }
    if g.output.is_empty() {
        return model_error("graph", "has no outputs");
    }
    Ok(())
}

/// The name of a node, for messages and locations.
fn place(node: &NodeProto, number: usize) -> String {
    let op = escape(&node.op_type);
    if node.name.is_empty() {
        format!("node {number} ({op})")
    } else {
        format!("node '{}' ({op})", escape(&node.name))
    }
}

/// One pass over the graph.
struct Run<'a> {
    loaded: &'a Loaded,
    opset: i64,
    options: &'a ImportOptions,
    equations: &'a [(Symbol, Dim)],
    /// Values by name; `None` for those that a node with unsupported features would have defined.
    values: HashMap<&'a str, Option<V>>,
    /// Types that the file declares for values inside the graph.
    declared: &'a HashMap<&'a str, &'a ValueInfoProto>,
    /// Names of `--dim` that occurred.
    used: BTreeSet<String>,
}

impl<'a> Run<'a> {
    fn all(&mut self, cx: &mut Cx) -> Result<(), Stop> {
        for t in &self.loaded.initializers {
            let v = cx.push_tensor(t.clone());
            self.values.insert(&t.name, Some(v));
        }
        for input in &self.loaded.graph.input {
            self.input(cx, input)?;
        }
        let mut unsupported = Vec::new();
        for (i, node) in self.loaded.graph.node.iter().enumerate() {
            cx.place = place(node, i);
            cx.loc = if node.name.is_empty() {
                Loc::from(format!("{}#{i}", escape(&node.op_type)))
            } else {
                escape(&node.name).into()
            };
            match self.node(cx, node) {
                Err(Stop::Unsupported(item)) => {
                    unsupported.push(item);
                    self.values.extend(node.output.iter().map(|o| (o.as_str(), None)));
                }
                other => other?,
            }
        }
        if !unsupported.is_empty() {
            return Err(Stop::Error(ErrorKind::Unsupported(unsupported)));
        }
        self.outputs(cx)?;
        cx.module.graph.remove_dead();
        cx.module.provenance.push(format!("onnx opset {}", self.opset));
        Ok(())
    }

    /// A dim under the user's options and the equations found so far.
    fn settle(&mut self, cx: &mut Cx, dim: Dim) -> Dim {
        let mut d = dim;
        for s in d.symbols() {
            if let Some(spec) = self.options.dims.get(s.name()) {
                self.used.insert(s.name().to_owned());
                match *spec {
                    DimSpec::Fixed(v) => d = d.substitute(&|x| (*x == s).then(|| Dim::from(v))),
                    DimSpec::Range(lo, hi) => {
                        _ = cx.module.symbols.0.insert(s.clone(), SymbolInfo { lo, hi })
                    }
                }
            }
        }
        for (symbol, value) in self.equations {
            if d.symbols().contains(symbol) {
                d = d.substitute(&|x| (x == symbol).then(|| value.clone()));
            }
        }
        for s in d.symbols() {
            cx.module.symbols.0.entry(s.clone()).or_default();
            let next = cx.order.len();
            cx.order.entry(s).or_insert(next);
        }
        d
    }

    fn input(&mut self, cx: &mut Cx, info: &'a ValueInfoProto) -> Result<(), Stop> {
        let name = info.name.as_str();
        cx.place = format!("input '{}'", escape(name));
        if self.values.contains_key(name) {
            return Ok(()); // an initializer: a default that nobody overrides
        }
        let (elem, shape) = tensor_type(cx, info)?;
        let Some(shape) = shape else {
            return cx.unsupported("input of unknown rank");
        };
        let mut dims = Vec::with_capacity(shape.len());
        for (axis, d) in shape.into_iter().enumerate() {
            let dim = match d {
                Declared::Known(v) if v < 0 => {
                    return cx.fail(format!("axis {axis} has extent {v}, expected 0 or more"));
                }
                Declared::Known(v) => Dim::from(v),
                Declared::Param(text) => parse_dim(&text),
                Declared::Open => Dim::sym(&format!("{}.{axis}", clean_name(name))),
            };
            dims.push(self.settle(cx, dim));
        }
        let ty = TensorType::new(elem, dims);
        cx.check_size(&ty)?;
        let id = cx.module.graph.add_input(name, ty);
        let v = cx.push_value(id);
        self.values.insert(name, Some(v));
        Ok(())
    }

    fn node(&mut self, cx: &mut Cx, node: &'a NodeProto) -> Result<(), Stop> {
        let Some(row) = ops::find(&node.op_type) else {
            return cx.unsupported("operator");
        };
        let mut ins = Vec::with_capacity(node.input.len());
        let mut spoilt = false;
        for name in &node.input {
            ins.push(match self.values.get(name.as_str()) {
                Some(Some(v)) => Some(*v),
                Some(None) => {
                    spoilt = true;
                    None
                }
                None if name.is_empty() => None,
                None => return cx.fail(format!("uses '{}', which is not defined before it", escape(name))),
            });
        }
        if spoilt {
            self.values.extend(node.output.iter().map(|o| (o.as_str(), None)));
            return Ok(());
        }
        while ins.last() == Some(&None) {
            ins.pop();
        }
        if ins.len() < row.ins.0 || ins.len() > row.ins.1 {
            return cx.fail(format!(
                "has {} operands, expected {} to {}",
                ins.len(),
                row.ins.0,
                row.ins.1
            ));
        }
        if node.output.len() > row.outs || node.output.is_empty() {
            return cx.fail(format!(
                "has {} outputs, expected 1 to {}",
                node.output.len(),
                row.outs
            ));
        }
        let call = Call::new(cx, node, self.opset, ins)?;
        let out = (row.import)(cx, &call)?;
        call.finish(cx)?;
        for (i, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            match out.get(i) {
                Some(v) => {
                    if let Some(info) = self.declared.get(name.as_str()) {
                        self.check_declared(cx, info, *v)?;
                    }
                    self.values.insert(name, Some(*v));
                }
                None => return cx.unsupported(format!("output {i}")),
            }
        }
        Ok(())
    }

    fn outputs(&mut self, cx: &mut Cx) -> Result<(), Stop> {
        let mut ports: Vec<Port> = Vec::new();
        let mut names = BTreeSet::new();
        for info in &self.loaded.graph.output {
            cx.place = format!("output '{}'", escape(&info.name));
            cx.loc = escape(&info.name).into();
            let Some(Some(v)) = self.values.get(info.name.as_str()).copied() else {
                return cx.fail("is not defined");
            };
            if !names.insert(info.name.as_str()) {
                return cx.fail("is listed twice");
            }
            if info.type_.is_some() {
                self.check_declared(cx, info, v)?;
            }
            let value = cx.data(v)?;
            ports.push(Port {
                name: info.name.clone(),
                value,
            });
        }
        cx.module.graph.set_outputs(ports);
        Ok(())
    }

    /// A declared type must not contradict what the graph computes.
    fn check_declared(&self, cx: &Cx, info: &ValueInfoProto, v: V) -> Result<(), Stop> {
        let (elem, shape) = match tensor_type(cx, info) {
            // 4-bit codes inside a graph are held in bytes.
            Err(Stop::Unsupported(_)) if self.declared.contains_key(info.name.as_str()) => return Ok(()),
            other => other?,
        };
        if elem != cx.elem(v) {
            return cx.fail(format!(
                "'{}' is declared as {elem}, but the graph computes {}",
                escape(&info.name),
                cx.elem(v)
            ));
        }
        let Some(shape) = shape else { return Ok(()) };
        let have = cx.shape(v).to_vec();
        if shape.len() != have.len() {
            return cx.fail(format!(
                "'{}' is declared with rank {}, but the graph computes rank {}",
                escape(&info.name),
                shape.len(),
                have.len()
            ));
        }
        for (axis, (declared, computed)) in shape.into_iter().zip(&have).enumerate() {
            if let Declared::Known(n) = declared
                && computed.never_eq(&Dim::from(n), &cx.module.symbols)
            {
                return cx.fail(format!(
                    "axis {axis} of '{}' is declared as {n}, but the graph computes {}",
                    escape(&info.name),
                    show(computed)
                ));
            }
        }
        Ok(())
    }
}

/// A declared extent.
enum Declared {
    Known(i64),
    Param(String),
    Open,
}

/// Element type and declared shape of an input or output.
fn tensor_type(cx: &Cx, info: &ValueInfoProto) -> Result<(ScalarType, Option<Vec<Declared>>), Stop> {
    let tensor = match info.type_.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => t,
        Some(_) => return cx.unsupported("a type that is not a dense tensor"),
        None => return cx.fail("has no type"),
    };
    let elem = match OnnxType::from_code(tensor.elem_type) {
        Ok(t) if t.bits != 4 => t.storage,
        Ok(_) => return cx.unsupported("4-bit codes as an input or output"),
        Err(what) if tensor.elem_type == 0 => return cx.fail(format!("has {what}")),
        Err(what) => return cx.unsupported(what),
    };
    let Some(shape) = tensor.shape.as_ref() else {
        return Ok((elem, None));
    };
    if shape.dim.len() > 64 {
        return cx.fail(format!("has rank {}, over the limit of 64", shape.dim.len()));
    }
    let dims = shape.dim.iter().map(|d| match &d.value {
        Some(dimension::Value::DimValue(v)) => Declared::Known(*v),
        Some(dimension::Value::DimParam(p)) if !p.is_empty() => Declared::Param(p.clone()),
        _ => Declared::Open,
    });
    Ok((elem, Some(dims.collect())))
}
