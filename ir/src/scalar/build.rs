//! Typed construction of scalar bodies.

use super::{Body, BodyId, Pred, ReduceKind, ScalarConst, ScalarOp, Stmt};
use crate::types::{Dim, ScalarType};

/// Builds a [`Body`]; computes result types and remembers the first type error instead of failing at each step.
#[derive(Default)]
pub struct BodyBuilder {
    body: Body,
    error: Option<String>,
}

impl BodyBuilder {
    /// An empty body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Continues an existing body.
    pub fn from_body(body: Body) -> Self {
        BodyBuilder { body, error: None }
    }

    /// Type of a statement.
    pub fn ty(&self, id: BodyId) -> ScalarType {
        self.body.stmt(id).ty
    }

    /// The statements so far.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The body, or the first type error.
    pub fn finish(self) -> Result<Body, String> {
        match self.error {
            Some(e) => Err(e),
            None => Ok(self.body),
        }
    }

    /// Records an error that [`Self::finish`] reports.
    pub fn fail(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    /// Appends a statement as it is.
    pub fn push(&mut self, op: ScalarOp, args: &[BodyId], ty: ScalarType) -> BodyId {
        self.body.stmts.push(Stmt {
            op,
            args: args.to_vec(),
            ty,
        });
        BodyId(self.body.stmts.len() as u32 - 1)
    }

    /// Region operand `n` of type `ty`.
    pub fn operand(&mut self, n: u32, ty: ScalarType) -> BodyId {
        self.push(ScalarOp::Operand(n), &[], ty)
    }

    /// The anchor's accumulator of type `ty`.
    pub fn anchor(&mut self, ty: ScalarType) -> BodyId {
        self.push(ScalarOp::Anchor, &[], ty)
    }

    /// Index along region axis `n`, i64.
    pub fn index(&mut self, n: u32) -> BodyId {
        self.push(ScalarOp::Index(n), &[], ScalarType::I64)
    }

    /// A dim expression, i64.
    pub fn dim(&mut self, d: Dim) -> BodyId {
        self.push(ScalarOp::Dim(d), &[], ScalarType::I64)
    }

    /// A constant.
    pub fn constant(&mut self, c: ScalarConst) -> BodyId {
        self.push(ScalarOp::Const(c), &[], c.ty)
    }

    /// The constant `v` in the type of `like`.
    pub fn lit(&mut self, like: BodyId, v: f64) -> BodyId {
        let ty = self.ty(like);
        self.constant(ScalarConst::from_f64(ty, v))
    }

    /// An f32 constant.
    pub fn f32(&mut self, v: f32) -> BodyId {
        self.constant(ScalarConst::f32(v))
    }

    fn need(&mut self, ok: bool, op: &ScalarOp, args: &[BodyId]) {
        if !ok {
            let types: Vec<String> = args.iter().map(|a| self.ty(*a).to_string()).collect();
            self.fail(format!(
                "`{}` is not defined for ({})",
                op.name(),
                types.join(", ")
            ));
        }
    }

    /// A unary op whose result has its argument's type.
    pub fn unary(&mut self, op: ScalarOp, x: BodyId) -> BodyId {
        let ty = self.ty(x);
        let ok = match op {
            ScalarOp::Neg | ScalarOp::Abs => ty != ScalarType::Bool,
            ScalarOp::Not => !ty.is_float(),
            _ => ty.is_float(),
        };
        self.need(ok, &op, &[x]);
        self.push(op, &[x], ty)
    }

    /// A binary op on equal types whose result has that type.
    pub fn binary(&mut self, op: ScalarOp, a: BodyId, b: BodyId) -> BodyId {
        let (ta, tb) = (self.ty(a), self.ty(b));
        let kind = match op {
            ScalarOp::And | ScalarOp::Or | ScalarOp::Xor => !ta.is_float(),
            ScalarOp::Shl | ScalarOp::Shr => ta.is_int(),
            ScalarOp::Pow => ta.is_float(),
            _ => ta != ScalarType::Bool,
        };
        self.need(ta == tb && kind, &op, &[a, b]);
        self.push(op, &[a, b], ta)
    }

    /// A comparison; bool.
    pub fn cmp(&mut self, p: Pred, a: BodyId, b: BodyId) -> BodyId {
        let ok = self.ty(a) == self.ty(b);
        self.need(ok, &ScalarOp::Cmp(p), &[a, b]);
        self.push(ScalarOp::Cmp(p), &[a, b], ScalarType::Bool)
    }

    /// `c ? a : b`.
    pub fn select(&mut self, c: BodyId, a: BodyId, b: BodyId) -> BodyId {
        let ok = self.ty(c) == ScalarType::Bool && self.ty(a) == self.ty(b);
        self.need(ok, &ScalarOp::Select, &[c, a, b]);
        let ty = self.ty(a);
        self.push(ScalarOp::Select, &[c, a, b], ty)
    }

    /// Conversion; nothing if the type is already `ty`.
    pub fn cast(&mut self, x: BodyId, ty: ScalarType) -> BodyId {
        if self.ty(x) == ty {
            x
        } else {
            self.push(ScalarOp::Cast, &[x], ty)
        }
    }

    /// Reinterpretation of the bits as `ty`.
    pub fn bitcast(&mut self, x: BodyId, ty: ScalarType) -> BodyId {
        let ok = self.ty(x).size() == ty.size();
        self.need(ok, &ScalarOp::Bitcast, &[x]);
        self.push(ScalarOp::Bitcast, &[x], ty)
    }

    /// Reduction over the row axes.
    pub fn reduce(&mut self, kind: ReduceKind, x: BodyId) -> BodyId {
        let ty = self.ty(x);
        self.need(ty != ScalarType::Bool, &ScalarOp::Reduce(kind), &[x]);
        self.push(ScalarOp::Reduce(kind), &[x], ty)
    }
}

macro_rules! shorthands {
    (unary: $($u:ident $uo:ident),*; binary: $($b:ident $bo:ident),*) => {
        impl BodyBuilder {
            $(#[doc = concat!("[`ScalarOp::", stringify!($uo), "`].")]
            pub fn $u(&mut self, x: BodyId) -> BodyId { self.unary(ScalarOp::$uo, x) })*
            $(#[doc = concat!("[`ScalarOp::", stringify!($bo), "`].")]
            pub fn $b(&mut self, a: BodyId, b: BodyId) -> BodyId { self.binary(ScalarOp::$bo, a, b) })*
        }
    };
}
shorthands! {
    unary: neg Neg, abs Abs, not Not, sqrt Sqrt, round_even RoundEven, floor Floor, ceil Ceil, exp Exp, log Log,
        erf Erf, tanh Tanh, sin Sin, cos Cos;
    binary: add Add, sub Sub, mul Mul, div Div, rem Rem, min Min, max Max, pow Pow, and And, or Or, xor Xor, shl Shl,
        shr Shr
}
