//! Code for one row: the loops of a [`RowPlan`].

use super::plan::{Phase, RowPlan};
use crate::kernels::access::{Cx, Index, Point};
use crate::kernels::body::{
    LANES, apply, combine, finish_reduce, from_memory, held, lanes, neutral, single, to_memory, widen,
};
use crate::level::LevelFacts;
use crate::llvm::{Any, Elem, Int, IntCmp, Lanes, Ptr, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::scalar::{Body, BodyId, Pred, ScalarOp};

/// Where in a row: the point, and the number of its first element in row-major order over the row axes.
pub struct Place<'c> {
    /// The point.
    pub at: Point<'c>,
    /// The element's number.
    pub element: Int<'c>,
}

/// The accumulator's value at a place: one lane or 16.
pub type AnchorFn<'f, 'c> = dyn Fn(&Cx<'_, 'c>, &Place<'c>) -> Vector<'c> + 'f;

/// Values of statements.
pub type Env<'c> = Vec<Option<Vector<'c>>>;

/// Generates rows.
pub struct RowCode<'p, 'a, 'c> {
    /// The kernel.
    pub cx: &'p Cx<'a, 'c>,
    /// The phases.
    pub plan: &'p RowPlan,
    /// Where the accumulator comes from.
    pub anchor: &'p AnchorFn<'p, 'c>,
    /// Scratch for kept values, 64-byte aligned.
    pub scratch: Ptr<'c>,
}

/// Evaluates statements in order into `env`, where their arguments are.
pub fn evaluate<'c>(
    cx: &Cx<'_, 'c>,
    body: &Body,
    stmts: &[usize],
    env: &mut Env<'c>,
    place: &Place<'c>,
    anchor: &AnchorFn<'_, 'c>,
) {
    for i in stmts {
        env[*i] = Some(statement(cx, body, *i, env, place, anchor));
    }
}

/// Evaluates statements at several places, each statement at all of them before the next: long chains of dependent
/// operations keep the units of a core busy only if several are under way.
pub fn evaluate_together<'c>(
    cx: &Cx<'_, 'c>,
    body: &Body,
    stmts: &[usize],
    envs: &mut [Env<'c>],
    places: &[Place<'c>],
    anchor: &AnchorFn<'_, 'c>,
) {
    for i in stmts {
        for (env, place) in envs.iter_mut().zip(places) {
            env[*i] = Some(statement(cx, body, *i, env, place, anchor));
        }
    }
}

fn statement<'c>(
    cx: &Cx<'_, 'c>,
    body: &Body,
    i: usize,
    env: &Env<'c>,
    place: &Place<'c>,
    anchor: &AnchorFn<'_, 'c>,
) -> Vector<'c> {
    let s = &body.stmts[i];
    if let ScalarOp::Cmp(how) = &s.op
        && let Some(mask) = compare_run(cx, body, (*how, &s.args), place)
    {
        return mask;
    }
    match &s.op {
        ScalarOp::Operand(n) => cx.load(*n, &place.at),
        ScalarOp::Anchor => anchor(cx, place),
        ScalarOp::Index(a) => cx.index_value(place.at.axes[*a as usize].expect("a body names its own axes")),
        ScalarOp::Dim(d) => single(cx.e, cx.dim(d)),
        ScalarOp::Const(c) => cx.constant(*c),
        _ => {
            let args: Vec<(Vector<'c>, ScalarType)> = s
                .args
                .iter()
                .map(|a| (value_of(env, a.index()), body.stmt(*a).ty))
                .collect();
            apply(cx.e, s, &args)
        }
    }
}

/// A comparison of a running index with a dim or a small constant.
fn compare_run<'c>(
    cx: &Cx<'_, 'c>,
    body: &Body,
    (how, args): (Pred, &[BodyId]),
    place: &Place<'c>,
) -> Option<Vector<'c>> {
    let [a, b] = args else { return None };
    let index = match body.stmt(*a).op {
        ScalarOp::Index(axis) => place.at.axes[axis as usize],
        _ => None,
    };
    let Some(Index::Run(first)) = index else {
        return None;
    };
    let bound = match &body.stmt(*b).op {
        ScalarOp::Dim(d) => cx.dim(d),
        ScalarOp::Const(c) if (c.bits as i64).unsigned_abs() < 1 << 62 => cx.e.i64(c.bits as i64),
        _ => return None,
    };
    let how = match how {
        Pred::Eq => IntCmp::EQ,
        Pred::Ne => IntCmp::NE,
        Pred::Lt => IntCmp::SLT,
        Pred::Le => IntCmp::SLE,
        Pred::Gt => IntCmp::SGT,
        Pred::Ge => IntCmp::SGE,
    };
    Some(cx.run_is(how, first, bound))
}

