//! The 16-bit floats: conversion from f64 with a single rounding, the same on every host.

use half::{bf16, f16};

/// `v` as f32, rounded to odd: inexact results get an odd last bit, so that rounding once more to a narrower format
/// gives what rounding `v` directly would (Boldo and Melquiond 2008).
fn odd_f32(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) == v || near.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    // `near` is even and inexact: the neighbour on the other side of `v` is odd. An infinity becomes the largest finite.
    let away = f64::from(near.abs()) > v.abs();
    f32::from_bits(if away {
        near.to_bits() - 1
    } else {
        near.to_bits() + 1
    })
}

/// The f16 nearest to `v`, ties to even.
pub fn f16_from_f64(v: f64) -> f16 {
    f16::from_f32(odd_f32(v))
}

/// The bf16 nearest to `v`, ties to even.
pub fn bf16_from_f64(v: f64) -> bf16 {
    bf16::from_f32(odd_f32(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_and_every_midpoint() {
        for bits in 0..=u16::MAX {
            let h = f16::from_bits(bits);
            if h.is_nan() {
                assert!(f16_from_f64(h.to_f64()).is_nan());
                continue;
            }
            assert_eq!(f16_from_f64(h.to_f64()), h);
            let next = f16::from_bits(bits.wrapping_add(1));
            if next.is_nan() || next.is_infinite() || h.is_infinite() || bits == 0x7fff {
                continue;
            }
            let mid = (h.to_f64() + next.to_f64()) / 2.0;
            let even = if bits & 1 == 0 { h } else { next };
            assert_eq!(f16_from_f64(mid).to_bits(), even.to_bits(), "{mid}");
            // A hair beyond the midpoint, invisible in f32, decides.
            let out = f64::from_bits(mid.to_bits() + 1);
            assert_eq!(f16_from_f64(out).to_bits(), next.to_bits(), "{out}");
            let inside = f64::from_bits(mid.to_bits() - 1);
            assert_eq!(f16_from_f64(inside).to_bits(), h.to_bits(), "{inside}");
        }
        for bits in 0..=u16::MAX {
            let b = bf16::from_bits(bits);
            let next = bf16::from_bits(bits.wrapping_add(1));
            if b.is_nan() || b.is_infinite() || next.is_nan() || next.is_infinite() || bits == 0x7fff {
                continue;
            }
            assert_eq!(bf16_from_f64(b.to_f64()), b);
            let mid = (b.to_f64() + next.to_f64()) / 2.0;
            assert_eq!(
                bf16_from_f64(mid).to_bits(),
                if bits & 1 == 0 { bits } else { bits.wrapping_add(1) }
            );
            assert_eq!(
                bf16_from_f64(f64::from_bits(mid.to_bits() + 1)).to_bits(),
                next.to_bits()
            );
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(f16_from_f64(65_519.999_999_9), f16::MAX);
        assert_eq!(f16_from_f64(65520.0), f16::INFINITY);
        assert_eq!(f16_from_f64(1e300), f16::INFINITY);
        assert_eq!(f16_from_f64(-1e300), f16::NEG_INFINITY);
        assert_eq!(bf16_from_f64(f64::from(f32::MAX)), bf16::INFINITY);
        assert_eq!(f16_from_f64(-1e-300).to_bits(), 0x8000);
    }
}
