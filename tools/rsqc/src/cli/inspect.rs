//! `rsqc inspect`.

use super::{is_artifact, print_line};
use crate::artifact::ArtifactProgram;
use crate::error::Failure;
use crate::{compiler, specs};
use rsqc_artifact::Manifest;
use rsqc_artifact::manifest::{self as pb, buffer, step};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Show what a model or an artifact holds.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  rsqc inspect model.onnx
  rsqc inspect model.so --plan
  rsqc inspect model.so --plan --json")]
pub struct Args {
    /// An ONNX model, or an artifact made by `rsqc compile`.
    file: PathBuf,
    /// Every step: kernel, scheme, shapes as expressions, bytes.
    #[arg(long)]
    plan: bool,
    /// Every weight: name, type, shape, bytes.
    #[arg(long)]
    weights: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let rows = if is_artifact(&a.file) {
        artifact(a)?
    } else {
        model(&a.file)?
    };
    for r in rows {
        print_line(&if a.json { r.to_string() } else { pretty(&r) })?;
    }
    Ok(())
}

/// An object as one line: its kind, then the other fields.
fn pretty(v: &Value) -> String {
    let Value::Object(map) = v else {
        return v.to_string();
    };
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        Value::Array(list) => list
            .iter()
            .map(|x| x.as_str().map_or(x.to_string(), String::from))
            .collect::<Vec<_>>()
            .join(" "),
        v => v.to_string(),
    };
    let rest: Vec<String> = map
        .iter()
        .filter(|(k, v)| *k != "kind" && !text(v).is_empty())
        .map(|(k, v)| format!("{k}={}", text(v)))
        .collect();
    format!(
        "{:<8} {}",
        map.get("kind").map(text).unwrap_or_default(),
        rest.join("  ")
    )
}

fn model(path: &Path) -> Result<Vec<Value>, Failure> {
    let m = compiler::import(path, &BTreeMap::new())?;
    let g = &m.graph;
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    for n in g.node_ids() {
        *ops.entry(g.node(n).op.name()).or_default() += 1;
    }
    let mut rows = vec![
        json!({ "kind": "model", "name": m.name, "nodes": g.node_count(), "constants": m.consts.len() }),
    ];
    let port = |kind: &str, p: &rsqc_ir::Port| json!({ "kind": kind, "name": p.name, "type": g.ty(p.value).to_string() });
    rows.extend(g.inputs().iter().map(|p| port("input", p)));
    rows.extend(g.outputs().iter().map(|p| port("output", p)));
    for (s, i) in &m.symbols.0 {
        rows.push(json!({ "kind": "symbol", "name": s.name(), "lo": i.lo, "hi": i.hi }));
    }
    rows.extend(
        ops.iter()
            .map(|(op, n)| json!({ "kind": "op", "op": op, "count": n })),
    );
    Ok(rows)
}

fn artifact(a: &Args) -> Result<Vec<Value>, Failure> {
    let program = ArtifactProgram::open(&a.file, 1)?;
    let m = program.manifest();
    let bytes = std::fs::metadata(&a.file).map_or(0, |m| m.len());
    let mut rows = vec![json!({
        "kind": "artifact", "name": m.model_name, "producer": m.producer, "scheme": m.scheme,
        "format": format!("{}.{}", m.version_major, m.version_minor), "levels": m.levels, "bytes": bytes,
        "code_bytes": m.code.as_ref().map_or(0, |s| s.length), "weight_bytes": m.weights.as_ref().map_or(0, |s| s.length),
        "kernels": m.kernels.len(), "steps": m.blocks.iter().map(|b| b.steps.len()).sum::<usize>(),
    })];
    let port = |kind: &str, s: &crate::data::inputs::Spec| json!({ "kind": kind, "name": s.name, "type": s.ty.to_string() });
    rows.extend(specs::inputs(m).iter().map(|s| port("input", s)));
    rows.extend(specs::outputs(m).iter().map(|s| port("output", s)));
    rows.extend(
        m.symbols
            .iter()
            .map(|s| json!({ "kind": "symbol", "name": s.name, "lo": s.lo, "hi": s.hi })),
    );
    rows.extend(m.layers.iter().map(layer_row));
    if a.plan {
        rows.extend(plan(m));
    }
    if a.weights {
        rows.extend(weights(m));
    }
    Ok(rows)
}

