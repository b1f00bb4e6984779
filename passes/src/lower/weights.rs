//! Codes of constant weights: symmetric int8, one scale a channel.

use crate::methods::Matrix;

/// Codes and the scales of their channels.
pub(crate) struct WeightCodes {
    /// Codes in the order of the elements.
    pub codes: Vec<i8>,
    /// One a channel.
    pub scales: Vec<f32>,
}

impl WeightCodes {
    /// The codes as a constant's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.codes.iter().map(|c| c.to_le_bytes()[0]).collect()
    }
}

/// Quantizes `w` with one scale for each of `count` channels; `channel` gives that of an element. Scales and codes as the
/// documentation of `lower-to-integer` says.
pub(crate) fn quantize_channels(w: &Matrix, channel: impl Fn(usize) -> usize, count: usize) -> WeightCodes {
    let mut amax = vec![0f32; count];
    for (i, v) in w.data.iter().enumerate() {
        let a = &mut amax[channel(i)];
        *a = a.max(v.abs());
    }
    let scale = |a: &f32| match *a {
        0.0 => 1.0,
        // Denormal maxima would give scale 0.
        a => ((f64::from(a) / 127.0) as f32).max(f32::MIN_POSITIVE),
    };
    let scales: Vec<f32> = amax.iter().map(scale).collect();
    let code = |(i, v): (usize, &f32)| {
        let q = (f64::from(*v) / f64::from(scales[channel(i)])).round_ties_even();
        q.clamp(-127.0, 127.0) as i8
    };
    WeightCodes {
        codes: w.data.iter().enumerate().map(code).collect(),
        scales,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_symmetric_and_zero_channels_have_scale_one() {
        let w = Matrix {
            k: 2,
            n: 3,
            name: "w".into(),
            data: vec![1.0, 0.0, -0.5, -2.0, 0.0, 0.25],
        };
        let q = quantize_channels(&w, |i| i % 3, 3);
        assert_eq!(q.codes, [64, 0, -127, -127, 0, 64]);
        assert_eq!(q.scales, [2.0 / 127.0, 1.0, 0.5 / 127.0]);
        let rows = quantize_channels(&w, |i| i / 3, 2);
        assert_eq!((rows.codes[0], rows.codes[3]), (127, -127));
        let all = quantize_channels(&w, |_| 0, 1);
        assert_eq!(all.scales, [2.0 / 127.0]);
        assert_eq!(all.codes, [64, 0, -32, -127, 0, 16]);
    }
}
