"""Random inputs for a model and the outputs that ONNX Runtime computes, as TensorProto files.

usage: python ort.py MODEL OUT_DIR NAME=VALUE...      values of the symbolic dims; seeded, so every run gives the same files
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


def extent(text, dims):
    """The value of a dim: a number, a name, or a sum of names."""
    if isinstance(text, int):
        return text
    return sum(int(t) if t.isdigit() else dims[t] for t in text.replace(" ", "").split("+"))


def make(rng, name, dtype, shape):
    """Values that a model accepts as this input."""
    if "mask" in name:
        mask = np.ones(shape, dtype)
        if mask.ndim == 2 and mask.shape[0] > 1 and mask.shape[1] > 2:
            mask[-1, -2:] = 0
        return mask
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    if "type" in name:
        return rng.integers(0, 2, shape).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.integers(0, 100, shape).astype(dtype)


def main(model, out, *pairs):
    dims = {k: int(v) for k, v in (p.split("=") for p in pairs)}
    rng = np.random.default_rng(7)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {}
    out = Path(out)
    for i, port in enumerate(session.get_inputs()):
        value = make(rng, port.name, TYPES[port.type], [extent(d, dims) for d in port.shape])
        feeds[port.name] = value
        (out / f"input_{i}.pb").write_bytes(numpy_helper.from_array(value, port.name).SerializeToString())
    for i, value in enumerate(session.run(None, feeds)):
        (out / f"output_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(value)).SerializeToString())


if __name__ == "__main__":
    assert onnx.__version__
    main(*sys.argv[1:])
