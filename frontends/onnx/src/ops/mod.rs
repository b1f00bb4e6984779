//! THE importer list: one row an operator, one file a family.

pub mod activation;
pub mod attention;
pub mod conv;
pub mod einsum;
pub mod elementwise;
pub mod gather;
pub mod generate;
pub mod linalg;
pub mod logic;
pub mod movement;
pub mod norm;
pub mod qlinear;
pub mod quant;
pub mod reduce;
pub mod resize;
pub mod shape;
pub mod slice;

use crate::call::Call;
use crate::cx::{Cx, R, V};

/// Imports one node: results in order, as many as the operator has (those not wanted may be left out at the end).
pub type Importer = fn(&mut Cx, &Call<'_>) -> R<Vec<V>>;

/// How one operator is imported.
pub struct Row {
    /// Name in the default domain.
    pub op: &'static str,
    /// Operator set versions for which the importer is right.
    pub opset: std::ops::RangeInclusive<i64>,
    /// Fewest and most operands.
    pub ins: (usize, usize),
    /// Most results.
    pub outs: usize,
    /// The importer.
    pub import: Importer,
}

/// Newest operator set that was checked against the importers.
pub const NEWEST: i64 = 28;
/// Oldest operator set.
pub const OLDEST: i64 = 6;
/// "Any number" of operands.
const MANY: usize = 1 << 20;

macro_rules! rows {
    ($($op:literal $lo:literal.. ($min:expr, $max:expr) $outs:literal $f:expr;)*) => {
        &[$(Row { op: $op, opset: $lo..=NEWEST, ins: ($min, $max), outs: $outs, import: $f }),*]
    };
}

/// All importers.
pub const TABLE: &[Row] = rows! {
    // elementwise arithmetic
    "Abs" 6.. (1, 1) 1 elementwise::abs;
    "Add" 6.. (2, 2) 1 elementwise::add;
    "Ceil" 6.. (1, 1) 1 elementwise::ceil;
    "Clip" 6.. (1, 3) 1 elementwise::clip;
    "Cos" 6.. (1, 1) 1 elementwise::cos;
    "Cosh" 9.. (1, 1) 1 elementwise::cosh;
    "Div" 6.. (2, 2) 1 elementwise::div;
    "Erf" 9.. (1, 1) 1 elementwise::erf;
    "Exp" 6.. (1, 1) 1 elementwise::exp;
    "Floor" 6.. (1, 1) 1 elementwise::floor;
    "Log" 6.. (1, 1) 1 elementwise::log;
    "Max" 8.. (1, MANY) 1 elementwise::max;
    "Mean" 8.. (1, MANY) 1 elementwise::mean;
    "Min" 8.. (1, MANY) 1 elementwise::min;
    "Mod" 10.. (2, 2) 1 elementwise::modulo;
    "Mul" 6.. (2, 2) 1 elementwise::mul;
    "Neg" 6.. (1, 1) 1 elementwise::neg;
    "Pow" 6.. (2, 2) 1 elementwise::pow;
    "Reciprocal" 6.. (1, 1) 1 elementwise::reciprocal;
    "Round" 11.. (1, 1) 1 elementwise::round;
    "Sign" 9.. (1, 1) 1 elementwise::sign;
    "Sin" 6.. (1, 1) 1 elementwise::sin;
    "Sinh" 9.. (1, 1) 1 elementwise::sinh;
    "Sqrt" 6.. (1, 1) 1 elementwise::sqrt;
    "Sub" 6.. (2, 2) 1 elementwise::sub;
    "Sum" 8.. (1, MANY) 1 elementwise::sum;
    "Tan" 6.. (1, 1) 1 elementwise::tan;
    // activations
    "Celu" 12.. (1, 1) 1 activation::celu;
    "Elu" 6.. (1, 1) 1 activation::elu;
    "Gelu" 20.. (1, 1) 1 activation::gelu;
    "HardSigmoid" 6.. (1, 1) 1 activation::hard_sigmoid;
    "HardSwish" 14.. (1, 1) 1 activation::hard_swish;
    "Hardmax" 6.. (1, 1) 1 activation::hardmax;
    "LeakyRelu" 6.. (1, 1) 1 activation::leaky_relu;
    "Mish" 18.. (1, 1) 1 activation::mish;
    "PRelu" 6.. (2, 2) 1 activation::prelu;
    "Relu" 6.. (1, 1) 1 activation::relu;
    "Selu" 6.. (1, 1) 1 activation::selu;
    "Shrink" 9.. (1, 1) 1 activation::shrink;
    "Sigmoid" 6.. (1, 1) 1 activation::sigmoid;
    "Softplus" 6.. (1, 1) 1 activation::softplus;
    "Softsign" 6.. (1, 1) 1 activation::softsign;
    "Swish" 24.. (1, 1) 1 activation::swish;
    "Tanh" 6.. (1, 1) 1 activation::tanh;
    "ThresholdedRelu" 10.. (1, 1) 1 activation::thresholded_relu;
    // comparisons and logic
    "And" 6.. (2, 2) 1 logic::and;
    "BitShift" 11.. (2, 2) 1 logic::bit_shift;
    "BitwiseAnd" 18.. (2, 2) 1 logic::bit_and;
    "BitwiseNot" 18.. (1, 1) 1 logic::bit_not;
    "BitwiseOr" 18.. (2, 2) 1 logic::bit_or;
    "BitwiseXor" 18.. (2, 2) 1 logic::bit_xor;
    "Equal" 6.. (2, 2) 1 logic::equal;
    "Greater" 6.. (2, 2) 1 logic::greater;
    "GreaterOrEqual" 12.. (2, 2) 1 logic::greater_or_equal;
    "IsInf" 10.. (1, 1) 1 logic::is_inf;
    "IsNaN" 9.. (1, 1) 1 logic::is_nan;
    "Less" 6.. (2, 2) 1 logic::less;
    "LessOrEqual" 12.. (2, 2) 1 logic::less_or_equal;
    "Not" 6.. (1, 1) 1 logic::not;
    "Or" 6.. (2, 2) 1 logic::or;
    "Where" 9.. (3, 3) 1 logic::select;
    "Xor" 6.. (2, 2) 1 logic::xor;
    // types, identities
    "Cast" 6.. (1, 1) 1 shape::cast;
    "CastLike" 15.. (2, 2) 1 shape::cast_like;
    "Dropout" 6.. (1, 3) 2 shape::dropout;
    "Identity" 6.. (1, 1) 1 shape::identity;
    // shapes
    "Expand" 8.. (2, 2) 1 shape::expand;
    "Flatten" 6.. (1, 1) 1 shape::flatten;
    "Reshape" 6.. (2, 2) 1 shape::reshape;
    "Shape" 6.. (1, 1) 1 shape::shape;
    "Size" 6.. (1, 1) 1 shape::size;
    "Squeeze" 6.. (1, 2) 1 shape::squeeze;
    "Unsqueeze" 6.. (1, 2) 1 shape::unsqueeze;
    // movement
    "Concat" 6.. (1, MANY) 1 movement::concat;
    "DepthToSpace" 6.. (1, 1) 1 movement::depth_to_space;
    "Pad" 6.. (1, 4) 1 movement::pad;
    "SpaceToDepth" 6.. (1, 1) 1 movement::space_to_depth;
    "Tile" 6.. (2, 2) 1 movement::tile;
    "Transpose" 6.. (1, 1) 1 movement::transpose;
    "Trilu" 14.. (1, 2) 1 movement::trilu;
    "Slice" 6.. (1, 5) 1 slice::slice;
    "Split" 6.. (1, 2) 4096 slice::split;
    "Gather" 6.. (2, 2) 1 gather::gather;
    "GatherElements" 11.. (2, 2) 1 gather::gather_elements;
    "Resize" 10.. (1, 4) 1 resize::resize;
    "Upsample" 7.. (1, 2) 1 resize::upsample;
    "GatherND" 11.. (2, 2) 1 gather::gather_nd;
    // constants
    "Constant" 6.. (0, 0) 1 generate::constant;
    "ConstantOfShape" 9.. (1, 1) 1 generate::constant_of_shape;
    "EyeLike" 9.. (1, 1) 1 generate::eye_like;
    "OneHot" 9.. (3, 3) 1 generate::one_hot;
    "Range" 11.. (3, 3) 1 generate::range;
    // reductions
    "ArgMax" 6.. (1, 1) 1 reduce::arg_max;
    "ArgMin" 6.. (1, 1) 1 reduce::arg_min;
    "CumSum" 11.. (2, 2) 1 reduce::cum_sum;
    "ReduceL1" 6.. (1, 2) 1 reduce::l1;
    "ReduceL2" 6.. (1, 2) 1 reduce::l2;
    "ReduceLogSum" 6.. (1, 2) 1 reduce::log_sum;
    "ReduceLogSumExp" 6.. (1, 2) 1 reduce::log_sum_exp;
    "ReduceMax" 6.. (1, 2) 1 reduce::max;
    "ReduceMean" 6.. (1, 2) 1 reduce::mean;
    "ReduceMin" 6.. (1, 2) 1 reduce::min;
    "ReduceProd" 6.. (1, 2) 1 reduce::prod;
    "ReduceSum" 6.. (1, 2) 1 reduce::sum;
    "ReduceSumSquare" 6.. (1, 2) 1 reduce::sum_square;
    // products
    "Gemm" 6.. (2, 3) 1 linalg::gemm;
    "MatMul" 6.. (2, 2) 1 linalg::matmul;
    "MatMulInteger" 10.. (2, 4) 1 linalg::matmul_integer;
    "Einsum" 12.. (1, MANY) 1 einsum::einsum;
    // convolution, pooling
    "ConvInteger" 10.. (2, 4) 1 qlinear::conv_integer;
    "AveragePool" 6.. (1, 1) 1 conv::average_pool;
    "Conv" 6.. (2, 3) 1 conv::conv;
    "GlobalAveragePool" 6.. (1, 1) 1 conv::global_average_pool;
    "GlobalMaxPool" 6.. (1, 1) 1 conv::global_max_pool;
    "MaxPool" 6.. (1, 1) 2 conv::max_pool;
    // normalization
    "BatchNormalization" 6.. (5, 5) 5 norm::batch;
    "GroupNormalization" 21.. (3, 3) 1 norm::group;
    "InstanceNormalization" 6.. (3, 3) 1 norm::instance;
    "LRN" 6.. (1, 1) 1 norm::lrn;
    "MeanVarianceNormalization" 9.. (1, 1) 1 norm::mean_variance;
    "LayerNormalization" 17.. (2, 3) 3 norm::layer;
    "LogSoftmax" 6.. (1, 1) 1 norm::log_softmax;
    "LpNormalization" 6.. (1, 1) 1 norm::lp;
    "RMSNormalization" 23.. (2, 2) 1 norm::rms;
    "Softmax" 6.. (1, 1) 1 norm::softmax;
    // transformer operators of newer sets
    "Attention" 23.. (3, 7) 4 attention::attention;
    "RotaryEmbedding" 23.. (3, 4) 1 attention::rotary;
    // quantization
    "QLinearConv" 10.. (8, 9) 1 qlinear::conv;
    "QLinearMatMul" 10.. (8, 8) 1 qlinear::matmul;
    "DequantizeLinear" 10.. (2, 3) 1 quant::dequantize;
    "DynamicQuantizeLinear" 11.. (1, 1) 3 quant::dynamic;
    "QuantizeLinear" 10.. (2, 3) 1 quant::quantize;
};

/// The row of an operator.
pub fn find(op: &str) -> Option<&'static Row> {
    TABLE.iter().find(|r| r.op == op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_ranges_sensible() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..i].iter().all(|r| r.op != row.op),
                "{} is listed twice",
                row.op
            );
            assert!(row.ins.0 <= row.ins.1 && *row.opset.start() >= OLDEST);
        }
    }
}
