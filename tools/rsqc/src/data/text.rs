//! Calibration texts: every line that is not empty is one sample, as a tokenizer cuts it.
//!
//! The tokenizer is a `tokenizer.json` of Hugging Face; its special tokens are put around each line, its padding is not
//! used. A line of more tokens than the limit is cut into pieces of that length, each a sample. Texts stream: one line is
//! in memory at a time. Inputs are filled by name: `input_ids`, `attention_mask` (ones), `token_type_ids`,
//! `position_ids` (from 0), and key-value caches (`past_...`), which are empty.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use rsqc_ir::Module;
use rsqc_ir::types::{Dim, ScalarType, Symbol};
use rsqc_onnx::error::escape;
use rsqc_onnx::source::{map_file, open_file};
use rsqc_passes::analysis::index_bound;
use tokenizers::{PostProcessor, TruncationDirection};

use super::calib::Sample;
use super::inputs::Spec;
use super::tokens::IDS;
use super::{Array, DataError};

/// Most tokens of a sample, where neither model nor tokenizer have fewer.
const DEFAULT_LENGTH: usize = 512;

/// Most bytes of a line, and of a tokenizer's file.
const MAX_LINE: u64 = 16 << 20;
const MAX_TOKENIZER: usize = 256 << 20;

/// What a model can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most tokens of a sample: what `input_ids` can hold, or [`DEFAULT_LENGTH`].
    pub length: usize,
    /// Rows of the smallest table that `input_ids` index.
    pub rows: i64,
}

impl Limits {
    /// Those of an imported model.
    pub fn of(m: &Module) -> Limits {
        let mut limits = Limits {
            length: DEFAULT_LENGTH,
            rows: i64::MAX,
        };
        let Some(port) = m.graph.inputs().iter().find(|p| p.name == IDS) else {
            return limits;
        };
        limits.rows = index_bound(m, port.value).unwrap_or(i64::MAX);
        if let Some(dim) = m.graph.ty(port.value).shape.last() {
            let most = usize::try_from(dim.bounds(&m.symbols).1).unwrap_or(usize::MAX);
            limits.length = match dim.as_const() {
                Some(_) => most,
                None => most.min(DEFAULT_LENGTH),
            };
        }
        limits
    }
}

/// What cuts texts into tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The token that fills up samples of a fixed length.
    pad: u32,
    /// Most tokens of a piece, without the special ones.
    length: usize,
    rows: i64,
}

