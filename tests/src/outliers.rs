//! Outliers planted into a canonical decoder, as large models have them, without changing its function.

use rsqc_ir::eval::Tensor;
use rsqc_ir::{Module, NodeId, Op, ValueId};
use std::ops::Range;

/// Channel of the planted outlier and its factor, a power of two: the function stays bit for bit.
const PLANTED: (usize, f32) = (17, 64.0);

/// Gains of all RMS norms times the factor at the channel, the rows that multiply it divided by it.
///
/// # Panics
/// If a norm is read by anything but products with constants, or there is none.
pub fn plant(m: &mut Module) {
    let (channel, factor) = PLANTED;
    let mut edits: Vec<(NodeId, usize, Tensor)> = Vec::new();
    let scaled = |v: ValueId, range: &dyn Fn(&[usize]) -> Range<usize>, f: f32| {
        let t = Tensor::from_const(m.const_of(v).expect("a constant")).expect("a tensor");
        let mut data = t.as_slice::<f32>().expect("f32").to_vec();
        data[range(&t.shape)].iter_mut().for_each(|v| *v *= f);
        Tensor::new(t.shape, data)
    };
    for id in m.graph.node_ids() {
        let n = m.graph.node(id);
        if !matches!(n.op, Op::RmsNorm(_)) {
            continue;
        }
        let gain = n.input(1).expect("a gain");
        edits.push((id, 1, scaled(gain, &|_| channel..channel + 1, factor)));
        for (user, _) in m.graph.users(n.output()) {
            assert!(matches!(m.graph.node(user).op, Op::MatMul(_)), "a product");
            let w = m.graph.node(user).input(1).expect("a weight");
            let row = |s: &[usize]| channel * s[1]..(channel + 1) * s[1];
            edits.push((user, 1, scaled(w, &row, 1.0 / factor)));
        }
    }
    assert!(!edits.is_empty());
    for (id, slot, t) in edits {
        let c = t.to_const("planted");
        let ty = c.ty.clone();
        let c = m.consts.add(c);
        let mut inputs = m.graph.node(id).inputs.clone();
        inputs[slot] = Some(m.graph.add_const(c, ty));
        m.graph.set_inputs(id, inputs);
    }
}
