//! Every rule that a plan obeys; the runtime relies on them without checking again.
//!
//! 1. The version is readable and no step is of an unknown kind.
//! 2. Expressions refer to earlier ones and to symbols that exist; symbol ranges are not empty.
//! 3. Every index (expression, symbol, buffer, kernel, block, input, output) lies in its table; every
//!    enumeration value is known.
//! 4. Weight ranges lie in the weight segment and start at multiples of 64; code offsets lie in the code.
//! 5. Inputs and outputs and their buffers refer to each other.
//! 6. Blocks form a tree rooted at block 0, at most [`MAX_DEPTH`] deep.
//! 7. A step uses a buffer only inside the buffer's live range; a buffer that a loop uses and that was live
//!    before the loop lives to the loop's end.
//! 8. Only an arena buffer is an alias, of one buffer; nothing writes a weight or an input, directly or through
//!    an alias.

use crate::error::ArtifactError;
use crate::level::Level;
use crate::manifest::{
    Access, Buffer, CmpOp, Cond, ElemType, Io, Launch, Manifest, Step, VERSION, buffer, expr::Node, step,
};

/// Deepest nesting of blocks.
pub const MAX_DEPTH: usize = 32;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 32;

/// Checks all rules of the module documentation. Linear in the size of the manifest.
///
/// # Errors
/// [`ArtifactError::Version`] for a newer format or unknown step kinds, else [`ArtifactError::Invalid`].
pub fn validate(m: &Manifest) -> Result<(), ArtifactError> {
    check_version(m)?;
    check_exprs(m)?;
    check_tables(m)?;
    Walk::new(m).run()
}

/// Refuses manifests of another major version.
///
/// # Errors
/// [`ArtifactError::Version`] naming both versions.
pub fn check_version(m: &Manifest) -> Result<(), ArtifactError> {
    if m.version_major == VERSION.0 {
        return Ok(());
    }
    Err(ArtifactError::Version {
        found: format!("manifest {}.{}", m.version_major, m.version_minor),
        known: format!("manifest {}.{}", VERSION.0, VERSION.1),
    })
}

fn bad<T>(text: String) -> Result<T, ArtifactError> {
    Err(ArtifactError::invalid(text))
}

fn index_in(what: &str, index: u32, len: usize, user: &str) -> Result<(), ArtifactError> {
    if (index as usize) < len {
        Ok(())
    } else {
        bad(format!("{user} refers to {what} {index}, but there are {len}"))
    }
}

fn check_exprs(m: &Manifest) -> Result<(), ArtifactError> {
    for (i, symbol) in m.symbols.iter().enumerate() {
        if symbol.lo > symbol.hi {
            return bad(format!(
                "symbol {i} ({}) has the empty range {}..{}",
                symbol.name, symbol.lo, symbol.hi
            ));
        }
    }
    for (i, expr) in m.exprs.iter().enumerate() {
        let user = || format!("expression {i}");
        match &expr.node {
            Some(Node::Constant(_)) => {}
            Some(Node::Symbol(s)) => index_in("symbol", *s, m.symbols.len(), &user())?,
            Some(
                Node::Add(p)
                | Node::Mul(p)
                | Node::FloorDiv(p)
                | Node::Modulo(p)
                | Node::Min(p)
                | Node::Max(p),
            ) => {
                index_in("earlier expression", p.a, i, &user())?;
                index_in("earlier expression", p.b, i, &user())?;
            }
            None => return bad(format!("expression {i} is of an unknown kind")),
        }
    }
    Ok(())
}

fn check_dims(m: &Manifest, elem: i32, dims: &[u32], user: &str) -> Result<(), ArtifactError> {
    if ElemType::try_from(elem).is_err() {
        return bad(format!("{user} has the unknown element type {elem}"));
    }
    if dims.len() > MAX_RANK {
        return bad(format!(
            "{user} has {} dimensions, the limit is {MAX_RANK}",
            dims.len()
        ));
    }
    dims.iter()
        .try_for_each(|d| index_in("expression", *d, m.exprs.len(), user))
}

