//! The command line: one file a command. `--json` prints one object a line on stdout; everything else goes to stderr.

mod bench;
mod compile;
mod eval;
mod inspect;
mod opt;
mod run;
mod schemes;
mod selftest;

use crate::error::Failure;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Quantizing compiler for neural networks: an ONNX model in, one self-contained shared library out.
#[derive(Parser)]
#[command(name = "rsqc", version, max_term_width = 110)]
#[command(after_help = "Examples:
  rsqc compile model.onnx --scheme w8a8 -o model.so
  rsqc run model.so --inputs inputs.npz --outputs outputs.npz
  rsqc eval model.so --data eval.npz --task classify --against model.onnx
  rsqc bench model.so --shapes 1x128 --threads 1

Exit status: 0 done; 1 error; 2 wrong usage; 3 unsupported operator, type or opset.
Environment: RSQC_CPU_LEVEL=portable|avx2|avxvnni|avx512vnni forces an instruction set level at run time.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(compile::Args),
    Run(run::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Opt(opt::Args),
    Inspect(inspect::Args),
    Selftest(selftest::Args),
    Schemes(schemes::Args),
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    crate::output::handle_interrupts();
    let cli = match Cli::try_parse() {
        Ok(c) => c,
        Err(e) => {
            let status = if e.use_stderr() { 2 } else { 0 };
            // A closed pipe is the reader's choice.
            let _ = e.print();
            return ExitCode::from(status);
        }
    };
    let result = match cli.command {
        Command::Compile(a) => compile::run(&a),
        Command::Run(a) => run::run(&a),
        Command::Bench(a) => bench::run(&a),
        Command::Eval(a) => eval::run(&a),
        Command::Opt(a) => opt::run(&a),
        Command::Inspect(a) => inspect::run(&a),
        Command::Selftest(a) => selftest::run(&a),
        Command::Schemes(a) => schemes::run(&a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => {
            eprintln!("error: {}", f.text);
            ExitCode::from(f.status)
        }
    }
}

/// Prints a line on stdout; a closed pipe ends the command quietly.
fn print_line(line: &str) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Failure::error(format!("cannot write to stdout: {}", e.kind()))),
        Ok(()) => Ok(()),
    }
}

/// Whether a file is an artifact (an ELF file) rather than a model; by content, not by name.
pub fn is_artifact(path: &std::path::Path) -> bool {
    use std::io::Read;
    let mut magic = [0u8; 4];
    let is_file = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    is_file
        && std::fs::File::open(path)
            .and_then(|mut f| f.read_exact(&mut magic))
            .is_ok()
        && &magic == b"\x7fELF"
}
