//! Constant operands of elementwise ops in their smallest form: leading unit axes dropped, equal elements as one scalar.
//!
//! `mul(x[b, s, 8], c[1, 1, 8]) -> mul(x, c[8])`, `add(x, c[8] = all 0.5) -> add(x, 0.5)`. Sound because broadcasting puts
//! back what is dropped; done only where the result type is unchanged. Patterns then meet one form of each constant.

use super::OP_GRAPHS;
use crate::pass::{Effect, Pass, PassCx, Phases};
use crate::sweep::{Editor, is_elementwise, sweep};
use rsqc_ir::diag::Diag;
use rsqc_ir::{Const, NodeId, TensorType, ValueId};

/// See the file documentation.
pub struct TrimConstants;

impl Pass for TrimConstants {
    fn name(&self) -> &'static str {
        "trim-constants"
    }
    fn effect(&self) -> Effect {
        Effect::Exact
    }
    fn phases(&self) -> Phases {
        OP_GRAPHS
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        sweep(cx, &mut |ed, id, ins| Ok(trim(ed, id, ins).map(|v| vec![v])))?;
        Ok(())
    }
}

fn trim(ed: &mut Editor<'_>, id: NodeId, ins: &[Option<ValueId>]) -> Option<ValueId> {
    let node = ed.old().graph.node(id);
    let mut ins: Vec<ValueId> = ins.iter().copied().collect::<Option<_>>()?;
    if !ins
        .iter()
        .any(|v| ed.constant_of(*v).is_some_and(|c| smaller(c).is_some()))
    {
        return None;
    }
    let types: Vec<&TensorType> = ins.iter().map(|v| ed.ty(*v)).collect();
    if !is_elementwise(&node.op, &types) {
        return None;
    }
    let want = ed.old().graph.ty(node.output()).clone();
    let mut found = None;
    for i in 0..ins.len() {
        let Some(c) = ed.constant_of(ins[i]).and_then(smaller) else {
            continue;
        };
        let mut attempt = ins.clone();
        attempt[i] = ed.constant(c);
        if let Some(v) = ed.try_add(node.op.clone(), &attempt, &want, &node.loc) {
            ins = attempt;
            found = Some(v);
        }
    }
    found
}

/// The constant without what broadcasting restores; `None` if nothing can go.
fn smaller(c: &Const) -> Option<Const> {
    if c.ty.rank() == 0 {
        return None;
    }
    let size = c.ty.storage().size();
    if crate::sweep::splat_of(c).is_some() {
        let ty = TensorType {
            elem: c.ty.elem.clone(),
            shape: Vec::new(),
        };
        return Const::from_bytes(&c.name, ty, c.bytes()[..size].to_vec());
    }
    let units = c.ty.shape.iter().take_while(|d| d.is(1)).count();
    if units == 0 {
        return None;
    }
    let ty = TensorType {
        elem: c.ty.elem.clone(),
        shape: c.ty.shape[units..].to_vec(),
    };
    Const::from_bytes(&c.name, ty, c.bytes().to_vec())
}