fn value_of<'c>(env: &Env<'c>, i: usize) -> Vector<'c> {
    env[i].expect("statements are evaluated after their arguments")
}

/// A phase body: evaluates some places and returns the new accumulators.
type Step<'f, 'c> = dyn FnMut(&[Place<'c>], &[Any<'c>]) -> Vec<Any<'c>> + 'f;

/// A loop over a row.
struct Loop<'f, 'c> {
    /// Whether its body may exist only once.
    once: bool,
    step: &'f mut Step<'f, 'c>,
}

impl<'c> RowCode<'_, '_, 'c> {
    /// Generates the row at `outer`, which has an index for every outer axis. With `range`, only these indices along
    /// the single row axis are done, which needs a body without reductions.
    pub fn emit(&self, outer: &Point<'c>, range: Option<(Int<'c>, Int<'c>)>) {
        let body = &self.cx.spec.region.body;
        let mut env: Env<'c> = vec![None; body.stmts.len()];
        let start = Place {
            at: outer.clone(),
            element: self.cx.e.i64(0),
        };
        for phase in &self.plan.phases {
            evaluate(self.cx, body, &phase.uniform, &mut env, &start, self.anchor);
            let init = phase.reduce.iter().map(|(i, kind)| {
                let one = neutral(self.cx.e, *kind, body.stmts[*i].ty);
                widen(self.cx.e, one, self.width()).into()
            });
            let init: Vec<Any<'c>> = init.collect();
            if phase.reduce.is_empty() && phase.store.is_empty() {
                continue;
            }
            let mut step = |places: &[Place<'c>], sums: &[Any<'c>]| self.step(phase, &env, places, sums);
            let mut phase_loop = Loop {
                once: phase.one_loop,
                step: &mut step,
            };
            let sums = self.row_loop(outer, range, &init, &mut phase_loop);
            for ((i, kind), sum) in phase.reduce.iter().zip(sums) {
                let total = finish_reduce(self.cx.e, *kind, body.stmts[*i].ty, sum.into_vector_value());
                env[*i] = Some(total);
            }
        }
        for n in &self.plan.uniform_stores {
            let value = value_of(&env, self.cx.spec.region.stores[*n].value.index());
            // The access mentions no row axis, so the point needs none; with a range its first part stores.
            match range {
                Some((first, _)) => {
                    let axis = self.cx.spec.region.row().start;
                    self.cx.store(*n, value, &outer.with(axis, Index::At(first)));
                }
                None => self.cx.store(*n, value, outer),
            }
        }
    }

    fn width(&self) -> u32 {
        if self.cx.spec.region.row().is_empty() {
            1
        } else {
            LANES
        }
    }

    /// Some places of a phase's loop.
    fn step(&self, phase: &Phase, env: &Env<'c>, places: &[Place<'c>], sums: &[Any<'c>]) -> Vec<Any<'c>> {
        let cx = self.cx;
        let body = &cx.spec.region.body;
        let mut envs: Vec<Env<'c>> = places
            .iter()
            .map(|place| self.reload(phase, env, place))
            .collect();
        evaluate_together(cx, body, &phase.varying, &mut envs, places, self.anchor);
        let mut sums = sums.to_vec();
        for (env, place) in envs.iter().zip(places) {
            self.keep(phase, env, place);
            for n in &phase.store {
                let value = value_of(env, cx.spec.region.stores[*n].value.index());
                cx.store(*n, value, &place.at);
            }
            self.reduce(phase, env, place, &mut sums);
        }
        sums
    }

    /// The values of a place before the phase: uniform ones and kept ones.
    fn reload(&self, phase: &Phase, env: &Env<'c>, place: &Place<'c>) -> Env<'c> {
        let e = self.cx.e;
        let mut env = env.clone();
        for slot in &phase.reload {
            let (s, ty) = self.plan.kept[*slot];
            let value = e.load_aligned(
                e.vector_type(held(ty), LANES),
                self.kept_at(*slot, place),
                self.align(ty),
            );
            let value = value.into_vector_value();
            env[s] = Some(if ty == ScalarType::Bool {
                from_memory(e, ty, value)
            } else {
                value
            });
        }
        env
    }

