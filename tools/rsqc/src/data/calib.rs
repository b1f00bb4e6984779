//! Calibration samples, streamed: one sample is in memory at a time, however many there are.
//!
//! A source is a text (`text.rs`), an `.npz`, a folder of `.npz` and `.npy` files, or one `.npy` for the only input. In a source of arrays, an array named as an input
//! whose rank equals the input's is a batch, and axis 0 is cut into samples; with one rank more, axis 0 counts samples
//! that each fill the input; arrays named `K/input` (K = 0, 1, ...) are one sample each and may differ in length. If the
//! model has an `attention_mask` input, each sample is cut to its unmasked part, so that padding never enters the
//! statistics; where the length is fixed, padding stays.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rsqc_onnx::error::escape;

use super::inputs::{Spec, bind};
use super::npz::{Npz, read_npy};
use super::text::{Text, Tokenizer};
use super::{Array, DataError, describe, npy};

/// Calibration data for one model.
pub struct CalibSet {
    specs: Vec<Spec>,
    sources: Vec<Source>,
    tokenizer: Option<Tokenizer>,
    samples: usize,
    ignored: Vec<String>,
}

/// Where samples come from.
enum Source {
    Arrays(Arrays),
    Text(Text),
}

/// One file, or the loose `.npy` files of a folder.
struct Arrays {
    path: PathBuf,
    kind: Kind,
    /// Samples from batches, and how each input's array is cut.
    batch: Option<Batch>,
    /// The `K/input` samples, in numeric order.
    singles: Vec<u64>,
}

enum Kind {
    Npz(Npz),
    Loose(BTreeMap<String, PathBuf>),
}

struct Batch {
    samples: usize,
    /// For each input: rows of axis 0 that make a sample, and whether the axis stays.
    cuts: Vec<(usize, bool)>,
}

/// One sample: the inputs in the model's order.
pub type Sample = Vec<Array>;

impl CalibSet {
    /// Opens all sources and checks names, types and shapes. Arrays are not read yet; texts are, once, to count samples.
    pub fn open(
        paths: &[PathBuf],
        specs: Vec<Spec>,
        tokenizer: Option<Tokenizer>,
    ) -> Result<CalibSet, DataError> {
        let mut set = CalibSet {
            specs,
            sources: Vec::new(),
            tokenizer,
            samples: 0,
            ignored: Vec::new(),
        };
        for path in paths {
            if path.is_dir() {
                set.add_folder(path)?;
            } else if is_text(path) {
                set.add_text(path)?;
            } else if path.extension().is_some_and(|e| e == "npy") {
                let Some(name) = set
                    .specs
                    .first()
                    .map(|s| s.name.clone())
                    .filter(|_| set.specs.len() == 1)
                else {
                    let what =
                        "a single .npy array needs a model with one input; use an .npz with named arrays";
                    return Err(DataError::new(path, what));
                };
                set.add_source(path, Kind::Loose(BTreeMap::from([(name, path.clone())])))?;
            } else {
                set.add_source(path, Kind::Npz(Npz::open(path)?))?;
            }
        }
        if set.samples == 0 {
            let path = paths
                .first()
                .map(PathBuf::as_path)
                .unwrap_or(Path::new("calibration data"));
            return Err(DataError::new(path, "holds no samples"));
        }
        Ok(set)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples
    }

