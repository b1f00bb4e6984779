//! The equations. Each file holds one family; the laws are in `../README.md`.

mod activations;
mod layout;
mod norms;
mod rope;

use super::rule::Rule;

/// Declares a list of rules: `name: "lhs" => "rhs" [if condition], sample "..."`.
macro_rules! rules {
    ($($(#[$m:meta])* $name:literal : $lhs:literal => $rhs:literal $(if $when:expr)?, sample $sample:literal;)*) => {
        /// The rules of this family.
        pub(super) const RULES: &[Rule] = &[$(Rule {
            name: $name,
            lhs: $lhs,
            rhs: $rhs,
            when: { #[allow(unused_mut, unused_assignments)] let mut w: fn(&View<'_>) -> bool = always; $(w = $when;)? w },
            sample: $sample,
        }),*];
    };
}
use rules;

/// All rules, in a fixed order.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    [activations::RULES, norms::RULES, rope::RULES, layout::RULES]
        .into_iter()
        .flatten()
}