    fn keep(&self, phase: &Phase, env: &Env<'c>, place: &Place<'c>) {
        let e = self.cx.e;
        for slot in &phase.keep {
            let (s, ty) = self.plan.kept[*slot];
            let value = widen(e, value_of(env, s), LANES);
            let value = if ty == ScalarType::Bool {
                to_memory(e, ty, value)
            } else {
                value
            };
            e.store_aligned(value, self.kept_at(*slot, place), self.align(ty));
        }
    }

    fn reduce(&self, phase: &Phase, env: &Env<'c>, place: &Place<'c>, sums: &mut [Any<'c>]) {
        let e = self.cx.e;
        let body = &self.cx.spec.region.body;
        for ((i, kind), slot) in phase.reduce.iter().zip(sums) {
            let sum = slot.into_vector_value();
            let x = widen(e, value_of(env, body.stmts[*i].args[0].index()), lanes(sum));
            let more = combine(e, *kind, body.stmts[*i].ty, sum, x);
            *slot = match place.at.part {
                Lanes::All => more.into(),
                Lanes::First(count) => e.select(e.first_lanes(LANES, count), more, sum).into(),
            };
        }
    }

    /// Rows of kept values are as long as the row, plus a vector that may hang over.
    fn kept_at(&self, slot: usize, place: &Place<'c>) -> Ptr<'c> {
        let e = self.cx.e;
        let mut offset = e.i64(0);
        for (_, ty) in &self.plan.kept[..slot] {
            let row = kept_elements(self.cx, self.row_extent());
            offset = e.add(offset, e.mul(row, e.i64(i64::from(held(*ty).bytes()))));
        }
        let size = held(self.plan.kept[slot].1).bytes();
        e.at_index(e.at(self.scratch, offset), place.element, size)
    }

    /// Alignment of a vector of kept values: rows of several axes may start anywhere.
    fn align(&self, ty: ScalarType) -> u32 {
        if self.cx.spec.region.row_axes <= 1 {
            held(ty).bytes() * LANES
        } else {
            held(ty).bytes()
        }
        .min(64)
    }

    fn row_extent(&self) -> Int<'c> {
        let e = self.cx.e;
        let row = self.cx.spec.region.row();
        row.map(|a| self.cx.extent(a))
            .reduce(|a, b| e.mul(a, b))
            .unwrap_or_else(|| e.i64(1))
    }

    /// Runs `body` along the row, carrying accumulators.
    fn row_loop(
        &self,
        outer: &Point<'c>,
        range: Option<(Int<'c>, Int<'c>)>,
        init: &[Any<'c>],
        body: &mut Loop<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let row: Vec<u32> = self.cx.spec.region.row().collect();
        let zero = e.i64(0);
        match row.as_slice() {
            [] => {
                let place = Place {
                    at: outer.clone(),
                    element: zero,
                };
                (body.step)(&[place], init)
            }
            [axis] => {
                let (from, to) = range.unwrap_or((zero, self.cx.extent(*axis)));
                self.vectors(outer, *axis, (from, to), zero, init, body)
            }
            [rest @ .., inner] => {
                let aligned = self.cx.spec.region.axes[*inner as usize]
                    .extent
                    .as_const()
                    .is_some_and(|c| c % i64::from(LANES) == 0);
                if aligned {
                    self.nested(outer, rest, *inner, zero, init, body)
                } else {
                    self.flat(outer, &row, init, body)
                }
            }
        }
    }

    /// Whole vectors along one axis, then what is left. A large body runs on two vectors at once where their number is
    /// known to be even and a vector is one register: its operations depend on each other.
    fn vectors(
        &self,
        outer: &Point<'c>,
        axis: u32,
        (from, to): (Int<'c>, Int<'c>),
        element: Int<'c>,
        init: &[Any<'c>],
        body: &mut Loop<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let width = i64::from(LANES);
        let by = e.i64(width);
        let length = e.sub(to, from);
        let whole = e.and(length, e.i64(-width));
        let middle = e.add(from, whole);
        let known = length.get_sign_extended_constant();
        let place = |i: Int<'c>, part: Lanes<'c>| {
            let mut at = outer.with(axis, Index::Run(i));
            at.part = part;
            let element = e.add(element, i);
            Place { at, element }
        };
        let pair = 2 * width;
        if known.is_some_and(|n| n >= pair && n % pair == 0) && body.once && e.level().lanes() == LANES {
            return e.fold(from, to, e.i64(pair), init, |i, sums| {
                let second = place(e.add(i, by), Lanes::All);
                (body.step)(&[place(i, Lanes::All), second], sums)
            });
        }
        let mut run =
            |(from, to): (Int<'c>, Int<'c>), part: &dyn Fn(Int<'c>) -> Lanes<'c>, sums: &[Any<'c>]| {
                e.fold(from, to, by, sums, |i, sums| {
                    (body.step)(&[place(i, part(i))], sums)
                })
            };
        if known.is_none_or(|n| n > width && n % width != 0) && body.once {
            return run((from, to), &|i| Lanes::First(e.imin(e.sub(to, i), by)), init);
        }
        let mut sums = init.to_vec();
        if known.is_none_or(|n| n >= width) {
            sums = run((from, middle), &|_| Lanes::All, &sums);
        }
        if known.is_none_or(|n| n % width != 0) {
            sums = run((middle, to), &|i| Lanes::First(e.sub(to, i)), &sums);
        }
        sums
    }

    /// Loops over the axes before the innermost one, whose extent is a multiple of the lanes: element `i` of the row
    /// stays in lane `i mod 16`.
    fn nested(
        &self,
        outer: &Point<'c>,
        rest: &[u32],
        inner: u32,
        element: Int<'c>,
        init: &[Any<'c>],
        body: &mut Loop<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let [axis, rest @ ..] = rest else {
            return self.vectors(
                outer,
                inner,
                (e.i64(0), self.cx.extent(inner)),
                element,
                init,
                body,
            );
        };
        let below = rest.iter().chain([&inner]).map(|a| self.cx.extent(*a));
        let below = below.reduce(|a, b| e.mul(a, b)).expect("there is an inner axis");
        e.fold(e.i64(0), self.cx.extent(*axis), e.i64(1), init, |i, sums| {
            let at = outer.with(*axis, Index::At(i));
            let element = e.add(element, e.mul(i, below));
            self.nested(&at, rest, inner, element, sums, body)
        })
    }

    /// One loop over the elements of several axes, the indices of each lane taken apart.
    fn flat(
        &self,
        outer: &Point<'c>,
        row: &[u32],
        init: &[Any<'c>],
        body: &mut Loop<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let total = self.row_extent();
        let width = i64::from(LANES);
        e.fold(e.i64(0), total, e.i64(width), init, |i, sums| {
            let mut at = outer.clone();
            self.take_apart(&mut at, row, i, total);
            at.part = Lanes::First(e.imin(e.sub(total, i), e.i64(width)));
            (body.step)(&[Place { at, element: i }], sums)
        })
    }

    /// The indices along several axes of the sixteen elements from `first` on; the last of `total` stands in for those
    /// that do not exist. No level can divide vectors of integers.
    fn take_apart(&self, at: &mut Point<'c>, row: &[u32], first: Int<'c>, total: Int<'c>) {
        let e = self.cx.e;
        let indices = e.vector_type(Elem::I64, LANES);
        let slots: Vec<(u32, Ptr<'c>)> = row.iter().map(|a| (*a, e.stack(indices, 1, 64))).collect();
        let last = e.sub(total, e.i64(1));
        e.for_range(e.i64(0), e.i64(i64::from(LANES)), e.i64(1), |lane| {
            let mut left = e.imin(e.add(first, lane), last);
            for (axis, slot) in slots.iter().rev() {
                let extent = self.cx.extent(*axis);
                e.store_scalar(e.urem(left, extent), e.at_index(*slot, lane, 8));
                left = e.udiv(left, extent);
            }
        });
        for (axis, slot) in &slots {
            let index = e.load_aligned(indices, *slot, 64).into_vector_value();
            at.axes[*axis as usize] = Some(Index::Each(index));
        }
    }
}

/// Elements of scratch that a kept row of `n` elements takes: a multiple of 64 that leaves a vector's room behind.
pub fn kept_elements<'c>(cx: &Cx<'_, 'c>, n: Int<'c>) -> Int<'c> {
    let e = cx.e;
    e.and(e.add(n, e.i64(79)), e.i64(-64))
}