    /// Whether there are no samples (never, once opened).
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Arrays that are not inputs of the model, as `file: name`.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn add_text(&mut self, path: &Path) -> Result<(), DataError> {
        let Some(tokenizer) = &self.tokenizer else {
            let what = "a calibration text needs a tokenizer\n  help: give `rsqc compile` its tokenizer.json with --tokenizer FILE";
            return Err(DataError::new(path, what));
        };
        let text = Text::open(path, &self.specs, tokenizer)?;
        self.samples += text.samples;
        self.sources.push(Source::Text(text));
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), DataError> {
        let fail = |e: std::io::Error| DataError::new(folder, e.to_string());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            files.push(entry.map_err(fail)?.path());
        }
        files.sort();
        let mut loose = BTreeMap::new();
        for path in files {
            match path.extension().and_then(|e| e.to_str()) {
                Some("npz") => self.add_source(&path, Kind::Npz(Npz::open(&path)?))?,
                Some("npy") => {
                    let stem = path
                        .file_stem()
                        .map(|s| s.to_string_lossy().into_owned())
                        .unwrap_or_default();
                    loose.insert(stem, path);
                }
                _ => self.ignored.push(rsqc_onnx::error::escape_path(&path)),
            }
        }
        if !loose.is_empty() {
            self.add_source(folder, Kind::Loose(loose))?;
        }
        Ok(())
    }

    fn add_source(&mut self, path: &Path, mut kind: Kind) -> Result<(), DataError> {
        let singles = self.single_samples(path, &kind)?;
        let batch = if singles.is_empty() || self.specs.iter().any(|s| kind.contains(&s.name)) {
            Some(plan_batch(&self.specs, path, &mut kind)?)
        } else {
            None
        };
        self.samples += singles.len() + batch.as_ref().map_or(0, |b| b.samples);
        self.sources.push(Source::Arrays(Arrays {
            path: path.to_owned(),
            kind,
            batch,
            singles,
        }));
        Ok(())
    }

    /// The numbers K for which `K/input` is there, all inputs complete; notes other arrays as ignored.
    fn single_samples(&mut self, path: &Path, kind: &Kind) -> Result<Vec<u64>, DataError> {
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        for name in kind.names() {
            let single = name.split_once('/').and_then(|(k, input)| {
                let known = self.specs.iter().any(|s| s.name == input);
                k.parse::<u64>().ok().filter(|_| known)
            });
            match single {
                _ if self.specs.iter().any(|s| s.name == name) => {}
                Some(k) => *found.entry(k).or_default() += 1,
                None => self.ignored.push(format!(
                    "{}: {}",
                    rsqc_onnx::error::escape_path(path),
                    escape(name)
                )),
            }
        }
        if let Some((k, _)) = found.iter().find(|(_, n)| **n != self.specs.len()) {
            let missing = self
                .specs
                .iter()
                .find(|s| !kind.contains(&format!("{k}/{}", s.name)));
            let name = missing.map(|s| escape(&s.name)).unwrap_or_default();
            return Err(DataError::new(
                path,
                format!("sample {k} has no array '{k}/{name}'"),
            ));
        }
        Ok(found.into_keys().collect())
    }

    /// Hands every sample to `f`, in order. Stops at the first error, of the data or of `f`.
    pub fn for_each<E: From<DataError>>(
        &mut self,
        mut f: impl FnMut(Sample) -> Result<(), E>,
    ) -> Result<(), E> {
        let specs = &self.specs;
        for source in &mut self.sources {
            let path = match source {
                Source::Arrays(a) => a.path.clone(),
                Source::Text(t) => t.path().to_owned(),
            };
            let mut number = 0usize;
            let mut deliver = |sample: Sample| -> Result<(), E> {
                let sample = finish(specs, sample)
                    .map_err(|what| DataError::new(&path, format!("sample {number}: {what}")))?;
                number += 1;
                f(sample)
            };
            match (source, &self.tokenizer) {
                (Source::Arrays(a), _) => a.for_each(specs, &mut deliver)?,
                (Source::Text(t), Some(tokenizer)) => t.for_each(specs, tokenizer, &mut deliver)?,
                (Source::Text(_), None) => {}
            }
        }
        Ok(())
    }
}

impl Arrays {
    fn for_each<E: From<DataError>>(
        &mut self,
        specs: &[Spec],
        deliver: &mut dyn FnMut(Sample) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(batch) = &self.batch {
            match &mut self.kind {
                Kind::Npz(npz) => npz.rows(&names(specs), &batch.cuts, batch.samples, deliver)?,
                Kind::Loose(files) => {
                    let arrays = specs
                        .iter()
                        .map(|s| read_npy(&files[&s.name]))
                        .collect::<Result<Vec<_>, _>>()?;
                    for i in 0..batch.samples {
                        let cut = arrays.iter().zip(&batch.cuts);
                        deliver(cut.map(|(a, cut)| cut_sample(a, *cut, i)).collect())?;
                    }
                }
            }
        }
        for k in &self.singles {
            let Kind::Npz(npz) = &mut self.kind else {
                continue;
            };
            let arrays = specs
                .iter()
                .map(|s| npz.read(&format!("{k}/{}", s.name)))
                .collect::<Result<Vec<_>, _>>()?;
            deliver(arrays)?;
        }
        Ok(())
    }
}

