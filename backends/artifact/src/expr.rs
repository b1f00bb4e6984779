//! Evaluation and printing of the expression DAG of a manifest.
//!
//! An expression refers only to earlier ones, so one pass in index order evaluates all of them. A value that
//! is not known yet (its symbol is bound later in the run) or has none (division by zero, overflow) is
//! carried along as such and becomes an error only where a step uses it.

use crate::manifest::{Expr, Pair, Symbol, expr::Node};

/// The value of one expression under a partial binding of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// All symbols are bound.
    Known(i64),
    /// A symbol (index) is not bound yet.
    Unknown(u32),
    /// A division by zero or an overflow happened in the expression (index).
    Bad(u32),
}

/// An expression without a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExprError {
    /// The index lies outside the expression table.
    #[error("there is no expression {0}")]
    OutOfRange(u32),
    /// A symbol has no value yet.
    #[error("the value of symbol {symbol} is not known in {text}")]
    Unbound {
        /// Symbol name.
        symbol: String,
        /// The expression.
        text: String,
    },
    /// Overflow or division by zero.
    #[error("{text} overflows or divides by zero")]
    NoValue {
        /// The expression.
        text: String,
    },
}

/// Evaluates all expressions; `symbols[s]` is the value of symbol `s`, if bound.
///
/// The result has one value per expression; operands that are not earlier expressions count as [`Value::Bad`].
pub fn evaluate(exprs: &[Expr], symbols: &[Option<i64>]) -> Vec<Value> {
    let mut values = Vec::with_capacity(exprs.len());
    for (index, expr) in exprs.iter().enumerate() {
        let value = evaluate_one(expr, index as u32, &values, symbols);
        values.push(value);
    }
    values
}

fn evaluate_one(expr: &Expr, index: u32, earlier: &[Value], symbols: &[Option<i64>]) -> Value {
    let binary = |pair: &Pair, op: fn(i64, i64) -> Option<i64>| {
        let get = |i: u32| earlier.get(i as usize).copied().unwrap_or(Value::Bad(index));
        match (get(pair.a), get(pair.b)) {
            (Value::Known(a), Value::Known(b)) => op(a, b).map_or(Value::Bad(index), Value::Known),
            (Value::Bad(i), _) | (_, Value::Bad(i)) => Value::Bad(i),
            (Value::Unknown(s), _) | (_, Value::Unknown(s)) => Value::Unknown(s),
        }
    };
    match &expr.node {
        Some(Node::Constant(c)) => Value::Known(*c),
        Some(Node::Symbol(s)) => match symbols.get(*s as usize) {
            Some(Some(v)) => Value::Known(*v),
            _ => Value::Unknown(*s),
        },
        Some(Node::Add(p)) => binary(p, i64::checked_add),
        Some(Node::Mul(p)) => binary(p, i64::checked_mul),
        Some(Node::FloorDiv(p)) => binary(p, floor_div),
        Some(Node::Modulo(p)) => binary(p, floor_mod),
        Some(Node::Min(p)) => binary(p, |a, b| Some(a.min(b))),
        Some(Node::Max(p)) => binary(p, |a, b| Some(a.max(b))),
        None => Value::Bad(index),
    }
}

/// Quotient rounded towards minus infinity; `None` for a zero divisor or overflow.
pub fn floor_div(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let remainder = a.checked_rem(b)?;
    if remainder != 0 && ((remainder < 0) != (b < 0)) {
        quotient.checked_sub(1)
    } else {
        Some(quotient)
    }
}

/// Remainder with the sign of the divisor; `None` for a zero divisor.
pub fn floor_mod(a: i64, b: i64) -> Option<i64> {
    if b == -1 {
        return Some(0);
    }
    let remainder = a.checked_rem(b)?;
    if remainder != 0 && ((remainder < 0) != (b < 0)) {
        remainder.checked_add(b)
    } else {
        Some(remainder)
    }
}

/// The value of expression `id`, or why there is none.
///
/// # Errors
/// [`ExprError`] with the text of the expression.
pub fn require(values: &[Value], id: u32, exprs: &[Expr], symbols: &[Symbol]) -> Result<i64, ExprError> {
    match values.get(id as usize) {
        Some(Value::Known(v)) => Ok(*v),
        Some(Value::Unknown(s)) => Err(ExprError::Unbound {
            symbol: symbols
                .get(*s as usize)
                .map_or_else(|| format!("#{s}"), |s| s.name.clone()),
            text: text(exprs, symbols, id),
        }),
        Some(Value::Bad(i)) => Err(ExprError::NoValue {
            text: text(exprs, symbols, *i),
        }),
        None => Err(ExprError::OutOfRange(id)),
    }
}

/// Longest printed form; a DAG can be exponentially larger than its table.
const TEXT_LIMIT: usize = 240;

/// Deepest printed nesting; bounds the recursion on chains.
const DEPTH_LIMIT: u8 = 32;

/// Prints expression `id`, as `floordiv(batch*seq + 63, 64)`. Long or deep texts are cut with `...`.
pub fn text(exprs: &[Expr], symbols: &[Symbol], id: u32) -> String {
    let mut printer = Printer {
        exprs,
        symbols,
        out: String::new(),
        depth: 0,
    };
    printer.print(id, 0);
    let mut out = printer.out;
    if out.len() > TEXT_LIMIT {
        let mut end = TEXT_LIMIT;
        while !out.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        out.truncate(end);
        out.push_str("...");
    }
    out
}

