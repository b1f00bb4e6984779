//! Addresses: loads of operands and stores of results at a point, or at 16 points along one axis.
//!
//! A [`Point`] gives every axis an index: the same for all lanes, running with the lanes, or any index a lane. From
//! this and an access map follows how memory is touched: one element, adjoining elements, a constant distance, or an
//! address a lane. Lanes that do not exist (the end of a row) are never accessed.

use super::body::{LANES, cast, constant, from_memory, lanes, single, stored, to_memory, widen};
use crate::llvm::{Any, Elem, Emit, Int, IntCmp, Lanes, Ptr, Vector};
use rsqc_backend::{DimSlot, KernelSpec, Params};
use rsqc_ir::region::{Access, Clamp, Gather, Region, Term};
use rsqc_ir::scalar::ScalarConst;
use rsqc_ir::{Dim, Layout, ScalarType};

/// The index along one axis.
#[derive(Clone, Copy)]
pub enum Index<'c> {
    /// The same in all lanes.
    At(Int<'c>),
    /// This in lane 0, one more in each further lane.
    Run(Int<'c>),
    /// One a lane (i64); lanes that do not exist repeat an index that does.
    Each(Vector<'c>),
}

/// Where a body is evaluated.
#[derive(Clone)]
pub struct Point<'c> {
    /// The index along each axis; axes without one are not used by what is accessed here.
    pub axes: Vec<Option<Index<'c>>>,
    /// How many of the lanes exist.
    pub part: Lanes<'c>,
}

impl<'c> Point<'c> {
    /// The point at which no axis has an index yet.
    pub fn new(axes: usize) -> Self {
        Point {
            axes: vec![None; axes],
            part: Lanes::All,
        }
    }

    /// The same point with an index along `axis`.
    pub fn with(&self, axis: u32, index: Index<'c>) -> Self {
        let mut axes = self.axes.clone();
        axes[axis as usize] = Some(index);
        Point {
            axes,
            part: self.part,
        }
    }

    fn index(&self, axis: u32) -> Index<'c> {
        self.axes[axis as usize].expect("an access uses axes of its own loop nest only")
    }
}

/// Whether the address of operand `n` depends on an axis, directly or through a gather.
pub fn moves(r: &Region, n: u32, axis: u32) -> bool {
    let access = &r.operands[n as usize];
    let gathers = access.gathers.iter();
    access.uses(axis)
        || gathers
            .into_iter()
            .any(|g| g.operand != n && moves(r, g.operand, axis))
}

/// How the lanes' offsets differ.
enum Shape<'c> {
    /// Not at all.
    Same,
    /// By one.
    Run,
    /// By a stride.
    Stride(Int<'c>),
    /// By one, except where clamped to `0..limit`; the index of lane 0 before clamping.
    Clamped { first: Int<'c>, limit: Int<'c> },
    /// One offset a lane, to be added to the common one.
    Each,
}

/// An address in elements.
struct Address<'c> {
    /// Common to all lanes; for [`Shape::Run`] and [`Shape::Stride`] that of lane 0.
    offset: Int<'c>,
    shape: Shape<'c>,
    /// What differs between lanes, as offsets: for [`Shape::Each`].
    each: Option<Vector<'c>>,
}

