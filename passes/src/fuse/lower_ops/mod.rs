//! One region for each op: the first step of fusion. A file a family; [`lower`] is the table.

mod attention;
mod conv;
mod conv_last;
mod elementwise;
mod gather;
mod matmul;
mod movement;
mod norm;
mod quantization;
mod reduce;
mod rope;
mod shapes;

use super::builder::RegionBuilder;
use super::edit::Loop;
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::ops::region::RegionOp;
use rsqc_ir::{Loc, Module, NodeId, Op, Rebuild, TensorType, ValueId};

/// What lowering of one node sees: the old module, the graph under construction, the node.
pub struct LowerCx<'a> {
    /// The module before.
    pub m: &'a Module,
    /// The graph after.
    pub r: &'a mut Rebuild,
    /// The node.
    pub id: NodeId,
    loc: Loc,
}

impl LowerCx<'_> {
    /// New value and type of operand `i`.
    fn input(&mut self, i: usize) -> Result<(ValueId, TensorType), Diag> {
        self.optional(i)
            .ok_or_else(|| self.bug(format!("operand {i} is missing")))
    }

    /// New value and type of operand `i`, if it is given.
    fn optional(&mut self, i: usize) -> Option<(ValueId, TensorType)> {
        let old = self.m.graph.node(self.id).input(i)?;
        let v = self.r.get(self.m, old);
        Some((v, self.m.graph.ty(old).clone()))
    }

    /// The old value of operand `i`.
    fn old_input(&self, i: usize) -> Option<ValueId> {
        self.m.graph.node(self.id).input(i)
    }

    /// Declared type of result `i`.
    fn result(&self, i: usize) -> TensorType {
        self.m.graph.ty(self.m.graph.node(self.id).outputs[i]).clone()
    }

    /// Adds the region to the graph; gives its results.
    fn emit(&mut self, b: RegionBuilder) -> Result<Vec<ValueId>, Diag> {
        let (region, inputs, types) = b.finish().map_err(|e| self.bug(e))?;
        let mut l = Loop {
            region,
            inputs,
            outputs: vec![ValueId(u32::MAX); types.len()],
            types,
            loc: self.loc.clone(),
        };
        l.prune(&|_| true);
        Ok(add_region(self.r, l))
    }

    fn bug(&self, message: impl Into<String>) -> Diag {
        Diag::internal(self.loc.to_string(), message)
    }

    fn unsupported(&self, message: impl Into<String>) -> Diag {
        Diag::new(Blame::Unsupported, self.loc.to_string(), message)
    }
}

/// Adds a region node to the graph under construction.
pub fn add_region(r: &mut Rebuild, l: Loop) -> Vec<ValueId> {
    let op = RegionOp {
        region: Box::new(l.region),
        types: l.types.clone(),
    };
    let inputs = l.inputs.into_iter().map(Some).collect();
    let id = r.graph.add_node(op.into(), inputs, l.types, l.loc);
    r.graph.node(id).outputs.clone()
}

/// A region op that copies a dense tensor of this type.
pub fn copy_region(ty: &TensorType) -> Result<(Op, Vec<TensorType>), Diag> {
    let mut b = RegionBuilder::new(&[ty.numel()], 1);
    let access = b.dense(0..1);
    let x = b.load(ValueId(0), access, ty.storage());
    b.store_all(x, ty.clone());
    let (region, _, types) = b.finish().map_err(|e| Diag::internal("", e))?;
    let op = RegionOp {
        region: Box::new(region),
        types: types.clone(),
    };
    Ok((op.into(), types))
}

/// Emits the regions of node `id`; gives the new values of its results.
pub fn lower(m: &Module, r: &mut Rebuild, id: NodeId) -> Result<Vec<ValueId>, Diag> {
    let node = m.graph.node(id);
    let mut cx = LowerCx {
        m,
        r,
        id,
        loc: node.loc.clone(),
    };
    let cx = &mut cx;
    match &node.op {
        Op::Reshape(_) => movement::reshape(cx),
        Op::Transpose(o) => movement::transpose(cx, o),
        Op::Expand(_) => movement::expand(cx),
        Op::Slice(o) => movement::slice(cx, o),
        Op::Concat(o) => movement::concat(cx, o.axis),
        Op::Pad(o) => movement::pad(cx, o),
        Op::DimValue(o) => shapes::dim_value(cx, o),
        Op::Iota(o) => shapes::iota(cx, o),
        Op::Gather(o) => gather::gather(cx, o.axis),
        Op::GatherElements(o) => gather::gather_elements(cx, o.axis),
        Op::GatherNd(o) => gather::gather_nd(cx, o.batch_dims),
        Op::Reduce(o) => reduce::reduce(cx, o),
        Op::ArgReduce(o) => reduce::arg_reduce(cx, o),
        Op::CumSum(o) => reduce::cum_sum(cx, o),
        Op::MatMul(_) | Op::QMatMul(_) | Op::WeightMatMul(_) => matmul::matmul(cx),
        Op::Conv(o) => conv::conv(cx, o),
        Op::Pool(o) => conv::pool(cx, o),
        Op::ConvLast(o) => conv_last::conv(cx, o),
        Op::PoolLast(o) => conv_last::pool(cx, o),
        Op::QConv(_) => Err(cx.bug("an integer convolution has channels first when regions are formed")),
        Op::LayerNorm(o) => norm::layer_norm(cx, o.eps),
        Op::RmsNorm(o) => norm::rms_norm(cx, o.eps),
        Op::Softmax(o) => norm::softmax(cx, o.axis, o.log),
        Op::Rope(o) => rope::rope(cx, o.interleaved),
        Op::Attention(o) => attention::attention(cx, o, false),
        Op::QAttention(o) => attention::attention(cx, &o.in_float(), true),
        Op::DynamicParams(o) => quantization::dynamic_params(cx, &o.qtype),
        Op::Quantize(o) => quantization::quantize(cx, o),
        Op::Dequantize(o) => quantization::dequantize(cx, &o.qtype),
        Op::FakeQuant(_) => Err(cx.bug("a fake quantization is left when regions are formed")),
        Op::Region(_) => {
            cx.r.copy(m, id);
            Ok(node.outputs.iter().map(|o| cx.r.get(m, *o)).collect())
        }
        op => elementwise::elementwise(cx, op),
    }
}
