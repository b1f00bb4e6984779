//! Microscaling (OCP microscaling formats 1.0): blocks along the reduction axis that share one power-of-two scale.

use super::minifloat::{MiniFloat, Overflow, exp2, floor_log2};

/// The e8m0 code of `2^e`, clamped to -127..=127. `None` (not a number) is 0xff.
pub fn e8m0_encode(e: Option<i32>) -> u8 {
    e.map_or(0xff, |e| (e.clamp(-127, 127) + 127) as u8)
}

/// The number of an e8m0 code: `2^(code - 127)`, NaN for 0xff.
pub fn e8m0_decode(code: u8) -> f32 {
    if code == 0xff {
        f32::NAN
    } else {
        exp2(i32::from(code) - 127)
    }
}

/// A quantized block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MxBlock {
    /// e8m0 code of the scale.
    pub scale: u8,
    /// One code an element.
    pub codes: Vec<u8>,
}

/// Quantizes a block: `X = 2^(floor(log2 amax) - emax)`, elements `x / X` rounded to `f`, saturating. A block of zeros
/// takes the exponent -126; a block with NaN or infinity takes scale 0xff and codes 0.
pub fn mx_encode(f: &MiniFloat, x: &[f32]) -> MxBlock {
    if x.iter().any(|v| !v.is_finite()) {
        return MxBlock {
            scale: 0xff,
            codes: vec![0; x.len()],
        };
    }
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let e = if amax == 0.0 {
        -126
    } else {
        floor_log2(f64::from(amax))
    };
    let scale = e8m0_encode(Some(e - f.max_exponent()));
    let s = f64::from(e8m0_decode(scale));
    // A quotient by a power of two is exact in f64; as f32 it may lose bits only far below the format's smallest.
    let code = |v: &f32| f.encode((f64::from(*v) / s) as f32, Overflow::Saturate);
    MxBlock {
        scale,
        codes: x.iter().map(code).collect(),
    }
}

/// The numbers of a block.
pub fn mx_decode(f: &MiniFloat, b: &MxBlock) -> Vec<f32> {
    let s = e8m0_decode(b.scale);
    b.codes.iter().map(|c| f.decode(*c) * s).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_comes_back() {
        for code in 0..=254u8 {
            let v = e8m0_decode(code);
            assert_eq!(f64::from(v), 2f64.powi(i32::from(code) - 127));
            assert_eq!(e8m0_encode(Some(floor_log2(f64::from(v)))), code);
        }
        assert!(e8m0_decode(0xff).is_nan());
        assert_eq!((e8m0_encode(Some(-500)), e8m0_encode(Some(500))), (0, 254));
    }

    #[test]
    fn the_fp4_fixture() {
        let mut x = vec![0.1, -0.7, 3.3, -5.9, 0.02, 1.24, 7.9, -2.6];
        x.resize(32, 0.0);
        let b = mx_encode(&MiniFloat::E2M1, &x);
        assert_eq!(b.scale, 127);
        let got = mx_decode(&MiniFloat::E2M1, &b);
        // -2.6 lies between -2 and -3 and is nearer to -3; 7.9 saturates.
        assert_eq!(got[..8], [0.0, -0.5, 3.0, -6.0, 0.0, 1.0, 6.0, -3.0]);
        assert!(got[8..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn blocks_at_the_edges() {
        let f = MiniFloat::E4M3;
        let scale = |x: &[f32]| i32::from(mx_encode(&f, x).scale) - 127;
        for k in [-100, -1, 0, 1, 100] {
            let p = 2f32.powi(k);
            assert_eq!(scale(&[p, 0.0]), k - 8);
            assert_eq!(scale(&[f32::from_bits(p.to_bits() - 1)]), k - 1 - 8);
            assert_eq!(mx_decode(&f, &mx_encode(&f, &[p, -p])), [p, -p]);
        }
        let zero = mx_encode(&f, &[0.0, -0.0]);
        assert_eq!(mx_decode(&f, &zero), [0.0, 0.0]);
        // Subnormal f32: the scale is at its end, the elements lose what lies below it.
        let tiny = mx_encode(&f, &[f32::from_bits(1), 1e-39]);
        assert_eq!(tiny.scale, 0);
        let back = mx_decode(&f, &tiny);
        assert!((back[1] - 1e-39).abs() <= 1e-39 / 16.0 && back[0].abs() < 1e-41);
        for bad in [f32::NAN, f32::INFINITY] {
            let b = mx_encode(&f, &[1.0, bad]);
            assert_eq!(b.scale, 0xff);
            assert!(mx_decode(&f, &b).iter().all(|v| v.is_nan()));
        }
    }
}
