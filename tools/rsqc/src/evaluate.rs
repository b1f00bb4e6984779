//! Accuracy figures of a program on evaluation data; one function a task.

use crate::data::Array;
use crate::data::npz::Npz;
use crate::data::tokens;
use crate::error::Failure;
use crate::metrics::{cosine, log_softmax, max_abs_diff, snr_db, spearman, top};
use crate::program::Program;
use rsqc_onnx::error::{escape, escape_path};
use std::path::Path;

/// What `rsqc eval` measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Task {
    /// Outputs against those of another model.
    Outputs,
    /// Sentence embeddings: mean of the first output over unmasked positions, normalized.
    Embedding,
    /// Classification by the largest element of the first output.
    Classify,
    /// Next-token prediction from logits.
    Lm,
}

/// Named figures in printing order.
pub type Figures = Vec<(String, f64)>;

/// Samples that are run together where the model allows it.
const BATCH: usize = 32;

/// Runs a task over the first `limit` samples of `data`.
pub fn evaluate(
    task: Task,
    model: &mut dyn Program,
    against: Option<Box<dyn Program>>,
    data: &Path,
    limit: usize,
) -> Result<Figures, Failure> {
    let data = EvalData {
        npz: Npz::open(data)?,
        limit,
    };
    match task {
        Task::Outputs => outputs(model, against, data),
        Task::Embedding => embedding(model, data),
        Task::Classify => classify(model, against, data),
        Task::Lm => lm(model, against, data),
    }
}

struct EvalData {
    npz: Npz,
    limit: usize,
}

impl EvalData {
    fn fail(&self, what: impl std::fmt::Display) -> Failure {
        Failure::error(format!("{}: {what}", escape_path(self.npz.path())))
    }

    /// An array by name.
    fn array(&mut self, name: &str) -> Result<Array, Failure> {
        if !self.npz.contains(name) {
            return Err(self.fail(format!("has no array `{name}`, which this task needs")));
        }
        Ok(self.npz.read(name)?)
    }

    /// Arrays for the model's inputs under `prefix`, cut to the limit, and their number of samples.
    fn inputs(&mut self, model: &dyn Program, prefix: &str) -> Result<(Vec<Array>, usize), Failure> {
        let mut arrays = Vec::new();
        let mut filled = Vec::new();
        let ids_name = format!("{prefix}{}", tokens::IDS);
        let ids_spec = model.inputs().iter().find(|s| s.name == tokens::IDS);
        let ids = match ids_spec.filter(|_| self.npz.contains(&ids_name)) {
            Some(spec) => Some((spec, self.npz.read(&ids_name)?)),
            None => None,
        };
        for s in model.inputs() {
            let name = format!("{prefix}{}", s.name);
            let given = self.npz.contains(&name);
            let made = match &ids {
                Some((spec, ids)) if !given => tokens::beside_ids(s, spec, ids),
                _ => None,
            };
            filled.extend(made.as_ref().map(|_| s.name.as_str()));
            let a = made.map_or_else(|| self.array(&name), Ok)?;
            if a.shape.is_empty() {
                return Err(self.fail(format!("array `{prefix}{}` has no sample axis", s.name)));
            }
            arrays.push(a);
        }
        if let [first, rest @ ..] = filled.as_slice() {
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let file = escape_path(self.npz.path());
            eprintln!(
                "note: {file}: has no {}{more}: made for whole sequences of {}",
                escape(first),
                tokens::IDS
            );
        }
        let n = arrays.first().map_or(0, |a| a.shape[0]);
        if arrays.iter().any(|a| a.shape[0] != n) {
            return Err(self.fail("the arrays of the inputs differ in their number of samples"));
        }
        let n = n.min(self.limit);
        if n == 0 {
            return Err(self.fail("holds no sample"));
        }
        Ok((arrays.iter().map(|a| a.cut(0, 0..n)).collect(), n))
    }
}

/// Runs samples `range`; arrays count samples on axis 0, which is also the model's batch axis.
fn run_rows(
    p: &mut dyn Program,
    arrays: &[Array],
    range: std::ops::Range<usize>,
) -> Result<Vec<Array>, Failure> {
    let cut: Vec<Array> = arrays.iter().map(|a| a.cut(0, range.clone())).collect();
    crate::data::inputs::bind(p.inputs(), &cut).map_err(Failure::error)?;
    p.run(&cut)
}

