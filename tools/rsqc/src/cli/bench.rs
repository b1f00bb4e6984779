//! `rsqc bench`.

use super::print_line;
use crate::artifact::{ArtifactProgram, StepProfile};
use crate::data::Array;
use crate::data::inputs::Spec;
use crate::error::Failure;
use crate::metrics::percentile;
use crate::program::Program as _;
use rsqc_ir::{ScalarType, Symbol};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time an artifact.
#[derive(clap::Args)]
#[command(after_help = "Example:
  rsqc bench model.so --shapes 1x16,1x128 --threads 1 --json
  {\"shape\":\"1x16\",\"threads\":1,\"median_ms\":0.51,\"p95_ms\":0.55,\"runs\":3000}")]
pub struct Args {
    /// An artifact made by `rsqc compile`.
    artifact: PathBuf,
    /// Values of the free symbols, in the order they first appear in the inputs; several shapes separated by commas.
    #[arg(long, default_value = "1")]
    shapes: String,
    /// Threads; 0 = one a physical core.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds to measure each shape.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Also print a table of steps (kernel, time, share, GMAC/s, GB/s), and one of kernels with their steps summed up.
    #[arg(long)]
    kernels: bool,
    /// Print `load_ms X`, then for each line with a count on standard input the milliseconds of so many runs, on one
    /// line (one shape; for programs that time several artifacts in turn).
    #[arg(long, conflicts_with_all = ["kernels", "json", "seconds"])]
    on_request: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    if !(a.seconds.is_finite() && a.seconds > 0.0 && a.seconds <= 3600.0) {
        return Err(Failure::usage(format!(
            "--seconds {} is not between 0 and 3600",
            a.seconds
        )));
    }
    let start = Instant::now();
    let mut program = ArtifactProgram::open(&a.artifact, a.threads)?;
    if a.on_request {
        return on_request(&mut program, &a.shapes, start.elapsed());
    }
    for shape in a.shapes.split(',') {
        let arrays = ramp_inputs(program.inputs(), shape)?;
        let ms = measure(&mut program, &arrays, Duration::from_secs_f64(a.seconds))?;
        report(a, shape, &ms)?;
        if a.kernels {
            kernels(a, &mut program, &arrays, shape)?;
        }
    }
    Ok(())
}

/// Milliseconds of each run, sorted; at least three runs after a warm-up.
fn measure(program: &mut ArtifactProgram, arrays: &[Array], budget: Duration) -> Result<Vec<f64>, Failure> {
    let warm = Instant::now();
    let mut n = 0;
    while n < 2 || warm.elapsed() < budget / 10 {
        program.run_timed(arrays)?;
        n += 1;
    }
    let start = Instant::now();
    let mut ms = Vec::new();
    while ms.len() < 3 || start.elapsed() < budget {
        ms.push(program.run_timed(arrays)?.as_secs_f64() * 1e3);
    }
    ms.sort_by(f64::total_cmp);
    Ok(ms)
}

fn report(a: &Args, shape: &str, ms: &[f64]) -> Result<(), Failure> {
    let (median, p95) = (percentile(ms, 0.5), percentile(ms, 0.95));
    if a.json {
        let line = serde_json::json!({
            "shape": shape, "threads": a.threads, "median_ms": median, "p95_ms": p95, "runs": ms.len(),
        });
        return print_line(&line.to_string());
    }
    print_line(&format!(
        "{shape:>10}  threads {}  median {median:.4} ms  p95 {p95:.4} ms  {} runs",
        a.threads,
        ms.len()
    ))
}

/// Inputs of the wanted shape: floats from -1 to 1, integers and bools all 1 (an attention mask that masks nothing, a
/// valid token).
pub fn ramp_inputs(specs: &[Spec], shape: &str) -> Result<Vec<Array>, Failure> {
    let bad = |why: String| Failure::usage(format!("--shapes {shape}: {why}"));
    let values: Vec<i64> = shape
        .split('x')
        .map(|v| v.trim().parse().ok().filter(|v| (0..=1 << 31).contains(v)))
        .collect::<Option<_>>()
        .ok_or_else(|| bad("expected numbers separated by x, as 1x128".into()))?;
    let mut names: Vec<Symbol> = Vec::new();
    for s in specs
        .iter()
        .flat_map(|s| &s.ty.shape)
        .filter_map(|d| d.as_symbol())
    {
        if !names.contains(s) {
            names.push(s.clone());
        }
    }
    // A model without free symbols takes any single value, so that one command line fits every model.
    if names.len() != values.len() && !(names.is_empty() && values.len() == 1) {
        let list: Vec<&str> = names.iter().map(Symbol::name).collect();
        return Err(bad(format!(
            "the model has {} free symbols ({})",
            names.len(),
            list.join(", ")
        )));
    }
    let env: BTreeMap<Symbol, i64> = names.into_iter().zip(values).collect();
    specs
        .iter()
        .map(|s| ramp(s, &env).ok_or_else(|| bad(format!("input `{}` has no size", s.name))))
        .collect()
}

