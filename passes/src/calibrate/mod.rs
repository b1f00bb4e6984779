//! Calibration: static scales from samples. One file a calibrator; [`Observer`] holds what they keep while samples stream
//! by, and the pass [`Calibrate`] feeds it. Convolutions with static codes also get corrected biases.

pub(crate) mod bias;
#[cfg(test)]
mod conv_tests;
pub mod entropy;
pub mod histogram;
pub mod isotone;
pub mod min_max;
pub mod moving_average;
pub mod mse;
mod observer;
mod pass;
#[cfg(test)]
mod pass_tests;
pub mod percentile;
#[cfg(test)]
mod tests;

pub use observer::{NotFinite, Observer, Range, parameters};
pub use pass::Calibrate;