/// How many samples fit one run: 1 if some input fixes its first extent.
fn batch_of(p: &dyn Program) -> usize {
    let free = |s: &crate::data::inputs::Spec| s.ty.shape.first().is_some_and(|d| d.as_symbol().is_some());
    if p.inputs().iter().all(free) { BATCH } else { 1 }
}

fn chunks(n: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n).step_by(size).map(move |i| i..(i + size).min(n))
}

fn need_against(a: Option<Box<dyn Program>>) -> Result<Box<dyn Program>, Failure> {
    a.ok_or_else(|| Failure::usage("this task compares two models: give the other one with --against"))
}

fn outputs(
    model: &mut dyn Program,
    against: Option<Box<dyn Program>>,
    mut data: EvalData,
) -> Result<Figures, Failure> {
    let mut against = need_against(against)?;
    if against.outputs().len() != model.outputs().len() {
        return Err(Failure::error("the two models differ in their number of outputs"));
    }
    let (arrays, n) = data.inputs(model, "")?;
    let mut all: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); model.outputs().len()];
    for range in chunks(n, batch_of(model).min(batch_of(against.as_ref()))) {
        let reference = run_rows(against.as_mut(), &arrays, range.clone())?;
        for ((r, o), acc) in reference
            .iter()
            .zip(run_rows(model, &arrays, range)?)
            .zip(&mut all)
        {
            if r.shape != o.shape {
                return Err(Failure::error(format!(
                    "output shapes {:?} and {:?} differ",
                    o.shape, r.shape
                )));
            }
            acc.0.extend(r.to_f64());
            acc.1.extend(o.to_f64());
        }
    }
    let mut figures = vec![("samples".into(), n as f64)];
    for (name, (r, o)) in model.outputs().iter().zip(&all) {
        figures.push((format!("{name}/snr_db"), snr_db(r, o)));
        figures.push((format!("{name}/cosine"), cosine(r, o)));
        figures.push((format!("{name}/max_abs_diff"), max_abs_diff(r, o)));
    }
    Ok(figures)
}

fn classify(
    model: &mut dyn Program,
    mut against: Option<Box<dyn Program>>,
    mut data: EvalData,
) -> Result<Figures, Failure> {
    let (arrays, n) = data.inputs(model, "")?;
    let labels = data.array("labels")?.to_f64();
    if labels.len() < n {
        return Err(data.fail(format!("has {} labels for {n} samples", labels.len())));
    }
    let (mut top1, mut top5, mut agree) = (0, 0, 0);
    let (mut all, mut reference) = (Vec::new(), Vec::new());
    let batch = batch_of(model);
    for range in chunks(n, batch) {
        let rows = |p: &mut dyn Program| -> Result<Vec<Vec<f64>>, Failure> {
            let first = run_rows(p, &arrays, range.clone())?.swap_remove(0);
            let width = (first.shape.iter().product::<usize>() / range.len()).max(1);
            Ok(first.to_f64().chunks(width).map(<[f64]>::to_vec).collect())
        };
        let out = rows(model)?;
        let other = match &mut against {
            Some(p) => Some(rows(p.as_mut())?),
            None => None,
        };
        for (i, logits) in out.iter().enumerate() {
            let best = top(logits, 5);
            let label = labels[range.start + i] as usize;
            top1 += usize::from(best.first() == Some(&label));
            top5 += usize::from(best.contains(&label));
            if let Some(o) = &other {
                agree += usize::from(top(&o[i], 1).first() == best.first());
                reference.extend(&o[i]);
                all.extend(logits);
            }
        }
    }
    let share = |k: usize| k as f64 / n as f64;
    let mut figures = vec![
        ("samples".into(), n as f64),
        ("top1".into(), share(top1)),
        ("top5".into(), share(top5)),
    ];
    if against.is_some() {
        figures.push(("agreement".into(), share(agree)));
        figures.push(("logits_snr_db".into(), snr_db(&reference, &all)));
    }
    Ok(figures)
}

