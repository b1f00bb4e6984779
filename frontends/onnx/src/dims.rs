//! Symbolic dimensions from files: names, expressions in `dim_param`, and the equation solver behind unification.

use std::collections::BTreeMap;

use rsqc_ir::types::{Dim, Symbol};

/// Longest `dim_param` that is read as an expression.
const MAX_EXPRESSION: usize = 200;

/// A symbol's name from text of a file: control characters become underscores, at most 60 characters.
pub fn clean_name(text: &str) -> String {
    let name: String = text
        .trim()
        .chars()
        .take(60)
        .map(|c| if c.is_control() { '_' } else { c })
        .collect();
    if name.is_empty() { "_".into() } else { name }
}

/// The dim that a `dim_param` denotes: an expression with `+ - * //` (binary plus and minus set off by spaces, because
/// hyphens occur in names) over names and integers, or else one opaque symbol.
pub fn parse_dim(text: &str) -> Dim {
    let expression = if text.len() <= MAX_EXPRESSION {
        tokens(text).and_then(|t| Parser { tokens: t, at: 0 }.all())
    } else {
        None
    };
    expression.unwrap_or_else(|| Dim::sym(&clean_name(text)))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Int(i64),
    Op(&'static str),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        let op = ["//", " + ", " - ", "*", "(", ")"]
            .into_iter()
            .find(|op| rest.starts_with(op));
        if let Some(op) = op {
            out.push(Token::Op(op.trim()));
            rest = rest[op.len()..].trim_start();
            continue;
        }
        if c == ' ' {
            // A space matters only around plus and minus.
            rest = if rest.starts_with(" +") || rest.starts_with(" -") {
                return None;
            } else {
                &rest[1..]
            };
            continue;
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':')))
            .unwrap_or(rest.len());
        let word = &rest[..end];
        match word.parse::<i64>() {
            Ok(v) => out.push(Token::Int(v)),
            Err(_) if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                out.push(Token::Name(word.into()))
            }
            Err(_) => return None,
        }
        rest = &rest[end..];
    }
    Some(out)
}

/// Recursive descent; the depth is bounded by the length of the text.
struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn all(mut self) -> Option<Dim> {
        let d = self.sum()?;
        (self.at == self.tokens.len()).then_some(d)
    }

    fn eat(&mut self, op: &str) -> bool {
        let hit = matches!(self.tokens.get(self.at), Some(Token::Op(o)) if *o == op);
        self.at += usize::from(hit);
        hit
    }

    fn sum(&mut self) -> Option<Dim> {
        let mut d = self.product()?;
        loop {
            if self.eat("+") {
                d = d + self.product()?;
            } else if self.eat("-") {
                d = d - self.product()?;
            } else {
                return Some(d);
            }
        }
    }

    fn product(&mut self) -> Option<Dim> {
        let mut d = self.atom()?;
        loop {
            if self.eat("*") {
                d = d * self.atom()?;
            } else if self.eat("//") {
                let by = self.atom()?;
                // Only a positive constant divisor is certain not to be zero.
                d = d.floor_div(by.as_const().filter(|c| *c > 0).map(|_| &by)?);
            } else {
                return Some(d);
            }
        }
    }

    fn atom(&mut self) -> Option<Dim> {
        if self.eat("(") {
            let d = self.sum()?;
            return self.eat(")").then_some(d);
        }
        let d = match self.tokens.get(self.at)? {
            Token::Name(n) => Dim::sym(&clean_name(n)),
            Token::Int(v) => Dim::from(*v),
            Token::Op(_) => return None,
        };
        self.at += 1;
        Some(d)
    }
}

/// Solves `a = b` for one symbol: which one, and what it equals. Prefers to eliminate the symbol that was declared last,
/// and solutions without negative terms.
pub fn solve(a: &Dim, b: &Dim, order: &BTreeMap<Symbol, usize>) -> Option<(Symbol, Dim)> {
    let difference = a.clone() - b.clone();
    let mut best: Option<((bool, std::cmp::Reverse<usize>), Symbol, Dim)> = None;
    for symbol in difference.symbols() {
        let alone = Dim::sym(symbol.name());
        for sign in [1i64, -1] {
            // difference = sign * symbol + rest, with no symbol in the rest
            let rest = difference.clone() - alone.clone() * Dim::from(sign);
            if rest.symbols().contains(&symbol) {
                continue;
            }
            let solution = rest * Dim::from(-sign);
            let negative = solution.terms().any(|(_, c)| c < 0);
            let rank = (
                negative,
                std::cmp::Reverse(order.get(&symbol).copied().unwrap_or(usize::MAX)),
            );
            if best.as_ref().is_none_or(|(r, ..)| rank < *r) {
                best = Some((rank, symbol.clone(), solution));
            }
        }
    }
    best.map(|(_, s, d)| (s, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: &str) -> Dim {
        Dim::sym(n)
    }

    #[test]
    fn expressions_and_opaque_names() {
        assert_eq!(
            parse_dim("past_sequence_length + sequence_length"),
            s("past_sequence_length") + s("sequence_length")
        );
        assert_eq!(parse_dim("2*s0"), s("s0") * Dim::from(2i64));
        assert_eq!(
            parse_dim("(s0 + 1)//2"),
            (s("s0") + Dim::one()).floor_div(&Dim::from(2i64))
        );
        assert_eq!(parse_dim("s0 - 1"), s("s0") - Dim::one());
        for opaque in ["batch-size", "floor(s1/2)", "a b", "", "s0 // n", "1 +", "((("] {
            assert_eq!(parse_dim(opaque), s(&clean_name(opaque)), "{opaque}");
        }
        assert_eq!(parse_dim("a\u{1}"), s("a_"));
    }

    #[test]
    fn equations() {
        let order: BTreeMap<Symbol, usize> = ["a", "b", "total"]
            .iter()
            .enumerate()
            .map(|(i, n)| (Symbol::new(n), i))
            .collect();
        let (sym, d) = solve(&s("total"), &(s("a") + s("b")), &order).unwrap();
        assert_eq!((sym.name(), d), ("total", s("a") + s("b")));
        let (sym, d) = solve(&s("a"), &s("b"), &order).unwrap();
        assert_eq!((sym.name(), d), ("b", s("a")));
        let (sym, d) = solve(&s("a"), &Dim::from(4i64), &order).unwrap();
        assert_eq!((sym.name(), d), ("a", Dim::from(4i64)));
        assert!(solve(&(s("a") * s("b")), &Dim::from(4i64), &order).is_none());
    }
}
