//! THE definition of each number format: round, clamp, encode, decode, pack. Every rounding is to nearest, ties to
//! even.
//!
//! - integers of 1 to 8 bits and their packing: [`int_code`], [`pack`], [`unpack`];
//! - minifloats of 4, 6 and 8 bits: [`MiniFloat`];
//! - the power-of-two scale e8m0 and microscaling blocks: [`e8m0_encode`], [`mx_encode`];
//! - NormalFloat-4: [`nf4_encode`];
//! - f16 and bf16 from f64 with a single rounding: [`f16_from_f64`].

mod half;
mod int;
mod minifloat;
mod mx;
mod nf4;

pub use self::half::{bf16_from_f64, f16_from_f64};
pub use int::{int_code, pack, packed_len, unpack};
pub use minifloat::{MiniFloat, Overflow, Special};
pub use mx::{MxBlock, e8m0_decode, e8m0_encode, mx_decode, mx_encode};
pub use nf4::{NF4, nf4_decode, nf4_encode};
