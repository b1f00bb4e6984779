//! Rules over Rust files: docs at the top, length of files and functions, no `unwrap()`, no unfinished
//! code, the form of error messages, and the lints that some crates must turn on.

use super::lexed::{Kind, Lexed};
use super::{Finding, exempt};

/// Longest file, in lines.
const FILE_LINES: usize = 600;
/// Longest function, in lines from `fn` to its closing brace.
const FUNCTION_LINES: usize = 120;

/// Lints that a crate's `lib.rs` must deny, with the file.
const CRATE_LINTS: &[(&str, &str)] = &[
    ("ir/src/lib.rs", "missing_docs"),
    ("backends/core/src/lib.rs", "missing_docs"),
    ("backends/artifact/src/lib.rs", "missing_docs"),
    ("backends/runtime/src/lib.rs", "missing_docs"),
    ("tools/rsqc/src/lib.rs", "missing_docs"),
    ("frontends/onnx/src/lib.rs", "indexing_slicing"),
    ("frontends/onnx/src/lib.rs", "arithmetic_side_effects"),
    ("backends/artifact/src/lib.rs", "indexing_slicing"),
    ("backends/artifact/src/lib.rs", "arithmetic_side_effects"),
];

/// Rules that need only the lines.
pub fn check_lines(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(Finding::new(
            path,
            1,
            "does not start with `//!`: say what the file is for",
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES && !exempt::is_long_file(path) {
        findings.push(Finding::new(
            path,
            lines,
            format!("{lines} lines; {FILE_LINES} are the limit: split it"),
        ));
    }
    findings
}

/// Rules over the tokens.
pub fn check_tokens(lexed: &Lexed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in 0..lexed.tokens.len() {
        let line = lexed.tokens[at].line;
        let mut report = |what: String| findings.push(Finding::new(lexed.path, line, what));
        if lexed.reads(at, &[".", "unwrap", "(", ")"]) && !lexed.tokens[at].test {
            report("unwrap() outside tests: use expect(\"why it cannot fail\") or an error".into());
        }
        for name in ["todo", "unimplemented"] {
            if lexed.reads(at, &[name, "!"]) {
                report(format!("`{name}!`: finish it or leave it out"));
            }
        }
        if lexed.is(at, "petgraph") && !lexed.path.starts_with("ir/src/graph") {
            report("only ir/src/graph names petgraph".into());
        }
        if let Some(lines) = function_lines(lexed, at).filter(|lines| *lines > FUNCTION_LINES) {
            let name = &lexed.tokens[at + 1].text;
            if !exempt::is_long_function(lexed.path, name) {
                report(format!(
                    "fn {name} has {lines} lines; {FUNCTION_LINES} are the limit"
                ));
            }
        }
        if let Some(fault) = error_message(lexed, at) {
            report(fault);
        }
    }
    findings
}

/// Lines of the function that starts at `at`, less those of flat matches; `None` if none starts there.
fn function_lines(lexed: &Lexed, at: usize) -> Option<usize> {
    if !lexed.is(at, "fn") || lexed.tokens.get(at + 1)?.kind != Kind::Word {
        return None;
    }
    let open = lexed.body(at + 2)?;
    let close = lexed.tokens[open].mate;
    let flat: usize = (open..close)
        .filter_map(|inner| flat_match_lines(lexed, inner))
        .sum();
    Some((lexed.tokens[close].line - lexed.tokens[at].line + 1).saturating_sub(flat))
}

/// Lines inside the braces of a match whose arms hold no control flow and no statements.
fn flat_match_lines(lexed: &Lexed, at: usize) -> Option<usize> {
    if !lexed.is(at, "match") {
        return None;
    }
    let open = lexed.body(at + 1)?;
    let close = lexed.tokens[open].mate;
    let control = |token: &super::lexed::Token| {
        let word = token.kind == Kind::Word;
        (word && ["match", "if", "for", "while", "loop", "let"].contains(&token.text.as_str()))
            || (token.kind == Kind::Punct && token.text == ";")
    };
    let flat = !lexed.tokens[open..close].iter().any(control);
    flat.then(|| (lexed.tokens[close].line - lexed.tokens[open].line).saturating_sub(1))
}

/// What is wrong with the message of an `#[error("...")]` attribute at `at`.
fn error_message(lexed: &Lexed, at: usize) -> Option<String> {
    if !lexed.reads(at, &["#", "[", "error", "("]) {
        return None;
    }
    let literal = lexed
        .tokens
        .get(at + 4)
        .filter(|token| token.kind == Kind::Literal)?;
    let message = literal
        .text
        .trim_start_matches(['r', '#'])
        .trim_matches(['"', '#']);
    let mut characters = message.chars();
    let capital = characters.next().is_some_and(char::is_uppercase)
        && characters
            .next()
            .is_some_and(|second| second.is_lowercase() || second == ' ');
    if capital {
        Some(format!("error message starts with a capital: {message}"))
    } else if message.ends_with('.') && !message.ends_with("..") {
        Some(format!("error message ends with a full stop: {message}"))
    } else {
        None
    }
}

/// The crates of `CRATE_LINTS` deny what they must.
pub fn check_crate_attributes(files: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, lint) in CRATE_LINTS {
        let Some((_, text)) = files.iter().find(|(file, _)| file == path) else {
            findings.push(Finding::new(path, 0, "listed in CRATE_LINTS, but not there"));
            continue;
        };
        let Ok(lexed) = Lexed::new(path, text) else {
            continue;
        };
        let denies = (0..lexed.tokens.len()).any(|at| {
            let level = ["deny", "forbid"]
                .iter()
                .any(|level| lexed.reads(at, &["#", "!", "[", level, "("]));
            let end = lexed.tokens.get(at + 4).map_or(at, |token| token.mate);
            level && lexed.tokens[at..end].iter().any(|token| token.text == *lint)
                || lexed.reads(
                    at,
                    &[
                        "#", "!", "[", "cfg_attr", "(", "not", "(", "test", ")", ",", "deny",
                    ],
                ) && lexed.tokens[at..end].iter().any(|token| token.text == *lint)
        });
        if !denies {
            findings.push(Finding::new(path, 1, format!("does not deny {lint}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let lexed = Lexed::new("ir/src/x.rs", text).expect("balanced");
        check_tokens(&lexed)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.what))
            .collect()
    }

    #[test]
    fn unwrap_only_in_tests() {
        let found = found(
            "fn a() {\n b.unwrap();\n c.unwrap_or(1);\n \".unwrap()\";\n m!(d.unwrap());\n}\n\
            #[test]\nfn t() { b.unwrap(); }",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("2: unwrap()") && found[1].starts_with("5: unwrap()"));
    }

    #[test]
    fn unfinished_macros() {
        assert_eq!(found("fn a() { todo!() }").len(), 1);
        assert_eq!(found("fn a() { unimplemented!(\"x\") }").len(), 1);
        assert!(found("fn a() { \"todo!()\" } // todo! in words").is_empty());
    }

    #[test]
    fn long_functions_but_not_flat_matches() {
        let long = format!("fn a() {{\n{}}}", "    b();\n".repeat(FUNCTION_LINES));
        assert_eq!(
            found(&long),
            [format!(
                "1: fn a has {} lines; {FUNCTION_LINES} are the limit",
                FUNCTION_LINES + 2
            )]
        );
        let flat = format!("fn a() {{\n match x {{\n{} }}\n}}", "    B => c(),\n".repeat(200));
        assert!(found(&flat).is_empty());
        let branching = format!(
            "fn a() {{\n match x {{\n{} }}\n}}",
            "    B => if y { c() },\n".repeat(200)
        );
        assert_eq!(found(&branching).len(), 1);
    }

    #[test]
    fn file_head_and_length() {
        assert_eq!(check_lines("ir/src/x.rs", "//! Doc.\nfn a() {}\n"), []);
        assert_eq!(check_lines("ir/src/x.rs", "// Doc.\nfn a() {}\n").len(), 1);
        let long = format!("//! Doc.\n{}", "\n".repeat(FILE_LINES));
        assert_eq!(check_lines("ir/src/x.rs", &long).len(), 1);
    }

    #[test]
    fn error_messages() {
        assert_eq!(found("#[error(\"Bad thing\")] struct A;").len(), 1);
        assert_eq!(found("#[error(\"bad thing.\")] struct A;").len(), 1);
        assert!(
            found("#[error(\"bad {0} thing\")] #[error(\"ONNX says no\")] #[error(transparent)] struct A;")
                .is_empty()
        );
    }

    #[test]
    fn petgraph_has_one_place() {
        assert_eq!(found("use petgraph::Graph;").len(), 1);
        let lexed = Lexed::new("ir/src/graph.rs", "use petgraph::Graph;").expect("balanced");
        assert!(check_tokens(&lexed).is_empty());
    }

    #[test]
    fn crates_turn_their_lints_on() {
        let good = |path: &str| {
            (path.to_owned(),
            "//! D.\n#![deny(missing_docs)]\n#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]".to_owned())
        };
        let mut files: Vec<_> = CRATE_LINTS.iter().map(|(path, _)| good(path)).collect();
        assert_eq!(check_crate_attributes(&files), []);
        files
            .iter_mut()
            .for_each(|(_, text)| *text = "//! Speaks of deny(missing_docs).".into());
        assert_eq!(check_crate_attributes(&files).len(), CRATE_LINTS.len());
        assert_eq!(check_crate_attributes(&[]).len(), CRATE_LINTS.len());
    }
}
