//! Static scales from texts: the same as from arrays of the same tokens, and as good.

use rsqc::compiler::{self, Clock, Compiled};
use rsqc::data::Array;
use rsqc::data::npz::write_npz;
use rsqc::evaluate::{Task, evaluate};
use rsqc::inprocess::SessionProgram;
use rsqc_ir::ScalarType;
use rsqc_tests::run::options;
use rsqc_tests::shared;
use std::path::{Path, PathBuf};

/// Sentences of the kind that the embedding model is made for.
const TEXT: &str = "\
The river rose overnight, and by morning the lower fields were under water.
A function that takes no arguments returns the number of open files.

She asked whether the train to the coast still stops at the old station.
Permission is granted to copy and distribute verbatim copies of this document.
Does the parser accept an empty list, or is that reported as an error?
Prices fell for the third month in a row, mostly because of cheaper energy.
Two children played chess under the tree until it grew too dark to see the board.
When the iterator is exhausted, every further call raises the same exception.
The museum is closed on Mondays; admission is free on the first Sunday of the month.
";

fn compiled(path: &Path, scheme: &str, calib: PathBuf, tokenizer: Option<PathBuf>) -> Compiled {
    let backend = rsqc_cpu::Cpu::default();
    let o = compiler::CompileOptions {
        calib: vec![calib],
        tokenizer,
        ..options(scheme, &[rsqc_runtime::cpu::best_level()])
    };
    compiler::compile(path, &o, &backend, &mut Clock::new(&mut |_| {})).expect("compiles")
}

/// What `inspect` shows of each static layer.
fn ranges(c: &Compiled) -> Vec<(String, String, String)> {
    let layers = c.manifest.layers.iter();
    let value = |l: &rsqc_artifact::manifest::Layer, key: &str| {
        l.extra.iter().find(|kv| kv.key == key).map(|kv| kv.value.clone())
    };
    layers
        .filter_map(|l| Some((l.name.clone(), value(l, "scale")?, value(l, "samples")?)))
        .collect()
}

#[test]
fn an_encoder_is_calibrated_by_sentences() {
    let test = "an_encoder_is_calibrated_by_sentences";
    let files = ["model.onnx", "tokenizer.json", "eval.npz"]
        .map(|f| shared::find(test, &format!("models/minilm/{f}")));
    let [Some(path), Some(tokenizer), Some(data)] = files else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let text = dir.path().join("text.txt");
    std::fs::write(&text, TEXT).expect("written");
    let c = compiled(&path, "w8a8-static", text, Some(tokenizer));
    let found = ranges(&c);
    assert_eq!(found.len(), 24);
    assert!(
        found
            .iter()
            .all(|(_, scale, samples)| scale.parse::<f32>().is_ok_and(|s| s > 0.0) && samples == "9")
    );
    let mut program = SessionProgram::new(&c.load().expect("loads"), 1).expect("a session");
    let figures = evaluate(Task::Embedding, &mut program, None, &data, usize::MAX).expect("evaluates");
    let mean = figures.iter().find(|(k, _)| k == "mean_cosine").map(|(_, v)| *v);
    // Sixty-four sequences of the calibration set give 0.990.
    assert!(mean.is_some_and(|m| m >= 0.985), "{mean:?}");
}

#[test]
fn a_decoder_is_calibrated_as_by_arrays_of_the_same_tokens() {
    let test = "a_decoder_is_calibrated_as_by_arrays_of_the_same_tokens";
    for model in ["stories260k", "tinystories656k"] {
        let files = ["model.onnx", "tokenizer.json"]
            .map(|f| shared::find(test, &format!("models/tinyllama/{model}/{f}")));
        let [Some(path), Some(tokenizer)] = files else {
            return;
        };
        let dir = tempfile::tempdir().expect("a folder");
        let text = dir.path().join("text.txt");
        std::fs::write(
            &text,
            "Once upon a time, there was a little cat.\n\nThe cat sat.\n",
        )
        .expect("written");
        let by_text = compiled(&path, "w8a8-static+smoothquant", text, Some(tokenizer.clone()));
        let m = compiler::import(&path, &Default::default()).expect("imports");
        let arrays = dir.path().join("arrays.npz");
        write_samples(&arrays, &m, &tokens(model));
        let by_arrays = compiled(&path, "w8a8-static+smoothquant", arrays, None);
        let (a, b) = (ranges(&by_text), ranges(&by_arrays));
        assert!(!a.is_empty() && a == b, "{model}: {a:?} {b:?}");
        assert!(by_text.weights == by_arrays.weights);
    }
}

/// The tokens of the two lines, as Python's tokenizers gives them.
fn tokens(model: &str) -> [Vec<i64>; 2] {
    match model {
        "stories260k" => [
            vec![1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 280, 294, 426],
            vec![1, 291, 280, 294, 262, 294, 426],
        ],
        _ => [
            vec![1, 80, 147, 201, 282, 215, 286, 229, 476, 10],
            vec![1, 80, 247, 411, 107, 72, 10],
        ],
    }
}

/// Arrays `K/input` for a decoder with empty caches.
fn write_samples(path: &Path, m: &rsqc_ir::Module, samples: &[Vec<i64>]) {
    let mut arrays: Vec<(String, Array)> = Vec::new();
    for (k, ids) in samples.iter().enumerate() {
        for p in m.graph.inputs() {
            let ty = m.graph.ty(p.value);
            let values: Vec<i64> = match p.name.as_str() {
                "input_ids" => ids.clone(),
                "attention_mask" => vec![1; ids.len()],
                "position_ids" => (0..ids.len() as i64).collect(),
                _ => vec![],
            };
            let shape = match ty.storage() {
                ScalarType::I64 => vec![1, ids.len()],
                _ => ty
                    .shape
                    .iter()
                    .enumerate()
                    .map(|(i, d)| match (i, d.as_const()) {
                        (0, _) => 1,
                        (_, fixed) => fixed.unwrap_or(0) as usize,
                    })
                    .collect(),
            };
            let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let array = Array {
                ty: ty.storage(),
                shape,
                data,
            };
            arrays.push((format!("{k}/{}", p.name), array));
        }
    }
    let mut file = std::fs::File::create(path).expect("a file");
    write_npz(&mut file, arrays.iter().map(|(n, a)| (n.as_str(), a))).expect("written");
}
