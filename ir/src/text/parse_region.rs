//! Regions from text.

use super::cursor::{Cursor, Parsed};
use super::literal;
use super::parse::braced_dim;
use super::types::scalar_type;
use crate::ops::{Attr, AttrValue};
use crate::region::{
    Access, Anchor, Attention, Axis, AxisKind, Clamp, Gather, Products, Region, Store, Term,
};
use crate::scalar::{Body, BodyId, ScalarConst, ScalarOp, Stmt};
use crate::types::ScalarType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Operand numbers are below this.
const MAX_OPERANDS: u64 = 1 << 20;

/// Axis numbers by name.
type Axes = BTreeMap<Arc<str>, u32>;

/// A region's lines, up to the closing brace.
pub(super) fn region(c: &mut Cursor<'_>) -> Parsed<Region> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut names = Axes::new();
    while c.eat("axis") {
        let at = c.pos();
        let name: Arc<str> = c.word("an axis name")?.into();
        let kind = axis_kind(c)?;
        let extent = braced_dim(c)?;
        if names.insert(name.clone(), axes.len() as u32).is_some() {
            return Err(c.error_at(at, format!("axis `{name}` is declared twice")));
        }
        axes.push(Axis { name, kind, extent });
    }
    c.want("row")?;
    let row_axes = c.below("a number of axes", axes.len() as u64 + 1)?;
    let mut operands = Vec::new();
    while c.eat("read") {
        operands.push(access(c, &names)?);
    }
    let anchor = anchor(c, &names)?;
    let body = body(c, &names)?;
    let mut stores = Vec::new();
    while c.eat("store") {
        let value = statement(c, body.stmts.len())?;
        c.want("at")?;
        stores.push(Store {
            value,
            access: access(c, &names)?,
        });
    }
    c.want("}")?;
    Ok(Region {
        axes,
        row_axes,
        operands,
        anchor,
        body,
        stores,
    })
}

fn axis_kind(c: &mut Cursor<'_>) -> Parsed<AxisKind> {
    let all = [AxisKind::Parallel, AxisKind::Reduce, AxisKind::Ordered];
    for k in all {
        if c.eat(super::print_region::kind_name(k)) {
            return Ok(k);
        }
    }
    c.expected("`parallel`, `reduce` or `ordered`")
}

fn axis(c: &mut Cursor<'_>, names: &Axes) -> Parsed<u32> {
    let at = c.pos();
    let w = c.word("an axis")?;
    names
        .get(w)
        .copied()
        .ok_or_else(|| c.error_at(at, format!("unknown axis `{w}`")))
}

fn access(c: &mut Cursor<'_>, names: &Axes) -> Parsed<Access> {
    let mut out = Access {
        offset: braced_dim(c)?,
        terms: Vec::new(),
        gathers: Vec::new(),
    };
    while c.eat("+") {
        if c.eat("gather") {
            c.want("(")?;
            let operand = c.below("operand", MAX_OPERANDS)?;
            c.want(",")?;
            let limit = braced_dim(c)?;
            c.want(")")?;
            c.want("*")?;
            let stride = braced_dim(c)?;
            out.gathers.push(Gather {
                operand,
                stride,
                limit,
            });
            continue;
        }
        let (axis, clamp) = if c.eat("clamp") {
            c.want("(")?;
            let axis = axis(c, names)?;
            c.want(",")?;
            let shift = braced_dim(c)?;
            c.want(",")?;
            let limit = braced_dim(c)?;
            c.want(")")?;
            (axis, Some(Clamp { shift, limit }))
        } else {
            (axis(c, names)?, None)
        };
        c.want("*")?;
        let stride = braced_dim(c)?;
        out.terms.push(Term { axis, stride, clamp });
    }
    Ok(out)
}

