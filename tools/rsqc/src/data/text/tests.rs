//! Tests of calibration texts.

use super::*;
use crate::data::calib::CalibSet;
use rsqc_ir::types::TensorType;
use tempfile::TempDir;

/// Words are tokens; `<s>` (1) is put in front; more tokens than `longest` do not fit.
fn tokenizer_json(longest: &str) -> String {
    let vocabulary = r#"{"<unk>": 0, "<s>": 1, "the": 2, "cat": 3, "sat": 4, "on": 5, "mat": 6}"#;
    let special = r#"{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}"#;
    format!(
        r#"{{"version": "1.0", "truncation": {longest}, "padding": null, "added_tokens": [{special}], "normalizer": null,
        "pre_tokenizer": {{"type": "Whitespace"}}, "decoder": null,
        "post_processor": {{"type": "TemplateProcessing",
            "single": [{{"SpecialToken": {{"id": "<s>", "type_id": 0}}}}, {{"Sequence": {{"id": "A", "type_id": 1}}}}],
            "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
            "special_tokens": {{"<s>": {{"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}}}},
        "model": {{"type": "WordLevel", "vocab": {vocabulary}, "unk_token": "<unk>"}}}}"#
    )
}

fn spec(name: &str, ty: ScalarType, shape: &[Dim]) -> Spec {
    Spec {
        name: name.into(),
        ty: TensorType::new(ty, shape.to_vec()),
    }
}

/// The inputs of a decoder; `batch` and `length` may be fixed.
fn decoder(batch: Dim, length: Dim) -> Vec<Spec> {
    let (i64s, past) = (ScalarType::I64, Dim::sym("past"));
    let all = past.clone() + length.clone();
    vec![
        spec("input_ids", i64s, &[batch.clone(), length.clone()]),
        spec("attention_mask", i64s, &[batch.clone(), all]),
        spec("position_ids", ScalarType::I32, &[batch.clone(), length.clone()]),
        spec("token_type_ids", i64s, &[batch.clone(), length]),
        spec(
            "past_key_values.0.key",
            ScalarType::F32,
            &[batch, Dim::from(2usize), past, Dim::from(4usize)],
        ),
    ]
}

const LIMITS: Limits = Limits { length: 512, rows: 7 };

fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// The samples of a text.
fn read(text: &[u8], json: &str, limits: Limits, specs: Vec<Spec>) -> Result<Vec<Sample>, DataError> {
    let dir = tempfile::tempdir().expect("a folder");
    let tokenizer = Tokenizer::open(&file(&dir, "tokenizer.json", json.as_bytes()), limits)?;
    let mut set = CalibSet::open(&[file(&dir, "some.txt", text)], specs, Some(tokenizer))?;
    let mut all = Vec::new();
    set.for_each(|s| {
        all.push(s);
        Ok::<(), DataError>(())
    })?;
    assert_eq!(set.len(), all.len());
    Ok(all)
}

fn shapes(sample: &Sample) -> Vec<&[usize]> {
    sample.iter().map(|a| a.shape.as_slice()).collect()
}

#[test]
fn each_line_fills_the_inputs_by_name() {
    let text = "\u{feff}the cat sat\r\n\n   \nthe dog\n";
    let (b, s) = (Dim::sym("b"), Dim::sym("s"));
    let all = read(text.as_bytes(), &tokenizer_json("null"), LIMITS, decoder(b, s)).expect("two samples");
    assert_eq!(all.len(), 2);
    let values: Vec<Vec<f64>> = all[0].iter().map(Array::to_f64).collect();
    let want: [&[f64]; 5] = [
        &[1.0, 2.0, 3.0, 4.0],
        &[1.0; 4],
        &[0.0, 1.0, 2.0, 3.0],
        &[0.0, 1.0, 1.0, 1.0],
        &[],
    ];
    assert_eq!(values, want);
    assert_eq!(
        shapes(&all[0]),
        [&[1usize, 4][..], &[1, 4], &[1, 4], &[1, 4], &[1, 2, 0, 4]]
    );
    assert_eq!(all[0][2].ty, ScalarType::I32);
    // A word that is not known.
    assert_eq!(all[1][0].to_f64(), [1.0, 2.0, 0.0]);
}

#[test]
fn long_lines_become_pieces() {
    let text = b"the cat sat on the mat the cat";
    let (b, s) = (Dim::sym("b"), Dim::sym("s"));
    let ids = |json: &str, length: usize| -> Vec<Vec<f64>> {
        let limits = Limits { length, ..LIMITS };
        let all = read(text, json, limits, decoder(b.clone(), s.clone())).expect("samples");
        all.iter().map(|s| s[0].to_f64()).collect()
    };
    let want = [
        vec![1.0, 2.0, 3.0, 4.0],
        vec![1.0, 5.0, 2.0, 6.0],
        vec![1.0, 2.0, 3.0],
    ];
    assert_eq!(ids(&tokenizer_json("null"), 4), want);
    let own = r#"{"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}"#;
    assert_eq!(ids(&tokenizer_json(own), 512), want);
}

#[test]
fn fixed_sizes_are_filled_up() {
    let fixed = |n: usize| Dim::from(n);
    let all = read(
        b"the cat\n",
        &tokenizer_json("null"),
        LIMITS,
        decoder(fixed(2), fixed(5)),
    );
    let all = all.expect("a sample");
    let row = [1.0, 2.0, 3.0, 0.0, 0.0];
    assert_eq!(all[0][0].to_f64(), [row, row].concat());
    assert_eq!(all[0][1].to_f64(), [1.0, 1.0, 1.0, 0.0, 0.0].repeat(2));
    assert_eq!(all[0][4].shape, [2, 2, 0, 4]);
    let no_mask = vec![spec("input_ids", ScalarType::I64, &[fixed(1), fixed(5)])];
    let e = read(b"the cat\n", &tokenizer_json("null"), LIMITS, no_mask).expect_err("no mask");
    assert!(
        e.to_string().contains("line 1: has 3 tokens") && e.to_string().contains("fixed length 5"),
        "{e}"
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let json = tokenizer_json("null");
    let (b, s) = (Dim::sym("b"), Dim::sym("s"));
    let plain = || decoder(b.clone(), s.clone());
    let fails = |text: &[u8], json: &str, limits: Limits, specs: Vec<Spec>, words: &[&str]| {
        let e = read(text, json, limits, specs).expect_err("an error").to_string();
        for w in words {
            assert!(e.contains(w), "`{w}`: {e}");
        }
    };
    fails(b"", &json, LIMITS, plain(), &["some.txt", "no samples"]);
    fails(b"\n \n", &json, LIMITS, plain(), &["some.txt", "no samples"]);
    fails(
        b"cat\nc\xffat\n",
        &json,
        LIMITS,
        plain(),
        &["some.txt", "line 2", "UTF-8"],
    );
    let small = Limits { rows: 6, ..LIMITS };
    fails(
        b"cat\nmat\n",
        &json,
        small,
        plain(),
        &["line 2", "token 6", "only 6"],
    );
    let short = Limits { length: 1, ..LIMITS };
    fails(b"cat\n", &json, short, plain(), &["tokenizer.json", "1 special"]);
    for damaged in [
        "",
        "{}",
        "[1, 2",
        &json[..json.len() / 2],
        &json.replace("WordLevel", "Nothing"),
        // A special token that the template names, but nothing defines.
        &json.replace(r#""<s>": {"id": "<s>""#, r#""<t>": {"id": "<t>""#),
    ] {
        fails(b"cat\n", damaged, LIMITS, plain(), &["tokenizer.json"]);
    }
    // More inputs than a text has anything for: all are named.
    let mut more = plain();
    more.push(spec("pixel_values", ScalarType::F32, &[b.clone(), s.clone()]));
    more.push(spec("past_fixed", ScalarType::F32, &[Dim::from(3usize)]));
    fails(b"cat\n", &json, LIMITS, more, &["'pixel_values'", "'past_fixed'"]);
    let image = vec![spec("image", ScalarType::F32, std::slice::from_ref(&b))];
    fails(
        b"cat\n",
        &json,
        LIMITS,
        image,
        &["'image'", "'input_ids', which is missing"],
    );
    // Ids as floats.
    let floats = vec![spec("input_ids", ScalarType::F32, &[b.clone(), s.clone()])];
    fails(b"cat\n", &json, LIMITS, floats, &["'input_ids' f32[b, s]"]);
}
