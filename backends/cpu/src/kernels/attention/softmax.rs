//! The softmax step of a block of keys: the score body, maxima, exponentials, sums of weights.

use super::{Code, SCORE_ROW};
use crate::kernels::access::{Index, Point, moves};
use crate::kernels::body::{LANES, combine, finish_reduce, lanes, widen};
use crate::kernels::rows::{Env, Place, evaluate};
use crate::llvm::{Any, Elem, Float, FloatCmp, Int, IntCmp, Lanes, Ptr, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::scalar::{Body, ReduceKind, ScalarOp, exponential};

impl<'c> Code<'_, '_, 'c> {
    /// Replaces the scores of a block by weights and updates maxima, sums and factors.
    pub(super) fn softmax(&self, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let e = self.cx.e;
        let exp = exponential();
        e.for_range(e.i64(0), self.count, e.i64(1), |row| {
            let cell = |i| self.cell(self.layout.scores, row, e.i64(SCORE_ROW), i);
            let vector = e.vector_type(Elem::F32, LANES);
            let raw = |cell, _| e.load_aligned(vector, cell, 64).into_vector_value();
            let max = self.score_row(&self.query(at, row), (t, count), &cell, &raw);
            self.weight_row(&exp, row, (t, count), max);
        });
    }

    /// Runs the score body along a row, whose sixteen scores from `i` on go to `cell(i)` and come of `raw(cell(i), i)`;
    /// gives the row's maximum, one lane.
    pub(super) fn score_row(
        &self,
        at: &Point<'c>,
        (t, count): (Int<'c>, Int<'c>),
        cell: &dyn Fn(Int<'c>) -> Ptr<'c>,
        raw: &dyn Fn(Ptr<'c>, Int<'c>) -> Vector<'c>,
    ) -> Vector<'c> {
        let (cx, e) = (self.cx, self.cx.e);
        let body = &self.a.score;
        let zero = e.i64(0);
        let varies = body.varying(&|op| match op {
            ScalarOp::Operand(n) => moves(&cx.spec.region, *n, self.a.key),
            ScalarOp::Index(axis) => *axis == self.a.key,
            _ => true,
        });
        let (varying, uniform): (Vec<usize>, Vec<usize>) = (0..body.stmts.len()).partition(|i| varies[*i]);
        let mut env: Env<'c> = vec![None; body.stmts.len()];
        let place = Place {
            at: at.clone(),
            element: zero,
        };
        evaluate(cx, body, &uniform, &mut env, &place, &|_, _| {
            panic!("the score varies with the key")
        });
        let lowest = e.f32s(f32::NEG_INFINITY, LANES);
        let step = |i: Int<'c>, carried: &[Any<'c>], part: Lanes<'c>| {
            let cell = cell(i);
            let mut here = at.with(self.a.key, Index::Run(e.add(t, i)));
            here.part = part;
            let place = Place { at: here, element: i };
            let raw = raw(cell, i);
            let mut env = env.clone();
            evaluate(cx, body, &varying, &mut env, &place, &|_, _| raw);
            let score = env
                .last()
                .copied()
                .flatten()
                .expect("a score body has statements");
            let mut score = widen(e, score, LANES);
            if let Lanes::First(left) = part {
                score = e.select(e.first_lanes(LANES, left), score, lowest);
            }
            e.store_aligned(score, cell, 64);
            let max = carried[0].into_vector_value();
            vec![combine(e, ReduceKind::Max, ScalarType::F32, max, score).into()]
        };
        let whole = e.and(count, e.i64(-i64::from(LANES)));
        let by = e.i64(i64::from(LANES));
        let max = e.fold(zero, whole, by, &[lowest.into()], |i, c| step(i, c, Lanes::All));
        let max = e.fold(whole, count, by, &max, |i, c| {
            step(i, c, Lanes::First(e.sub(count, i)))
        });
        finish_reduce(e, ReduceKind::Max, ScalarType::F32, max[0].into_vector_value())
    }

    /// `p = exp(score - m)` along a row, with the running maximum `m`.
    fn weight_row(&self, exp: &Body, row: Int<'c>, (t, count): (Int<'c>, Int<'c>), block_max: Vector<'c>) {
        let (e, l) = (self.cx.e, self.layout);
        let zero = e.i64(0);
        let sixteen = e.i64(16);
        let one = e.vector_type(Elem::F32, 1);
        let max_cell = self.cell(l.max, row, sixteen, zero);
        let old = e.load_aligned(one, max_cell, 4).into_vector_value();
        let max = combine(e, ReduceKind::Max, ScalarType::F32, old, block_max);
        // While every score is -inf there is nothing to subtract: weights are exp(-inf) = 0.
        let lowest = e.f32s(f32::NEG_INFINITY, 1);
        let shift = e.select(e.fcmp(FloatCmp::OEQ, max, lowest), e.f32s(0.0, 1), max);
        // Before the first block there is nothing to scale.
        let alpha = e.var(e.f32s(0.0, 1));
        e.when(e.icmp(IntCmp::SGT, t, zero), || {
            e.set(alpha, self.exp(exp, e.fsub(old, shift)))
        });
        let alpha: Vector<'c> = e.get(alpha);
        e.store_aligned(max, max_cell, 4);
        e.store_aligned(alpha, self.cell(l.alpha, row, sixteen, zero), 4);
        let shift = widen(e, shift, LANES);
        let vector = e.vector_type(Elem::F32, LANES);
        let sum_cell = self.cell(l.sum, row, sixteen, zero);
        let sum = e.load_aligned(vector, sum_cell, 64).into_vector_value();
        let sum = e.fmul(sum, widen(e, alpha, LANES));
        let sums = e.fold(
            zero,
            count,
            e.i64(i64::from(LANES)),
            &[sum.into()],
            |i, carried| {
                let cell = self.cell(l.scores, row, e.i64(SCORE_ROW), i);
                let score = e.load_aligned(vector, cell, 64).into_vector_value();
                let weight = self.exp(exp, e.fsub(score, shift));
                e.store_aligned(weight, cell, 64);
                vec![e.fadd(carried[0].into_vector_value(), weight).into()]
            },
        );
        e.store_aligned(sums[0].into_vector_value(), sum_cell, 64);
    }

    /// `e^x`, lane by lane.
    pub(super) fn exp(&self, body: &Body, x: Vector<'c>) -> Vector<'c> {
        let e = self.cx.e;
        let all: Vec<usize> = (0..body.stmts.len()).collect();
        let mut env: Env<'c> = vec![None; body.stmts.len()];
        let place = Place {
            at: Point::new(0),
            element: e.i64(0),
        };
        evaluate(self.cx, body, &all, &mut env, &place, &|_, _| x);
        let y = env.last().copied().flatten().expect("a formula has statements");
        widen(e, y, lanes(x))
    }

    /// What a row's sums are divided by, in 16 lanes. The sum of weights is 0 only if every score was -inf (the largest
    /// weight is 1 otherwise, and NaN scores give NaN): then `0 / 0` is the NaN, or `0 / 1` the zero, that is wanted.
    pub(super) fn divisor(&self, row: Int<'c>) -> Vector<'c> {
        let (e, l) = (self.cx.e, self.layout);
        let cell = self.cell(l.sum, row, e.i64(16), e.i64(0));
        let sum = e.load_aligned(e.vector_type(Elem::F32, LANES), cell, 64);
        let total: Float<'c> = e.reduce_sum(sum.into_vector_value());
        let total = e.splat(total, LANES);
        match self.a.empty_row {
            EmptyRow::Nan => total,
            EmptyRow::Zero => {
                let empty = e.fcmp(FloatCmp::OEQ, total, e.f32s(0.0, LANES));
                e.select(empty, e.f32s(1.0, LANES), total)
            }
        }
    }
}
