//! Scales and offsets per output channel move into the weights in front of them.
//!
//! - `conv(x, W, b) * c -> conv(x, W * c, b * c)`, `conv(x, W, b) + d -> conv(x, W, b + d)`, c and d per channel: this is
//!   where an unfolded batch normalization goes;
//! - `matmul(x, W) * c -> matmul(x, W * c)`, `(matmul(x, W) + b) * c -> matmul(x, W * c) + b * c`, c per column or scalar.
//!
//! Sound in real arithmetic by linearity of the product in W; new weights are computed in f64 and rounded once. Not done
//! if the product has other users, or if a folded weight would overflow.

use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::Add;
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::{Loc, NodeId, Op, Phase, ScalarType, ValueId};

/// See the file documentation.
pub struct FoldAffine;

impl Pass for FoldAffine {
    fn name(&self) -> &'static str {
        "fold-affine"
    }
    fn effect(&self) -> Effect {
        Effect::Rounding(1e-5)
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(fold(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn fold(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let (a, b) = match (&node.op, ins) {
        (Op::Mul(_) | Op::Add(_), [Some(a), Some(b)]) if ed.constant_of(*a).is_some() => (*b, *a),
        (Op::Mul(_) | Op::Add(_) | Op::Div(_), [Some(a), Some(b)]) => (*a, *b),
        _ => return None,
    };
    if ed.ty(a) != ed.old().graph.ty(node.output()) || !ed.single_use(a) {
        return None;
    }
    let mut factors = numbers(ed, b)?;
    if matches!(node.op, Op::Div(_)) {
        factors.1.iter_mut().for_each(|v| *v = 1.0 / *v);
    }
    let scale = !matches!(node.op, Op::Add(_));
    let producer = ed.def(a)?;
    let loc = producer.loc.clone();
    match producer.op.clone() {
        Op::Conv(c) => {
            let ins = producer.inputs.clone();
            let c: Op = c.into();
            conv(ed, c, &ins, &factors, scale, &loc)
        }
        Op::MatMul(_) if scale => {
            let (x, w) = (producer.input(0)?, producer.input(1)?);
            let w = scaled_columns(ed, w, &factors)?;
            ed.add(MatMul {}, &[x, w], &loc).ok()
        }
        Op::Add(_) if scale => biased(ed, a, &factors),
        _ => None,
    }
}

/// `(matmul(x, W) + b) * c`.
fn biased(ed: &mut Editor<'_>, sum: ValueId, c: &Numbers) -> Option<ValueId> {
    let n = ed.def(sum)?;
    let (m, b, add_loc) = (n.input(0)?, n.input(1)?, n.loc.clone());
    let product = ed
        .def(m)
        .filter(|p| matches!(p.op, Op::MatMul(_)) && ed.single_use(m))?;
    let (x, w, loc) = (product.input(0)?, product.input(1)?, product.loc.clone());
    if ed.ty(m) != ed.ty(sum) || ed.ty(b).rank() > 1 {
        return None;
    }
    let columns = ed
        .ty(w)
        .shape
        .last()?
        .as_const()
        .and_then(|n| usize::try_from(n).ok())?;
    let (bias, scale) = (
        per_channel(&numbers(ed, b)?, columns, 0)?,
        per_channel(c, columns, 0)?,
    );
    let bias: Vec<f64> = bias.iter().zip(&scale).map(|(b, s)| b * s).collect();
    let w = scaled_columns(ed, w, c)?;
    let bias = f32_const(ed, "bias", vec![columns], &bias)?;
    let y = ed.add(MatMul {}, &[x, w], &loc).ok()?;
    ed.add(Add {}, &[y, bias], &add_loc).ok()
}

/// Shape and elements of an f32 constant.
type Numbers = (Vec<usize>, Vec<f64>);

fn numbers(ed: &Editor<'_>, v: ValueId) -> Option<Numbers> {
    let t = ed.tensor(v).filter(|t| t.elem() == ScalarType::F32)?;
    let data = t.to_f64();
    Some((t.shape, data))
}

/// The numbers as one for each of `n` channels, if they vary along the axis that has `behind` axes behind it only.
fn per_channel((shape, data): &Numbers, n: usize, behind: usize) -> Option<Vec<f64>> {
    if data.len() == 1 {
        return Some(vec![data[0]; n]);
    }
    let at = shape.len().checked_sub(behind + 1)?;
    let fits = shape[at] == n && shape.iter().enumerate().all(|(i, d)| i == at || *d == 1);
    fits.then(|| data.clone())
}

fn f32_const(ed: &mut Editor<'_>, name: &str, shape: Vec<usize>, values: &[f64]) -> Option<ValueId> {
    let v: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    if !v.iter().all(|x| x.is_finite()) {
        return None;
    }
    Some(ed.constant(Tensor::new(shape, v).to_const(name)))
}

fn name_of(ed: &Editor<'_>, v: ValueId) -> String {
    ed.constant_of(v).map_or_else(String::new, |c| c.name.to_string())
}

/// `W[k, n]` with column j times `c[j]`.
fn scaled_columns(ed: &mut Editor<'_>, w: ValueId, c: &Numbers) -> Option<ValueId> {
    let (shape, mut data) = numbers(ed, w)?;
    let [_, n] = shape.as_slice() else { return None };
    let c = per_channel(c, *n, 0)?;
    data.chunks_exact_mut(c.len().max(1))
        .for_each(|row| row.iter_mut().zip(&c).for_each(|(v, s)| *v *= s));
    let name = name_of(ed, w);
    f32_const(ed, &name, shape, &data)
}

fn conv(
    ed: &mut Editor<'_>,
    op: Op,
    ins: &[Option<ValueId>],
    c: &Numbers,
    scale: bool,
    loc: &Loc,
) -> Option<ValueId> {
    let (x, w) = (ins[0]?, ins[1]?);
    let (shape, mut weights) = numbers(ed, w)?;
    let (n, spatial) = (*shape.first()?, shape.len() - 2);
    let c = per_channel(c, n, spatial)?;
    let old_bias = ins.get(2).copied().flatten();
    let mut bias = match old_bias {
        Some(b) => numbers(ed, b)?.1,
        None => vec![0.0; n],
    };
    let mut new_w = w;
    if scale {
        let per = weights.len() / n.max(1);
        weights
            .chunks_exact_mut(per.max(1))
            .zip(&c)
            .for_each(|(row, s)| row.iter_mut().for_each(|v| *v *= s));
        bias.iter_mut().zip(&c).for_each(|(b, s)| *b *= s);
        let name = name_of(ed, w);
        new_w = f32_const(ed, &name, shape, &weights)?;
    } else {
        bias.iter_mut().zip(&c).for_each(|(b, d)| *b += d);
    }
    let mut operands = vec![x, new_w];
    if old_bias.is_some() || !scale {
        let name = old_bias.map_or_else(|| "bias".to_string(), |b| name_of(ed, b));
        operands.push(f32_const(ed, &name, vec![n], &bias)?);
    }
    ed.add(op, &operands, loc).ok()
}
