//! Unsafe code only in listed files, and each `unsafe` with the argument why it is sound.

use super::lexed::{Kind, Lexed};
use super::{Finding, unsafe_files};

/// What an `unsafe` stands before.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// A block, an impl, an extern block or an attribute: the author promises something.
    Promise,
    /// A visible function, or a trait: the user promises something.
    Demand,
    /// A function private to its module: what it asks is argued at its calls.
    Private,
    /// A function pointer type: nothing is done here.
    Type,
}

fn classify(lexed: &Lexed, at: usize) -> Use {
    let mut next = at + 1;
    if lexed.is(next, "extern") {
        next += 1;
        if lexed
            .tokens
            .get(next)
            .is_some_and(|token| token.kind == Kind::Literal)
        {
            next += 1;
        }
    }
    // `pub unsafe`, `pub(crate) unsafe`, `pub const unsafe`.
    let before = |back: usize| {
        at.checked_sub(back)
            .map_or("", |at| lexed.tokens[at].text.as_str())
    };
    let visible = matches!(
        (before(1), before(2)),
        ("pub" | ")", _) | ("const" | "async", "pub" | ")")
    );
    match lexed.tokens.get(next).map(|token| token.text.as_str()) {
        Some("fn") if lexed.is(next + 1, "(") => Use::Type,
        Some("fn") if !visible => Use::Private,
        Some("fn" | "trait") => Use::Demand,
        _ => Use::Promise,
    }
}

/// True if the comments directly above `line` (or at its end) hold one of `marks`. Attributes, and the
/// earlier lines of the same statement, may stand between.
fn argued(lines: &[&str], line: usize, marks: &[&str]) -> bool {
    let has = |text: &str| marks.iter().any(|mark| text.contains(mark));
    let Some(current) = lines.get(line - 1) else {
        return false;
    };
    if current.split_once("//").is_some_and(|(_, comment)| has(comment)) {
        return true;
    }
    let mut commented = false;
    for text in lines[..line - 1].iter().rev().map(|text| text.trim()) {
        if text.starts_with("//") {
            commented = true;
            if has(text) {
                return true;
            }
        } else if commented
            || text.is_empty()
            || (text.ends_with([';', '{', '}', ',']) && !text.starts_with("#["))
        {
            return false;
        }
    }
    false
}

/// Unsafe code of one file.
pub fn check(lexed: &Lexed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = unsafe_files::is_listed(lexed.path);
    for (at, token) in lexed.tokens.iter().enumerate() {
        let line = token.line;
        let allows = lexed.is(at, "unsafe_code");
        if !allows && !lexed.is(at, "unsafe") {
            continue;
        }
        let use_ = classify(lexed, at);
        if !listed && (allows || use_ != Use::Type) {
            let what = "unsafe code, but the file is not in UNSAFE_FILES of tools/xtask";
            findings.push(Finding::new(lexed.path, line, what));
            // Once for the whole file.
            listed = true;
        }
        if allows {
            continue;
        }
        let marks: &[&str] = match use_ {
            Use::Promise => &["SAFETY:"],
            Use::Demand => &["# Safety", "SAFETY:"],
            Use::Private | Use::Type => continue,
        };
        if !argued(&lexed.lines, line, marks) {
            let what = format!("unsafe without a `{}` line directly above", marks[0]);
            findings.push(Finding::new(lexed.path, line, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings in a file that is on the list.
    fn found(text: &str) -> Vec<usize> {
        let path = unsafe_files::UNSAFE_FILES[0].0;
        check(&Lexed::new(path, text).expect("balanced"))
            .into_iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn a_promise_needs_its_reason() {
        assert_eq!(found("fn a() {\n unsafe { b() }\n}"), [2]);
        assert_eq!(found("// SAFETY: x\nfn a() {\n unsafe { b() }\n}"), [3]);
        assert!(found("fn a() {\n // SAFETY: b is ours\n // and stays so\n unsafe { b() }\n}").is_empty());
        assert!(found("fn a() {\n // SAFETY: b is ours\n let c =\n unsafe { b() };\n}").is_empty());
        assert!(found("fn a() {\n unsafe { b() } // SAFETY: b is ours\n}").is_empty());
        assert_eq!(found("unsafe impl Send for A {}"), [1]);
        assert!(found("// SAFETY: no interior\nunsafe impl Send for A {}").is_empty());
        assert_eq!(found("#[unsafe(no_mangle)]\npub fn a() {}"), [1]);
    }

    #[test]
    fn a_demand_needs_its_terms() {
        assert_eq!(found("pub unsafe fn a() {}"), [1]);
        assert!(found("/// A.\n///\n/// # Safety\n/// Be kind.\n#[inline]\npub unsafe fn a() {}").is_empty());
        assert!(found("unsafe extern \"C\" fn a() {}").is_empty());
        assert_eq!(found("pub(crate) const unsafe fn a() {}"), [1]);
        assert!(found("type A = unsafe extern \"C\" fn(u8);").is_empty());
        assert!(found("#[cfg(test)]\nmod tests { unsafe fn kernel() {} }").is_empty());
        assert_eq!(
            found("#[cfg(test)]\nmod tests {\n fn a() { unsafe { b() } }\n}"),
            [3]
        );
    }

    #[test]
    fn an_unlisted_file_has_none() {
        let text = "#![allow(unsafe_code)]\n// SAFETY: x\nunsafe impl Send for A {}\ntype B = unsafe fn();";
        let lexed = Lexed::new("passes/src/no_such_file.rs", text).expect("balanced");
        let lines: Vec<usize> = check(&lexed).into_iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1]);
    }
}
