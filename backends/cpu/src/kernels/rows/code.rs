//! Code for one row: the loops of a [`RowPlan`].

use super::plan::{Phase, RowPlan};
use crate::kernels::access::{Cx, Index, Point};
use crate::kernels::body::{
    LANES, apply, combine, finish_reduce, from_memory, held, lanes, neutral, single, to_memory, widen,
};
use crate::level::LevelFacts;
use crate::llvm::{Any, Emit, Int, Lanes, Ptr, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::scalar::{Body, ScalarOp};

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

/// Evaluates statements at several places, each statement at all of them before the next.
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

fn value_of<'c>(env: &Env<'c>, i: usize) -> Vector<'c> {
    env[i].expect("statements are evaluated after their arguments")
}

/// A phase body: evaluates some places and returns the new accumulators.
type Step<'f, 'c> = dyn FnMut(&[Place<'c>], &[Any<'c>]) -> Vec<Any<'c>> + 'f;

/// Vectors that a loop evaluates together: long chains of dependent operations, such as those of a polynomial, keep the
/// units of a core busy only if several are under way. Below AVX-512 a vector of 16 lanes is several registers already.
fn together(e: &Emit<'_>) -> i64 {
    if e.level().lanes() == LANES { 2 } else { 1 }
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
            let sums = self.row_loop(outer, range, &init, &mut |places, sums| {
                self.step(phase, &env, places, sums)
            });
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

    /// Runs `step` along the row, carrying accumulators.
    fn row_loop(
        &self,
        outer: &Point<'c>,
        range: Option<(Int<'c>, Int<'c>)>,
        init: &[Any<'c>],
        step: &mut Step<'_, 'c>,
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
                step(&[place], init)
            }
            [axis] => {
                let (from, to) = range.unwrap_or((zero, self.cx.extent(*axis)));
                self.vectors(outer, *axis, (from, to), zero, init, step)
            }
            [rest @ .., inner] => {
                let aligned = self.cx.spec.region.axes[*inner as usize]
                    .extent
                    .as_const()
                    .is_some_and(|c| c % i64::from(LANES) == 0);
                if aligned {
                    self.nested(outer, rest, *inner, zero, init, step)
                } else {
                    self.flat(outer, &row, init, step)
                }
            }
        }
    }

    /// Whole vectors along one axis, several at once if their number is known, then what is left.
    fn vectors(
        &self,
        outer: &Point<'c>,
        axis: u32,
        (from, to): (Int<'c>, Int<'c>),
        element: Int<'c>,
        init: &[Any<'c>],
        step: &mut Step<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let width = i64::from(LANES);
        let by = e.i64(width);
        let length = e.sub(to, from);
        let known = length.get_sign_extended_constant();
        let place = |i: Int<'c>, part: Lanes<'c>| {
            let mut at = outer.with(axis, Index::Run(i));
            at.part = part;
            let element = e.add(element, i);
            Place { at, element }
        };
        let mut sums = init.to_vec();
        let mut start = from;
        let many = together(e) * width;
        if let Some(n) = known.filter(|n| many > width && *n >= many) {
            let end = e.add(from, e.i64(n / many * many));
            sums = e.fold(start, end, e.i64(many), &sums, |i, sums| {
                let each = (0..many / width).map(|v| place(e.add(i, e.i64(v * width)), Lanes::All));
                step(&each.collect::<Vec<_>>(), sums)
            });
            start = end;
        }
        let left = e.sub(to, start);
        let known = left.get_sign_extended_constant();
        let middle = e.add(start, e.and(left, e.i64(-width)));
        if known.is_none_or(|n| n >= width) {
            sums = e.fold(start, middle, by, &sums, |i, sums| {
                step(&[place(i, Lanes::All)], sums)
            });
        }
        if known.is_none_or(|n| n % width != 0) {
            sums = e.fold(middle, to, by, &sums, |i, sums| {
                step(&[place(i, Lanes::First(e.sub(to, i)))], sums)
            });
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
        step: &mut Step<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let [axis, rest @ ..] = rest else {
            return self.vectors(
                outer,
                inner,
                (e.i64(0), self.cx.extent(inner)),
                element,
                init,
                step,
            );
        };
        let below = rest.iter().chain([&inner]).map(|a| self.cx.extent(*a));
        let below = below.reduce(|a, b| e.mul(a, b)).expect("there is an inner axis");
        e.fold(e.i64(0), self.cx.extent(*axis), e.i64(1), init, |i, sums| {
            let at = outer.with(*axis, Index::At(i));
            let element = e.add(element, e.mul(i, below));
            self.nested(&at, rest, inner, element, sums, step)
        })
    }

    /// One loop over the elements of several axes, the indices of each lane taken apart.
    fn flat(
        &self,
        outer: &Point<'c>,
        row: &[u32],
        init: &[Any<'c>],
        step: &mut Step<'_, 'c>,
    ) -> Vec<Any<'c>> {
        let e = self.cx.e;
        let total = self.row_extent();
        let zero = e.i64(0);
        let take_apart = |i: Int<'c>, part: Lanes<'c>| {
            let numbers = e.add(e.splat(i, LANES), e.iota(LANES));
            let last = e.splat(e.sub(total, e.i64(1)), LANES);
            let mut left = e.vmin(numbers, last);
            let mut at = outer.clone();
            for axis in row.iter().rev() {
                let extent = e.splat(self.cx.extent(*axis), LANES);
                at.axes[*axis as usize] = Some(Index::Each(e.urem(left, extent)));
                left = e.udiv(left, extent);
            }
            at.part = part;
            at
        };
        let by = e.i64(i64::from(LANES));
        let whole = e.and(total, e.i64(-i64::from(LANES)));
        let sums = e.fold(zero, whole, by, init, |i, sums| {
            let at = take_apart(i, Lanes::All);
            step(&[Place { at, element: i }], sums)
        });
        e.fold(whole, total, by, &sums, |i, sums| {
            let at = take_apart(i, Lanes::First(e.sub(total, i)));
            step(&[Place { at, element: i }], sums)
        })
    }
}

/// Elements of scratch that a kept row of `n` elements takes: a multiple of 64 that leaves a vector's room behind.
pub fn kept_elements<'c>(cx: &Cx<'_, 'c>, n: Int<'c>) -> Int<'c> {
    let e = cx.e;
    e.and(e.add(n, e.i64(79)), e.i64(-64))
}
