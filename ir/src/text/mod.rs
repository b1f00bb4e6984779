//! The text form `.rsq`: canonical printer and parser, `print(parse(t)) == t` for every printed `t`.
//!
//! ```text
//! rsqc 1
//! module "name" phase fused
//! provenance "what made it"
//! symbol batch in 1..64
//! check {a + b} == {c} loc "node"
//! const @0 "w" : f32[2] = [1.0, -0.5]
//! const @1 "b" : f32[384] = splat 0.0
//! const @2 "t" : i8[20] = hex 00ff..
//! const @3 "big" : i8[384, 1536] = file 0 9f86d081884c7d65..
//! graph {
//!   input %0 "x" : f32[batch, 2]
//!   %1 = add(%0, @0) : f32[batch, 2] loc "node"
//!   %2 = @3 : i8[384, 1536] layout packed_weight
//!   %3 = region(%1) : f32[batch, 2] loc "node" {
//!     axis m parallel {batch}
//!     axis n parallel {2}
//!     row 1
//!     read {0} + m*{2} + n*{1}
//!     $0 = operand(0) : f32
//!     $1 = abs($0) : f32
//!     store $1 at {0} + m*{2} + n*{1}
//!   }
//!   output "y" = %3
//! }
//! ```
//!
//! `#` starts a comment; comments are not kept. Values and constants are numbered in the order of appearance, nodes
//! stand in topological order. `_` is an operand left out. Attributes: integers, `[1, 2]`, floats (with a point, an
//! exponent, `+inf`, or their bits), words, `{dim}`, `(dim, dim)`, types. Constants of more than 16 elements are a
//! `splat`, up to 1 KB `hex`, above that an offset into a data file beside the text and the first half of their
//! BLAKE3 hash. In a region, `clamp(axis, {shift}, {limit})*{stride}` and `gather(operand, {limit})*{stride}` are the
//! terms of [`crate::region::Access`]; anchors are `contract(lhs, rhs) : type [pad]` and
//! `attention(q, k, v) key axis inner axis empty nan|zero { score body }`.

mod cursor;
mod dim;
mod literal;
mod parse;
mod parse_region;
mod print;
mod print_region;
mod types;

pub use cursor::ParseError;
pub use parse::{parse, parse_with_data};
pub use print::{print, print_node, print_with_data};
