//! Tests of calibration sets.

use super::*;
use crate::data::npz::write_npz;
use rsqc_ir::types::{Dim, ScalarType, TensorType};

fn i64s(shape: &[usize], v: &[i64]) -> Array {
    Array {
        ty: ScalarType::I64,
        shape: shape.to_vec(),
        data: v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn specs() -> Vec<Spec> {
    let ty = TensorType::new(ScalarType::I64, vec![Dim::sym("batch"), Dim::sym("seq")]);
    vec![
        Spec {
            name: "input_ids".into(),
            ty: ty.clone(),
        },
        Spec {
            name: "attention_mask".into(),
            ty,
        },
    ]
}

fn collect(arrays: &[(&str, Array)], specs: Vec<Spec>) -> Result<Vec<Sample>, DataError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.npz");
    write_npz(
        std::fs::File::create(&path).unwrap(),
        arrays.iter().map(|(n, a)| (*n, a)),
    )
    .unwrap();
    let mut set = CalibSet::open(&[path], specs, None)?;
    let mut out = Vec::new();
    set.for_each(|s| {
        out.push(s);
        Ok::<(), DataError>(())
    })?;
    assert_eq!(set.len(), out.len());
    Ok(out)
}

#[test]
fn batches_are_cut_and_padding_goes() {
    let ids = i64s(&[2, 3], &[1, 2, 0, 4, 5, 6]);
    let mask = i64s(&[2, 3], &[1, 1, 0, 0, 1, 1]);
    let got = collect(
        &[
            ("input_ids", ids),
            ("attention_mask", mask),
            ("extra", i64s(&[1], &[0])),
        ],
        specs(),
    )
    .unwrap();
    assert_eq!(got[0][0], i64s(&[1, 2], &[1, 2]));
    assert_eq!(got[1], [i64s(&[1, 2], &[5, 6]), i64s(&[1, 2], &[1, 1])]);
}

#[test]
fn numbered_samples_may_differ_in_length() {
    let arrays = [
        ("0/input_ids", i64s(&[1, 1], &[7])),
        ("0/attention_mask", i64s(&[1, 1], &[1])),
        ("10/input_ids", i64s(&[1, 2], &[8, 9])),
        ("10/attention_mask", i64s(&[1, 2], &[1, 1])),
    ];
    assert_eq!(collect(&arrays, specs()).unwrap().len(), 2);
    let text = collect(&arrays[..3], specs()).unwrap_err().to_string();
    assert!(text.contains("10/attention_mask"), "{text}");
}

#[test]
fn one_rank_more_counts_samples() {
    let spec = vec![Spec {
        name: "x".into(),
        ty: TensorType::new(ScalarType::I64, vec![Dim::sym("b"), Dim::from(2usize)]),
    }];
    let got = collect(&[("x", i64s(&[2, 3, 2], &[0; 12]))], spec).unwrap();
    assert_eq!((got.len(), got[0][0].shape.clone()), (2, vec![3, 2]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let f = |v: f32| Array {
        ty: ScalarType::F32,
        shape: vec![1, 1],
        data: v.to_le_bytes().to_vec(),
    };
    let float = vec![Spec {
        name: "x".into(),
        ty: TensorType::new(ScalarType::F32, vec![Dim::sym("b"), Dim::one()]),
    }];
    let cases: [(&[(&str, Array)], Vec<Spec>, &str); 5] = [
        (&[("x", f(f32::NAN))], float.clone(), "NaN"),
        (
            &[("y", f(1.0))],
            float.clone(),
            "no array for the input 'x', only 'y'",
        ),
        (
            &[("x", i64s(&[1, 1], &[1]))],
            float.clone(),
            "expected samples of f32[b, 1]",
        ),
        (
            &[(
                "x",
                Array {
                    ty: ScalarType::F32,
                    shape: vec![0, 1],
                    data: vec![],
                },
            )],
            float,
            "no samples",
        ),
        (
            &[
                ("input_ids", i64s(&[2, 1], &[1, 2])),
                ("attention_mask", i64s(&[1, 1], &[1])),
            ],
            specs(),
            "'attention_mask' holds 1 samples, but 'input_ids' holds 2",
        ),
    ];
    for (arrays, specs, want) in cases {
        let text = collect(arrays, specs).unwrap_err().to_string();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn folders_of_loose_arrays() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["input_ids", "attention_mask"] {
        let mut file = std::fs::File::create(dir.path().join(format!("{name}.npy"))).unwrap();
        let a = i64s(&[2, 2], &[1, 1, 1, 1]);
        npy::write(&mut file, a.ty, &a.shape, &a.data).unwrap();
    }
    let set = CalibSet::open(&[dir.path().to_owned()], specs(), None).unwrap();
    assert_eq!(set.len(), 2);
}
