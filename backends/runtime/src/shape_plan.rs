//! A plan under one set of input shapes: values, arena placement, and ready launches.

use crate::error::RuntimeError;
use crate::model::Model;
use crate::place::{Item, Placement, place};
use crate::tensor::dense_bytes;
use rsqc_artifact::KernelFn;
use rsqc_artifact::expr::{self, Value};
use rsqc_artifact::manifest::{CmpOp, Cond, Launch, Manifest, buffer, step};

/// A launch whose expressions have values.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub kernel: KernelFn,
    pub params: Vec<i64>,
    /// Byte offset of each argument.
    pub offsets: Vec<i64>,
    pub tiles: i64,
    /// Which threads it is worth.
    pub threads: Threads,
}

/// Which threads a launch is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling one.
    Caller,
    /// Those that are awake: waking one takes about as long as the launch.
    Awake,
    /// All.
    All,
}

impl Threads {
    /// `cost`: estimated nanoseconds on one thread, 0 or less if unknown.
    fn for_launch(tiles: i64, cost: i64) -> Threads {
        match cost {
            _ if tiles <= 1 => Threads::Caller,
            ..=0 | 50_000.. => Threads::All,
            10_000.. => Threads::Awake,
            _ => Threads::Caller,
        }
    }
}

/// Everything about a run that the input shapes alone decide.
#[derive(Debug)]
pub(crate) struct ShapePlan {
    /// Rank and dimensions of all inputs.
    pub key: Vec<i64>,
    /// Symbols that the inputs bind.
    pub symbols: Vec<Option<i64>>,
    pub values: Vec<Value>,
    /// Per buffer: offset in the arena, for buffers placed there.
    pub offsets: Vec<Option<usize>>,
    pub arena_bytes: usize,
    /// Scratch bytes a thread.
    pub scratch_bytes: usize,
    /// Per step number: a launch that needs no late value.
    pub ready: Vec<Option<Ready>>,
}

/// The key of [`ShapePlan`] for these input shapes.
pub(crate) fn key_of(dims: &[&[i64]]) -> Vec<i64> {
    let mut key = Vec::with_capacity(dims.iter().map(|d| d.len() + 1).sum());
    for dims in dims {
        key.push(dims.len() as i64);
        key.extend_from_slice(dims);
    }
    key
}

impl ShapePlan {
    /// Evaluates, places and readies everything for the given symbols.
    pub fn new(model: &Model, key: Vec<i64>, symbols: Vec<Option<i64>>) -> Result<ShapePlan, RuntimeError> {
        let m = model.manifest();
        let layout = model.layout();
        let values = expr::evaluate(&m.exprs, &symbols);
        let mut items = Vec::new();
        let mut placed = Vec::new();
        for (id, buffer) in m.buffers.iter().enumerate() {
            let own_memory = matches!(buffer.kind, Some(buffer::Kind::Arena(_) | buffer::Kind::Host(_)));
            if !own_memory {
                check_size(m, &values, id)?;
            }
            if !own_memory || layout.alias[id] || layout.late_buffer[id] {
                continue;
            }
            let (first, last) = layout.live[id];
            items.push(Item {
                bytes: bytes_of(m, &values, id as u32)?,
                first,
                last,
            });
            placed.push(id);
        }
        let Placement { offsets: at, total } =
            place(&items).ok_or_else(|| RuntimeError::NoMemory("the arena would overflow".into()))?;
        let mut offsets = vec![None; m.buffers.len()];
        for (id, at) in placed.into_iter().zip(at) {
            offsets[id] = Some(at);
        }
        let mut plan = ShapePlan {
            key,
            symbols,
            values,
            offsets,
            arena_bytes: total,
            scratch_bytes: 0,
            ready: vec![None; layout.steps as usize],
        };
        plan.ready_launches(model)?;
        Ok(plan)
    }

    fn ready_launches(&mut self, model: &Model) -> Result<(), RuntimeError> {
        let (m, layout) = (model.manifest(), model.layout());
        let late = |id: u32| layout.late_expr[id as usize];
        for (block, numbers) in m.blocks.iter().zip(&layout.numbers) {
            for (step, number) in block.steps.iter().zip(numbers) {
                let Some(step::Kind::Launch(launch)) = &step.kind else {
                    continue;
                };
                // A launch inside a branch may have no value for shapes that never take the branch; what is
                // wrong with it is reported when it runs.
                if launch_exprs(launch).any(late) || (launch_exprs(launch).any(|id| !self.known(id))) {
                    continue;
                }
                if let Ok((ready, scratch)) = ready(model, launch, &self.values) {
                    self.scratch_bytes = self.scratch_bytes.max(scratch);
                    self.ready[*number as usize] = Some(ready);
                }
            }
        }
        Ok(())
    }

    fn known(&self, id: u32) -> bool {
        matches!(self.values[id as usize], Value::Known(_))
    }
}

