//! The `rsqc` command.

fn main() -> std::process::ExitCode {
    rsqc::cli::main()
}
