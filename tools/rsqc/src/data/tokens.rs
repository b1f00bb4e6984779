//! What a language model takes beside its token ids, where it follows from them.

use rsqc_ir::types::{Dim, ScalarType};

use super::Array;
use super::inputs::Spec;

/// The input that token ids go to.
pub const IDS: &str = "input_ids";

/// The array of the input `spec` that goes with whole token sequences `ids`, `[samples, tokens]`: `attention_mask` is 1,
/// `token_type_ids` is 0, `position_ids` counts from 0, and `past_...` caches are empty. `None` if it does not follow.
pub fn beside_ids(spec: &Spec, ids_spec: &Spec, ids: &Array) -> Option<Array> {
    let &[samples, tokens] = ids.shape.as_slice() else {
        return None;
    };
    let ty = spec.ty.storage();
    if spec.name.starts_with("past_") {
        let batch = ids_spec.ty.shape.first().and_then(Dim::as_symbol);
        let extent = |d: &Dim| match d.as_symbol() {
            Some(s) if Some(s) == batch => Some(samples),
            Some(_) => Some(0),
            None => d.as_const().and_then(|v| usize::try_from(v).ok()),
        };
        let shape: Option<Vec<usize>> = spec.ty.shape.iter().map(extent).collect();
        let data = Vec::new();
        return shape
            .filter(|s| s.contains(&0))
            .map(|shape| Array { ty, shape, data });
    }
    let value = |position: usize| match spec.name.as_str() {
        "attention_mask" => Some(1),
        "token_type_ids" => Some(0),
        "position_ids" => Some(position as i64),
        _ => None,
    };
    let row: Option<Vec<u8>> = (0..tokens).try_fold(Vec::new(), |mut row, position| {
        let value = value(position)?;
        match ty {
            ScalarType::I64 => row.extend(value.to_le_bytes()),
            ScalarType::I32 => row.extend((value as i32).to_le_bytes()),
            _ => return None,
        }
        Some(row)
    });
    Some(Array {
        ty,
        shape: vec![samples, tokens],
        data: row?.repeat(samples),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_ir::TensorType;

    fn spec(name: &str, ty: ScalarType, shape: &[Dim]) -> Spec {
        Spec {
            name: name.into(),
            ty: TensorType::new(ty, shape.to_vec()),
        }
    }

    #[test]
    fn inputs_that_follow_from_ids() {
        let (b, s, p) = (Dim::sym("batch"), Dim::sym("seq"), Dim::sym("past"));
        let ids_spec = spec(IDS, ScalarType::I64, &[b.clone(), s.clone()]);
        let ids = Array {
            ty: ScalarType::I64,
            shape: vec![2, 3],
            data: vec![7; 48],
        };
        let make = |s: &Spec| beside_ids(s, &ids_spec, &ids);
        let values = |a: Array| -> Vec<i64> {
            let words = a.data.chunks(8);
            words
                .map(|w| i64::from_le_bytes(w.try_into().expect("8 bytes")))
                .collect()
        };
        let matrix = |name: &str| spec(name, ScalarType::I64, &[b.clone(), s.clone()]);
        assert_eq!(values(make(&matrix("attention_mask")).expect("a mask")), [1; 6]);
        assert_eq!(values(make(&matrix("token_type_ids")).expect("types")), [0; 6]);
        assert_eq!(
            values(make(&matrix("position_ids")).expect("positions")),
            [0, 1, 2, 0, 1, 2]
        );
        let cache = |length: Dim| {
            let shape = [b.clone(), Dim::from(4i64), length, Dim::from(8i64)];
            spec("past_key_values.0.key", ScalarType::F32, &shape)
        };
        assert_eq!(make(&cache(p)).expect("a cache").shape, [2, 4, 0, 8]);
        assert!(
            make(&cache(Dim::from(5i64))).is_none(),
            "a cache of 5 tokens is not empty"
        );
        assert!(make(&matrix("pixel_values")).is_none());
    }
}
