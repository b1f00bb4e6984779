//! Recognition of what exporters have taken apart: equality saturation over windows of the graph for algebraic
//! spellings ([`RecognizePatterns`]), and one plain matcher for whole attention blocks ([`RecognizeAttention`]).
//!
//! Layout: `language` terms and facts, `window` where the graph is cut, `rule` how one-line equations become
//! rewrites, `rules` the equations, `extract` the cheapest graph of a saturated window. README.md has the laws.

mod attention;
mod causal;
mod extract;
mod language;
mod recognize;
mod rule;
mod rules;
mod window;

#[cfg(test)]
mod attention_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;

pub use attention::RecognizeAttention;
pub use causal::RecognizeCausalMasks;
pub use recognize::RecognizePatterns;
