//! The typing rules of scalar statements.

use super::{Body, ScalarOp};
use crate::types::ScalarType;

/// Checks one statement: argument count, argument types and result type. Says what is wrong.
pub fn check_stmt(op: &ScalarOp, args: &[ScalarType], ty: ScalarType) -> Result<(), String> {
    use ScalarOp::*;
    if args.len() != op.arity() {
        return Err(format!(
            "`{}` takes {} arguments, found {}",
            op.name(),
            op.arity(),
            args.len()
        ));
    }
    let same = args.iter().all(|a| *a == ty);
    let ok = match op {
        Operand(_) | Anchor => true,
        Index(_) | Dim(_) => ty == ScalarType::I64,
        Const(c) => c.ty == ty && c.fits(),
        Neg | Abs | Reduce(_) => same && ty != ScalarType::Bool,
        Not => same && !ty.is_float(),
        Sqrt | RoundEven | Floor | Ceil | Exp | Log | Erf | Tanh | Sin | Cos | Pow => same && ty.is_float(),
        Cast => true,
        Bitcast => args[0].size() == ty.size() && args[0] != ScalarType::Bool && ty != ScalarType::Bool,
        Add | Sub | Mul | Div | Rem | Min | Max => same && ty != ScalarType::Bool,
        And | Or | Xor => same && !ty.is_float(),
        Shl | Shr => same && ty.is_int(),
        Cmp(_) => args[0] == args[1] && ty == ScalarType::Bool,
        Select => args[0] == ScalarType::Bool && args[1] == ty && args[2] == ty,
    };
    if ok {
        return Ok(());
    }
    let types: Vec<&str> = args.iter().map(|a| a.name()).collect();
    Err(format!(
        "`{}` is not defined for ({}) -> {ty}",
        op.name(),
        types.join(", ")
    ))
}

/// Checks every statement of a body, and that arguments are earlier statements. Says which statement is wrong.
pub fn check_body(body: &Body) -> Result<(), String> {
    for (i, s) in body.stmts.iter().enumerate() {
        if let Some(a) = s.args.iter().find(|a| a.index() >= i) {
            return Err(format!(
                "statement {i}: argument {} is not an earlier statement",
                a.0
            ));
        }
        let types: Vec<ScalarType> = s.args.iter().map(|a| body.stmt(*a).ty).collect();
        check_stmt(&s.op, &types, s.ty).map_err(|e| format!("statement {i}: {e}"))?;
    }
    Ok(())
}
