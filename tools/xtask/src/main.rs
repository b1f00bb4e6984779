//! `cargo xtask`: the tasks of this repository, one file a command.
//!
//! `ci` is what the continuous integration runs and what a contributor runs before a change; the other
//! commands are its parts and the helpers around it.

mod bench;
mod bless;
mod ci;
mod determinism;
mod docs;
mod document;
mod error;
mod shell;
mod tidy;

use clap::{Parser, Subcommand};
use error::Error;
use std::process::ExitCode;

/// Tasks of the rsqc repository.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format check, tidy, clippy, documentation, all tests, determinism, Python callers.
    Ci(ci::Args),
    /// The house rules that no compiler checks.
    Tidy,
    /// Re-runs the golden tests and rewrites their expectations.
    Bless(bless::Args),
    /// This machine's limits, kernels and models as shares of them, optionally other runtimes beside.
    Bench(bench::Args),
    /// Rewrites the table in README.md from a run of the quickstart.
    Docs(docs::Args),
}

fn dispatch(command: &Command) -> Result<(), Error> {
    let root = shell::root()?;
    match command {
        Command::Ci(args) => ci::run(&root, args),
        Command::Tidy => tidy::run(&root),
        Command::Bless(args) => bless::run(&root, args),
        Command::Bench(args) => bench::run(&root, args),
        Command::Docs(args) => docs::run(&root, args),
    }
}

fn main() -> ExitCode {
    match dispatch(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
