//! Scalar bodies: the SSA programs that regions execute for every point, and the meaning of every elementwise op.
//!
//! A [`Body`] is a list of [`Stmt`]s in SSA form; an argument names an earlier statement. Each statement has a machine
//! type. [`ScalarOp::Reduce`] combines a value over the *row axes* of the region (see [`crate::region`]); everything
//! else is computed point by point. Backends generate code by walking the list: they know scalar ops, never epilogue
//! kinds. Transcendentals (`exp`, `erf`, ...) are single ops until [`expand`] replaces them by one formula made of
//! primitive ops, the same on every target (DESIGN 6, rule 4).
//!
//! Float semantics are IEEE 754 single operations, round to nearest even, never contracted. `Min` and `Max` are
//! `select(a < b, a, b)` and `select(a > b, a, b)`: with a NaN operand the result is `b`. Integer arithmetic wraps.
//! `Cast` from float to integer truncates towards zero and saturates; NaN becomes 0.

mod build;
mod check;
mod expand;

pub use build::BodyBuilder;
pub use check::{check_body, check_stmt};
pub use expand::{expand, exponential};

use crate::types::{Dim, ScalarType};

/// A statement's number in its body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BodyId(pub u32);

impl BodyId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A constant: its type and its bits (zero-extended to 64).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScalarConst {
    /// Machine type.
    pub ty: ScalarType,
    /// Bit pattern.
    pub bits: u64,
}

impl ScalarConst {
    /// An f32 constant.
    pub fn f32(v: f32) -> Self {
        ScalarConst {
            ty: ScalarType::F32,
            bits: u64::from(v.to_bits()),
        }
    }
    /// An integer (or bool) constant of type `ty`; wraps to its width.
    pub fn int(ty: ScalarType, v: i64) -> Self {
        let mask = if ty.size() == 8 {
            u64::MAX
        } else {
            (1u64 << (8 * ty.size())) - 1
        };
        ScalarConst {
            ty,
            bits: (v as u64) & mask,
        }
    }
    /// Whether the bits lie within the width of the type (a bool is 0 or 1).
    pub fn fits(&self) -> bool {
        match self.ty {
            ScalarType::Bool => self.bits <= 1,
            ty => ty.size() == 8 || self.bits >> (8 * ty.size()) == 0,
        }
    }
    /// The constant of type `ty` nearest to `v`.
    pub fn from_f64(ty: ScalarType, v: f64) -> Self {
        let bits = match ty {
            ScalarType::F64 => v.to_bits(),
            ScalarType::F32 => u64::from((v as f32).to_bits()),
            ScalarType::F16 => u64::from(crate::numeric::f16_from_f64(v).to_bits()),
            ScalarType::BF16 => u64::from(crate::numeric::bf16_from_f64(v).to_bits()),
            _ => return ScalarConst::int(ty, v as i64),
        };
        ScalarConst { ty, bits }
    }
}

/// Comparison predicates; ordered except `Ne`, which is true when an operand is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Pred {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// How a reduction combines elements.
///
/// Float `Sum`: element `i` of the row goes to partial `i mod 16`, each partial adds in increasing `i` starting from
/// +0.0; then partials are combined `p[i] += p[i+8]` (i < 8), `p[i] += p[i+4]`, `p[i] += p[i+2]`, `p[0] + p[1]`. `Max`/`Min`
/// of floats start from -inf/+inf and keep the 16 partials too, combined with the same tree and `acc' = Max(x, acc)`.
/// Integer reductions are exact in any order (sums wrap).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Max,
    Min,
    Prod,
}

