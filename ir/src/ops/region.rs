//! The op that holds a fused loop nest.

use super::{InferCx, OpDef};
use crate::eval::{EvalCx, Tensor};
use crate::region::Region;
use crate::types::TensorType;
use crate::{op_attrs, op_struct};

op_struct! {
    /// A region; see [`crate::region`]. `types` are the result types, which the accesses alone do not determine.
    RegionOp {
        /// The loop nest.
        region: Box<Region>,
        /// Result types.
        types: Vec<TensorType>,
    }
}

impl OpDef for RegionOp {
    op_attrs!("region", region, types);

    fn infer(&self, _: &InferCx<'_>, ins: &[Option<&TensorType>]) -> Result<Vec<TensorType>, String> {
        let (want, found) = (self.region.operands.len(), ins.len());
        if want != found {
            return Err(format!("expected {want} operands, found {found}"));
        }
        if self.region.stores.len() != self.types.len() {
            return Err(format!(
                "{} stores for {} results",
                self.region.stores.len(),
                self.types.len()
            ));
        }
        Ok(self.types.clone())
    }

    fn eval(&self, cx: &EvalCx<'_>, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        crate::eval::region::region(self, cx, ins)
    }
}

impl super::AttrValue for Vec<TensorType> {
    fn to_attr(&self) -> super::Attr {
        super::Attr::Types(self.clone())
    }
    fn from_attr(a: super::Attr) -> Option<Self> {
        if let super::Attr::Types(t) = a {
            Some(t)
        } else {
            None
        }
    }
}