/// Embeddings of the sentences under `prefix`; each is cut to its unmasked length, so that padding takes no part.
fn embeddings(model: &mut dyn Program, data: &mut EvalData, prefix: &str) -> Result<Vec<Vec<f64>>, Failure> {
    let (arrays, n) = data.inputs(model, prefix)?;
    let mask = model.inputs().iter().position(|s| s.name == "attention_mask");
    let mask = mask.ok_or_else(|| Failure::error("the embedding task needs an input `attention_mask`"))?;
    let lengths: Vec<usize> = (0..n)
        .map(|i| {
            let row = arrays[mask].cut(0, i..i + 1).to_f64();
            row.iter().rposition(|m| *m != 0.0).map_or(0, |p| p + 1)
        })
        .collect();
    let mut out = Vec::with_capacity(n);
    for (i, length) in lengths.into_iter().enumerate() {
        let sample: Vec<Array> = arrays
            .iter()
            .map(|a| a.cut(0, i..i + 1).cut(1, 0..length))
            .collect();
        let weights = sample[mask].to_f64();
        let hidden = model.run(&sample)?.swap_remove(0);
        let width = hidden.shape.last().copied().unwrap_or(1).max(1);
        let mut sum = vec![0.0; width];
        for (row, w) in hidden.to_f64().chunks(width).zip(&weights) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += w * x);
        }
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        out.push(sum.iter().map(|x| x / norm).collect());
    }
    Ok(out)
}

fn embedding(model: &mut dyn Program, mut data: EvalData) -> Result<Figures, Failure> {
    let a = embeddings(model, &mut data, "a_")?;
    let b = embeddings(model, &mut data, "b_")?;
    let (ref_a, ref_b) = (data.array("ref_emb_a")?, data.array("ref_emb_b")?);
    let ref_cos = data.array("ref_cos")?.to_f64();
    let n = a.len();
    let rows = |r: &Array| -> Vec<Vec<f64>> {
        let width = r.shape.last().copied().unwrap_or(1).max(1);
        r.to_f64().chunks(width).take(n).map(<[f64]>::to_vec).collect()
    };
    let cos: Vec<f64> = a.iter().zip(&b).map(|(x, y)| cosine(x, y)).collect();
    let pairs = rows(&ref_a)
        .into_iter()
        .zip(&a)
        .chain(rows(&ref_b).into_iter().zip(&b));
    let each: Vec<f64> = pairs.map(|(r, e)| cosine(&r, e)).collect();
    let change = cos
        .iter()
        .zip(&ref_cos)
        .map(|(c, r)| (c - r).abs())
        .fold(0.0, f64::max);
    Ok(vec![
        ("samples".into(), (2 * n) as f64),
        (
            "spearman".into(),
            spearman(&cos, &ref_cos[..n.min(ref_cos.len())]),
        ),
        ("mean_cosine".into(), each.iter().sum::<f64>() / each.len() as f64),
        (
            "min_cosine".into(),
            each.iter().copied().fold(f64::INFINITY, f64::min),
        ),
        ("max_cos_change".into(), change),
    ])
}

fn lm(
    model: &mut dyn Program,
    mut against: Option<Box<dyn Program>>,
    mut data: EvalData,
) -> Result<Figures, Failure> {
    let (arrays, n) = data.inputs(model, "")?;
    let ids = model.inputs().iter().position(|s| s.name == "input_ids");
    let ids = ids.ok_or_else(|| Failure::error("the lm task needs an input `input_ids`"))?;
    let (mut nll, mut kl, mut hits, mut count) = (0.0, 0.0, 0usize, 0usize);
    for range in chunks(n, 1) {
        let tokens = arrays[ids].cut(0, range.clone()).to_f64();
        let rows = |p: &mut dyn Program| -> Result<Vec<Vec<f64>>, Failure> {
            let logits = run_rows(p, &arrays, range.clone())?.swap_remove(0);
            let width = logits.shape.last().copied().unwrap_or(1).max(1);
            Ok(logits.to_f64().chunks(width).map(log_softmax).collect())
        };
        let out = rows(model)?;
        let other = match &mut against {
            Some(p) => Some(rows(p.as_mut())?),
            None => None,
        };
        for t in 0..tokens.len().saturating_sub(1).min(out.len()) {
            let next = tokens[t + 1] as usize;
            nll -= out[t].get(next).copied().unwrap_or(f64::NAN);
            hits += usize::from(top(&out[t], 1).first() == Some(&next));
            count += 1;
            if let Some(o) = &other {
                kl += o[t]
                    .iter()
                    .zip(&out[t])
                    .map(|(p, q)| p.exp() * (p - q))
                    .sum::<f64>();
            }
        }
    }
    let mean = |x: f64| x / count as f64;
    let mut figures = vec![
        ("samples".into(), n as f64),
        ("tokens".into(), count as f64),
        ("perplexity".into(), mean(nll).exp()),
        ("next_token_accuracy".into(), mean(hits as f64)),
    ];
    if against.is_some() {
        figures.push(("kl_divergence".into(), mean(kl)));
    }
    Ok(figures)
}
