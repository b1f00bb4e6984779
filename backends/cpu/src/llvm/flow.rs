//! Structured control flow and mutable variables.

use super::emit::{Emit, ok};
use super::{Any, Int, IntCmp, Ptr};
use inkwell::types::BasicTypeEnum;
use inkwell::values::BasicValue;

/// A mutable variable: a stack slot that the optimiser turns into registers.
#[derive(Clone, Copy)]
pub struct Var<'c> {
    slot: Ptr<'c>,
    ty: BasicTypeEnum<'c>,
}

impl<'c> Emit<'c> {
    /// A variable that holds `init`.
    pub fn var(&self, init: impl BasicValue<'c>) -> Var<'c> {
        let value = init.as_basic_value_enum();
        let slot = self.in_entry(|| ok(self.builder.build_alloca(value.get_type(), "var")));
        ok(self.builder.build_store(slot, value));
        Var {
            slot,
            ty: value.get_type(),
        }
    }

    /// The variable's current value.
    pub fn get<T: TryFrom<Any<'c>>>(&self, var: Var<'c>) -> T {
        cast(ok(self.builder.build_load(var.ty, var.slot, "get")))
    }

    /// Assigns a variable.
    pub fn set(&self, var: Var<'c>, value: impl BasicValue<'c>) {
        ok(self.builder.build_store(var.slot, value));
    }

    /// `for i in (start..end).step_by(step)`, signed, bottom-tested behind a guard.
    pub fn for_range(&self, start: Int<'c>, end: Int<'c>, step: Int<'c>, body: impl FnOnce(Int<'c>)) {
        self.fold(start, end, step, &[], |i, _| {
            body(i);
            Vec::new()
        });
    }

    /// A counted loop that carries values: `body` gets the index and the current values and returns the next ones
    /// (as many, of the same types). The result is what the last iteration returned, or `init` for an empty range.
    pub fn fold(
        &self,
        start: Int<'c>,
        end: Int<'c>,
        step: Int<'c>,
        init: &[Any<'c>],
        body: impl FnOnce(Int<'c>, &[Any<'c>]) -> Vec<Any<'c>>,
    ) -> Vec<Any<'c>> {
        let before = self.block();
        let inside = self.context.append_basic_block(self.function(), "loop");
        let after = self.context.append_basic_block(self.function(), "done");
        let enter = self.icmp(IntCmp::SLT, start, end);
        ok(self.builder.build_conditional_branch(enter, inside, after));

        self.builder.position_at_end(inside);
        let index = ok(self.builder.build_phi(start.get_type(), "i"));
        let carried: Vec<_> = init
            .iter()
            .map(|value| ok(self.builder.build_phi(value.get_type(), "carry")))
            .collect();
        let values: Vec<Any<'c>> = carried.iter().map(|phi| phi.as_basic_value()).collect();
        let i = index.as_basic_value().into_int_value();
        let next_values = body(i, &values);
        assert_eq!(
            next_values.len(),
            init.len(),
            "a loop body returns every carried value"
        );
        let latch = self.block();
        let next = ok(self.builder.build_int_nsw_add(i, step, "next"));
        let again = self.icmp(IntCmp::SLT, next, end);
        ok(self.builder.build_conditional_branch(again, inside, after));
        index.add_incoming(&[(&start, before), (&next, latch)]);
        for ((phi, first), later) in carried.iter().zip(init).zip(&next_values) {
            phi.add_incoming(&[(first, before), (later, latch)]);
        }

        self.builder.position_at_end(after);
        let results = init.iter().zip(&next_values).map(|(first, last)| {
            let phi = ok(self.builder.build_phi(first.get_type(), "result"));
            phi.add_incoming(&[(first, before), (last, latch)]);
            phi.as_basic_value()
        });
        results.collect()
    }

    /// Runs `then` only where `condition` holds.
    pub fn when(&self, condition: Int<'c>, then: impl FnOnce()) {
        let yes = self.context.append_basic_block(self.function(), "then");
        let after = self.context.append_basic_block(self.function(), "endif");
        ok(self.builder.build_conditional_branch(condition, yes, after));
        self.builder.position_at_end(yes);
        then();
        ok(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(after);
    }

    /// Runs one of two bodies.
    pub fn if_else(&self, condition: Int<'c>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let yes = self.context.append_basic_block(self.function(), "then");
        let no = self.context.append_basic_block(self.function(), "else");
        let after = self.context.append_basic_block(self.function(), "endif");
        ok(self.builder.build_conditional_branch(condition, yes, no));
        self.builder.position_at_end(yes);
        then();
        ok(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(no);
        otherwise();
        ok(self.builder.build_unconditional_branch(after));
        self.builder.position_at_end(after);
    }

    /// Runs `arm(k)` for the `k` in `1..=count` that `value` (i64) equals; any other value runs nothing.
    pub fn match_count(&self, value: Int<'c>, count: u32, mut arm: impl FnMut(u32)) {
        let after = self.context.append_basic_block(self.function(), "matched");
        let blocks: Vec<_> = (1..=count)
            .map(|k| (k, self.context.append_basic_block(self.function(), "arm")))
            .collect();
        let cases: Vec<_> = blocks
            .iter()
            .map(|&(k, block)| (self.i64(i64::from(k)), block))
            .collect();
        ok(self.builder.build_switch(value, after, &cases));
        for (k, block) in blocks {
            self.builder.position_at_end(block);
            arm(k);
            ok(self.builder.build_unconditional_branch(after));
        }
        self.builder.position_at_end(after);
    }
}

/// Narrows a value to the type that the generator knows it has.
pub(super) fn cast<'c, T: TryFrom<Any<'c>>>(value: Any<'c>) -> T {
    T::try_from(value).unwrap_or_else(|_| panic!("a value has another type than its use"))
}