/// The memory behind an input or a weight is as large as its buffer; outputs are checked when they are placed.
fn check_size(m: &Manifest, values: &[Value], id: usize) -> Result<(), RuntimeError> {
    let room = match &m.buffers[id].kind {
        Some(buffer::Kind::Input(i)) => {
            let io = &m.inputs[*i as usize];
            let dims = io
                .dims
                .iter()
                .map(|d| value(m, values, *d))
                .collect::<Result<Vec<_>, _>>()?;
            dense_bytes(io.elem(), &dims).unwrap_or(0)
        }
        Some(buffer::Kind::Weight(range)) => range.length as usize,
        _ => return Ok(()),
    };
    let bytes = bytes_of(m, values, id as u32)?;
    if bytes <= room {
        return Ok(());
    }
    let name = &m.buffers[id].name;
    Err(RuntimeError::Internal(format!(
        "buffer {id} ({name}) of {bytes} bytes lies on {room} bytes"
    )))
}

/// All expressions that decide how a launch runs.
fn launch_exprs(launch: &Launch) -> impl Iterator<Item = u32> + '_ {
    let guards = launch
        .variants
        .iter()
        .flat_map(|v| v.guards.iter().flat_map(|g| [g.a, g.b]));
    let replaced = launch
        .variants
        .iter()
        .flat_map(|v| [v.tiles, v.scratch_bytes, v.cost])
        .flatten();
    let own = [Some(launch.tiles), launch.scratch_bytes, launch.cost]
        .into_iter()
        .flatten();
    let args = launch.args.iter().filter_map(|a| a.byte_offset);
    guards
        .chain(replaced)
        .chain(own)
        .chain(args)
        .chain(launch.params.iter().copied())
}

/// The value of an expression.
pub(crate) fn value(m: &Manifest, values: &[Value], id: u32) -> Result<i64, RuntimeError> {
    Ok(expr::require(values, id, &m.exprs, &m.symbols)?)
}

/// Whether a condition holds.
pub(crate) fn holds(m: &Manifest, values: &[Value], cond: &Cond) -> Result<bool, RuntimeError> {
    let (a, b) = (value(m, values, cond.a)?, value(m, values, cond.b)?);
    let op = CmpOp::try_from(cond.op).expect("validated");
    Ok(op.holds(a, b))
}

/// The size of a buffer.
pub(crate) fn bytes_of(m: &Manifest, values: &[Value], buffer: u32) -> Result<usize, RuntimeError> {
    let info = &m.buffers[buffer as usize];
    let bytes = value(m, values, info.bytes)?;
    usize::try_from(bytes).map_err(|_| {
        RuntimeError::Shape(format!(
            "buffer {buffer} ({}) would have {bytes} bytes",
            info.name
        ))
    })
}

/// Chooses the variant and evaluates everything; also returns the scratch bytes a thread needs.
pub(crate) fn ready(
    model: &Model,
    launch: &Launch,
    values: &[Value],
) -> Result<(Ready, usize), RuntimeError> {
    let m = model.manifest();
    let get = |id: u32| value(m, values, id);
    let optional = |id: Option<u32>| id.map_or(Ok(0), get);
    let mut chosen = None;
    for variant in &launch.variants {
        let mut fits = true;
        for cond in &variant.guards {
            fits = fits && holds(m, values, cond)?;
        }
        if fits {
            chosen = Some(variant);
            break;
        }
    }
    let variant = chosen.ok_or_else(|| {
        RuntimeError::Internal(format!("no kernel of step '{}' fits these shapes", launch.name))
    })?;
    let tiles = get(variant.tiles.unwrap_or(launch.tiles))?;
    let scratch = optional(variant.scratch_bytes.or(launch.scratch_bytes))?;
    let cost = optional(variant.cost.or(launch.cost))?;
    let mut offsets = Vec::with_capacity(launch.args.len());
    for arg in &launch.args {
        let offset = optional(arg.byte_offset)?;
        let bytes = bytes_of(m, values, arg.buffer)?;
        if usize::try_from(offset).is_ok_and(|o| o <= bytes) {
            offsets.push(offset);
        } else {
            let name = &m.buffers[arg.buffer as usize].name;
            return Err(RuntimeError::Internal(format!(
                "step '{}' starts at byte {offset} of buffer {} ({name}) of {bytes} bytes",
                launch.name, arg.buffer
            )));
        }
    }
    let scratch = usize::try_from(scratch)
        .ok()
        .filter(|_| tiles >= 0)
        .ok_or_else(|| {
            RuntimeError::Internal(format!(
                "step '{}' has {tiles} tiles and {scratch} scratch bytes",
                launch.name
            ))
        })?;
    let ready = Ready {
        kernel: model.kernel(variant.kernel),
        params: launch
            .params
            .iter()
            .map(|id| get(*id))
            .collect::<Result<_, _>>()?,
        offsets,
        tiles,
        threads: Threads::for_launch(tiles, cost),
    };
    Ok((ready, scratch))
}
