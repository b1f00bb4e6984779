//! NormalFloat-4 (Dettmers et al. 2023, appendix E): sixteen quantiles of the normal distribution, scaled to [-1, 1].

/// The values of the codes 0 to 15, ascending.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The code of `x` (already divided by its block's absolute maximum): the nearest value; exactly between two, the
/// lower code. NaN gives code 0.
pub fn nf4_encode(x: f32) -> u8 {
    // The midpoint of two f32 is exact in f64 (their exponents differ by less than 29).
    let above = |pair: &[f32]| f64::from(x) > (f64::from(pair[0]) + f64::from(pair[1])) / 2.0;
    NF4.windows(2).filter(|p| above(p)).count() as u8
}

/// The value of a code; only the low four bits count.
pub fn nf4_decode(code: u8) -> f32 {
    NF4[usize::from(code & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_thresholds_and_neighbours() {
        for c in 0..16u8 {
            assert_eq!(nf4_encode(nf4_decode(c)), c);
        }
        for (c, p) in NF4.windows(2).enumerate() {
            let mid = (f64::from(p[0]) + f64::from(p[1])) / 2.0;
            let (mut below, mut above) = (mid as f32, mid as f32);
            while f64::from(below) > mid {
                below = below.next_down();
            }
            while f64::from(above) <= mid {
                above = above.next_up();
            }
            // On the threshold, or just below it, the lower code; just above it the upper one.
            assert_eq!((nf4_encode(below), nf4_encode(above)), (c as u8, c as u8 + 1));
        }
        assert_eq!(
            (nf4_encode(-9.0), nf4_encode(9.0), nf4_encode(f32::NAN)),
            (0, 15, 0)
        );
    }
}
