//! The definition of each number format.

mod half;
mod nf4;

pub use self::half::{bf16_from_f64, f16_from_f64};
pub use nf4::{NF4, nf4_decode, nf4_encode};
