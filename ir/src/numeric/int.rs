//! Integer codes of few bits. Packed, element i takes the bits `i*b .. (i+1)*b` of the bytes, least significant first:
//! for four bits element 2i is the low nibble, as in ONNX; codes of three bits cross bytes. What is left is zero.

/// `clamp(rne(x))` into `lo..=hi`; NaN gives `lo`. The clamp comes before the conversion.
pub fn int_code(x: f32, lo: i32, hi: i32) -> i32 {
    let r = f64::from(x).round_ties_even();
    let (lo, hi) = (f64::from(lo), f64::from(hi));
    let r = if r > lo { r } else { lo };
    (if r < hi { r } else { hi }) as i32
}

/// Bytes that `n` codes of `bits` bits take.
pub fn packed_len(bits: u32, n: usize) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// Packs codes (signed or not) of 1 to 8 bits; only their low bits count.
pub fn pack(bits: u32, codes: &[i32]) -> Vec<u8> {
    assert!((1..=8).contains(&bits), "codes of 1 to 8 bits");
    let mut out = vec![0u8; packed_len(bits, codes.len())];
    for (i, c) in codes.iter().enumerate() {
        let (at, low) = (i * bits as usize / 8, i * bits as usize % 8);
        let field = (*c as u32 & ((1 << bits) - 1)) << low;
        out[at] |= field as u8;
        if field > 0xff {
            out[at + 1] |= (field >> 8) as u8;
        }
    }
    out
}

/// The first `n` codes of packed bytes; signed ones are sign-extended. Missing bytes read as 0.
pub fn unpack(bits: u32, signed: bool, bytes: &[u8], n: usize) -> Vec<i32> {
    assert!((1..=8).contains(&bits), "codes of 1 to 8 bits");
    let byte = |i: usize| u32::from(bytes.get(i).copied().unwrap_or(0));
    (0..n)
        .map(|i| {
            let (at, low) = (i * bits as usize / 8, i * bits as usize % 8);
            let field = (byte(at) | byte(at + 1) << 8) >> low & ((1 << bits) - 1);
            let shift = 32 - bits;
            if signed {
                (field << shift) as i32 >> shift
            } else {
                field as i32
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_to_even_and_clamp() {
        let ties = [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (126.5, 126),
            (127.5, 127),
            (1e30, 127),
        ];
        for (x, want) in ties {
            assert_eq!(int_code(x, -127, 127), want, "{x}");
        }
        assert_eq!(int_code(f32::NAN, -128, 127), -128);
        assert_eq!(int_code(f32::NEG_INFINITY, 0, 15), 0);
    }

    #[test]
    fn packing_is_the_documented_bit_order() {
        assert_eq!(pack(4, &[1, -2, 7]), [0xe1, 0x07]);
        assert_eq!(pack(2, &[1, -2, -1, 0, 1]), [0b0011_1001, 0b01]);
        // 001 010 011 100 101 110 111 000, least significant first.
        assert_eq!(
            pack(3, &[1, 2, 3, 4, 5, 6, 7, 0]),
            [0b1101_0001, 0b0101_1000, 0b0001_1111]
        );
        assert_eq!(pack(8, &[-1, 5]), [0xff, 5]);
    }

    #[test]
    fn every_code_at_every_place_comes_back() {
        for bits in 1..=8u32 {
            let all: Vec<i32> = (0..1 << bits).collect();
            for skip in 0..9 {
                let mut codes = vec![0; skip];
                codes.extend(&all);
                let bytes = pack(bits, &codes);
                assert_eq!(bytes.len(), packed_len(bits, codes.len()));
                assert_eq!(unpack(bits, false, &bytes, codes.len()), codes);
                let half = 1 << (bits - 1);
                let signed: Vec<i32> = codes
                    .iter()
                    .map(|c| if *c >= half { c - 2 * half } else { *c })
                    .collect();
                assert_eq!(unpack(bits, true, &bytes, codes.len()), signed);
                assert_eq!(pack(bits, &signed), bytes);
            }
        }
        assert_eq!(unpack(4, true, &[], 2), [0, 0]);
    }
}
