//! A Rust file as a flat list of tokens with lines, matched brackets, and a mark on test code.
//!
//! Tokens instead of lines, so that a string or a comment that speaks of `unwrap()` is not one.

use super::Finding;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Identifier or keyword.
    Word,
    /// One punctuation character.
    Punct,
    /// String, character or number.
    Literal,
    /// Opening bracket of any sort.
    Open,
    /// Closing bracket of any sort.
    Close,
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub text: String,
    /// The line it starts on, counted from 1.
    pub line: usize,
    /// Index of the matching bracket; its own index for anything else.
    pub mate: usize,
    /// True inside `#[cfg(test)]` items and `#[test]` functions, and in files that only tests use.
    pub test: bool,
}

/// A file and its tokens; doc comments are left out.
pub struct Lexed<'a> {
    /// Path relative to the root of the repository.
    pub path: &'a str,
    /// The lines of the file.
    pub lines: Vec<&'a str>,
    /// The tokens.
    pub tokens: Vec<Token>,
}

impl<'a> Lexed<'a> {
    /// Splits `text` into tokens; a file that has no balanced brackets is a finding.
    pub fn new(path: &'a str, text: &'a str) -> Result<Self, Finding> {
        let stream: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
            Finding::new(path, error.span().start().line, format!("not Rust: {error}"))
        })?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let mut lexed = Lexed {
            path,
            lines: text.lines().collect(),
            tokens,
        };
        if is_test_path(path) {
            lexed.tokens.iter_mut().for_each(|token| token.test = true);
        } else {
            lexed.mark_tests();
        }
        Ok(lexed)
    }

    /// True if the token at `at` exists and reads `text` (strings do not match words).
    pub fn is(&self, at: usize, text: &str) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|token| token.kind != Kind::Literal && token.text == text)
    }

    /// True if the tokens from `at` on read as `texts`.
    pub fn reads(&self, at: usize, texts: &[&str]) -> bool {
        texts
            .iter()
            .enumerate()
            .all(|(offset, text)| self.is(at + offset, text))
    }

    /// From `at`, the index of the `{` that opens the item's body; `None` if a `;` ends it first.
    pub fn body(&self, at: usize) -> Option<usize> {
        let mut at = at;
        while let Some(token) = self.tokens.get(at) {
            match token.text.as_str() {
                "{" if token.kind == Kind::Open => return Some(at),
                ";" | "}" if token.kind != Kind::Literal => return None,
                _ => at = token.mate.max(at) + 1,
            }
        }
        None
    }

    /// Marks the items behind `#[test]` and `#[cfg(test)]`, or everything behind `#![cfg(test)]`.
    fn mark_tests(&mut self) {
        for at in 0..self.tokens.len() {
            let inner = self.reads(at, &["#", "!", "["]);
            if !inner && !self.reads(at, &["#", "["]) {
                continue;
            }
            let open = if inner { at + 2 } else { at + 1 };
            let test = self.reads(open + 1, &["test", "]"])
                || self.reads(open + 1, &["cfg", "(", "test", ")"])
                || self.reads(open + 1, &["cfg", "(", "all", "(", "test", ","]);
            if !test {
                continue;
            }
            let end = if inner {
                self.tokens.len()
            } else {
                self.item_end(self.tokens[open].mate + 1)
            };
            self.tokens[at..end]
                .iter_mut()
                .for_each(|token| token.test = true);
        }
    }

    /// One past the last token of the item that starts at `at`, attributes included.
    fn item_end(&self, at: usize) -> usize {
        let mut start = at;
        while self.reads(start, &["#", "["]) {
            start = self.tokens[start + 1].mate + 1;
        }
        let mut at = start;
        while let Some(token) = self.tokens.get(at) {
            match token.text.as_str() {
                "{" if token.kind == Kind::Open => return token.mate + 1,
                ";" if token.kind == Kind::Punct => return at + 1,
                _ => at = token.mate.max(at) + 1,
            }
        }
        self.tokens.len()
    }
}

