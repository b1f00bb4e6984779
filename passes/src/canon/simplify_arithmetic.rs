//! Spellings of simple arithmetic: one form each.
//!
//! - `x - c -> x + (-c)`; `x / c -> x * (1/c)` where c is a power of two whose reciprocal is a normal number;
//! - `pow(x, 1) -> x`, `pow(x, 2) -> x * x` (f32 and narrower: the square is exact in the evaluator's f64);
//! - `x * -1 -> -x`, `--x -> x`, `!!x -> x`, `|x| of |x|`, `relu(relu x)`;
//! - `where` with a constant or negated condition, or with equal branches; `x & true`, `x | false`, `x & x`, ...;
//! - `cast(cast(b: bool)) -> b`.
//!
//! Sound because each is an identity of IEEE arithmetic to the bit (negating a constant and scaling by a power of two
//! do not round; x - c and x + (-c) are the same operation).

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::ops::elementwise::{Add, Mul, Neg, Where};
use rsqc_ir::{NodeId, Op, ScalarType, TensorType, ValueId};

/// See the file documentation.
pub struct SimplifyArithmetic;

impl Pass for SimplifyArithmetic {
    fn name(&self) -> &'static str {
        "simplify-arithmetic"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(simplify(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn simplify(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let want = ed.old().graph.ty(ed.old().graph.node(id).outputs[0]).clone();
    let op = &ed.old().graph.node(id).op;
    match (op, ins) {
        (_, [Some(x)]) => unary(ed, op, *x),
        (Op::Where(_), [Some(c), Some(a), Some(b)]) => select(ed, id, [*c, *a, *b], &want),
        (Op::Div(_) | Op::Sub(_) | Op::Mul(_) | Op::Pow(_), [Some(x), Some(c)]) => {
            arithmetic(ed, id, *x, *c, &want)
        }
        (Op::And(_) | Op::Or(_) | Op::Xor(_), [Some(a), Some(b)]) => {
            let v = logic(ed, op, *a, *b).or_else(|| logic(ed, op, *b, *a))?;
            (ed.ty(v) == &want).then_some(v)
        }
        _ => None,
    }
}

fn unary(ed: &Editor<'_>, op: &Op, x: ValueId) -> Option<ValueId> {
    let inner = ed.def(x)?;
    let y = inner.input(0)?;
    match (op, &inner.op) {
        (Op::Neg(_), Op::Neg(_)) | (Op::Not(_), Op::Not(_)) => Some(y),
        (Op::Abs(_), Op::Abs(_)) | (Op::Relu(_), Op::Relu(_)) => Some(x),
        (Op::Cast(c), Op::Cast(_))
            if c.to == ScalarType::Bool && ed.ty(y).elem.plain() == Some(ScalarType::Bool) =>
        {
            Some(y)
        }
        _ => None,
    }
}

fn arithmetic(ed: &mut Editor<'_>, id: NodeId, x: ValueId, c: ValueId, want: &TensorType) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let elem = want.elem.plain()?;
    let value = ed.splat(c)?;
    let narrow = matches!(elem, ScalarType::F32 | ScalarType::F16 | ScalarType::BF16);
    match node.op {
        Op::Sub(_) if elem.is_float() => {
            let n = ed.scalar_like(c, -value)?;
            ed.try_add(Add {}, &[x, n], want, &node.loc)
        }
        Op::Div(_) if elem.is_float() && exact_reciprocal(elem, value) => {
            let r = ed.scalar_like(c, 1.0 / value)?;
            ed.try_add(Mul {}, &[x, r], want, &node.loc)
        }
        Op::Mul(_) if value == -1.0 && (elem.is_float() || elem.is_signed_int()) => {
            ed.try_add(Neg {}, &[x], want, &node.loc)
        }
        Op::Pow(_) if value == 1.0 && ed.ty(x) == want => Some(x),
        Op::Pow(_) if value == 2.0 && narrow && ed.ty(x) == want => {
            ed.try_add(Mul {}, &[x, x], want, &node.loc)
        }
        _ => None,
    }
}

/// Whether `1 / v` is exact and normal in `elem`.
fn exact_reciprocal(elem: ScalarType, v: f64) -> bool {
    let power_of_two = v.is_normal() && v.to_bits() & ((1 << 52) - 1) == 0;
    let range = match elem {
        ScalarType::F64 => 1022,
        ScalarType::F32 | ScalarType::BF16 => 126,
        _ => 14,
    };
    power_of_two && v.abs().log2().abs() <= f64::from(range)
}

fn select(ed: &mut Editor<'_>, id: NodeId, [c, a, b]: [ValueId; 3], want: &TensorType) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let keeps = |ed: &Editor<'_>, v: ValueId| (ed.ty(v) == want).then_some(v);
    match ed.splat(c) {
        Some(0.0) => return keeps(ed, b),
        Some(_) => return keeps(ed, a),
        None if a == b => return keeps(ed, a),
        None => {}
    }
    let inner = ed.def(c)?;
    let negated = matches!(inner.op, Op::Not(_)).then(|| inner.input(0)).flatten()?;
    ed.try_add(Where {}, &[negated, b, a], want, &node.loc)
}

/// `a op b` where b is constant, or both are the same. `a` alone only if it has the result's type (the caller checks).
fn logic(ed: &Editor<'_>, op: &Op, a: ValueId, b: ValueId) -> Option<ValueId> {
    if a == b {
        return (!matches!(op, Op::Xor(_))).then_some(a);
    }
    if ed.ty(a).elem.plain() != Some(ScalarType::Bool) {
        return None;
    }
    match (op, ed.splat(b)? != 0.0) {
        (Op::And(_), true) | (Op::Or(_) | Op::Xor(_), false) => Some(a),
        (Op::And(_), false) | (Op::Or(_), true) => Some(b),
        _ => None,
    }
}