/// One scalar operation. Argument counts: leaves 0, `Neg..=Bitcast` 1, `Add..=Cmp` 2, `Select` 3, `Reduce` 1.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ScalarOp {
    /// The element of region operand `n` at this point (through its access map).
    Operand(u32),
    /// The anchor's accumulator at this point.
    Anchor,
    /// The index along axis `n` of the region, as i64.
    Index(u32),
    /// A dim expression, as i64.
    Dim(Dim),
    /// A constant.
    Const(ScalarConst),
    /// `-x` (sign bit flip for floats).
    Neg,
    /// `|x|` (sign bit cleared for floats).
    Abs,
    /// Bitwise (or logical) not.
    Not,
    /// Square root, correctly rounded.
    Sqrt,
    /// Round to integral, ties to even.
    RoundEven,
    /// Round towards minus infinity.
    Floor,
    /// Round towards plus infinity.
    Ceil,
    /// Convert to the statement's type.
    Cast,
    /// Reinterpret the bits as the statement's type (same size).
    Bitcast,
    /// e^x.
    Exp,
    /// Natural logarithm.
    Log,
    /// Error function.
    Erf,
    /// Hyperbolic tangent.
    Tanh,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient; integers truncate, division by 0 gives 0.
    Div,
    /// Remainder with the sign of the dividend; by 0 gives 0.
    Rem,
    /// `select(a < b, a, b)`.
    Min,
    /// `select(a > b, a, b)`.
    Max,
    /// a^b.
    Pow,
    /// Bitwise and logical and.
    And,
    /// Bitwise and logical or.
    Or,
    /// Bitwise and logical exclusive or.
    Xor,
    /// Shift left (amount below the width).
    Shl,
    /// Shift right, arithmetic for signed types (amount below the width).
    Shr,
    /// Comparison, giving a bool.
    Cmp(Pred),
    /// `c ? a : b` for arguments (c, a, b).
    Select,
    /// Combination over the row axes; the result is the same at every point of the row.
    Reduce(ReduceKind),
}

impl ScalarOp {
    /// Number of arguments.
    pub fn arity(&self) -> usize {
        use ScalarOp::*;
        match self {
            Operand(_) | Anchor | Index(_) | Dim(_) | Const(_) => 0,
            Neg | Abs | Not | Sqrt | RoundEven | Floor | Ceil | Cast | Bitcast | Exp | Log | Erf | Tanh
            | Sin | Cos | Reduce(_) => 1,
            Add | Sub | Mul | Div | Rem | Min | Max | Pow | And | Or | Xor | Shl | Shr | Cmp(_) => 2,
            Select => 3,
        }
    }

    /// Whether [`expand`] replaces this op before code generation.
    pub fn is_transcendental(&self) -> bool {
        use ScalarOp::*;
        matches!(self, Exp | Log | Erf | Tanh | Sin | Cos | Pow)
    }