/// A layer with what passes remarked about it: numbers as numbers.
fn layer_row(l: &pb::Layer) -> Value {
    let mut row = json!({
        "kind": "layer", "node": l.name, "op": l.op, "scheme": l.scheme, "reason": l.reason,
        "bytes_before": l.weight_bytes_before, "bytes_after": l.weight_bytes_after,
    });
    for e in &l.extra {
        let number = e.value.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        row[&e.key] = match (e.value.parse::<i64>(), number) {
            (Ok(i), _) => i.into(),
            (_, Some(n)) => n.into(),
            _ => e.value.clone().into(),
        };
    }
    row
}

fn plan(m: &Manifest) -> Vec<Value> {
    let exprs = specs::expr_texts(m);
    let mut rows = Vec::new();
    for (b, block) in m.blocks.iter().enumerate() {
        for (i, s) in block.steps.iter().enumerate() {
            rows.push(step_row(m, &exprs, b, i, s));
        }
    }
    rows
}

fn step_row(m: &Manifest, exprs: &[String], block: usize, index: usize, s: &pb::Step) -> Value {
    let expr = |id: u32| exprs.get(id as usize).cloned().unwrap_or_default();
    let optional = |id: Option<u32>| id.map(expr).unwrap_or_default();
    let at = format!("{block}.{index}");
    match &s.kind {
        Some(step::Kind::Launch(l)) => {
            let (reads, writes): (Vec<_>, Vec<_>) =
                l.args.iter().partition(|a| a.access == pb::Access::Read as i32);
            let list = |args: Vec<&pb::Arg>| -> Vec<String> {
                args.iter().map(|a| tensor(m, exprs, a.buffer)).collect()
            };
            json!({
                "kind": "step", "at": at, "do": "launch", "kernel": l.name, "node": l.node, "reads": list(reads),
                "writes": list(writes), "tiles": expr(l.tiles), "macs": optional(l.macs), "bytes": optional(l.bytes),
                "scratch": optional(l.scratch_bytes),
            })
        }
        Some(step::Kind::Copy(c)) => json!({
            "kind": "step", "at": at, "do": "copy", "reads": [tensor(m, exprs, c.src)], "writes": [tensor(m, exprs, c.dst)],
            "bytes": expr(c.bytes),
        }),
        Some(step::Kind::Check(c)) => {
            json!({ "kind": "step", "at": at, "do": "check", "what": c.message, "node": c.node })
        }
        Some(step::Kind::Alias(c)) => json!({
            "kind": "step", "at": at, "do": "alias", "writes": [tensor(m, exprs, c.buffer)], "reads": [tensor(m, exprs, c.of)],
        }),
        Some(step::Kind::Bind(c)) => {
            json!({ "kind": "step", "at": at, "do": "bind", "reads": [tensor(m, exprs, c.buffer)] })
        }
        Some(step::Kind::Branch(_)) => json!({ "kind": "step", "at": at, "do": "if" }),
        Some(step::Kind::Loop(_)) => json!({ "kind": "step", "at": at, "do": "loop" }),
        Some(step::Kind::State(s)) => json!({ "kind": "step", "at": at, "do": "state", "what": s.op }),
        None => json!({ "kind": "step", "at": at, "do": "unknown" }),
    }
}

/// A buffer as `name:i8[batch, 384]`.
fn tensor(m: &Manifest, exprs: &[String], id: u32) -> String {
    let Some(b) = m.buffers.get(id as usize) else {
        return String::new();
    };
    let dims: Vec<&str> = b
        .dims
        .iter()
        .map(|d| exprs.get(*d as usize).map_or("?", String::as_str))
        .collect();
    let place = match &b.kind {
        Some(buffer::Kind::Input(_)) => "in ",
        Some(buffer::Kind::Output(_)) => "out ",
        Some(buffer::Kind::Weight(_)) => "w ",
        _ => "",
    };
    format!("{place}{}:{}[{}]", b.name, b.elem().name(), dims.join(","))
}

fn weights(m: &Manifest) -> Vec<Value> {
    let exprs = specs::expr_texts(m);
    let row = |(i, b): (usize, &pb::Buffer)| match &b.kind {
        Some(buffer::Kind::Weight(w)) => Some(json!({
            "kind": "weight", "tensor": tensor(m, &exprs, i as u32), "offset": w.offset, "bytes": w.length,
        })),
        _ => None,
    };
    m.buffers.iter().enumerate().filter_map(row).collect()
}
