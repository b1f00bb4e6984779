#!/usr/bin/env python3
"""Runs a compiled model with ctypes and numpy, nothing else.

    run_model.py model.so [symbol=value ...] [input=file.npy ...]

Inputs that are not given are ramps: 0.0, 0.1, ... 0.9, 0.0, ... for floats, 0, 1, 0, 1, ... for integers. Prints the
model's inputs and outputs and a checksum of each result.

As a module:  model = Model("model.so");  outputs = model.run([array, ...])
"""
import ctypes as c
import sys

import numpy as np

MAX_RANK = 32
EXPRESSION = -(2**63)
TOO_SMALL = 3
# Position = element type of the interface; bf16 has no numpy type and travels as its bits.
DTYPES = ["f4", "f2", "u2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


class Io(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("dtype", c.c_uint32), ("rank", c.c_uint32), ("flags", c.c_uint32),
                ("name", c.c_char_p), ("dims", c.POINTER(c.c_int64)), ("dim_texts", c.POINTER(c.c_char_p))]


class Symbol(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_uint32), ("name", c.c_char_p), ("lo", c.c_int64),
                ("hi", c.c_int64)]


class Tensor(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("dtype", c.c_uint32), ("rank", c.c_uint32), ("reserved", c.c_uint32),
                ("data", c.c_void_p), ("capacity", c.c_uint64), ("dims", c.POINTER(c.c_int64)),
                ("strides", c.POINTER(c.c_int64))]


class SessionOptions(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("threads", c.c_uint32), ("spin_us", c.c_int32), ("profile", c.c_uint32),
                ("parallel_for", c.c_void_p), ("parallel_context", c.c_void_p)]


P, PP, U32, I32, SIZE = c.c_void_p, c.POINTER(c.c_void_p), c.c_uint32, c.c_int32, c.c_size_t


class Api(c.Structure):
    _fields_ = [
        ("struct_size", U32),
        ("version", U32),
        ("open", c.CFUNCTYPE(I32, P, PP, c.c_char_p, SIZE)),
        ("close", c.CFUNCTYPE(None, P)),
        ("input_count", c.CFUNCTYPE(U32, P)),
        ("output_count", c.CFUNCTYPE(U32, P)),
        ("symbol_count", c.CFUNCTYPE(U32, P)),
        ("input", c.CFUNCTYPE(I32, P, U32, c.POINTER(Io))),
        ("output", c.CFUNCTYPE(I32, P, U32, c.POINTER(Io))),
        ("symbol", c.CFUNCTYPE(I32, P, U32, c.POINTER(Symbol))),
        ("level", c.CFUNCTYPE(c.c_char_p, P)),
        ("manifest", c.CFUNCTYPE(P, P, c.POINTER(SIZE))),
        ("root", c.CFUNCTYPE(P, P)),
        ("session_new", c.CFUNCTYPE(I32, P, c.POINTER(SessionOptions), PP, c.c_char_p, SIZE)),
        ("session_free", c.CFUNCTYPE(None, P)),
        ("error", c.CFUNCTYPE(c.c_char_p, P)),
        ("infer", c.CFUNCTYPE(I32, P, c.POINTER(Tensor), U32, c.POINTER(Tensor), U32)),
        ("run", c.CFUNCTYPE(I32, P, c.POINTER(Tensor), U32, c.POINTER(Tensor), U32, P)),
    ]


class ModelError(Exception):
    pass


