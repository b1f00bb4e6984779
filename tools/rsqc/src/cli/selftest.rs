//! `rsqc selftest`.

use super::print_line;
use crate::artifact::ArtifactProgram;
use crate::error::Failure;
use crate::selftest::compare;
use std::path::PathBuf;

/// Check an artifact: its digests, then its stored test vectors at every level this machine has.
#[derive(clap::Args)]
#[command(after_help = "Example:
  rsqc selftest model.so")]
pub struct Args {
    /// An artifact made by `rsqc compile`.
    artifact: PathBuf,
    /// How much of the file is checked: full checks every byte (what rsqc's tools always do).
    #[arg(long, default_value = "full", value_parser = ["full"])]
    verify: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let mut program = ArtifactProgram::open(&a.artifact, 1)?;
    let tests = program.manifest().selftests.clone();
    let levels: Vec<_> = program.levels();
    for level in levels {
        program.set_level(level)?;
        for t in &tests {
            let out = program.run_test(t)?;
            compare(t, &out, level.name())
                .map_err(|why| Failure::error(format!("level {}: {why}", level.name())))?;
        }
        let line = if a.json {
            serde_json::json!({ "level": level.name(), "vectors": tests.len(), "status": "ok" }).to_string()
        } else {
            format!("{:<12} {} vectors ok", level.name(), tests.len())
        };
        print_line(&line)?;
    }
    Ok(())
}
