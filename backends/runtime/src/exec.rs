//! The plan executor: walks the blocks of a plan and launches kernels.
#![allow(unsafe_code)]

use crate::error::RuntimeError;
use crate::memory::AlignedBuf;
use crate::model::Model;
use crate::pool::Pool;
use crate::session::{OutputSink, RawInput, output_bytes, reserve_scratch};
use crate::shape_plan::{Ready, ShapePlan, Threads, bytes_of, holds, ready, value};
use rsqc_artifact::ALIGN;
use rsqc_artifact::expr::{self, Value};
use rsqc_artifact::manifest::{
    Bind, Check, CmpOp, Cond, Copy, ElemType, Launch, Loop, Manifest, buffer, step,
};
use std::sync::Mutex;
use std::time::Instant;

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// Flattened step number.
    pub step: u32,
    /// Nanoseconds, over all calls.
    pub ns: u64,
    /// How often the step ran.
    pub calls: u32,
}

/// Takes the contents of a tapped buffer: its number, its dimensions, its bytes.
pub type TapSink<'a> = dyn FnMut(u32, &[i64], &[u8]) + 'a;

/// Buffers to hand out during a run.
pub struct Taps<'a> {
    /// Sorted (step, buffer).
    at: Vec<(u32, u32)>,
    sink: &'a mut TapSink<'a>,
}

impl<'a> Taps<'a> {
    /// Finds the steps after which the buffers are final.
    pub(crate) fn new(
        model: &Model,
        buffers: &[u32],
        sink: &'a mut TapSink<'a>,
    ) -> Result<Taps<'a>, RuntimeError> {
        let m = model.manifest();
        let mut at = Vec::new();
        for &buffer in buffers {
            let info = m.buffers.get(buffer as usize);
            let info =
                info.ok_or_else(|| RuntimeError::Invalid(format!("there is no buffer {buffer} to tap")))?;
            let writers = model.layout().last_writers(m, buffer);
            if writers.is_empty() {
                let text = format!(
                    "buffer {buffer} ({}) cannot be tapped, no step writes it",
                    info.name
                );
                return Err(RuntimeError::Invalid(text));
            }
            at.extend(writers.into_iter().map(|step| (step, buffer)));
        }
        at.sort_unstable();
        at.dedup();
        Ok(Taps { at, sink })
    }
}

/// One run.
pub(crate) struct Exec<'a, 't> {
    model: &'a Model,
    m: &'a Manifest,
    pool: &'a Pool,
    plan: &'a ShapePlan,
    scratch: &'a mut Vec<AlignedBuf>,
    late: &'a mut Vec<Option<AlignedBuf>>,
    taps: Option<Taps<'t>>,
    times: Option<&'a mut Vec<StepTime>>,
    symbols: Vec<Option<i64>>,
    /// Values of all expressions; a copy of the plan's once a late symbol is bound.
    values: std::borrow::Cow<'a, [Value]>,
    /// Address of each buffer; null: not known yet.
    addresses: Vec<*mut u8>,
    /// Scratch vector of launch arguments.
    args: Vec<*mut u8>,
}

/// The arguments of a kernel call, shared with the workers.
struct Call<'a> {
    ready: &'a Ready,
    args: &'a [*mut u8],
    scratch: &'a [AlignedBuf],
}

// SAFETY: the pointers are handed to kernels, which write disjoint tiles.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    fn run(&self, worker: usize, begin: i64, end: i64) {
        let scratch = self.scratch[worker].as_ptr();
        // SAFETY: the plan gives every kernel the arguments it was compiled for; the addresses are those of
        // buffers as large as the plan says, alive during the call; each worker has its own scratch.
        unsafe {
            (self.ready.kernel)(
                self.args.as_ptr(),
                self.ready.params.as_ptr(),
                scratch,
                begin,
                end,
            )
        };
    }
}