class Model:
    """A compiled model with one session. `threads`: 0 = one a physical core."""

    def __init__(self, path, threads=0):
        # A name without a slash would be searched for in the system's library folders.
        self._library = c.CDLL(path if "/" in path else "./" + path, mode=c.RTLD_LOCAL)
        self._library.rsqc_model_api.restype = c.POINTER(Api)
        api = self._library.rsqc_model_api(U32(1))
        if not api:
            raise ModelError("the model needs another version of this program")
        self._api = api.contents
        self._model, self._session = P(), P()
        text = c.create_string_buffer(512)
        if self._api.open(None, c.byref(self._model), text, len(text)):
            raise ModelError(text.value.decode())
        options = SessionOptions(struct_size=c.sizeof(SessionOptions), threads=threads)
        if self._api.session_new(self._model, c.byref(options), c.byref(self._session), text, len(text)):
            raise ModelError(text.value.decode())
        self.level = self._api.level(self._model).decode()
        self.inputs = [self._io(self._api.input, i) for i in range(self._api.input_count(self._model))]
        self.outputs = [self._io(self._api.output, i) for i in range(self._api.output_count(self._model))]
        self.symbols = [self._symbol(i) for i in range(self._api.symbol_count(self._model))]

    def _io(self, get, index):
        """(name, dtype, dims, dims as text)"""
        io = Io(struct_size=c.sizeof(Io))
        get(self._model, index, c.byref(io))
        dims = [io.dims[d] for d in range(io.rank)]
        return io.name.decode(), io.dtype, dims, [io.dim_texts[d].decode() for d in range(io.rank)]

    def _symbol(self, index):
        """(name, lowest value, highest value)"""
        symbol = Symbol(struct_size=c.sizeof(Symbol))
        self._api.symbol(self._model, index, c.byref(symbol))
        return symbol.name.decode(), symbol.lo, symbol.hi

    def run(self, arrays):
        """Runs the model on a list of arrays (or a dict by input name); returns a list of arrays."""
        if isinstance(arrays, dict):
            arrays = [arrays[name] for name, *_ in self.inputs]
        if len(arrays) != len(self.inputs):
            raise ModelError(f"{len(arrays)} inputs are given, the model has {len(self.inputs)}")
        # ascontiguousarray would make a scalar one-dimensional.
        held = [np.asarray(a, dtype=DTYPES[dtype], order="C") for a, (_, dtype, *_) in zip(arrays, self.inputs)]
        given = (Tensor * len(held))()
        shapes = [(c.c_int64 * MAX_RANK)(*a.shape) for a in held]
        for t, a, shape, (_, dtype, *_) in zip(given, held, shapes, self.inputs):
            t.struct_size, t.dtype, t.rank = c.sizeof(Tensor), dtype, a.ndim
            t.data, t.capacity, t.dims = a.ctypes.data, a.nbytes, shape
        results = [np.empty(0, DTYPES[dtype]) for _, dtype, *_ in self.outputs]
        status = TOO_SMALL
        # The first run asks how large the outputs are; a second may be needed for sizes that are computed.
        for _ in range(3):
            wanted = (Tensor * len(results))()
            out_shapes = [(c.c_int64 * MAX_RANK)() for _ in results]
            for t, a, shape, (_, dtype, *_) in zip(wanted, results, out_shapes, self.outputs):
                t.struct_size, t.dtype, t.rank = c.sizeof(Tensor), dtype, MAX_RANK
                t.data, t.capacity, t.dims = a.ctypes.data, a.nbytes, shape
            status = self._api.run(self._session, given, len(given), wanted, len(wanted), None)
            shapes_now = [tuple(shape[: t.rank]) for t, shape in zip(wanted, out_shapes)]
            if status != TOO_SMALL:
                break
            results = [np.empty(shape, a.dtype) for a, shape in zip(results, shapes_now)]
        if status:
            raise ModelError(self._api.error(self._session).decode())
        # Empty outputs fit into the empty first buffers.
        return [a if a.shape == shape else a.reshape(shape) for a, shape in zip(results, shapes_now)]

    def close(self):
        if self._session:
            self._api.session_free(self._session)
            self._api.close(self._model)
            self._session = self._model = P()

    __del__ = close


def ramp(shape, dtype):
    """Test data that is legal for almost every model: integers stay 0 or 1."""
    index = np.arange(int(np.prod(shape)))
    floats = np.dtype(DTYPES[dtype]).kind == "f"
    values = (index % 10).astype("f4") * np.float32(0.1) if floats else index % 2
    return values.reshape(shape).astype(DTYPES[dtype])


def checksum(array):
    """FNV-1a over the bytes, as the C example computes it."""
    value = 14695981039346656037
    for byte in array.tobytes():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    model = Model(arguments[0])
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    print(f"level {model.level}")
    values = []
    for name, lo, hi in model.symbols:
        values.append(int(given.get(name, min(max(lo, 1), hi))))
        print(f"symbol {name}: {lo}..{hi}, here {values[-1]}")
    arrays = []
    for name, dtype, dims, texts in model.inputs:
        print(f"input {name}: {np.dtype(DTYPES[dtype])} [{', '.join(texts)}]")
        if name in given and given[name].endswith(".npy"):
            arrays.append(np.load(given[name], allow_pickle=False))
            continue
        if EXPRESSION in dims:
            sys.exit(f"input {name} has a dimension that is an expression; give it as {name}=file.npy")
        arrays.append(ramp([d if d >= 0 else values[-1 - d] for d in dims], dtype))
    for name, dtype, _, texts in model.outputs:
        print(f"output {name}: {np.dtype(DTYPES[dtype])} [{', '.join(texts)}]")
    for i, result in enumerate(model.run(arrays)):
        print(f"result {i}: {list(result.shape)} checksum {checksum(result):016x}")


if __name__ == "__main__":
    main(sys.argv[1:])
