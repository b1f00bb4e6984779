//! `rsqc schemes`.

use super::print_line;
use crate::error::Failure;
use crate::open::parse_scheme;
use rsqc_passes::scheme::{SchemeInfo, SchemeKind, listing};

/// List the schemes and methods: what each does, what data it needs, which paper.
#[derive(clap::Args)]
#[command(
    after_help = "Grammar: BASE[-OPTION...][+METHOD[:key=value[:key=value...]]...]

Examples:
  rsqc schemes
  rsqc schemes w8a8 --json"
)]
pub struct Args {
    /// Only this name, or what a composed scheme expands to.
    name: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Args) -> Result<(), Failure> {
    let all = listing();
    let Some(name) = &a.name else {
        if !a.json {
            print_line("scheme = BASE[-OPTION...][+METHOD[:key=value[:key=value...]]...]")?;
        }
        return all.iter().try_for_each(|s| print(a, s));
    };
    match all.iter().find(|s| s.name == name) {
        Some(s) => print(a, s),
        // Not a listed name: the parser says what is wrong with it, or what it stands for.
        None => print_line(&parse_scheme(name)?.name()),
    }
}

fn print(a: &Args, s: &SchemeInfo) -> Result<(), Failure> {
    let kind = match s.kind {
        SchemeKind::Base => "base",
        SchemeKind::Option => "option",
        SchemeKind::Method => "method",
        SchemeKind::Alias => "alias",
    };
    if a.json {
        let line = serde_json::json!({
            "name": s.name, "kind": kind, "doc": s.doc, "data": s.data, "paper": s.paper, "supported": s.supported,
        });
        return print_line(&line.to_string());
    }
    let state = if s.supported {
        ""
    } else {
        "  (not in this version)"
    };
    let paper = if s.paper.is_empty() {
        String::new()
    } else {
        format!("; {}", s.paper)
    };
    print_line(&format!(
        "{kind:<7} {:<14} {}; data: {}{paper}{state}",
        s.name, s.doc, s.data
    ))
}