impl<'a, 't> Exec<'a, 't> {
    pub fn new(
        model: &'a Model,
        pool: &'a Pool,
        plan: &'a ShapePlan,
        arena: &'a mut AlignedBuf,
        scratch: &'a mut Vec<AlignedBuf>,
        late: &'a mut Vec<Option<AlignedBuf>>,
        inputs: &[RawInput<'_>],
    ) -> Exec<'a, 't> {
        let m = model.manifest();
        let base = arena.as_ptr();
        let address = |(id, b): (usize, &rsqc_artifact::manifest::Buffer)| match &b.kind {
            // An empty input may be null; kernels get a valid address all the same.
            Some(buffer::Kind::Input(i)) if inputs[*i as usize].data.is_null() => base,
            Some(buffer::Kind::Input(i)) => inputs[*i as usize].data.cast_mut(),
            Some(buffer::Kind::Weight(range)) => model.weights().at(range.offset as usize),
            _ => plan.offsets[id].map_or(std::ptr::null_mut(), |offset| base.wrapping_add(offset)),
        };
        let addresses = m.buffers.iter().enumerate().map(address).collect();
        Exec {
            model,
            m,
            pool,
            plan,
            scratch,
            late,
            taps: None,
            times: None,
            symbols: plan.symbols.clone(),
            values: std::borrow::Cow::Borrowed(&plan.values),
            addresses,
            args: Vec::new(),
        }
    }

    pub fn with_taps(mut self, taps: Option<Taps<'t>>) -> Self {
        self.taps = taps;
        self
    }

    pub fn with_times(mut self, times: Option<&'a mut Vec<StepTime>>) -> Self {
        self.times = times;
        self
    }

    /// Places the outputs whose shape is known, runs all steps, delivers the other outputs.
    pub fn run(mut self, sink: &mut dyn OutputSink) -> Result<(), RuntimeError> {
        // Outputs whose shape is known late are computed in memory of our own and copied at the end.
        let (late, known): (Vec<usize>, Vec<usize>) = (0..self.m.outputs.len())
            .partition(|i| self.model.layout().late_buffer[self.m.outputs[*i].buffer as usize]);
        for (index, address) in self.place_outputs(sink, &known)? {
            self.addresses[self.m.outputs[index].buffer as usize] = address;
        }
        self.block(0)?;
        for (index, address) in self.place_outputs(sink, &late)? {
            let io = &self.m.outputs[index];
            let bytes = output_bytes(io, &self.dims(&io.dims)?)?;
            let from = self.address(io.buffer, &io.name)?;
            // SAFETY: the sink gave `bytes` bytes, and the staging buffer has them (checked in `late_address`).
            unsafe { std::ptr::copy_nonoverlapping(from, address, bytes) };
        }
        Ok(())
    }

    /// Announces all outputs of the list even if one does not fit, so that a caller learns all sizes at once.
    fn place_outputs(
        &self,
        sink: &mut dyn OutputSink,
        list: &[usize],
    ) -> Result<Vec<(usize, *mut u8)>, RuntimeError> {
        let mut first_error = None;
        let mut placed = Vec::with_capacity(list.len());
        for &index in list {
            let io = &self.m.outputs[index];
            let dims = self.dims(&io.dims)?;
            let bytes = output_bytes(io, &dims)?;
            if bytes_of(self.m, &self.values, io.buffer)? > bytes {
                return Err(RuntimeError::Internal(format!(
                    "output '{}' and its buffer differ in size",
                    io.name
                )));
            }
            match sink.place(index, &dims, bytes) {
                Ok(address) => placed.push((index, address)),
                Err(error @ RuntimeError::TooSmall { .. }) => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        first_error.map_or(Ok(placed), Err)
    }

    fn dims(&self, ids: &[u32]) -> Result<Vec<i64>, RuntimeError> {
        ids.iter().map(|id| self.value(*id)).collect()
    }

    fn value(&self, id: u32) -> Result<i64, RuntimeError> {
        value(self.m, &self.values, id)
    }

    /// Nesting is bounded by validation.
    fn block(&mut self, block: u32) -> Result<(), RuntimeError> {
        let m = self.m;
        for (i, step) in m.blocks[block as usize].steps.iter().enumerate() {
            let number = self.model.layout().numbers[block as usize][i];
            let start = self.times.is_some().then(Instant::now);
            match &step.kind {
                Some(step::Kind::Launch(launch)) => self.launch(launch, number)?,
                Some(step::Kind::Bind(bind)) => self.bind(bind)?,
                Some(step::Kind::Check(check)) => self.check(check)?,
                Some(step::Kind::Branch(branch)) => {
                    let cond = branch.cond.as_ref().expect("validated");
                    if holds(m, &self.values, cond)? {
                        self.block(branch.then_block)?;
                    } else if let Some(block) = branch.else_block {
                        self.block(block)?;
                    }
                }
                Some(step::Kind::Loop(body)) => self.repeat(body)?,
                Some(step::Kind::Alias(alias)) => {
                    let offset = alias.byte_offset.map_or(Ok(0), |id| self.value(id))?;
                    self.alias(alias.buffer, alias.of, offset)?;
                }
                Some(step::Kind::Copy(copy)) => self.copy(copy)?,
                Some(step::Kind::State(_)) | None => {
                    return Err(RuntimeError::Unsupported("this kind of step".into()));
                }
            }
            if let Some(start) = start {
                self.note_time(number, start);
            }
            if self.taps.is_some() {
                self.tap(number)?;
            }
        }
        Ok(())
    }

    fn launch(&mut self, launch: &Launch, number: u32) -> Result<(), RuntimeError> {
        let plan = self.plan;
        let late;
        let ready = match &plan.ready[number as usize] {
            Some(ready) => ready,
            None => {
                let (ready, scratch) = ready(self.model, launch, &self.values)?;
                reserve_scratch(self.scratch, self.pool.threads(), scratch.max(plan.scratch_bytes))?;
                late = ready;
                &late
            }
        };
        if ready.tiles == 0 {
            return Ok(());
        }
        let mut args = std::mem::take(&mut self.args);
        args.clear();
        for (arg, offset) in launch.args.iter().zip(&ready.offsets) {
            args.push(
                self.address(arg.buffer, &launch.name)?
                    .wrapping_add(*offset as usize),
            );
        }
        self.check_weights(launch.args.iter().map(|a| a.buffer))?;
        let call = Call {
            ready,
            args: &args,
            scratch: self.scratch,
        };
        let alone = match ready.threads {
            Threads::Caller => true,
            Threads::Awake => self.pool.all_asleep(),
            Threads::All => self.pool.threads() == 1,
        };
        if alone {
            call.run(0, 0, ready.tiles);
        } else {
            self.pool
                .run(ready.tiles, &|worker, begin, end| call.run(worker, begin, end))?;
        }
        self.args = args;
        Ok(())
    }

    /// Compares the digests of the weights that a step is the first to use.
    fn check_weights(&self, buffers: impl Iterator<Item = u32>) -> Result<(), RuntimeError> {
        let weights = self.model.weights();
        if !weights.pending() {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for buffer in buffers {
            let root = self.model.layout().root[buffer as usize];
            if let Some(buffer::Kind::Weight(range)) = &self.m.buffers[root as usize].kind {
                let begin = range.offset as usize;
                chunks.extend(weights.pending_chunks(begin..begin + range.length as usize));
            }
        }
        chunks.dedup();
        let failure = Mutex::new(None);
        self.pool.run(chunks.len() as i64, &|_, begin, end| {
            for chunk in &chunks[begin as usize..end as usize] {
                if let Err(error) = weights.check_chunk(*chunk) {
                    failure
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }
        })?;
        failure
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// The address of a buffer; allocates one whose size is known late.
    fn address(&mut self, buffer: u32, user: &str) -> Result<*mut u8, RuntimeError> {
        let id = buffer as usize;
        if self.model.layout().late_buffer[id] {
            return self.late_address(buffer);
        }
        let address = self.addresses[id];
        if address.is_null() {
            let name = &self.m.buffers[id].name;
            return Err(RuntimeError::Internal(format!(
                "'{user}' uses buffer {buffer} ({name}) before it has an address"
            )));
        }
        Ok(address)
    }

    /// Memory of its own for a buffer whose size is known late. Growing keeps the contents: a buffer may be
    /// carried from one iteration of a loop to the next.
    fn late_address(&mut self, buffer: u32) -> Result<*mut u8, RuntimeError> {
        let id = buffer as usize;
        let mut bytes = bytes_of(self.m, &self.values, buffer)?;
        if let Some(buffer::Kind::Output(i)) = &self.m.buffers[id].kind {
            let io = &self.m.outputs[*i as usize];
            bytes = bytes.max(output_bytes(io, &self.dims(&io.dims)?)?);
        }
        let total = bytes
            .checked_add(ALIGN)
            .ok_or_else(|| RuntimeError::NoMemory(format!("{bytes} bytes")))?;
        if self.late[id].as_ref().is_none_or(|old| old.size() < total) {
            let mut new = AlignedBuf::new(total)?;
            if let Some(old) = &self.late[id] {
                new.as_mut_slice()[..old.size()].copy_from_slice(old.as_slice());
            }
            self.late[id] = Some(new);
            // Aliases point into the old memory; they must be made again.
            let layout = self.model.layout();
            for other in (0..self.addresses.len()).filter(|b| layout.alias[*b] && layout.root[*b] == buffer) {
                self.addresses[other] = std::ptr::null_mut();
            }
        }
        Ok(self.late[id]
            .as_ref()
            .map_or(std::ptr::null_mut(), AlignedBuf::as_ptr))
    }

    fn alias(&mut self, buffer: u32, of: u32, offset: i64) -> Result<(), RuntimeError> {
        let base = self.address(of, "alias")?;
        let whole = bytes_of(self.m, &self.values, of)?;
        let part = bytes_of(self.m, &self.values, buffer)?;
        let fits = usize::try_from(offset).is_ok_and(|o| o.checked_add(part).is_some_and(|end| end <= whole));
        if !fits {
            return Err(RuntimeError::Internal(format!(
                "buffer {buffer} (bytes {offset} and {part} more) lies outside buffer {of} of {whole} bytes"
            )));
        }
        self.addresses[buffer as usize] = base.wrapping_add(offset as usize);
        Ok(())
    }

    fn copy(&mut self, copy: &Copy) -> Result<(), RuntimeError> {
        let bytes = self.value(copy.bytes)?;
        let room = bytes_of(self.m, &self.values, copy.dst)?.min(bytes_of(self.m, &self.values, copy.src)?);
        let fits = usize::try_from(bytes).ok().filter(|b| *b <= room);
        let bytes = fits.ok_or_else(|| {
            RuntimeError::Internal(format!("a copy of {bytes} bytes between buffers of {room} bytes"))
        })?;
        self.check_weights(std::iter::once(copy.src))?;
        let (dst, src) = (self.address(copy.dst, "copy")?, self.address(copy.src, "copy")?);
        // SAFETY: both buffers have `bytes` bytes; `copy` allows what validation cannot exclude, an overlap.
        unsafe { std::ptr::copy(src, dst, bytes) };
        Ok(())
    }

    fn bind(&mut self, bind: &Bind) -> Result<(), RuntimeError> {
        let info = &self.m.buffers[bind.buffer as usize];
        let size = info.elem().size();
        let bytes = bytes_of(self.m, &self.values, bind.buffer)?;
        let offset = usize::try_from(bind.index).ok().and_then(|i| i.checked_mul(size));
        let offset = offset
            .filter(|o| o.checked_add(size).is_some_and(|end| end <= bytes))
            .ok_or_else(|| {
                let name = &info.name;
                RuntimeError::Internal(format!(
                    "element {} of buffer {name} of {bytes} bytes",
                    bind.index
                ))
            })?;
        self.check_weights(std::iter::once(bind.buffer))?;
        let address = self.address(bind.buffer, "bind")?.wrapping_add(offset);
        let mut raw = [0u8; 8];
        // SAFETY: `size <= 8` bytes at `offset` lie inside the buffer.
        unsafe { std::ptr::copy_nonoverlapping(address, raw.as_mut_ptr(), size) };
        let found = integer(info.elem(), raw)
            .ok_or_else(|| RuntimeError::Internal(format!("buffer {} holds no integers", info.name)))?;
        let symbol = &self.m.symbols[bind.symbol as usize];
        if found < symbol.lo || found > symbol.hi {
            return Err(RuntimeError::Shape(format!(
                "the computed value of {} is {found}, expected {}..{}",
                symbol.name, symbol.lo, symbol.hi
            )));
        }
        self.set_symbol(bind.symbol, found);
        Ok(())
    }

    fn set_symbol(&mut self, symbol: u32, value: i64) {
        self.symbols[symbol as usize] = Some(value);
        self.values = std::borrow::Cow::Owned(expr::evaluate(&self.m.exprs, &self.symbols));
    }

    fn check(&self, check: &Check) -> Result<(), RuntimeError> {
        let cond = Cond {
            a: check.a,
            b: check.b,
            op: check.op,
        };
        if holds(self.m, &self.values, &cond)? {
            return Ok(());
        }
        let text = |id| expr::text(&self.m.exprs, &self.m.symbols, id);
        let op = CmpOp::try_from(check.op).expect("validated").sign();
        Err(RuntimeError::Shape(format!(
            "node '{}': {} ({} {op} {} is false: {} and {})",
            check.node,
            check.message,
            text(check.a),
            text(check.b),
            self.value(check.a)?,
            self.value(check.b)?
        )))
    }

    fn repeat(&mut self, body: &Loop) -> Result<(), RuntimeError> {
        let trips = self.value(body.trips)?;
        for trip in 0..trips.max(0) {
            if let Some(symbol) = body.index_symbol {
                self.set_symbol(symbol, trip);
            }
            if let Some(cond) = &body.while_cond
                && !holds(self.m, &self.values, cond)?
            {
                break;
            }
            self.block(body.body)?;
        }
        Ok(())
    }

    fn note_time(&mut self, number: u32, start: Instant) {
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(times) = &mut self.times else { return };
        match times.binary_search_by_key(&number, |t| t.step) {
            Ok(at) => {
                times[at].ns = times[at].ns.saturating_add(ns);
                times[at].calls += 1;
            }
            Err(at) => times.insert(
                at,
                StepTime {
                    step: number,
                    ns,
                    calls: 1,
                },
            ),
        }
    }

    fn tap(&mut self, number: u32) -> Result<(), RuntimeError> {
        let Some(taps) = self.taps.take() else {
            return Ok(());
        };
        let begin = taps.at.partition_point(|(step, _)| *step < number);
        for i in begin..taps.at.len() {
            let (step, buffer) = taps.at[i];
            if step != number {
                break;
            }
            let bytes = bytes_of(self.m, &self.values, buffer)?;
            let dims = self.dims(&self.m.buffers[buffer as usize].dims)?;
            let address = self.address(buffer, "tap")?;
            // SAFETY: the buffer is alive and has `bytes` bytes; no kernel runs now.
            (taps.sink)(buffer, &dims, unsafe {
                std::slice::from_raw_parts(address, bytes)
            });
        }
        self.taps = Some(taps);
        Ok(())
    }
}

/// The value of an integer or bool element; `None` for other types or a u64 beyond i64.
fn integer(elem: ElemType, raw: [u8; 8]) -> Option<i64> {
    let [a, b, c, d, ..] = raw;
    Some(match elem {
        ElemType::I64 => i64::from_le_bytes(raw),
        ElemType::U64 => i64::try_from(u64::from_le_bytes(raw)).ok()?,
        ElemType::I32 => i32::from_le_bytes([a, b, c, d]).into(),
        ElemType::U32 => u32::from_le_bytes([a, b, c, d]).into(),
        ElemType::I16 => i16::from_le_bytes([a, b]).into(),
        ElemType::U16 => u16::from_le_bytes([a, b]).into(),
        ElemType::I8 => i8::from_le_bytes([a]).into(),
        ElemType::U8 => a.into(),
        ElemType::Bool => i64::from(a != 0),
        ElemType::F32 | ElemType::F16 | ElemType::Bf16 | ElemType::F64 => return None,
    })
}