/// Whether a file is to be read as text: by its ending, and if that says nothing, unless it starts as an archive.
pub fn is_text(path: &Path) -> bool {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npz" | "npy") => false,
        Some("txt") => true,
        _ => rsqc_onnx::source::open_file(path).is_ok_and(|(mut f, _)| {
            let mut start = [0; 4];
            f.read_exact(&mut start).is_err() || start != *b"PK\x03\x04"
        }),
    }
}

fn names(specs: &[Spec]) -> Vec<&str> {
    specs.iter().map(|s| s.name.as_str()).collect()
}

impl Kind {
    fn names(&self) -> Vec<&str> {
        match self {
            Kind::Npz(npz) => npz.names().collect(),
            Kind::Loose(files) => files.keys().map(String::as_str).collect(),
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Kind::Npz(npz) => npz.contains(name),
            Kind::Loose(files) => files.contains_key(name),
        }
    }

    fn header(&mut self, name: &str) -> Result<npy::Header, DataError> {
        match self {
            Kind::Npz(npz) => npz.header(name),
            Kind::Loose(files) => {
                let path = &files[name];
                let fail = |what: String| DataError::new(path, what);
                let bytes = rsqc_onnx::source::map_file(path).map_err(|e| fail(e.to_string()))?;
                npy::read_header(&mut &*bytes).map_err(fail)
            }
        }
    }
}

/// Checks the batch arrays of a source and how they are cut.
fn plan_batch(specs: &[Spec], path: &Path, kind: &mut Kind) -> Result<Batch, DataError> {
    let fail = |what: String| DataError::new(path, what);
    let mut samples: Option<(usize, &str)> = None;
    let mut cuts = Vec::new();
    for spec in specs {
        if !kind.contains(&spec.name) {
            let found: Vec<String> = kind
                .names()
                .into_iter()
                .take(8)
                .map(|n| format!("'{}'", escape(n)))
                .collect();
            return Err(fail(format!(
                "has no array for the input '{}', only {}",
                escape(&spec.name),
                found.join(", ")
            )));
        }
        let header = kind.header(&spec.name)?;
        let (count, cut) = plan_input(spec, &header).map_err(fail)?;
        match samples {
            Some((other, name)) if other != count => {
                return Err(fail(format!(
                    "'{}' holds {count} samples, but '{}' holds {other}",
                    escape(&spec.name),
                    escape(name)
                )));
            }
            _ => samples = Some((count, &spec.name)),
        }
        cuts.push(cut);
    }
    Ok(Batch {
        samples: samples.map_or(0, |s| s.0),
        cuts,
    })
}

/// How many samples an array holds for an input, and how it is cut.
fn plan_input(spec: &Spec, header: &npy::Header) -> Result<(usize, (usize, bool)), String> {
    let found = describe(header.ty, &header.shape);
    let no = || {
        format!(
            "array '{}' is {found}, expected samples of {}",
            escape(&spec.name),
            escape(&spec.ty.to_string())
        )
    };
    let dims = &spec.ty.shape;
    let keep = header.shape.len() == dims.len();
    if header.ty != spec.ty.storage()
        || header.shape.is_empty()
        || !(keep || header.shape.len() == dims.len() + 1)
    {
        return Err(no());
    }
    let rest = if keep { &dims[1..] } else { &dims[..] };
    for (dim, &extent) in rest.iter().zip(&header.shape[1..]) {
        if dim
            .as_const()
            .is_some_and(|c| usize::try_from(c).ok() != Some(extent))
        {
            return Err(no());
        }
    }
    // A fixed batch of n takes n rows at a time.
    let rows = match dims.first().and_then(rsqc_ir::Dim::as_const) {
        Some(n) if keep => usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(no)?,
        _ => 1,
    };
    if !header.shape[0].is_multiple_of(rows) {
        return Err(format!(
            "array '{}' has {} rows, expected a multiple of {rows}",
            escape(&spec.name),
            header.shape[0]
        ));
    }
    Ok((header.shape[0] / rows, (rows, keep)))
}