fn ramp(spec: &Spec, env: &BTreeMap<Symbol, i64>) -> Option<Array> {
    let extent = |d: &rsqc_ir::Dim| usize::try_from(d.eval(&|s| env.get(s).copied())?).ok();
    let shape: Vec<usize> = spec.ty.shape.iter().map(extent).collect::<Option<_>>()?;
    let n = shape
        .iter()
        .try_fold(1usize, |a, d| a.checked_mul(*d))
        .filter(|n| *n <= 1 << 32)?;
    let ty = spec.ty.storage();
    let value = |i: usize| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0;
    let data = match ty {
        ScalarType::F32 => (0..n).flat_map(|i| value(i).to_le_bytes()).collect(),
        ScalarType::F64 => (0..n).flat_map(|i| f64::from(value(i)).to_le_bytes()).collect(),
        ScalarType::F16 => (0..n)
            .flat_map(|i| half::f16::from_f32(value(i)).to_le_bytes())
            .collect(),
        ScalarType::BF16 => (0..n)
            .flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes())
            .collect(),
        t => {
            let mut one = vec![0u8; t.size()];
            one[0] = 1;
            one.repeat(n)
        }
    };
    Some(Array { ty, shape, data })
}

fn kernels(a: &Args, program: &mut ArtifactProgram, arrays: &[Array], shape: &str) -> Result<(), Failure> {
    let steps = program.profile(arrays, 30)?;
    let total: f64 = steps.iter().map(|s| s.ns).sum();
    for s in &steps {
        if a.json {
            let line = serde_json::json!({
                "shape": shape, "step": s.index, "kernel": s.kernel, "node": s.node, "us": s.ns / 1e3,
                "share": s.ns / total, "macs": s.macs, "bytes": s.bytes, "gmac_per_s": s.macs / s.ns,
                "gb_per_s": s.bytes / s.ns,
            });
            print_line(&line.to_string())?;
        } else {
            print_line(&format!("{:4}  {}  {}", s.index, figures(s, total), s.node))?;
        }
    }
    if a.json {
        return Ok(());
    }
    print_line("steps  summed up by kernel")?;
    for (count, sum) in by_kernel(&steps) {
        print_line(&format!("{count:4}  {}", figures(&sum, total)))?;
    }
    Ok(())
}

fn figures(s: &StepProfile, total: f64) -> String {
    format!(
        "{:9.2} us {:5.1} %  {:7.1} GMAC/s {:7.1} GB/s  {}",
        s.ns / 1e3,
        100.0 * s.ns / total,
        s.macs / s.ns,
        s.bytes / s.ns,
        s.kernel
    )
}

/// The steps of each kernel as one, with how many they are; the longest first.
fn by_kernel(steps: &[StepProfile]) -> Vec<(usize, StepProfile)> {
    let mut sums: BTreeMap<&str, (usize, StepProfile)> = BTreeMap::new();
    for s in steps {
        match sums.get_mut(s.kernel.as_str()) {
            None => {
                sums.insert(&s.kernel, (1, s.clone()));
            }
            Some((count, sum)) => {
                *count += 1;
                sum.ns += s.ns;
                sum.macs += s.macs;
                sum.bytes += s.bytes;
            }
        }
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    sums.sort_by(|a, b| b.1.ns.total_cmp(&a.1.ns));
    sums
}

/// For a program that interleaves several: says how long loading took, then answers each line that holds a count with
/// the milliseconds of so many runs.
fn on_request(program: &mut ArtifactProgram, shape: &str, load: Duration) -> Result<(), Failure> {
    let arrays = ramp_inputs(program.inputs(), shape)?;
    print_line(&format!("load_ms {}", load.as_secs_f64() * 1e3))?;
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Failure::error(format!("standard input: {e}")))?;
        let count: u32 = line
            .trim()
            .parse()
            .map_err(|_| Failure::usage(format!("standard input: `{}` is no count of runs", line.trim())))?;
        let mut ms = Vec::new();
        for _ in 0..count {
            ms.push((program.run_timed(&arrays)?.as_secs_f64() * 1e3).to_string());
        }
        print_line(&ms.join(" "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_by_kernel() {
        let step = |kernel: &str, ns, macs| StepProfile {
            index: 0,
            kernel: kernel.into(),
            node: String::new(),
            ns,
            macs,
            bytes: 8.0,
        };
        let steps = [step("a", 1.0, 10.0), step("b", 5.0, 0.0), step("a", 2.0, 20.0)];
        let sums = by_kernel(&steps);
        let rows: Vec<_> = sums
            .iter()
            .map(|(count, s)| (*count, s.kernel.as_str(), s.ns, s.macs, s.bytes))
            .collect();
        assert_eq!(rows, [(1, "b", 5.0, 0.0, 8.0), (2, "a", 3.0, 30.0, 16.0)]);
    }
}
