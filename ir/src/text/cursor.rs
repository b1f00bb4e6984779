//! A cursor over text: white space, comments, tokens, and errors that know their line and column.

use std::fmt;

/// Why a text was refused, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Result of a parsing step.
pub(crate) type Parsed<T> = Result<T, ParseError>;

/// A position in a text. Tokens skip white space and `#` comments before them.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    pos: usize,
}

/// Whether `c` can start a word.
pub(crate) fn is_word_head(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

/// Whether `c` can continue a word.
pub(crate) fn is_word_tail(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Cursor { text, pos: 0 }
    }

    /// Byte position of the next token, to blame.
    pub(crate) fn pos(&mut self) -> usize {
        self.skip();
        self.pos
    }

    fn rest(&self) -> &'a str {
        &self.text[self.pos..]
    }

    /// An error at a byte position.
    pub(crate) fn error_at(&self, pos: usize, message: impl Into<String>) -> ParseError {
        let before = &self.text[..pos.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        ParseError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    /// An error at the next token.
    pub(crate) fn error<T>(&mut self, message: impl Into<String>) -> Parsed<T> {
        self.skip();
        Err(self.error_at(self.pos, message))
    }

    /// An error that says what was expected and what stands there.
    pub(crate) fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        self.skip();
        let found = match self.rest().chars().next() {
            None => "the end".into(),
            Some(c) if is_word_tail(c) => format!("`{}`", self.word_here()),
            Some(c) => format!("`{}`", c.escape_debug()),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn word_here(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(|c| !is_word_tail(c)).unwrap_or(rest.len()).min(40)]
    }

    /// Skips white space and comments.
    pub(crate) fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.pos += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.pos += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// The next character, not consumed; `None` at the end.
    pub(crate) fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest().chars().next()
    }

    /// Whether the text is used up.
    pub(crate) fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Consumes `token` if it is next. A token that is a word must not be continued by another letter.
    pub(crate) fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let Some(after) = self.rest().strip_prefix(token) else {
            return false;
        };
        let wordy = token.ends_with(|c| is_word_head(c) || c.is_ascii_digit());
        if wordy && after.starts_with(is_word_tail) {
            return false;
        }
        self.pos += token.len();
        true
    }

    /// Consumes `token` or fails.
    pub(crate) fn want(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) {
            Ok(())
        } else {
            self.expected(&format!("`{token}`"))
        }
    }

    /// A word: a letter or `_`, then letters, digits, `_` and `.`.
    pub(crate) fn word(&mut self, what: &str) -> Parsed<&'a str> {
        if !self.peek().is_some_and(is_word_head) {
            return self.expected(what);
        }
        let w = self.raw_while(is_word_tail);
        Ok(w)
    }

    /// Characters from here on, without skipping white space, while `f` holds.
    pub(crate) fn raw_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let n = rest.find(|c| !f(c)).unwrap_or(rest.len());
        self.pos += n;
        &rest[..n]
    }

    /// A decimal number without sign.
    pub(crate) fn unsigned(&mut self, what: &str) -> Parsed<u64> {
        let at = self.pos();
        let digits = self.raw_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return self.expected(what);
        }
        digits
            .parse()
            .map_err(|_| self.error_at(at, format!("{digits} is too large")))
    }

    /// A decimal integer, possibly negative.
    pub(crate) fn integer(&mut self, what: &str) -> Parsed<i64> {
        let at = self.pos();
        let negative = self.eat("-");
        let magnitude = i128::from(self.unsigned(what)?);
        let v = if negative { -magnitude } else { magnitude };
        i64::try_from(v).map_err(|_| self.error_at(at, format!("{v} does not fit 64 bits")))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, what: &str, limit: u64) -> Parsed<u32> {
        let at = self.pos();
        let v = self.unsigned(what)?;
        u32::try_from(v)
            .ok()
            .filter(|_| v < limit)
            .ok_or_else(|| self.error_at(at, format!("{what} {v} must be below {limit}")))
    }

    /// Text between `quote`s with the escapes `\\`, `` \` ``, `\"`, `\n`, `\t`, `\r`, `\u{..}`.
    pub(crate) fn quoted(&mut self, quote: char) -> Parsed<String> {
        if self.peek() != Some(quote) {
            return self.expected(&format!("`{quote}`"));
        }
        let start = self.pos;
        self.pos += quote.len_utf8();
        let mut out = String::new();
        while let Some(c) = self.rest().chars().next() {
            let at = self.pos;
            self.pos += c.len_utf8();
            match c {
                c if c == quote => return Ok(out),
                '\n' => return Err(self.error_at(at, "a quoted text ends within its line")),
                '\\' => out.push(self.escape(at)?),
                c => out.push(c),
            }
        }
        Err(self.error_at(start, "unclosed quote"))
    }

    fn escape(&mut self, at: usize) -> Parsed<char> {
        let c = self.rest().chars().next();
        self.pos += c.map_or(0, char::len_utf8);
        match c {
            Some(c @ ('\\' | '`' | '"')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('u') if self.rest().starts_with('{') => {
                self.pos += 1;
                let hex = self.raw_while(|c| c.is_ascii_hexdigit());
                let code = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
                match (code, self.rest().starts_with('}')) {
                    (Some(code), true) => {
                        self.pos += 1;
                        Ok(code)
                    }
                    _ => Err(self.error_at(at, "bad `\\u{..}` escape")),
                }
            }
            _ => Err(self.error_at(at, "unknown escape")),
        }
    }
}

/// `text` in double quotes, so that [`Cursor::quoted`] reads it back.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