/// Sample `i` of an array that is wholly in memory.
fn cut_sample(array: &Array, (rows, keep): (usize, bool), i: usize) -> Array {
    if keep {
        array.cut(0, i * rows..(i + 1) * rows)
    } else {
        array.row(i, false)
    }
}

impl Npz {
    /// Reads several arrays in step, a sample at a time.
    fn rows<E: From<DataError>>(
        &mut self,
        names: &[&str],
        cuts: &[(usize, bool)],
        samples: usize,
        deliver: &mut dyn FnMut(Sample) -> Result<(), E>,
    ) -> Result<(), E> {
        let headers = names
            .iter()
            .map(|n| self.header(n))
            .collect::<Result<Vec<_>, _>>()?;
        // Column-major arrays cannot be read by rows.
        let whole = names
            .iter()
            .zip(&headers)
            .map(|(n, h)| {
                if h.fortran && h.shape.len() > 1 {
                    self.read(n).map(Some)
                } else {
                    Ok(None)
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut clones = self.clones(names.len());
        let mut readers = Vec::new();
        for (npz, name) in clones.iter_mut().zip(names) {
            readers.push(npz.open_data(name)?);
        }
        for i in 0..samples {
            let mut sample = Vec::with_capacity(names.len());
            for (n, reader) in readers.iter_mut().enumerate() {
                let array = match &whole[n] {
                    Some(array) => cut_sample(array, cuts[n], i),
                    None => read_rows(reader, &headers[n], cuts[n]).map_err(|what| {
                        DataError::new(self.path(), format!("array '{}': {what}", escape(names[n])))
                    })?,
                };
                sample.push(array);
            }
            deliver(sample)?;
        }
        Ok(())
    }
}

/// The next sample from a row-major stream.
fn read_rows(reader: &mut dyn Read, h: &npy::Header, (rows, keep): (usize, bool)) -> Result<Array, String> {
    let mut shape = h.shape[1..].to_vec();
    if keep {
        shape.insert(0, rows);
    }
    let bytes = h.bytes.checked_div(h.shape[0]).unwrap_or(0) * rows;
    let part = npy::Header {
        shape,
        bytes,
        ..h.clone()
    };
    npy::read_part(&mut &mut *reader, &part)
}

/// Cuts padding away and checks a sample.
fn finish(specs: &[Spec], sample: Sample) -> Result<Sample, String> {
    if let Some(array) = sample.iter().zip(specs).find(|(a, _)| a.has_non_finite()) {
        return Err(format!("array '{}' holds NaN or infinity", escape(&array.1.name)));
    }
    match without_padding(specs, &sample) {
        // Where the length is fixed, padding has to stay.
        Some(cut) if bind(specs, &cut).is_ok() => Ok(cut),
        _ => bind(specs, &sample).map(|_| sample),
    }
}

/// Every input that runs along the `attention_mask` cut to the unmasked part; `None` if there is nothing to cut.
fn without_padding(specs: &[Spec], sample: &Sample) -> Option<Sample> {
    let mask = specs.iter().position(|s| s.name == "attention_mask")?;
    let (dim, &length) = (specs[mask].ty.shape.last()?, sample[mask].shape.last()?);
    let range = unmasked(&sample[mask], length)?;
    if range == (0..length) {
        return None;
    }
    let symbols = dim.symbols();
    let mut cut = sample.clone();
    for (array, spec) in cut.iter_mut().zip(specs) {
        // Of the rank that is declared or not: that is checked afterwards.
        for (axis, d) in spec.ty.shape.iter().enumerate().take(array.shape.len()) {
            if array.shape[axis] == length && d.symbols().iter().any(|s| symbols.contains(s)) {
                *array = array.cut(axis, range.clone());
            }
        }
    }
    Some(cut)
}

/// From the first to the last position that any row of the mask keeps; `None` if all is masked.
fn unmasked(mask: &Array, length: usize) -> Option<Range<usize>> {
    let values = mask.to_f64();
    let kept = |t: &usize| values.iter().skip(*t).step_by(length.max(1)).any(|v| *v != 0.0);
    let first = (0..length).find(kept)?;
    let last = (0..length).rev().find(kept)?;
    Some(first..last + 1)
}

#[cfg(test)]
mod tests;
