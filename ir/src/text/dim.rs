//! Dim expressions: `2*batch + floordiv(seq + 1, 2)`. Also what model files write as `dim_param`.
//!
//! Grammar, lowest precedence first: `+` and `-`; `*`, `//` (floor division) and `%` (its remainder); unary `-`;
//! numbers, names, names in back quotes, `floordiv(a, b)`, `mod(a, b)`, `min(a, b)`, `max(a, b)`, parentheses. The
//! result is the normal form, so that `seq + 2*seq` reads as `3*seq`. Depth, size and degree are bounded: hostile text
//! costs bounded time and memory.

use super::cursor::{Cursor, ParseError, Parsed, is_word_head};
use crate::types::Dim;

/// Nesting of parentheses and functions.
const MAX_DEPTH: u32 = 32;
/// Terms of a sum in normal form.
const MAX_TERMS: usize = 256;
/// Factors of a product in normal form.
const MAX_FACTORS: usize = 32;
/// Products and sums that one expression may contain.
const MAX_STEPS: u32 = 1024;

impl std::str::FromStr for Dim {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        Dim::parse(s)
    }
}

impl Dim {
    /// Parses an expression; the whole text must be one.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut c = Cursor::new(text);
        let d = dim(&mut c)?;
        if c.at_end() {
            Ok(d)
        } else {
            c.expected("an operator or the end")
        }
    }
}

/// A dim expression at the cursor.
pub(crate) fn dim(c: &mut Cursor<'_>) -> Parsed<Dim> {
    let mut p = Parser { steps: 0 };
    p.sum(c, 0)
}

struct Parser {
    steps: u32,
}

impl Parser {
    fn step(&mut self, c: &mut Cursor<'_>) -> Parsed<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return c.error(format!("a dimension of more than {MAX_STEPS} operations"));
        }
        Ok(())
    }

    fn sum(&mut self, c: &mut Cursor<'_>, depth: u32) -> Parsed<Dim> {
        let mut acc = self.product(c, depth)?;
        loop {
            let minus = match c.peek() {
                Some('+') => false,
                Some('-') => true,
                _ => return Ok(acc),
            };
            c.eat(if minus { "-" } else { "+" });
            self.step(c)?;
            let term = self.product(c, depth)?;
            acc = if minus { acc - term } else { acc + term };
            if acc.terms().count() > MAX_TERMS {
                return c.error(format!("a dimension of more than {MAX_TERMS} terms"));
            }
        }
    }

    fn product(&mut self, c: &mut Cursor<'_>, depth: u32) -> Parsed<Dim> {
        let mut acc = self.factor(c, depth)?;
        loop {
            if c.eat("*") {
                self.step(c)?;
                let f = self.factor(c, depth)?;
                acc = multiply(c, acc, f)?;
            } else if c.eat("//") {
                self.step(c)?;
                let at = c.pos();
                let f = self.factor(c, depth)?;
                acc = quotient(c, at, &acc, &f, Dim::floor_div)?;
            } else if c.eat("%") {
                self.step(c)?;
                let at = c.pos();
                let f = self.factor(c, depth)?;
                acc = quotient(c, at, &acc, &f, Dim::modulo)?;
            } else {
                return Ok(acc);
            }
        }
    }

    fn factor(&mut self, c: &mut Cursor<'_>, depth: u32) -> Parsed<Dim> {
        if depth > MAX_DEPTH {
            return c.error(format!("a dimension nested deeper than {MAX_DEPTH}"));
        }
        self.step(c)?;
        match c.peek() {
            Some('-') => {
                c.eat("-");
                Ok(-self.factor(c, depth + 1)?)
            }
            Some('(') => {
                c.eat("(");
                let d = self.sum(c, depth + 1)?;
                c.want(")")?;
                Ok(d)
            }
            Some('`') => Ok(Dim::sym(&c.quoted('`')?)),
            Some(d) if d.is_ascii_digit() => {
                let at = c.pos();
                let v = c.unsigned("a number")?;
                let v = i64::try_from(v).map_err(|_| c.error_at(at, format!("{v} does not fit 64 bits")))?;
                Ok(Dim::from(v))
            }
            Some(h) if is_word_head(h) => self.name(c, depth),
            _ => c.expected("a dimension"),
        }
    }

    fn name(&mut self, c: &mut Cursor<'_>, depth: u32) -> Parsed<Dim> {
        let w = c.word("a dimension")?;
        if !matches!(w, "floordiv" | "mod" | "min" | "max") {
            return Ok(Dim::sym(w));
        }
        c.want("(")?;
        let a = self.sum(c, depth + 1)?;
        c.want(",")?;
        let at = c.pos();
        let b = self.sum(c, depth + 1)?;
        c.want(")")?;
        match w {
            "floordiv" => quotient(c, at, &a, &b, Dim::floor_div),
            "mod" => quotient(c, at, &a, &b, Dim::modulo),
            "min" => Ok(a.smaller(&b)),
            _ => Ok(a.larger(&b)),
        }
    }
}