/// How far lanes are from a common address, in elements.
#[derive(Clone, Copy)]
enum Steps<'c> {
    /// Lane `l` by `l` times this.
    Stride(Int<'c>),
    /// Lane `l` by `first + l`, brought into `0..=last`.
    Clamped { first: Int<'c>, last: Int<'c> },
    /// Each by a number of its own.
    Each(Vector<'c>),
}

/// What kernels know while being generated.
pub struct Cx<'a, 'c> {
    /// The function under construction.
    pub e: &'a Emit<'c>,
    /// The kernel.
    pub spec: &'a KernelSpec,
    params: Params,
    /// Zeros that stand in for operands without elements.
    nothing: Ptr<'c>,
}

impl<'a, 'c> Cx<'a, 'c> {
    /// A context for a kernel whose parameters are `Params::of(spec)`.
    pub fn new(e: &'a Emit<'c>, spec: &'a KernelSpec) -> Self {
        let zeros = e.vector_type(Elem::I64, LANES);
        let nothing = e.stack(zeros, 1, 64);
        e.store_aligned(zeros.const_zero(), nothing, 64);
        Cx {
            e,
            spec,
            params: Params::of(spec),
            nothing,
        }
    }

    /// A dim's value.
    pub fn dim(&self, d: &Dim) -> Int<'c> {
        match self.params.find(d) {
            Some(DimSlot::Const(c)) => self.e.i64(c),
            Some(DimSlot::Param(n)) => self.e.param(n),
            None => panic!("dim `{d}` is not a parameter of its kernel"),
        }
    }

    /// The extent of an axis.
    pub fn extent(&self, axis: u32) -> Int<'c> {
        self.dim(&self.spec.region.axes[axis as usize].extent)
    }

    /// Buffer argument of result `n`.
    fn result_buf(&self, n: usize) -> u32 {
        (self.spec.operands.len() + n) as u32
    }

    /// Loads operand `n` at a point: one lane if its address is the same for all, else 16. The value is in the form
    /// in which [`super::body`] computes; lanes that do not exist have any value.
    pub fn load(&self, n: u32, at: &Point<'c>) -> Vector<'c> {
        let e = self.e;
        let access = &self.spec.region.operands[n as usize];
        let ty = self.spec.operands[n as usize].storage();
        let elem = stored(ty);
        let address = self.address(access, at);
        let (base, address) = self.guard(n, access, address);
        let start = e.at_index(base, address.offset, elem.bytes());
        let value = match &address.shape {
            Shape::Same => {
                let value: Any<'c> = e.load_scalar(elem, start);
                e.with_lane(e.poison(elem, 1), 0, value)
            }
            Shape::Run => e.load(elem, LANES, start, at.part),
            Shape::Stride(s) => self.load_lanes(elem, start, Steps::Stride(*s), at.part),
            Shape::Each => self.load_lanes(elem, start, Steps::Each(each_of(&address)), at.part),
            Shape::Clamped { first, limit } => self.load_clamped(elem, start, (*first, *limit), at.part),
        };
        let value = match self.spec.operand_layouts[n as usize] {
            Some(Layout::OffsetBinary) => e.xor(value, e.ints(Elem::I8, 0x80, lanes(value))),
            _ => value,
        };
        from_memory(e, ty, value)
    }

    /// Adjoining elements of `0..limit`, clamped: mostly all lanes are inside, or all on one side.
    fn load_clamped(
        &self,
        elem: Elem,
        start: Ptr<'c>,
        (first, limit): (Int<'c>, Int<'c>),
        part: Lanes<'c>,
    ) -> Vector<'c> {
        let e = self.e;
        let (zero, width) = (e.i64(0), e.i64(i64::from(LANES)));
        let last = e.sub(limit, e.i64(1));
        let end = e.add(first, width);
        let inside = e.and(e.icmp(IntCmp::SGE, first, zero), e.icmp(IntCmp::SLE, end, limit));
        let value = e.var(e.vector_type(elem, LANES).const_zero());
        let whole = || {
            let from = e.at_index(start, first, elem.bytes());
            e.set(value, e.load(elem, LANES, from, Lanes::All));
        };
        let edge = || {
            let nearest = e.imax(e.imin(first, last), zero);
            let element: Any<'c> = e.load_scalar(elem, e.at_index(start, nearest, elem.bytes()));
            e.set(value, e.splat(element, LANES));
        };
        let mixed = || {
            let steps = Steps::Clamped { first, last };
            e.set(value, self.load_lanes(elem, start, steps, part));
        };
        let outside = e.or(e.icmp(IntCmp::SLE, end, zero), e.icmp(IntCmp::SGE, first, limit));
        e.if_else(inside, whole, || e.if_else(outside, edge, mixed));
        e.get(value)
    }

    /// An operand whose clamped or gathered dimension has no elements is never read: zeros stand in for it.
    fn guard(&self, n: u32, access: &Access, address: Address<'c>) -> (Ptr<'c>, Address<'c>) {
        let e = self.e;
        let base = e.buf(n);
        let limits = access
            .terms
            .iter()
            .filter_map(|t| t.clamp.as_ref().map(|c| &c.limit));
        let limits = limits.chain(access.gathers.iter().map(|g| &g.limit));
        let empty = limits
            .filter(|l| l.as_const().is_none_or(|c| c <= 0))
            .map(|l| e.icmp(IntCmp::SLE, self.dim(l), e.i64(0)))
            .reduce(|a, b| e.or(a, b));
        let Some(empty) = empty else {
            return (base, address);
        };
        let each = address.each.map(|v| {
            let zeros = v.get_type().const_zero();
            e.select(e.splat(empty, LANES), zeros, v)
        });
        let shape = match address.shape {
            Shape::Stride(s) => Shape::Stride(e.select(empty, e.i64(0), s)),
            shape => shape,
        };
        let offset = e.select(empty, e.i64(0), address.offset);
        (
            e.select(empty, self.nothing, base),
            Address { offset, shape, each },
        )
    }

    fn scaled(&self, v: Vector<'c>, stride: &Dim) -> Vector<'c> {
        let e = self.e;
        if stride.is(1) {
            v
        } else {
            e.mul(v, e.splat(self.dim(stride), LANES))
        }
    }

    /// Loads lane by lane; lanes that do not exist become 0.
    fn load_lanes(&self, elem: Elem, base: Ptr<'c>, steps: Steps<'c>, part: Lanes<'c>) -> Vector<'c> {
        let e = self.e;
        if let (Steps::Stride(stride), Lanes::All) = (steps, part) {
            let mut value = e.poison(elem, LANES);
            for (l, from) in (0..).zip(self.strided(elem, base, stride)) {
                let element: Any<'c> = e.load_scalar(elem, from);
                value = e.with_lane(value, l, element);
            }
            return value;
        }
        let ty = e.vector_type(elem, LANES);
        let values = e.stack(ty, 1, 64);
        if let Lanes::First(_) = part {
            e.store_aligned(ty.const_zero(), values, 64);
        }
        self.each_lane(elem, base, steps, part, &|l, from| {
            let element: Any<'c> = e.load_scalar(elem, from);
            e.store_scalar(element, e.at_index(values, l, elem.bytes()));
        });
        e.load_aligned(ty, values, 64).into_vector_value()
    }

    /// The addresses of all lanes.
    fn strided(&self, elem: Elem, base: Ptr<'c>, stride: Int<'c>) -> impl Iterator<Item = Ptr<'c>> {
        let e = self.e;
        let step = e.mul(stride, e.i64(i64::from(elem.bytes())));
        let known = step.get_sign_extended_constant();
        let next = move |(l, last): (i64, Ptr<'c>)| {
            let at = known.map_or_else(|| e.at(last, step), |step| e.at_const(base, (l + 1) * step));
            Some((l + 1, at))
        };
        let places = std::iter::successors(Some((0, base)), move |at| next(*at));
        places.map(|(_, at)| at).take(LANES as usize)
    }

    /// Calls `visit` with the number and the address of each lane that exists, in a loop: sixteen copies of this code
    /// would take LLVM longer than the rest of a kernel, and gain little where addresses have nothing in common.
    fn each_lane(
        &self,
        elem: Elem,
        base: Ptr<'c>,
        steps: Steps<'c>,
        part: Lanes<'c>,
        visit: &dyn Fn(Int<'c>, Ptr<'c>),
    ) {
        let e = self.e;
        let count = match part {
            Lanes::All => e.i64(i64::from(LANES)),
            Lanes::First(count) => count,
        };
        let all = |offset: &dyn Fn(Int<'c>) -> Int<'c>| {
            e.for_range(e.i64(0), count, e.i64(1), |l| {
                visit(l, e.at_index(base, offset(l), elem.bytes()));
            });
        };
        match steps {
            Steps::Stride(stride) => all(&|l| e.mul(l, stride)),
            Steps::Clamped { first, last } => all(&|l| e.imax(e.imin(e.add(first, l), last), e.i64(0))),
            Steps::Each(offsets) => {
                let places = e.stack(e.vector_type(Elem::I64, LANES), 1, 64);
                e.store_aligned(offsets, places, 64);
                all(&|l| e.load_scalar(Elem::I64, e.at_index(places, l, 8)));
            }
        }
    }

    /// The address of an access at a point.
    fn address(&self, access: &Access, at: &Point<'c>) -> Address<'c> {
        let e = self.e;
        let mut offset = self.dim(&access.offset);
        let mut stride: Option<(Dim, Int<'c>)> = None;
        let mut clamped: Option<(Int<'c>, Int<'c>, bool)> = None;
        let mut each: Vec<Vector<'c>> = Vec::new();
        for t in &access.terms {
            match (at.index(t.axis), &t.clamp) {
                (Index::At(i), clamp) => {
                    let i = clamp.as_ref().map_or(i, |c| self.clamp_scalar(i, c));
                    offset = e.add(offset, e.mul(i, self.dim(&t.stride)));
                }
                (Index::Run(i), None) => {
                    offset = e.add(offset, e.mul(i, self.dim(&t.stride)));
                    stride = Some((t.stride.clone(), i));
                }
                (Index::Run(i), Some(c)) => {
                    let simple = clamped.is_none() && t.stride.is(1);
                    clamped = Some((e.add(i, self.dim(&c.shift)), self.dim(&c.limit), simple));
                    let numbers = e.add(e.splat(i, LANES), e.iota(LANES));
                    each.push(self.term_each(numbers, t));
                }
                (Index::Each(v), _) => each.push(self.term_each(v, t)),
            }
        }
        for g in &access.gathers {
            let index = self.gather(g, at);
            if lanes(index) == 1 {
                offset = e.add(offset, e.mul(e.lane(index, 0), self.dim(&g.stride)));
            } else {
                each.push(self.scaled(index, &g.stride));
                clamped = clamped.map(|(first, limit, _)| (first, limit, false));
            }
        }
        if each.is_empty() {
            let shape = match stride {
                None => Shape::Same,
                Some((s, _)) if s.is(1) => Shape::Run,
                Some((s, _)) => Shape::Stride(self.dim(&s)),
            };
            return Address {
                offset,
                shape,
                each: None,
            };
        }
        let shape = match (clamped, &stride, each.len()) {
            (Some((first, limit, true)), None, 1) => Shape::Clamped { first, limit },
            _ => Shape::Each,
        };
        if let Some((s, _)) = stride {
            each.push(self.scaled(e.iota(LANES), &s));
        }
        let each = each.into_iter().reduce(|a, b| e.add(a, b));
        Address { offset, shape, each }
    }

    fn clamp_scalar(&self, i: Int<'c>, c: &Clamp) -> Int<'c> {
        let e = self.e;
        let last = e.sub(self.dim(&c.limit), e.i64(1));
        e.imax(e.imin(e.add(i, self.dim(&c.shift)), last), e.i64(0))
    }

    /// A term's contribution for lane indices `v`.
    fn term_each(&self, v: Vector<'c>, t: &Term) -> Vector<'c> {
        let e = self.e;
        let v = match &t.clamp {
            None => v,
            Some(c) => {
                let shifted = e.add(v, e.splat(self.dim(&c.shift), LANES));
                let last = e.splat(e.sub(self.dim(&c.limit), e.i64(1)), LANES);
                e.vmax(e.vmin(shifted, last), e.ints(Elem::I64, 0, LANES))
            }
        };
        self.scaled(v, &t.stride)
    }

    /// The index that a gather reads, brought into its range; one lane or 16.
    fn gather(&self, g: &Gather, at: &Point<'c>) -> Vector<'c> {
        let e = self.e;
        let ty = self.spec.operands[g.operand as usize].storage();
        let raw = cast(e, self.load(g.operand, at), ty, ScalarType::I64);
        let n = lanes(raw);
        let limit = widen(e, single(e, self.dim(&g.limit)), n);
        let zero = e.ints(Elem::I64, 0, n);
        let from_end = e.add(raw, limit);
        let index = e.select(e.icmp(IntCmp::SLT, raw, zero), from_end, raw);
        e.vmax(e.vmin(index, e.sub(limit, e.ints(Elem::I64, 1, n))), zero)
    }

    /// For each lane, whether no clamped term of operand `n` had to be clamped at this point; `None` if it has none.
    pub fn unclamped(&self, n: u32, at: &Point<'c>) -> Option<Vector<'c>> {
        let e = self.e;
        let access = &self.spec.region.operands[n as usize];
        let mut inside: Option<Vector<'c>> = None;
        for t in &access.terms {
            let Some(c) = &t.clamp else { continue };
            let ok = if let Index::Run(i) = at.index(t.axis) {
                let first = e.add(i, self.dim(&c.shift));
                let low = self.run_is(IntCmp::SGE, first, e.i64(0));
                e.and(low, self.run_is(IntCmp::SLT, first, self.dim(&c.limit)))
            } else {
                let index = self.index_value(at.index(t.axis));
                let width = lanes(index);
                let wide = |d: &Dim| widen(e, single(e, self.dim(d)), width);
                let shifted = e.add(index, wide(&c.shift));
                let low = e.icmp(IntCmp::SGE, shifted, e.ints(Elem::I64, 0, width));
                e.and(low, e.icmp(IntCmp::SLT, shifted, wide(&c.limit)))
            };
            inside = Some(match inside {
                None => ok,
                Some(other) => {
                    let width = lanes(other).max(lanes(ok));
                    e.and(widen(e, other, width), widen(e, ok, width))
                }
            });
        }
        inside
    }

    /// Compares `first`, `first + 1`, .. with a bound that is less than 2^62 away from 0, as indices and dims are. Vectors
    /// of i64 are dear: lane numbers are compared with where the bound falls among them.
    pub fn run_is(&self, how: IntCmp, first: Int<'c>, bound: Int<'c>) -> Vector<'c> {
        let e = self.e;
        let width = i64::from(LANES);
        let lane = e.imax(e.imin(e.sub(bound, first), e.i64(width)), e.i64(-1));
        let numbers: Vec<i32> = (0..LANES as i32).collect();
        let lane = e.splat(e.trunc_to(Elem::I32, lane), LANES);
        e.icmp(how, e.i32s(&numbers), lane)
    }

    /// An index as an i64 value of one lane or 16.
    pub fn index_value(&self, index: Index<'c>) -> Vector<'c> {
        let e = self.e;
        match index {
            Index::At(i) => single(e, i),
            Index::Run(i) => e.add(e.splat(i, LANES), e.iota(LANES)),
            Index::Each(v) => v,
        }
    }

    /// Stores `value` (of the result's type, one lane or 16) as result `n` at a point. Along an axis that the access
    /// does not mention only index 0 stores.
    pub fn store(&self, n: usize, value: Vector<'c>, at: &Point<'c>) {
        let e = self.e;
        let access = &self.spec.region.stores[n].access;
        let ty = self.spec.results[n].storage();
        let mut first: Option<Int<'c>> = None;
        let mut runs = false;
        for (axis, index) in at.axes.iter().enumerate() {
            let Some(index) = index else { continue };
            if access.uses(axis as u32) {
                runs |= !matches!(index, Index::At(_));
            } else if !self.spec.region.axes[axis].extent.is(1) {
                let i = match index {
                    Index::At(i) | Index::Run(i) => *i,
                    Index::Each(v) => e.lane(*v, 0),
                };
                let is_first = e.icmp(IntCmp::EQ, i, e.i64(0));
                first = Some(first.map_or(is_first, |f| e.and(f, is_first)));
            }
        }
        let value = to_memory(e, ty, value);
        let value = match self.spec.result_layouts[n] {
            Some(Layout::OffsetBinary) => e.xor(value, e.ints(Elem::I8, 0x80, lanes(value))),
            _ => value,
        };
        let emit = || self.store_memory(n, stored(ty), value, at, runs);
        match first {
            Some(first) => e.when(first, emit),
            None => emit(),
        }
    }

    fn store_memory(&self, n: usize, elem: Elem, value: Vector<'c>, at: &Point<'c>, runs: bool) {
        let e = self.e;
        let address = self.address(&self.spec.region.stores[n].access, at);
        let to = e.at_index(e.buf(self.result_buf(n)), address.offset, elem.bytes());
        if !runs {
            let element: Any<'c> = e.lane(value, 0);
            return e.store_scalar(element, to);
        }
        let value = widen(e, value, LANES);
        match address.shape {
            Shape::Run => e.store(value, to, at.part),
            Shape::Stride(s) => self.store_lanes(elem, value, to, Steps::Stride(s), at.part),
            _ => self.store_lanes(elem, value, to, Steps::Each(each_of(&address)), at.part),
        }
    }

    fn store_lanes(&self, elem: Elem, value: Vector<'c>, base: Ptr<'c>, steps: Steps<'c>, part: Lanes<'c>) {
        let e = self.e;
        if let (Steps::Stride(stride), Lanes::All) = (steps, part) {
            for (l, to) in (0..).zip(self.strided(elem, base, stride)) {
                let element: Any<'c> = e.lane(value, l);
                e.store_scalar(element, to);
            }
            return;
        }
        let values = e.stack(e.vector_type(elem, LANES), 1, 64);
        e.store_aligned(value, values, 64);
        self.each_lane(elem, base, steps, part, &|l, to| {
            let element: Any<'c> = e.load_scalar(elem, e.at_index(values, l, elem.bytes()));
            e.store_scalar(element, to);
        });
    }

    /// A constant as a single lane.
    pub fn constant(&self, c: ScalarConst) -> Vector<'c> {
        constant(self.e, c)
    }
}

fn each_of<'c>(address: &Address<'c>) -> Vector<'c> {
    address
        .each
        .expect("addresses of this shape differ between lanes")
}
