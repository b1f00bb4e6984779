//! Scalar literals: decimal text that reads back to the same bits. Infinities carry their sign (`+inf`), the default
//! NaN is `nan`, other NaNs are their bits (`0x7fc00001`).

use crate::types::ScalarType;
use half::{bf16, f16};

/// The bits of f32's default NaN.
const NAN32: u32 = 0x7fc0_0000;
/// The bits of f64's default NaN.
const NAN64: u64 = 0x7ff8_0000_0000_0000;

/// The literal of an element given by its bits (zero-extended).
pub(crate) fn print(ty: ScalarType, bits: u64) -> String {
    let float = |v: f64, shortest: String, default_nan: bool| match v {
        v if v.is_nan() && default_nan => "nan".into(),
        v if v.is_nan() => format!("0x{bits:x}"),
        f64::INFINITY => "+inf".into(),
        f64::NEG_INFINITY => "-inf".into(),
        _ => shortest,
    };
    let narrow = |v: f32, default_nan: bool| float(f64::from(v), format!("{v:?}"), default_nan);
    match ty {
        ScalarType::F64 => {
            let v = f64::from_bits(bits);
            float(v, format!("{v:?}"), bits == NAN64)
        }
        ScalarType::F32 => narrow(f32::from_bits(bits as u32), bits == u64::from(NAN32)),
        ScalarType::F16 => narrow(f16::from_bits(bits as u16).to_f32(), false),
        ScalarType::BF16 => narrow(bf16::from_bits(bits as u16).to_f32(), false),
        ScalarType::Bool => if bits == 0 { "false" } else { "true" }.into(),
        ScalarType::I64 => (bits as i64).to_string(),
        ScalarType::I32 => (bits as i32).to_string(),
        ScalarType::I16 => (bits as i16).to_string(),
        ScalarType::I8 => (bits as i8).to_string(),
        ScalarType::U64 | ScalarType::U32 | ScalarType::U16 | ScalarType::U8 => bits.to_string(),
    }
}

/// The bits of a literal; `None` if it is none of this type.
pub(crate) fn parse(ty: ScalarType, text: &str) -> Option<u64> {
    if ty == ScalarType::Bool {
        return match text {
            "false" => Some(0),
            "true" => Some(1),
            _ => None,
        };
    }
    if let Some(hex) = text.strip_prefix("0x") {
        let bits = u64::from_str_radix(hex, 16).ok()?;
        let fits = ty.size() == 8 || bits >> (8 * ty.size()) == 0;
        return (ty.is_float() && fits).then_some(bits);
    }
    if ty.is_float() {
        if text == "nan" {
            return match ty {
                ScalarType::F64 => Some(NAN64),
                ScalarType::F32 => Some(u64::from(NAN32)),
                _ => None,
            };
        }
        // Rust also reads `infinity`, `NaN`, ...: words that are not ours.
        let plain = text.trim_start_matches(['+', '-']);
        if plain != "inf" && !plain.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        return Some(match ty {
            ScalarType::F64 => text.parse::<f64>().ok()?.to_bits(),
            ScalarType::F32 => u64::from(text.parse::<f32>().ok()?.to_bits()),
            ScalarType::F16 => u64::from(crate::numeric::f16_from_f64(text.parse::<f64>().ok()?).to_bits()),
            _ => u64::from(crate::numeric::bf16_from_f64(text.parse::<f64>().ok()?).to_bits()),
        });
    }
    let v: i128 = text.parse().ok()?;
    let bits = 8 * ty.size() as u32;
    let (lo, hi) = if ty.is_signed_int() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    let mask = if bits == 64 { u64::MAX } else { (1u64 << bits) - 1 };
    (lo..=hi).contains(&v).then_some(v as u64 & mask)
}

/// Whether `c` can occur in a literal.
pub(crate) fn is_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-')
}

/// The bits of element `i` of dense little-endian bytes.
pub(crate) fn element(ty: ScalarType, bytes: &[u8], i: usize) -> u64 {
    let mut raw = [0u8; 8];
    raw[..ty.size()].copy_from_slice(&bytes[i * ty.size()..(i + 1) * ty.size()]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_pattern_of_16_bits_reads_back() {
        for ty in [
            ScalarType::F16,
            ScalarType::BF16,
            ScalarType::I16,
            ScalarType::U16,
        ] {
            for bits in 0..=0xffffu64 {
                assert_eq!(
                    parse(ty, &print(ty, bits)),
                    Some(bits),
                    "{ty} {}",
                    print(ty, bits)
                );
            }
        }
        for ty in [
            ScalarType::F32,
            ScalarType::F64,
            ScalarType::I64,
            ScalarType::U64,
            ScalarType::I32,
        ] {
            let mask = if ty.size() == 8 { u64::MAX } else { 0xffff_ffff };
            for i in 0..100_000u64 {
                let bits = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
                assert_eq!(
                    parse(ty, &print(ty, bits)),
                    Some(bits),
                    "{ty} {}",
                    print(ty, bits)
                );
            }
        }
        assert_eq!(parse(ScalarType::I8, "128"), None);
        assert_eq!(parse(ScalarType::F32, "NaN"), None);
        assert_eq!(
            print(ScalarType::F32, u64::from(f32::NEG_INFINITY.to_bits())),
            "-inf"
        );
        assert_eq!(print(ScalarType::F32, u64::from(1e-45f32.to_bits())), "1e-45");
        assert_eq!(print(ScalarType::F32, 0x3f80_0000), "1.0");
    }
}