    /// Name in the text form (leaves print their payload as well).
    pub fn name(&self) -> &'static str {
        use ScalarOp::*;
        match self {
            Operand(_) => "operand",
            Anchor => "anchor",
            Index(_) => "index",
            Dim(_) => "dim",
            Const(_) => "const",
            Neg => "neg",
            Abs => "abs",
            Not => "not",
            Sqrt => "sqrt",
            RoundEven => "roundeven",
            Floor => "floor",
            Ceil => "ceil",
            Cast => "cast",
            Bitcast => "bitcast",
            Exp => "exp",
            Log => "log",
            Erf => "erf",
            Tanh => "tanh",
            Sin => "sin",
            Cos => "cos",
            Add => "add",
            Sub => "sub",
            Mul => "mul",
            Div => "div",
            Rem => "rem",
            Min => "min",
            Max => "max",
            Pow => "pow",
            And => "and",
            Or => "or",
            Xor => "xor",
            Shl => "shl",
            Shr => "shr",
            Cmp(Pred::Eq) => "cmp.eq",
            Cmp(Pred::Ne) => "cmp.ne",
            Cmp(Pred::Lt) => "cmp.lt",
            Cmp(Pred::Le) => "cmp.le",
            Cmp(Pred::Gt) => "cmp.gt",
            Cmp(Pred::Ge) => "cmp.ge",
            Select => "select",
            Reduce(ReduceKind::Sum) => "reduce.sum",
            Reduce(ReduceKind::Max) => "reduce.max",
            Reduce(ReduceKind::Min) => "reduce.min",
            Reduce(ReduceKind::Prod) => "reduce.prod",
        }
    }

    /// The ops whose name is all there is to them (no payload), for the parser.
    pub const PLAIN: &'static [ScalarOp] = &[
        ScalarOp::Anchor,
        ScalarOp::Neg,
        ScalarOp::Abs,
        ScalarOp::Not,
        ScalarOp::Sqrt,
        ScalarOp::RoundEven,
        ScalarOp::Floor,
        ScalarOp::Ceil,
        ScalarOp::Cast,
        ScalarOp::Bitcast,
        ScalarOp::Exp,
        ScalarOp::Log,
        ScalarOp::Erf,
        ScalarOp::Tanh,
        ScalarOp::Sin,
        ScalarOp::Cos,
        ScalarOp::Add,
        ScalarOp::Sub,
        ScalarOp::Mul,
        ScalarOp::Div,
        ScalarOp::Rem,
        ScalarOp::Min,
        ScalarOp::Max,
        ScalarOp::Pow,
        ScalarOp::And,
        ScalarOp::Or,
        ScalarOp::Xor,
        ScalarOp::Shl,
        ScalarOp::Shr,
        ScalarOp::Cmp(Pred::Eq),
        ScalarOp::Cmp(Pred::Ne),
        ScalarOp::Cmp(Pred::Lt),
        ScalarOp::Cmp(Pred::Le),
        ScalarOp::Cmp(Pred::Gt),
        ScalarOp::Cmp(Pred::Ge),
        ScalarOp::Select,
        ScalarOp::Reduce(ReduceKind::Sum),
        ScalarOp::Reduce(ReduceKind::Max),
        ScalarOp::Reduce(ReduceKind::Min),
        ScalarOp::Reduce(ReduceKind::Prod),
    ];
}

/// One SSA statement.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Stmt {
    /// Operation.
    pub op: ScalarOp,
    /// Arguments: numbers of earlier statements.
    pub args: Vec<BodyId>,
    /// Type of the result.
    pub ty: ScalarType,
}

/// A scalar program. Which statements are stored is said by the region's results.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Body {
    /// Statements in order.
    pub stmts: Vec<Stmt>,
}

impl Body {
    /// The statement of this number.
    pub fn stmt(&self, id: BodyId) -> &Stmt {
        &self.stmts[id.index()]
    }

    /// For each statement, whether its value can differ between points of one row, given which operands do.
    /// `varies(op)` answers for leaves (`Operand`, `Anchor`, `Index`); reductions never vary.
    pub fn varying(&self, varies: &dyn Fn(&ScalarOp) -> bool) -> Vec<bool> {
        let mut out: Vec<bool> = Vec::with_capacity(self.stmts.len());
        for s in &self.stmts {
            let v = match &s.op {
                ScalarOp::Reduce(_) => false,
                ScalarOp::Const(_) | ScalarOp::Dim(_) => false,
                op if op.arity() == 0 => varies(op),
                _ => s.args.iter().any(|a| out[a.index()]),
            };
            out.push(v);
        }
        out
    }

    /// Drops statements that no root needs and merges equal ones; rewrites `roots` in place.
    pub fn simplify(&mut self, roots: &mut [BodyId]) {
        let mut live = vec![false; self.stmts.len()];
        let mut stack: Vec<BodyId> = roots.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut live[id.index()], true) {
                stack.extend(&self.stmts[id.index()].args);
            }
        }
        let mut map = vec![BodyId(0); self.stmts.len()];
        let mut seen = std::collections::HashMap::new();
        let mut kept: Vec<Stmt> = Vec::new();
        for (i, s) in self.stmts.iter().enumerate().filter(|(i, _)| live[*i]) {
            let s = Stmt {
                args: s.args.iter().map(|a| map[a.index()]).collect(),
                ..s.clone()
            };
            map[i] = *seen.entry(s.clone()).or_insert_with(|| {
                kept.push(s);
                BodyId(kept.len() as u32 - 1)
            });
        }
        self.stmts = kept;
        for r in roots {
            *r = map[r.index()];
        }
    }
}
