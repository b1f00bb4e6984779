//! Dim expressions as rows of the manifest's expression table.

use rsqc_artifact::manifest::{Expr, Pair, expr::Node};
use rsqc_ir::types::Atom;
use rsqc_ir::{Dim, Symbol};
use std::collections::BTreeMap;

/// Interns dims and symbols. Operands come before the expressions that use them.
#[derive(Default)]
pub(crate) struct ExprTable {
    symbols: Vec<Symbol>,
    dims: BTreeMap<Dim, u32>,
    nodes: BTreeMap<Key, u32>,
    exprs: Vec<Expr>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Key {
    Const(i64),
    Symbol(u32),
    Binary(BinOp, u32, u32),
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum BinOp {
    Add,
    Mul,
    FloorDiv,
    Modulo,
    Min,
    Max,
}

impl ExprTable {
    /// The number of a symbol, made if it is new.
    pub(crate) fn symbol(&mut self, s: &Symbol) -> u32 {
        let known = self.symbols.iter().position(|x| x == s);
        known.unwrap_or_else(|| {
            self.symbols.push(s.clone());
            self.symbols.len() - 1
        }) as u32
    }

    /// The expression id of a dim.
    pub(crate) fn dim(&mut self, d: &Dim) -> u32 {
        if let Some(id) = self.dims.get(d) {
            return *id;
        }
        let mut sum: Option<u32> = None;
        for (factors, coefficient) in d.terms() {
            let mut product: Option<u32> = None;
            for a in factors {
                let f = self.atom(a);
                product = Some(product.map_or(f, |p| self.node(Key::Binary(BinOp::Mul, p, f))));
            }
            let term = match (product, coefficient) {
                (Some(p), 1) => p,
                (Some(p), c) => {
                    let c = self.node(Key::Const(c));
                    self.node(Key::Binary(BinOp::Mul, p, c))
                }
                (None, c) => self.node(Key::Const(c)),
            };
            sum = Some(sum.map_or(term, |s| self.node(Key::Binary(BinOp::Add, s, term))));
        }
        let id = sum.unwrap_or_else(|| self.node(Key::Const(0)));
        self.dims.insert(d.clone(), id);
        id
    }

    fn atom(&mut self, a: &Atom) -> u32 {
        let (op, x, y) = match a {
            Atom::Sym(s) => {
                let s = self.symbol(s);
                return self.node(Key::Symbol(s));
            }
            Atom::FloorDiv(x, y) => (BinOp::FloorDiv, x, y),
            Atom::Mod(x, y) => (BinOp::Modulo, x, y),
            Atom::Min(x, y) => (BinOp::Min, x, y),
            Atom::Max(x, y) => (BinOp::Max, x, y),
        };
        let (x, y) = (self.dim(x), self.dim(y));
        self.node(Key::Binary(op, x, y))
    }

    fn node(&mut self, k: Key) -> u32 {
        if let Some(id) = self.nodes.get(&k) {
            return *id;
        }
        let node = match k {
            Key::Const(c) => Node::Constant(c),
            Key::Symbol(s) => Node::Symbol(s),
            Key::Binary(op, a, b) => {
                let p = Pair { a, b };
                match op {
                    BinOp::Add => Node::Add(p),
                    BinOp::Mul => Node::Mul(p),
                    BinOp::FloorDiv => Node::FloorDiv(p),
                    BinOp::Modulo => Node::Modulo(p),
                    BinOp::Min => Node::Min(p),
                    BinOp::Max => Node::Max(p),
                }
            }
        };
        let id = self.exprs.len() as u32;
        self.exprs.push(Expr { node: Some(node) });
        self.nodes.insert(k, id);
        id
    }

    /// The table.
    pub(crate) fn finish(self) -> (Vec<Symbol>, Vec<Expr>) {
        (self.symbols, self.exprs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_artifact::expr::{Value, evaluate};

    #[test]
    fn expressions_evaluate_like_the_dims_they_came_from() {
        let (a, b) = (Dim::sym("a"), Dim::sym("b"));
        let dims = [
            a.clone() * b.clone() * Dim::from(384i64) - Dim::one(),
            a.floor_div(&Dim::from(3i64)) + b.modulo(&Dim::from(4i64)),
            a.smaller(&b) * a.larger(&b),
            Dim::zero(),
        ];
        let mut t = ExprTable::default();
        let ids: Vec<u32> = dims.iter().map(|d| t.dim(d)).collect();
        let (symbols, exprs) = t.finish();
        for (x, y) in [(0, 0), (1, 7), (10, 3)] {
            let env = |s: &Symbol| Some(if s.name() == "a" { x } else { y });
            let values: Vec<Option<i64>> = symbols.iter().map(env).collect();
            let got = evaluate(&exprs, &values);
            for (d, id) in dims.iter().zip(&ids) {
                assert_eq!(
                    got[*id as usize],
                    Value::Known(d.eval(&env).expect("bound")),
                    "{d}"
                );
            }
        }
    }
}
