//! How large the elements of an integer value may be, by the tables it indexes.

use rsqc_ir::{Module, Op, ValueId};

/// The smallest constant extent that `v` indexes, directly or through ops that keep its elements; `None` if it indexes
/// nothing of known extent. Valid elements lie in `0..bound`.
pub fn index_bound(m: &Module, v: ValueId) -> Option<i64> {
    let mut stack = vec![v];
    let mut bound: Option<i64> = None;
    while let Some(v) = stack.pop() {
        for (n, slot) in m.graph.users(v) {
            let node = m.graph.node(n);
            let axis = match &node.op {
                Op::Gather(g) if slot == 1 => g.axis,
                Op::GatherElements(g) if slot == 1 => g.axis,
                Op::Cast(_)
                | Op::Reshape(_)
                | Op::Expand(_)
                | Op::Transpose(_)
                | Op::Slice(_)
                | Op::Concat(_) => {
                    stack.push(node.output());
                    continue;
                }
                _ => continue,
            };
            let extent = node
                .input(0)
                .and_then(|x| m.graph.ty(x).shape.get(axis)?.as_const());
            if let Some(e) = extent {
                bound = Some(bound.map_or(e, |b| b.min(e)));
            }
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Net, sym};
    use rsqc_ir::ops::gather::Gather;
    use rsqc_ir::ops::shape::Reshape;
    use rsqc_ir::{Dim, ScalarType};

    #[test]
    fn the_smallest_table_counts() {
        let mut n = Net::new(1);
        let ids = n.input(ScalarType::I64, sym(&["b", "s"]));
        let (words, types) = (n.weight(&[50, 4]), n.weight(&[2, 4]));
        let a = n.op(Gather { axis: 0 }, &[words, ids]);
        let flat = n.op(
            Reshape {
                shape: vec![Dim::sym("b") * Dim::sym("s")],
            },
            &[ids],
        );
        let b = n.op(Gather { axis: 0 }, &[types, flat]);
        let mask = n.input(ScalarType::I64, sym(&["b"]));
        let m = n.finish(&[a, b]);
        assert_eq!(index_bound(&m, ids), Some(2));
        assert_eq!(index_bound(&m, mask), None);
    }
}