fn check_tables(m: &Manifest) -> Result<(), ArtifactError> {
    for (i, b) in m.buffers.iter().enumerate() {
        check_buffer(m, b, &format!("buffer {i} ({})", b.name))?;
    }
    for (ios, is_input) in [(&m.inputs, true), (&m.outputs, false)] {
        for (i, io) in ios.iter().enumerate() {
            check_io(m, io, i, is_input)?;
        }
    }
    for (i, kernel) in m.kernels.iter().enumerate() {
        for entry in &kernel.entries {
            if Level::from_name(&entry.level).is_none() {
                return bad(format!(
                    "kernel {i} ({}) has the unknown level '{}'",
                    kernel.name, entry.level
                ));
            }
            // Code of length 0: the kernels are functions of the process, given beside the manifest.
            let length = m.code.as_ref().map_or(0, |c| c.length);
            if length > 0 && entry.offset >= length {
                return bad(format!("kernel {i} ({}) lies outside the code", kernel.name));
            }
        }
    }
    if m.blocks.is_empty() {
        return bad("there is no block".into());
    }
    Ok(())
}

fn check_buffer(m: &Manifest, b: &Buffer, user: &str) -> Result<(), ArtifactError> {
    check_dims(m, b.elem, &b.dims, user)?;
    index_in("expression", b.bytes, m.exprs.len(), user)?;
    if b.first_step > b.last_step {
        return bad(format!(
            "{user} has the empty live range {}..{}",
            b.first_step, b.last_step
        ));
    }
    match &b.kind {
        Some(buffer::Kind::Input(i)) => index_in("input", *i, m.inputs.len(), user),
        Some(buffer::Kind::Output(i)) => index_in("output", *i, m.outputs.len(), user),
        Some(buffer::Kind::Weight(range)) => {
            if !range.offset.is_multiple_of(crate::ALIGN as u64) {
                return bad(format!("{user} is not aligned in the weights"));
            }
            let end = range.offset.checked_add(range.length);
            let length = m.weights.as_ref().map_or(0, |w| w.length);
            match end {
                Some(end) if end <= length => Ok(()),
                _ => bad(format!("{user} lies outside the weights ({length} bytes)")),
            }
        }
        Some(buffer::Kind::Arena(_) | buffer::Kind::State(_) | buffer::Kind::Host(_)) => Ok(()),
        None => bad(format!("{user} is of an unknown kind")),
    }
}

fn check_io(m: &Manifest, io: &Io, i: usize, is_input: bool) -> Result<(), ArtifactError> {
    let user = format!("{} {i} ({})", if is_input { "input" } else { "output" }, io.name);
    check_dims(m, io.elem, &io.dims, &user)?;
    index_in("buffer", io.buffer, m.buffers.len(), &user)?;
    let back = match m.buffers.get(io.buffer as usize).and_then(|b| b.kind.as_ref()) {
        Some(buffer::Kind::Input(back)) if is_input => Some(*back),
        Some(buffer::Kind::Output(back)) if !is_input => Some(*back),
        _ => None,
    };
    if back.map(|b| b as usize) == Some(i) {
        Ok(())
    } else {
        bad(format!("{user} and its buffer disagree"))
    }
}

/// What a step does with a buffer.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Read,
    Write,
    Define,
}

/// Walks the blocks in flattened order.
struct Walk<'a> {
    m: &'a Manifest,
    seen: Vec<bool>,
    aliased: Vec<bool>,
    /// The buffer whose memory a buffer lies in, as far as aliases were met.
    root: Vec<u32>,
    next_step: u32,
    /// First step of each enclosing loop.
    loops: Vec<u32>,
    /// Buffers used inside each enclosing loop.
    used_in_loop: Vec<Vec<u32>>,
}