/// True for files that are compiled into tests only: the test crate, `tests` folders, and files named so.
fn is_test_path(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    path.split('/').any(|part| part == "tests" || part == "benches")
        || stem == "tests"
        || stem.ends_with("_tests")
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < trees.len() {
        if let Some(skip) = doc_comment(&trees[at..]) {
            at += skip;
            continue;
        }
        let tree = &trees[at];
        let line = tree.span().start().line;
        let mut push = |kind, text: String, line| {
            let mate = out.len();
            out.push(Token {
                kind,
                text,
                line,
                mate,
                test: false,
            });
        };
        match tree {
            TokenTree::Ident(word) => push(Kind::Word, word.to_string(), line),
            TokenTree::Punct(punct) => push(Kind::Punct, punct.as_char().to_string(), line),
            TokenTree::Literal(literal) => push(Kind::Literal, literal.to_string(), line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let first = out.len();
                let mate = first;
                out.push(Token {
                    kind: Kind::Open,
                    text: open.into(),
                    line,
                    mate,
                    test: false,
                });
                flatten(group.stream(), out);
                let last = out.len();
                out[first].mate = last;
                let line = group.span_close().start().line;
                out.push(Token {
                    kind: Kind::Close,
                    text: close.into(),
                    line,
                    mate: first,
                    test: false,
                });
            }
        }
        at += 1;
    }
}

/// The number of trees that a doc comment at the head of `trees` takes (`#[doc = ..]`, `#![doc = ..]`).
fn doc_comment(trees: &[TokenTree]) -> Option<usize> {
    let punct = |tree: Option<&TokenTree>, wanted| matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    if !punct(trees.first(), '#') {
        return None;
    }
    let at = if punct(trees.get(1), '!') { 2 } else { 1 };
    match trees.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            let mut inner = group.stream().into_iter();
            let is_doc = matches!(inner.next(), Some(TokenTree::Ident(word)) if word == "doc");
            (is_doc && punct(inner.next().as_ref(), '=')).then_some(at + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_outside_tests(path: &str, text: &str) -> Vec<String> {
        let lexed = Lexed::new(path, text).expect("balanced");
        let outside = lexed
            .tokens
            .into_iter()
            .filter(|token| !token.test && token.kind == Kind::Word);
        outside.map(|token| token.text).collect()
    }

    #[test]
    fn marks_test_items() {
        let text = "//! Doc.\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn a() {} }\nfn b() { let s = [0; 3]; }\n\
            #[test]\nfn c(x: [u8; 2]) -> u8 { d }\n#[cfg(test)]\nmod more;\n#[cfg(not(test))]\nfn e() {}";
        let words = words_outside_tests("ir/src/x.rs", text);
        assert_eq!(words, ["fn", "b", "let", "s", "cfg", "not", "test", "fn", "e"]);
        assert!(words_outside_tests("tests/src/x.rs", "fn a() {}").is_empty());
        assert!(words_outside_tests("ir/src/eval/tests.rs", "fn a() {}").is_empty());
        assert!(words_outside_tests("ir/src/x.rs", "#![cfg(test)]\nfn a() {}").is_empty());
    }

    #[test]
    fn drops_doc_comments_and_keeps_lines() {
        let lexed = Lexed::new("x.rs", "//! A `b`.\n/// C.\nfn d(\n) {}\n").expect("balanced");
        let texts: Vec<_> = lexed
            .tokens
            .iter()
            .map(|token| (token.text.as_str(), token.line))
            .collect();
        assert_eq!(
            texts,
            [("fn", 3), ("d", 3), ("(", 3), (")", 4), ("{", 4), ("}", 4)]
        );
        assert_eq!(lexed.tokens[2].mate, 3);
        assert_eq!(lexed.body(1), Some(4));
    }
}