fn multiply(c: &mut Cursor<'_>, a: Dim, b: Dim) -> Parsed<Dim> {
    let factors = |d: &Dim| d.terms().map(|(m, _)| m.len()).max().unwrap_or(0);
    if a.terms().count() * b.terms().count() > MAX_TERMS || factors(&a) + factors(&b) > MAX_FACTORS {
        return c.error("a dimension with too large a product");
    }
    Ok(a * b)
}

/// A quotient or remainder; the divisor must not be a constant below 1.
fn quotient(c: &Cursor<'_>, at: usize, a: &Dim, b: &Dim, f: impl Fn(&Dim, &Dim) -> Dim) -> Parsed<Dim> {
    match b.as_const() {
        Some(v) if v < 1 => Err(c.error_at(at, format!("the divisor must be positive, found {v}"))),
        _ => Ok(f(a, b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for t in [
            "0",
            "-1",
            "batch",
            "384*batch*sequence + 2*batch - 1",
            "floordiv(h + 1, 2)",
            "mod(h, 3)",
            "min(a, b)",
            "max(floordiv(a, 2), b)",
            "`unk 1`",
            "`\\`\\\\\\u{1}`*x",
            "-x + 3",
            "x.1",
        ] {
            assert_eq!(
                Dim::parse(t).map(|d| Dim::parse(&d.to_string())),
                Ok(Dim::parse(t)),
                "{t}"
            );
        }
        let d = Dim::parse("past_sequence_length + sequence_length").expect("parses");
        assert_eq!(d, Dim::sym("past_sequence_length") + Dim::sym("sequence_length"));
        assert_eq!(
            Dim::parse("(a + b)*(a - b)").expect("parses").to_string(),
            "-b*b + a*a"
        );
        assert_eq!(Dim::parse("a // 2 % 3"), Dim::parse("mod(floordiv(a, 2), 3)"));
        assert_eq!(Dim::parse("2 * (3 + 4)"), Ok(Dim::from(14i64)));
        assert_eq!(Dim::parse("--3"), Ok(Dim::from(3i64)));
    }

    #[test]
    fn says_where_it_failed() {
        let e = |t: &str| Dim::parse(t).expect_err("bad text").to_string();
        assert_eq!(e("a +"), "1:4: expected a dimension, found the end");
        assert_eq!(e("a b"), "1:3: expected an operator or the end, found `b`");
        assert_eq!(e("floordiv(a, 0)"), "1:13: the divisor must be positive, found 0");
        assert_eq!(
            e("99999999999999999999"),
            "1:1: 99999999999999999999 is too large"
        );
        assert_eq!(e(""), "1:1: expected a dimension, found the end");
        assert_eq!(e("floordiv"), "1:9: expected `(`, found the end");
    }

    #[test]
    fn hostile_text_is_refused_quickly() {
        for t in [
            "(".repeat(100_000),
            "-".repeat(100_000),
            "floordiv(".repeat(100_000),
            "(a+b+c+d+e)*".repeat(1000),
            "a*".repeat(1000),
            "9223372036854775807 + ".repeat(3) + "1 +",
            (0..5000).map(|i| format!("s{i} + ")).collect(),
        ] {
            assert!(Dim::parse(&t).is_err());
        }
        let sat = Dim::parse("9223372036854775807*4 - 1 - 1 + -9223372036854775807*3").expect("saturates");
        assert!(sat.as_const().is_some());
        let _ = Dim::parse("(-9223372036854775807*a - a - a) // (2*b - 3*b)");
    }
}