/// Tokens of one sample.
struct Tokens {
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` and makes it cut lines into pieces that fit the model, or shorter ones if it says so itself.
    pub fn open(path: &Path, limits: Limits) -> Result<Tokenizer, DataError> {
        let fail = |what: String| DataError::new(path, what);
        let bytes = map_file(path).map_err(|e| fail(e.to_string()))?;
        if bytes.len() > MAX_TOKENIZER {
            return Err(fail("is too large for a tokenizer.json".into()));
        }
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&*bytes))
            .map_err(|e| fail(format!("is no tokenizer.json: {e}")))?;
        let pad = inner.get_padding().map_or(0, |p| p.pad_id);
        inner.with_padding(None);
        let own = inner.get_truncation().map_or(usize::MAX, |t| t.max_length);
        let most = own.min(limits.length);
        let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if most <= special {
            return Err(fail(format!(
                "puts {special} special tokens around each text, but a sample has at most {most} tokens"
            )));
        }
        // Lines are cut here: what the library drops while it cuts would be lost.
        guarded(|| inner.with_truncation(None).map(|_| ())).map_err(fail)?;
        let trial = guarded(|| inner.encode("a", true));
        trial.map_err(|e| fail(format!("cannot be used: {e}")))?;
        Ok(Tokenizer {
            inner,
            pad,
            length: most - special,
            rows: limits.rows,
        })
    }

    fn pieces(&self, line: &str) -> Result<Vec<Tokens>, String> {
        let whole = || -> Result<Vec<Tokens>, tokenizers::Error> {
            let mut first = self.inner.encode(line, false)?;
            first.truncate(self.length, 0, TruncationDirection::Right);
            let rest = first.take_overflowing();
            let mut all = Vec::new();
            for piece in std::iter::once(first).chain(rest) {
                let piece = self.inner.post_process(piece, None, true)?;
                all.push(Tokens {
                    ids: piece.get_ids().to_vec(),
                    types: piece.get_type_ids().to_vec(),
                });
            }
            Ok(all)
        };
        let mut all = guarded(whole).map_err(|e| format!("the tokenizer fails: {e}"))?;
        all.retain(|t| !t.ids.is_empty());
        let outside = |id: &&u32| i64::from(**id) >= self.rows;
        if let Some(id) = all.iter().flat_map(|t| &t.ids).find(outside) {
            let what = format!(
                "the tokenizer gives token {id}, but the model has only {} of them\n  help: give the tokenizer that the model was \
                 trained with",
                self.rows
            );
            return Err(what);
        }
        Ok(all)
    }
}

/// Runs code of the tokenizer library, which gives up with a panic on some files that contradict themselves: for a user
/// that is an error like any other.
fn guarded<T>(f: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    thread_local! {
        static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(false);
    match result {
        Ok(result) => result.map_err(|e| escape(&e.to_string())),
        Err(_) => Err("it contradicts itself".into()),
    }
}

/// A text file with how it fills the inputs of a model.
pub struct Text {
    path: PathBuf,
    plan: Plan,
    /// Number of samples.
    pub samples: usize,
}

/// How samples are made of tokens.
struct Plan {
    /// One an input.
    fills: Vec<Fill>,
    /// Rows of a sample, which are all the same: more than 1 only where the model's batch is fixed.
    rows: usize,
    /// The length, where it is fixed.
    length: Option<usize>,
    /// The batch, where it is a symbol.
    batch: Option<Symbol>,
}

/// What an input is filled with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fill {
    Ids,
    Mask,
    Types,
    Positions,
    Empty,
}

impl Text {
    /// Reads a text once: checks that the inputs can be filled, and counts the samples.
    pub fn open(path: &Path, specs: &[Spec], tokenizer: &Tokenizer) -> Result<Text, DataError> {
        let plan = Plan::of(specs).map_err(|what| DataError::new(path, what))?;
        let mut text = Text {
            path: path.to_owned(),
            plan,
            samples: 0,
        };
        let mut count = 0;
        text.for_each(specs, tokenizer, &mut |_| {
            count += 1;
            Ok::<(), DataError>(())
        })?;
        text.samples = count;
        Ok(text)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every sample to `f`, in order.
    pub fn for_each<E: From<DataError>>(
        &self,
        specs: &[Spec],
        tokenizer: &Tokenizer,
        f: &mut dyn FnMut(Sample) -> Result<(), E>,
    ) -> Result<(), E> {
        let fail = |number: usize, what: String| DataError::new(&self.path, format!("line {number}: {what}"));
        let (file, _) = open_file(&self.path).map_err(|e| DataError::new(&self.path, e.to_string()))?;
        let mut reader = BufReader::new(file);
        for number in 1.. {
            let line = next_line(&mut reader).map_err(|what| fail(number, what))?;
            let Some(line) = line else { break };
            let line = if number == 1 {
                line.trim_start_matches('\u{feff}')
            } else {
                &line
            };
            if line.trim().is_empty() {
                continue;
            }
            for t in tokenizer.pieces(line).map_err(|what| fail(number, what))? {
                let padded = self.plan.length.is_some_and(|n| n > t.ids.len());
                if padded && i64::from(tokenizer.pad) >= tokenizer.rows {
                    let (pad, rows) = (tokenizer.pad, tokenizer.rows);
                    let what =
                        format!("the tokenizer pads with token {pad}, but the model has only {rows} of them");
                    return Err(fail(number, what).into());
                }
                let sample = self.plan.sample(specs, &t, tokenizer.pad);
                f(sample.map_err(|what| fail(number, what))?)?;
            }
        }
        Ok(())
    }
}

/// The next line without its end; `None` at the end of the file.
fn next_line(reader: &mut BufReader<File>) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes);
    read.map_err(|e| e.kind().to_string())?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() as u64 > MAX_LINE {
        return Err(format!("is longer than {} MiB", MAX_LINE >> 20));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| "is no UTF-8 text".into())
}

impl Plan {
    /// How each input is filled; an error names all that cannot be.
    fn of(specs: &[Spec]) -> Result<Plan, String> {
        let ids = specs
            .iter()
            .find(|s| s.name == IDS)
            .map(|s| s.ty.shape.as_slice());
        let mut plan = Plan {
            fills: Vec::new(),
            rows: 1,
            length: None,
            batch: None,
        };
        let known = |d: &Dim| d.as_const().and_then(|v| usize::try_from(v).ok());
        if let Some([batch, length]) = ids {
            plan.rows = known(batch).unwrap_or(1);
            plan.batch = batch.as_symbol().cloned();
            plan.length = known(length);
        }
        let fills: Vec<Option<Fill>> = specs.iter().map(|s| plan.fill(s)).collect();
        let mut bad: Vec<String> = specs
            .iter()
            .zip(&fills)
            .filter(|(_, f)| f.is_none())
            .map(|(s, _)| format!("'{}' {}", escape(&s.name), escape(&s.ty.to_string())))
            .collect();
        if ids.is_none() {
            bad.push(format!("'{IDS}', which is missing"));
        }
        if !bad.is_empty() {
            return Err(format!(
                "text cannot fill the inputs of this model: {}\n  help: text gives {IDS}, attention_mask, token_type_ids and \
                 position_ids [batch, sequence], and empty past_...; for other inputs give arrays (.npz)",
                bad.join(", ")
            ));
        }
        plan.fills = fills.into_iter().flatten().collect();
        Ok(plan)
    }

    /// What fills an input; `None` if nothing can.
    fn fill(&self, s: &Spec) -> Option<Fill> {
        if s.name.starts_with("past_") {
            return self.shape(s, 1).contains(&0).then_some(Fill::Empty);
        }
        let fill = match s.name.as_str() {
            IDS => Fill::Ids,
            "attention_mask" => Fill::Mask,
            "token_type_ids" => Fill::Types,
            "position_ids" => Fill::Positions,
            _ => return None,
        };
        let can_hold = match s.ty.storage() {
            ScalarType::I64 | ScalarType::I32 => true,
            ScalarType::F32 | ScalarType::Bool => fill == Fill::Mask,
            _ => false,
        };
        (can_hold && s.ty.rank() == 2).then_some(fill)
    }

    /// The shape of an input with `n` new tokens and none before them.
    fn shape(&self, s: &Spec, n: usize) -> Vec<usize> {
        let extent = |d: &Dim| {
            let symbol = |s: &Symbol| {
                Some(if Some(s) == self.batch.as_ref() {
                    self.rows as i64
                } else {
                    0
                })
            };
            usize::try_from(d.eval(&symbol)?).ok()
        };
        match s.name.starts_with("past_") {
            true => s.ty.shape.iter().map(|d| extent(d).unwrap_or(0)).collect(),
            false => vec![self.rows, n],
        }
    }

    fn sample(&self, specs: &[Spec], t: &Tokens, pad: u32) -> Result<Sample, String> {
        let own = t.ids.len();
        let n = self.length.unwrap_or(own).max(own);
        if n > own && !self.fills.contains(&Fill::Mask) {
            return Err(format!(
                "has {own} tokens, but '{IDS}' has the fixed length {n}, and no attention_mask could leave the rest out"
            ));
        }
        let row = |fill: Fill| -> Vec<i64> {
            let padded = |v: &[u32], with: u32| {
                let v = v.iter().map(|x| i64::from(*x));
                v.chain(std::iter::repeat(i64::from(with))).take(n).collect()
            };
            match fill {
                Fill::Ids => padded(&t.ids, pad),
                Fill::Types => padded(&t.types, 0),
                Fill::Mask => padded(&vec![1; own], 0),
                Fill::Positions => (0..n as i64).collect(),
                Fill::Empty => Vec::new(),
            }
        };
        let array = |(s, fill): (&Spec, &Fill)| {
            let (ty, values) = (s.ty.storage(), row(*fill));
            let one = |v: &i64| -> Vec<u8> {
                match ty {
                    ScalarType::I64 => v.to_le_bytes().to_vec(),
                    ScalarType::I32 => (*v as i32).to_le_bytes().to_vec(),
                    ScalarType::F32 => (*v as f32).to_le_bytes().to_vec(),
                    _ => vec![*v as u8],
                }
            };
            let bytes: Vec<u8> = values.iter().flat_map(one).collect();
            Array {
                ty,
                shape: self.shape(s, n),
                data: bytes.repeat(self.rows),
            }
        };
        Ok(specs.iter().zip(&self.fills).map(array).collect())
    }
}

#[cfg(test)]
mod tests;