impl<'a> Walk<'a> {
    fn new(m: &'a Manifest) -> Self {
        Walk {
            m,
            seen: vec![false; m.blocks.len()],
            aliased: vec![false; m.buffers.len()],
            root: (0..m.buffers.len() as u32).collect(),
            next_step: 0,
            loops: Vec::new(),
            used_in_loop: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), ArtifactError> {
        self.block(0, 0, "the entry")?;
        match self.seen.iter().position(|s| !s) {
            None => Ok(()),
            Some(block) => bad(format!("block {block} is never used")),
        }
    }

    /// The recursion is bounded by `MAX_DEPTH`.
    fn block(&mut self, block: u32, depth: usize, user: &str) -> Result<(), ArtifactError> {
        index_in("block", block, self.m.blocks.len(), user)?;
        if depth > MAX_DEPTH {
            return bad(format!("blocks are nested deeper than {MAX_DEPTH}"));
        }
        match self.seen.get_mut(block as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return bad(format!("{user} uses block {block}, which is used already")),
        }
        let m = self.m;
        for step in m.blocks.get(block as usize).map_or(&[][..], |b| &b.steps) {
            self.step(step, depth)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, depth: usize) -> Result<(), ArtifactError> {
        let number = self.next_step;
        self.next_step = number
            .checked_add(1)
            .ok_or_else(|| ArtifactError::invalid("too many steps"))?;
        let user = format!("step {number}");
        let user = user.as_str();
        match &step.kind {
            Some(step::Kind::Launch(launch)) => self.launch(launch, number, user),
            Some(step::Kind::Bind(bind)) => {
                self.use_buffer(bind.buffer, number, Use::Read, user)?;
                index_in("symbol", bind.symbol, self.m.symbols.len(), user)
            }
            Some(step::Kind::Check(check)) => {
                let cond = Cond {
                    a: check.a,
                    b: check.b,
                    op: check.op,
                };
                self.cond(&cond, user)
            }
            Some(step::Kind::Branch(branch)) => {
                match &branch.cond {
                    Some(cond) => self.cond(cond, user)?,
                    None => return bad(format!("{user} has no condition")),
                }
                let inner = depth.saturating_add(1);
                self.block(branch.then_block, inner, user)?;
                branch
                    .else_block
                    .map_or(Ok(()), |block| self.block(block, inner, user))
            }
            Some(step::Kind::Loop(body)) => {
                self.expr(body.trips, user)?;
                if let Some(symbol) = body.index_symbol {
                    index_in("symbol", symbol, self.m.symbols.len(), user)?;
                }
                if let Some(cond) = &body.while_cond {
                    self.cond(cond, user)?;
                }
                self.loops.push(number);
                self.used_in_loop.push(Vec::new());
                self.block(body.body, depth.saturating_add(1), user)?;
                self.loops.pop();
                self.leave_loop(number)
            }
            Some(step::Kind::Alias(alias)) => {
                self.use_buffer(alias.of, number, Use::Read, user)?;
                self.use_buffer(alias.buffer, number, Use::Define, user)?;
                let of = self.root.get(alias.of as usize).copied().unwrap_or(alias.of);
                if let Some(root) = self.root.get_mut(alias.buffer as usize) {
                    *root = of;
                }
                self.optional_expr(alias.byte_offset, user)
            }
            Some(step::Kind::Copy(copy)) => {
                self.use_buffer(copy.src, number, Use::Read, user)?;
                self.use_buffer(copy.dst, number, Use::Write, user)?;
                self.expr(copy.bytes, user)
            }
            Some(step::Kind::State(state)) => self.use_buffer(state.buffer, number, Use::Read, user),
            None => Err(ArtifactError::Version {
                found: format!(
                    "a step of an unknown kind (manifest {}.{})",
                    self.m.version_major, self.m.version_minor
                ),
                known: format!("manifest {}.{}", VERSION.0, VERSION.1),
            }),
        }
    }

    fn launch(&mut self, launch: &Launch, number: u32, user: &str) -> Result<(), ArtifactError> {
        if launch.variants.is_empty() {
            return bad(format!("{user} ({}) has no kernel", launch.name));
        }
        for variant in &launch.variants {
            index_in("kernel", variant.kernel, self.m.kernels.len(), user)?;
            variant.guards.iter().try_for_each(|cond| self.cond(cond, user))?;
            for id in [variant.tiles, variant.scratch_bytes, variant.cost] {
                self.optional_expr(id, user)?;
            }
        }
        for arg in &launch.args {
            let access = Access::try_from(arg.access).map_err(|_| {
                ArtifactError::invalid(format!("{user} has the unknown access {}", arg.access))
            })?;
            let what = if access.writes() { Use::Write } else { Use::Read };
            self.use_buffer(arg.buffer, number, what, user)?;
            self.optional_expr(arg.byte_offset, user)?;
        }
        launch.params.iter().try_for_each(|id| self.expr(*id, user))?;
        self.expr(launch.tiles, user)?;
        for id in [launch.scratch_bytes, launch.cost, launch.macs, launch.bytes] {
            self.optional_expr(id, user)?;
        }
        Ok(())
    }

    fn expr(&self, id: u32, user: &str) -> Result<(), ArtifactError> {
        index_in("expression", id, self.m.exprs.len(), user)
    }

    fn optional_expr(&self, id: Option<u32>, user: &str) -> Result<(), ArtifactError> {
        id.map_or(Ok(()), |id| self.expr(id, user))
    }

    fn cond(&self, cond: &Cond, user: &str) -> Result<(), ArtifactError> {
        self.expr(cond.a, user)?;
        self.expr(cond.b, user)?;
        match CmpOp::try_from(cond.op) {
            Ok(_) => Ok(()),
            Err(_) => bad(format!("{user} has the unknown comparison {}", cond.op)),
        }
    }

    fn use_buffer(&mut self, id: u32, number: u32, what: Use, user: &str) -> Result<(), ArtifactError> {
        index_in("buffer", id, self.m.buffers.len(), user)?;
        let Some(buffer) = self.m.buffers.get(id as usize) else {
            return Ok(());
        };
        let placed = matches!(buffer.kind, Some(buffer::Kind::Arena(_) | buffer::Kind::Host(_)));
        if placed && !(buffer.first_step..=buffer.last_step).contains(&number) {
            return bad(format!(
                "{user} uses buffer {id} ({}) outside its live range {}..{}",
                buffer.name, buffer.first_step, buffer.last_step
            ));
        }
        let root = self
            .root
            .get(id as usize)
            .and_then(|root| self.m.buffers.get(*root as usize));
        let memory = root.and_then(|root| root.kind.as_ref());
        match (what, &buffer.kind) {
            (Use::Write, _) if matches!(memory, Some(buffer::Kind::Weight(_) | buffer::Kind::Input(_))) => {
                return bad(format!(
                    "{user} writes buffer {id} ({}), which is constant",
                    buffer.name
                ));
            }
            (Use::Define, kind) => {
                if !matches!(kind, Some(buffer::Kind::Arena(_))) {
                    return bad(format!(
                        "{user} aliases buffer {id} ({}), which has its own memory",
                        buffer.name
                    ));
                }
                match self.aliased.get_mut(id as usize) {
                    Some(aliased) if !*aliased => *aliased = true,
                    _ => return bad(format!("{user} aliases buffer {id} a second time")),
                }
            }
            _ => {}
        }
        if placed && let Some(used) = self.used_in_loop.last_mut() {
            used.push(id);
        }
        Ok(())
    }

    /// A buffer that enters a loop from outside must survive every iteration.
    fn leave_loop(&mut self, first: u32) -> Result<(), ArtifactError> {
        let used = self.used_in_loop.pop().unwrap_or_default();
        let last = self.next_step.saturating_sub(1);
        for id in used {
            let Some(buffer) = self.m.buffers.get(id as usize) else {
                continue;
            };
            let enters = buffer.first_step < first;
            if enters && buffer.last_step < last {
                return bad(format!(
                    "buffer {id} ({}) dies inside the loop of step {first}",
                    buffer.name
                ));
            }
            if let Some(outer) = self.used_in_loop.last_mut() {
                outer.push(id);
            }
        }
        Ok(())
    }
}