fn anchor(c: &mut Cursor<'_>, names: &Axes) -> Parsed<Anchor> {
    if c.eat("contract") {
        c.want("(")?;
        let lhs = c.below("operand", MAX_OPERANDS)?;
        c.want(",")?;
        let rhs = c.below("operand", MAX_OPERANDS)?;
        c.want(")")?;
        c.want(":")?;
        let acc = scalar_type(c)?;
        let pad = c.eat("pad");
        return Ok(Anchor::Contract { lhs, rhs, acc, pad });
    }
    if !c.eat("attention") {
        return Ok(Anchor::None);
    }
    let [q, k, v] = three_operands(c)?;
    c.want("key")?;
    let key = axis(c, names)?;
    c.want("inner")?;
    let inner = axis(c, names)?;
    c.want("empty")?;
    let at = c.pos();
    let w = c.word("`nan` or `zero`")?;
    let empty_row = AttrValue::from_attr(Attr::Text(w.into()))
        .ok_or_else(|| c.error_at(at, format!("unknown value `{w}` of an empty row")))?;
    let mut products = Products::Float;
    if c.eat("products") {
        c.want("i8")?;
        let scales = if c.eat("scales") {
            Some(three_operands(c)?)
        } else {
            None
        };
        products = Products::Int8 { scales };
    }
    c.want("{")?;
    let score = body(c, names)?;
    c.want("}")?;
    Ok(Anchor::Attention(Box::new(Attention {
        q,
        k,
        v,
        key,
        inner,
        products,
        score,
        empty_row,
    })))
}

/// `(1, 2, 3)`.
fn three_operands(c: &mut Cursor<'_>) -> Parsed<[u32; 3]> {
    let mut out = [0; 3];
    for (i, n) in out.iter_mut().enumerate() {
        c.want(if i == 0 { "(" } else { "," })?;
        *n = c.below("operand", MAX_OPERANDS)?;
    }
    c.want(")")?;
    Ok(out)
}

/// The number of an earlier statement.
fn statement(c: &mut Cursor<'_>, before: usize) -> Parsed<BodyId> {
    c.want("$")?;
    let at = c.pos();
    let n = c.unsigned("a statement")?;
    let found = u32::try_from(n).ok().filter(|n| (*n as usize) < before);
    found
        .map(BodyId)
        .ok_or_else(|| c.error_at(at, format!("${n} is not an earlier statement")))
}

fn body(c: &mut Cursor<'_>, names: &Axes) -> Parsed<Body> {
    let mut out = Body::default();
    while c.peek() == Some('$') {
        c.eat("$");
        let at = c.pos();
        let n = c.unsigned("a statement")?;
        if n != out.stmts.len() as u64 {
            let next = out.stmts.len();
            return Err(c.error_at(at, format!("statements are numbered in order: this is ${next}")));
        }
        c.want("=")?;
        let stmt = stmt(c, names, out.stmts.len())?;
        out.stmts.push(stmt);
    }
    Ok(out)
}

fn stmt(c: &mut Cursor<'_>, names: &Axes, before: usize) -> Parsed<Stmt> {
    let at = c.pos();
    let name = c.word("a scalar op")?;
    c.want("(")?;
    let mut args = Vec::new();
    let mut text = "";
    let mut text_at = 0;
    let mut op = match name {
        "operand" => Some(ScalarOp::Operand(c.below("operand", MAX_OPERANDS)?)),
        "index" => Some(ScalarOp::Index(axis(c, names)?)),
        "dim" => Some(ScalarOp::Dim(braced_dim(c)?)),
        "const" => {
            text_at = c.pos();
            text = c.raw_while(literal::is_char);
            None
        }
        _ => {
            let op = ScalarOp::PLAIN.iter().find(|o| o.name() == name).cloned();
            let op = op.ok_or_else(|| c.error_at(at, format!("unknown scalar op `{name}`")))?;
            while c.peek() == Some('$') {
                args.push(statement(c, before)?);
                if !c.eat(",") {
                    break;
                }
            }
            if args.len() != op.arity() {
                let (want, found) = (op.arity(), args.len());
                return Err(c.error_at(at, format!("`{name}` takes {want} arguments, found {found}")));
            }
            Some(op)
        }
    };
    c.want(")")?;
    c.want(":")?;
    let ty: ScalarType = scalar_type(c)?;
    if op.is_none() {
        let bits = literal::parse(ty, text);
        let bits = bits.ok_or_else(|| c.error_at(text_at, format!("`{text}` is no {ty}")))?;
        op = Some(ScalarOp::Const(ScalarConst { ty, bits }));
    }
    let op = op.expect("a constant has just been filled in");
    Ok(Stmt { op, args, ty })
}
