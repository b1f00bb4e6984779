//! `cargo xtask bench`: this machine's limits, and every kernel family and whole model as a share of them.
//!
//! All is measured in one run, in interleaved rounds: limits, then every artifact at every shape, then the limits again, and so
//! on; each figure is the median over the rounds. Kernels run on one thread; `--threads` is for whole models and peers. With `--peers FOLDER` the script `peers.py` in that
//! folder (default: `bench` below `RSQC_SHARED`) times other runtimes beside rsqc; it needs the Python of `RSQC_PYTHON` to
//! have their packages. `--write` puts the tables into `docs/performance.md`.

mod families;
mod limits;
mod machine;
mod models;
mod onnx;
mod peers;
mod report;
mod timing;
mod whole;

use crate::document;
use crate::error::Error;
use crate::shell;
use families::{FAMILIES, Row};
use limits::Limits;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use timing::{Job, Target};

/// The document that `--write` fills.
const DOCUMENT: &str = "docs/performance.md";

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Threads of whole models and peers
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Rounds; each figure is the median over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each artifact and shape in each round
    #[arg(long, default_value_t = 0.1)]
    seconds: f64,
    /// Leaves out the products beyond caches: their models take gigabytes and minutes to make
    #[arg(long)]
    quick: bool,
    /// Only the limits
    #[arg(long, conflicts_with_all = ["peers", "write"])]
    limits: bool,
    /// Times other runtimes too, by the `peers.py` of this folder
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "")]
    peers: Option<OsString>,
    /// Only the other runtimes, nothing else
    #[arg(long, requires = "peers")]
    peers_only: bool,
    /// One JSON object a line instead of tables
    #[arg(long)]
    json: bool,
    /// Puts the tables into docs/performance.md
    #[arg(long)]
    write: bool,
    /// More arguments for peers.py
    #[arg(last = true)]
    peers_arguments: Vec<OsString>,
}

/// The median of some figures; none of none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The programs that measure.
struct Tools {
    rsqc: PathBuf,
    limits: PathBuf,
    /// Where models and artifacts are put.
    scratch: PathBuf,
}

impl Tools {
    fn build(root: &Path) -> Result<Tools, Error> {
        let release = ["build", "--quiet", "--release", "--package"];
        shell::run(shell::cargo(root).args(release).arg("rsqc"))?;
        shell::run(
            shell::cargo(root)
                .args(release)
                .args(["rsqc-cpu", "--example", "limits"]),
        )?;
        let built = shell::target_dir(root)?.join("release");
        Ok(Tools {
            rsqc: built.join("rsqc"),
            limits: built.join("examples/limits"),
            scratch: shell::scratch(root, "bench")?,
        })
    }

    /// The limits at the level that artifacts will run at.
    fn limits(&self) -> Result<Limits, Error> {
        let mut command = Command::new(&self.limits);
        command.args(std::env::var_os("RSQC_CPU_LEVEL")).arg("--json");
        let lines = shell::json_lines(&mut command)?;
        Limits::parse(lines.first().unwrap_or(&serde_json::Value::Null))
    }
}

/// Everything that one run measured.
struct Measured {
    machine: machine::Machine,
    limits: Limits,
    kernels: Vec<Row>,
    models: Vec<whole::Row>,
}

/// One artifact for each model and scheme of the kernel families.
fn family_jobs(tools: &Tools, target: &Target<'_>, quick: bool) -> Result<Vec<Job>, Error> {
    let mut jobs: Vec<Job> = Vec::new();
    for family in FAMILIES {
        if quick && family.model == models::Name::Wide {
            continue;
        }
        let name = family.model.text();
        let known = jobs
            .iter_mut()
            .find(|j| j.model == name && j.scheme == family.scheme);
        if let Some(job) = known {
            job.add_shapes(family.shapes.iter().copied());
            continue;
        }
        let (model, calib) = family.model.write(&tools.scratch)?;
        eprintln!("compiling {name} {}", family.scheme);
        let mut job = Job::compile(&tools.rsqc, &model, (name, family.scheme), &calib, target)?;
        job.add_shapes(family.shapes.iter().copied());
        jobs.push(job);
    }
    Ok(jobs)
}

fn measure(root: &Path, tools: &Tools, args: &Args, load: Option<f64>) -> Result<Measured, Error> {
    let mut samples = vec![tools.limits()?];
    let level = samples[0].level.clone();
    let target = Target {
        level: &level,
        folder: &tools.scratch,
    };
    let (mut kernels, mut whole) = (Vec::new(), Vec::new());
    if !args.limits {
        kernels = family_jobs(tools, &target, args.quick)?;
        whole = whole::jobs(root, tools, &target)?;
    }
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        if round > 1 {
            samples.push(tools.limits()?);
        }
        for job in &mut kernels {
            job.sample(&tools.rsqc, 1, args.seconds)?;
        }
        for job in &mut whole {
            job.sample(&tools.rsqc, args.threads, args.seconds)?;
        }
    }
    let limits = Limits::medians(&samples).expect("there is at least one round");
    let mut rows = Vec::new();
    for family in FAMILIES {
        let job = kernels
            .iter()
            .find(|j| j.model == family.model.text() && j.scheme == family.scheme);
        if let Some(job) = job {
            rows.extend(family.rows(&job.timings()?, &limits));
        }
    }
    let models = whole.iter().map(|job| whole::rows(job, &limits, args.threads));
    Ok(Measured {
        machine: machine::Machine::new(load),
        kernels: rows,
        models: models.collect::<Result<Vec<_>, _>>()?.concat(),
        limits,
    })
}

/// Builds, compiles, times and prints.
pub fn run(root: &Path, args: &Args) -> Result<(), Error> {
    let script = args.peers.as_ref().map(peers::script).transpose()?;
    // Before anything of this command runs.
    let load = machine::load();
    let tools = Tools::build(root)?;
    let document = root.join(DOCUMENT);
    if !args.peers_only {
        let measured = measure(root, &tools, args, load)?;
        if args.json {
            measured.json().iter().for_each(|line| println!("{line}"));
        } else {
            print!("{}", measured.markdown());
        }
        if let Some(warning) = measured.machine.warning() {
            eprintln!("warning: {warning}");
        }
        if args.write {
            document::fill(&document, "cargo xtask bench", &measured.markdown())?;
        }
    }
    if let Some(script) = script {
        let level = tools.limits()?.level;
        let measured = peers::run(root, &tools, &script, &level, args)?;
        let machine = machine::Machine::new(load);
        let table = format!(
            "{}; level {level}.\n\n{}",
            machine.text(),
            peers::markdown(&measured)?
        );
        if args.json {
            println!(
                "{}",
                serde_json::json!({"peers": measured, "machine": machine.json()})
            );
        } else {
            print!("{table}");
        }
        if args.write {
            document::fill(&document, "cargo xtask bench --peers", &table)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn the_document_has_both_parts() {
        let path = shell::root().expect("repository").join(DOCUMENT);
        let text = std::fs::read_to_string(path).expect("the document");
        for command in ["cargo xtask bench", "cargo xtask bench --peers"] {
            for end in ["begin", "end"] {
                assert!(
                    text.contains(&format!("<!-- {end}: {command} -->")),
                    "{end} {command}"
                );
            }
        }
    }
}
