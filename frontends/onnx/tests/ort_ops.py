"""Single-operator models with random odd shapes, their inputs, and what ONNX Runtime computes.

usage: python ort_ops.py OUT_DIR        one folder a case: model.onnx, input_I.pb, output_I.pb; seeded
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(11)
F, I, B, U8, I8, I32 = np.float32, np.int64, np.bool_, np.uint8, np.int8, np.int32


def f(*shape):
    return RNG.standard_normal(shape).astype(F)


def cases():
    """(operator, opset, inputs, constant input positions, attributes, outputs)"""
    for op in ["Abs", "Neg", "Exp", "Erf", "Tanh", "Sigmoid", "Relu", "Sin", "Cos", "Floor", "Ceil", "Round",
               "Softplus", "Softsign", "HardSwish", "Reciprocal", "Sign", "Elu", "Selu", "Celu", "LeakyRelu",
               "HardSigmoid", "ThresholdedRelu", "Sinh", "Cosh", "Tan", "Shrink", "Identity"]:
        yield op, 17, [f(3, 5)], [], {}, 1
    for op in ["Sqrt", "Log"]:
        yield op, 17, [np.abs(f(7)) + F(0.1)], [], {}, 1
    for kind in ["none", "tanh"]:
        yield "Gelu", 20, [f(2, 9)], [], {"approximate": kind}, 1
    yield "Mish", 18, [f(2, 9)], [], {}, 1
    for op in ["Add", "Sub", "Mul", "Div", "Min", "Max"]:
        for a, b in [((3, 5), (5,)), ((2, 1, 4), (3, 1)), ((), (3,)), ((0, 2), (2,))]:
            yield op, 17, [f(*a), f(*b)], [], {}, 1
    yield "Pow", 17, [np.abs(f(3, 4)), f(4)], [], {}, 1
    yield "Pow", 17, [f(3, 4), np.array(3, F)], [1], {}, 1
    for op in ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]:
        yield op, 17, [RNG.integers(0, 3, (4, 3)), RNG.integers(0, 3, (3,))], [], {}, 1
    for op in ["And", "Or", "Xor"]:
        yield op, 17, [f(4, 3) > 0, f(3) > 0], [], {}, 1
    yield "Not", 17, [f(4) > 0], [], {}, 1
    yield "Where", 17, [f(4, 1) > 0, f(3), f(4, 3)], [], {}, 1
    yield "Clip", 17, [f(4, 3), np.array(-0.5, F), np.array(0.7, F)], [1, 2], {}, 1
    yield "IsNaN", 17, [np.array([1, np.nan, np.inf], F)], [], {}, 1
    yield "IsInf", 17, [np.array([1, np.nan, np.inf, -np.inf], F)], [], {"detect_negative": 0}, 1
    for to in [TensorProto.INT64, TensorProto.INT32, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL]:
        yield "Cast", 17, [f(3, 4) * 5], [], {"to": to}, 1
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 2)), ((3, 4), (4,)),
                 ((2, 3, 1), (2, 1, 4))]:
        yield "MatMul", 17, [f(*a), f(*b)], [], {}, 1
    yield "Gemm", 17, [f(3, 4), f(5, 4), f(5)], [1, 2], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 1
    yield "Gemm", 17, [f(4, 3), f(4, 5)], [], {"transA": 1}, 1
    for axis in [-1, 1, 0]:
        yield "Softmax", 17, [f(3, 4, 5)], [], {"axis": axis}, 1
        yield "Softmax", 11, [f(3, 4, 5)], [], {"axis": axis}, 1
    yield "LogSoftmax", 17, [f(3, 4)], [], {"axis": 0}, 1
    for op in ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
               "ReduceLogSumExp"]:
        yield op, 17, [f(3, 4, 5)], [], {"axes": [0, -1], "keepdims": 0}, 1
        yield op, 18, [f(3, 4, 5), np.array([1])], [1], {"keepdims": 1}, 1
    yield "ReduceSum", 17, [f(3, 4), np.array([1])], [1], {"keepdims": 0}, 1
    yield "ReduceSum", 17, [f(3, 4)], [], {}, 1
    yield "LayerNormalization", 17, [f(2, 3, 7), f(7), f(7)], [1, 2], {"epsilon": 1e-3}, 1
    yield "LayerNormalization", 17, [f(2, 3, 4), f(3, 4)], [1], {"axis": 1}, 1
    yield "BatchNormalization", 15, [f(2, 3, 4, 5), f(3), f(3), f(3), np.abs(f(3))], [1, 2, 3, 4], {}, 1
    yield "InstanceNormalization", 17, [f(2, 3, 4, 5), f(3), f(3)], [1, 2], {}, 1
    yield "LpNormalization", 17, [f(2, 3)], [], {"axis": 1, "p": 1}, 1
    yield "LRN", 17, [f(2, 5, 3, 3)], [], {"size": 3}, 1
    yield "Reshape", 17, [f(2, 3, 4), np.array([0, -1])], [1], {}, 1
    yield "Transpose", 17, [f(2, 3, 4)], [], {"perm": [1, 2, 0]}, 1
    yield "Transpose", 17, [f(2, 3, 4)], [], {}, 1
    yield "Flatten", 17, [f(2, 3, 4)], [], {"axis": -1}, 1
    yield "Squeeze", 17, [f(2, 1, 4, 1), np.array([-1])], [1], {}, 1
    yield "Unsqueeze", 17, [f(2, 4), np.array([0, -1])], [1], {}, 1
    yield "Expand", 17, [f(2, 1, 4), np.array([5, 1, 3, 1])], [1], {}, 1
    yield "Tile", 17, [f(2, 1, 3), np.array([2, 3, 2])], [1], {}, 1
    yield "Concat", 17, [f(2, 3), f(2, 0), f(2, 4)], [], {"axis": -1}, 1
    yield "Split", 17, [f(2, 7), np.array([3, 4])], [1], {"axis": 1}, 2
    yield "Split", 18, [f(2, 7)], [], {"axis": 1, "num_outputs": 3}, 3
    for s, e, a, t in [([1], [-1], [1], [1]), ([-1], [-9999], [2], [-2]), ([0, 9], [9, 0], [0, 2], [2, -1]),
                       ([3], [1], [0], [1])]:
        yield "Slice", 17, [f(4, 5, 6)] + [np.array(v) for v in (s, e, a, t)], [1, 2, 3, 4], {}, 1
    yield "Gather", 17, [f(5, 3), RNG.integers(-5, 5, (2, 2))], [], {"axis": 0}, 1
    yield "Gather", 17, [f(5, 3), np.array(-1)], [1], {"axis": 1}, 1
    yield "Gather", 17, [f(5, 3), np.array([1, 2])], [1], {"axis": 1}, 1
    yield "GatherElements", 17, [f(5, 3), RNG.integers(0, 3, (5, 2))], [], {"axis": 1}, 1
    yield "GatherND", 17, [f(5, 3, 2), np.array([[0, 1], [4, 2]])], [], {}, 1
    yield "GatherND", 17, [f(5, 3, 2), RNG.integers(0, 3, (5, 1))], [], {"batch_dims": 1}, 1
    for mode in ["constant", "reflect", "edge"]:
        yield "Pad", 17, [f(4, 5), np.array([1, 2, 0, 3])], [1], {"mode": mode}, 1
    yield "Pad", 17, [f(4, 5), np.array([-1, 2, 0, -1]), np.array(7, F)], [1, 2], {}, 1
    yield "Trilu", 17, [f(2, 4, 5), np.array(-1)], [1], {"upper": 0}, 1
    yield "Trilu", 17, [f(4, 5)], [], {"upper": 1}, 1
    yield "CumSum", 17, [f(3, 4), np.array(1)], [1], {"exclusive": 1, "reverse": 1}, 1
    yield "ArgMax", 17, [f(3, 4)], [], {"axis": 1, "keepdims": 0}, 1
    yield "ArgMin", 17, [f(3, 4)], [], {"axis": 0}, 1
    yield "OneHot", 17, [RNG.integers(-4, 4, (3,)), np.array(4), np.array([-1, 2], F)], [1, 2], {}, 1
    yield "EyeLike", 17, [f(3, 5)], [], {"k": 1}, 1
    yield "DepthToSpace", 17, [f(2, 8, 3, 5)], [], {"blocksize": 2, "mode": "CRD"}, 1
    yield "SpaceToDepth", 17, [f(2, 3, 4, 6)], [], {"blocksize": 2}, 1
    yield "Conv", 17, [f(2, 4, 7, 9), f(6, 2, 3, 2), f(6)], [1, 2], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}, 1
    yield "Conv", 17, [f(1, 3, 9), f(2, 3, 3)], [1], {"auto_pad": "SAME_UPPER"}, 1
    yield "MaxPool", 17, [f(2, 3, 8, 7)], [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, 1
    yield "AveragePool", 17, [f(2, 3, 8, 7)], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}, 1
    yield "AveragePool", 17, [f(1, 1, 6, 6)], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 1
    yield "GlobalAveragePool", 17, [f(2, 3, 4, 5)], [], {}, 1
    yield "GlobalMaxPool", 17, [f(2, 3, 4, 5)], [], {}, 1
    for mode in ["nearest", "linear", "cubic"]:
        yield "Resize", 17, [f(1, 2, 5, 7), np.array([], F), np.array([1, 1, 1.7, 0.6], F)], [1, 2], {"mode": mode}, 1
    yield "Einsum", 17, [f(2, 3, 4), f(2, 4, 5)], [], {"equation": "bij,bjk->bki"}, 1
    yield "Einsum", 17, [f(3, 4), f(4)], [], {"equation": "...j,j->..."}, 1
    s, z = np.array(0.05, F), np.array(3, I8)
    yield "QuantizeLinear", 17, [f(4, 5) * 4, s, z], [1, 2], {}, 1
    yield "QuantizeLinear", 17, [f(4, 5), np.abs(f(5)) + F(0.01), np.zeros(5, U8) + U8(9)], [1, 2], {"axis": 1}, 1
    yield "DequantizeLinear", 17, [RNG.integers(-128, 128, (4, 5)).astype(I8), s, z], [1, 2], {}, 1
    yield "DequantizeLinear", 17, [RNG.integers(0, 256, (4, 5)).astype(U8), f(4), np.zeros(4, U8)], [0, 1, 2], {"axis": 0}, 1
    yield "DynamicQuantizeLinear", 17, [f(6, 5)], [], {}, 3
    yield "MatMulInteger", 17, [RNG.integers(0, 256, (3, 7)).astype(U8), RNG.integers(-128, 128, (7, 2)).astype(I8), np.array(12, U8)], [1, 2], {}, 1
    yield "QLinearMatMul", 17, [RNG.integers(0, 256, (3, 7)).astype(U8), s, np.array(100, U8),
                                RNG.integers(0, 256, (7, 2)).astype(U8), s, np.array(120, U8), np.array(0.3, F), np.array(90, U8)], [1, 2, 3, 4, 5, 6, 7], {}, 1
    yield "ConvInteger", 17, [RNG.integers(0, 256, (1, 2, 5, 5)).astype(U8), RNG.integers(0, 256, (3, 2, 3, 3)).astype(U8), np.array(7, U8)], [1, 2], {}, 1


def main(out):
    for n, (op, opset, values, fixed, attrs, outs) in enumerate(cases()):
        names = [f"i{k}" for k in range(len(values))]
        results = [f"o{k}" for k in range(outs)]
        kind = lambda v: helper.np_dtype_to_tensor_dtype(v.dtype)
        ports = [helper.make_tensor_value_info(a, kind(v), v.shape) for k, (a, v) in enumerate(zip(names, values)) if k not in fixed]
        inits = [numpy_helper.from_array(v, a) for k, (a, v) in enumerate(zip(names, values)) if k in fixed]
        node = helper.make_node(op, names, results, name="it", **attrs)
        untyped = [helper.ValueInfoProto(name=r) for r in results] if hasattr(helper, "ValueInfoProto") else [helper.make_empty_tensor_value_info(r) for r in results]
        graph = helper.make_graph([node], op, ports, untyped, inits)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {a: v for k, (a, v) in enumerate(zip(names, values)) if k not in fixed}
        got = session.run(None, feeds)
        folder = Path(out) / f"{n:03}_{op}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        for k, v in enumerate(feeds.values()):
            (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(v).SerializeToString())
        for k, v in enumerate(got):
            (folder / f"output_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(v)).SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1])
