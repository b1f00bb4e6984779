//! The softmax step of a block of keys: the score body, maxima, exponentials, sums of weights.

use super::{Code, SCORE_ROW};
use crate::kernels::access::{Cx, Index, Point, moves};
use crate::kernels::body::{LANES, combine, finish_reduce, lanes, widen};
use crate::kernels::rows::{Env, Place, evaluate, evaluate_together};
use crate::llvm::{Any, Elem, Float, FloatCmp, Int, IntCmp, Lanes, Ptr, Vector};
use rsqc_ir::ScalarType;
use rsqc_ir::ops::nn::EmptyRow;
use rsqc_ir::scalar::{Body, ReduceKind, ScalarOp, exponential};

/// Rows whose exponentials are computed together: the steps of one depend on each other, so that a core would wait most
/// of the time.
const TOGETHER: usize = 2;

/// What the weights of a row start from.
struct RowStart<'c> {
    /// Row of scores.
    row: Int<'c>,
    /// What is subtracted from scores, 16 times.
    shift: Vector<'c>,
    /// Partial sums of weights so far.
    sum: Vector<'c>,
}

impl<'c> Code<'_, '_, 'c> {
    /// Replaces the scores of a block by weights and updates maxima, sums and factors.
    pub(super) fn softmax(&self, at: &Point<'c>, (t, count): (Int<'c>, Int<'c>)) {
        let e = self.cx.e;
        let exp = exponential();
        let vector = e.vector_type(Elem::F32, LANES);
        let raw = |cell, _| e.load_aligned(vector, cell, 64).into_vector_value();
        let rows = |first: Int<'c>, number: usize| {
            let starts: Vec<RowStart<'c>> = (0..number)
                .map(|n| {
                    let row = e.add(first, e.i64(n as i64));
                    let cell = |i| self.cell(self.layout.scores, row, e.i64(SCORE_ROW), i);
                    let max = self.score_row(&self.query(at, row), (t, count), &cell, &raw);
                    self.start_row(&exp, row, t, max)
                })
                .collect();
            self.weights(&exp, count, &starts);
        };
        if self.kernel.queries.is_none() {
            return rows(e.i64(0), 1);
        }
        let pairs = e.and(self.count, e.i64(-(TOGETHER as i64)));
        e.for_range(e.i64(0), pairs, e.i64(TOGETHER as i64), |row| rows(row, TOGETHER));
        e.for_range(pairs, self.count, e.i64(1), |row| rows(row, 1));
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

    /// The new running maximum `m` of a row, and what follows from it.
    fn start_row(&self, exp: &Body, row: Int<'c>, t: Int<'c>, block_max: Vector<'c>) -> RowStart<'c> {
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
        let sum = e.load_aligned(
            e.vector_type(Elem::F32, LANES),
            self.cell(l.sum, row, sixteen, zero),
            64,
        );
        RowStart {
            row,
            shift: widen(e, shift, LANES),
            sum: e.fmul(sum.into_vector_value(), widen(e, alpha, LANES)),
        }
    }

    /// `p = exp(score - m)` along some rows.
    fn weights(&self, exp: &Body, count: Int<'c>, rows: &[RowStart<'c>]) {
        let (e, l) = (self.cx.e, self.layout);
        let zero = e.i64(0);
        let vector = e.vector_type(Elem::F32, LANES);
        let sums: Vec<Any<'c>> = rows.iter().map(|r| r.sum.into()).collect();
        let sums = e.fold(zero, count, e.i64(i64::from(LANES)), &sums, |i, sums| {
            let cells: Vec<_> = rows
                .iter()
                .map(|r| self.cell(l.scores, r.row, e.i64(SCORE_ROW), i))
                .collect();
            let arguments = rows.iter().zip(&cells).map(|(r, cell)| {
                let score = e.load_aligned(vector, *cell, 64).into_vector_value();
                e.fsub(score, r.shift)
            });
            let weights = self.exp_together(exp, arguments.collect());
            for (cell, weight) in cells.iter().zip(&weights) {
                e.store_aligned(*weight, *cell, 64);
            }
            let sums = sums.iter().zip(weights);
            sums.map(|(sum, weight)| e.fadd(sum.into_vector_value(), weight).into())
                .collect()
        });
        for (r, sum) in rows.iter().zip(sums) {
            let cell = self.cell(l.sum, r.row, e.i64(16), zero);
            e.store_aligned(sum.into_vector_value(), cell, 64);
        }
    }

    /// `e^x`, lane by lane.
    pub(super) fn exp(&self, body: &Body, x: Vector<'c>) -> Vector<'c> {
        self.exp_together(body, vec![x])[0]
    }

    /// The same of several vectors at once.
    fn exp_together(&self, body: &Body, x: Vec<Vector<'c>>) -> Vec<Vector<'c>> {
        let e = self.cx.e;
        let all: Vec<usize> = (0..body.stmts.len()).collect();
        let places: Vec<Place<'c>> = (0..x.len())
            .map(|n| Place {
                at: Point::new(0),
                // Which argument is meant.
                element: e.i64(n as i64),
            })
            .collect();
        let mut envs: Vec<Env<'c>> = vec![vec![None; body.stmts.len()]; x.len()];
        let argument = |_: &Cx<'_, 'c>, place: &Place<'c>| {
            let n = place
                .element
                .get_sign_extended_constant()
                .expect("a number set above");
            x[n as usize]
        };
        evaluate_together(self.cx, body, &all, &mut envs, &places, &argument);
        let result = |(env, x): (&Env<'c>, &Vector<'c>)| {
            let y = env.last().copied().flatten().expect("a formula has statements");
            widen(e, y, lanes(*x))
        };
        envs.iter().zip(&x).map(result).collect()
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
