//! An op that only tests know (feature `test-ops`): it shows that a new elementwise op fuses everywhere without any
//! other change.

use crate::{elementwise_op, op_struct};

op_struct! {
    /// `x * tanh(log(1 + e^x)) + 0.25`.
    TestMish {}
}
elementwise_op!(TestMish, "test.mish", 1; |_s, b, x| {
    let (one, quarter) = (b.lit(x[0], 1.0), b.lit(x[0], 0.25));
    let e = b.exp(x[0]);
    let p = b.add(one, e);
    let l = b.log(p);
    let t = b.tanh(l);
    let y = b.mul(x[0], t);
    b.add(y, quarter)
});