struct Printer<'a> {
    exprs: &'a [Expr],
    symbols: &'a [Symbol],
    out: String,
    depth: u8,
}

impl Printer<'_> {
    /// `strength`: 0 anything may stand bare, 1 operand of a sum, 2 operand of a product.
    fn print(&mut self, id: u32, strength: u8) {
        if self.out.len() > TEXT_LIMIT {
            return;
        }
        match self.exprs.get(id as usize).and_then(|e| e.node.as_ref()) {
            Some(Node::Constant(c)) => self.out.push_str(&c.to_string()),
            Some(Node::Symbol(s)) => {
                self.out.push_str(
                    self.symbols
                        .get(*s as usize)
                        .map_or("?", |symbol| symbol.name.as_str()),
                );
            }
            Some(Node::Add(p)) => self.infix(id, p, " + ", 1, strength),
            Some(Node::Mul(p)) => self.infix(id, p, "*", 2, strength),
            Some(Node::FloorDiv(p)) => self.call(id, p, "floordiv("),
            Some(Node::Modulo(p)) => self.call(id, p, "mod("),
            Some(Node::Min(p)) => self.call(id, p, "min("),
            Some(Node::Max(p)) => self.call(id, p, "max("),
            None => self.out.push('?'),
        }
    }

    fn infix(&mut self, id: u32, pair: &Pair, sign: &str, own: u8, strength: u8) {
        let paren = strength > own;
        if paren {
            self.out.push('(');
        }
        self.operand(id, pair.a, own);
        self.out.push_str(sign);
        self.operand(id, pair.b, own);
        if paren {
            self.out.push(')');
        }
    }

    fn call(&mut self, id: u32, pair: &Pair, open: &str) {
        self.out.push_str(open);
        self.operand(id, pair.a, 0);
        self.out.push_str(", ");
        self.operand(id, pair.b, 0);
        self.out.push(')');
    }

    /// Only an earlier expression can be an operand.
    fn operand(&mut self, id: u32, operand: u32, strength: u8) {
        if operand >= id {
            self.out.push('?');
        } else if self.depth >= DEPTH_LIMIT {
            self.out.push_str("...");
        } else {
            self.depth = self.depth.saturating_add(1);
            self.print(operand, strength);
            self.depth = self.depth.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: Node) -> Expr {
        Expr { node: Some(node) }
    }

    fn table() -> (Vec<Expr>, Vec<Symbol>) {
        let exprs = vec![
            node(Node::Symbol(0)),
            node(Node::Constant(63)),
            node(Node::Constant(64)),
            node(Node::Add(Pair { a: 0, b: 1 })),
            node(Node::FloorDiv(Pair { a: 3, b: 2 })),
            node(Node::Constant(0)),
            node(Node::FloorDiv(Pair { a: 0, b: 5 })),
            node(Node::Mul(Pair { a: 3, b: 2 })),
            node(Node::Symbol(1)),
            node(Node::Mul(Pair { a: 8, b: 5 })),
        ];
        let symbols = ["seq", "late"].map(|n| Symbol {
            name: n.into(),
            lo: 0,
            hi: 1 << 40,
        });
        (exprs, symbols.to_vec())
    }

    #[test]
    fn values_and_failures() {
        let (exprs, symbols) = table();
        let values = evaluate(&exprs, &[Some(128), None]);
        assert_eq!(values.get(4), Some(&Value::Known(2)));
        assert_eq!(values.get(6), Some(&Value::Bad(6)));
        assert_eq!(values.get(9), Some(&Value::Unknown(1)));
        let error = require(&values, 9, &exprs, &symbols).expect_err("late is unbound");
        assert_eq!(
            error.to_string(),
            "the value of symbol late is not known in late*0"
        );
        assert!(require(&values, 6, &exprs, &symbols).is_err());
        assert!(require(&values, 60, &exprs, &symbols).is_err());
        let overflow = evaluate(&exprs, &[Some(i64::MAX), None]);
        assert_eq!(overflow.get(4), Some(&Value::Bad(3)));
    }

    #[test]
    fn printing() {
        let (exprs, symbols) = table();
        assert_eq!(text(&exprs, &symbols, 4), "floordiv(seq + 63, 64)");
        assert_eq!(text(&exprs, &symbols, 7), "(seq + 63)*64");
        assert_eq!(text(&exprs, &symbols, 99), "?");
    }

    #[test]
    fn doubling_dag_prints_in_bounds() {
        let mut exprs = vec![node(Node::Symbol(0))];
        for i in 0..200 {
            exprs.push(node(Node::Add(Pair { a: i, b: i })));
        }
        assert!(text(&exprs, &[], 200).len() < 300);
        let chain: Vec<_> = (0..100_000u32)
            .map(|i| {
                node(if i == 0 {
                    Node::Constant(1)
                } else {
                    Node::Add(Pair { a: i - 1, b: 0 })
                })
            })
            .collect();
        assert!(text(&chain, &[], 99_999).len() < 300);
    }

    #[test]
    fn floor_rules() {
        for (a, b, q, m) in [
            (7, 2, 3, 1),
            (-7, 2, -4, 1),
            (7, -2, -4, -1),
            (-7, -2, 3, -1),
            (0, 5, 0, 0),
        ] {
            assert_eq!((floor_div(a, b), floor_mod(a, b)), (Some(q), Some(m)), "{a} {b}");
        }
        assert_eq!(floor_div(i64::MIN, -1), None);
        assert_eq!(floor_mod(i64::MIN, -1), Some(0));
        assert_eq!(floor_mod(1, 0), None);
    }
}
