"""A client that knows only the SavedModel: TensorFlow's C API through ctypes.

`TF_LoadSessionFromSavedModel` is the loader that TensorFlow Serving uses. The shared library comes with the
pip package, but the package itself is never imported here, and neither are Keras, TFP or flowzoo: with them
absent, nothing but the files of the SavedModel can explain what comes out.

    python tests/capi.py SAVEDMODEL SIGNATURE IN.npz OUT.npz [SIGNATURE IN.npz OUT.npz ...]

loads the model once, runs each signature on the arrays of its IN.npz and writes its outputs to OUT.npz.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# The TF_DataType numbers of c_api.h; what is missing here (strings, bfloat16 …) no flow exchanges.
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    6: "int8",
    9: "int64",
    10: "bool",
    19: "float16",
}
FORBIDDEN = ("tensorflow", "keras", "tf_keras", "tensorflow_probability", "flowzoo")


@dataclass(frozen=True)
class TensorInfo:
    """What a signature says of one tensor: its name in the graph, NumPy dtype and shape (-1: any)."""

    tensor: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """The named inputs and outputs of one signature."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


# --- The protobuf wire format: just enough to read signatures out of a MetaGraphDef -------------------------


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads one base-128 number; returns it with the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value) of a message: an int for varints, bytes for all else."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"Not a protobuf message: wire type {wire} at byte {at}.")
        yield number, data[at : at + size]
        at += size


def entries(data: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """Yields (key, message) of a map<string, message> field."""
    for found, value in fields(data):
        if found == number:
            pair = dict(fields(value))
            yield pair[1].decode(), pair.get(2, b"")


def read_shape(data: bytes) -> tuple[int, ...] | None:
    """TensorShapeProto: dim = 2 {size = 1}, unknown_rank = 3; a size of -1 is a ten-byte varint."""
    dims = []
    for number, value in fields(data):
        if number == 3 and value:
            return None
        if number == 2:
            size = dict(fields(value)).get(1, 0)
            dims.append(size - 2**64 if size >= 2**63 else size)
    return tuple(dims)


def read_tensor(data: bytes) -> TensorInfo:
    """TensorInfo: name = 1, dtype = 2, tensor_shape = 3."""
    found = dict(fields(data))
    dtype = DTYPES.get(found.get(2, 0), f"TF_DataType {found.get(2, 0)}")
    return TensorInfo(found[1].decode(), dtype, read_shape(found.get(3, b"")))


def read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """MetaGraphDef.signature_def = 5 maps names to SignatureDefs, which map names to TensorInfos."""
    return {
        name: Signature(
            {key: read_tensor(value) for key, value in entries(signature, 1)},
            {key: read_tensor(value) for key, value in entries(signature, 2)},
        )
        for name, signature in entries(meta_graph, 5)
    }


# --- The C API ---------------------------------------------------------------------------------------------


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


class Output(ctypes.Structure):
    """TF_Output: one output of an operation."""

    _fields_ = [("oper", ctypes.c_void_p), ("index", ctypes.c_int)]


P, I64, SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
PROTOTYPES = {
    "TF_Version": (ctypes.c_char_p, []),
    "TF_NewStatus": (P, []),
    "TF_DeleteStatus": (None, [P]),
    "TF_GetCode": (ctypes.c_int, [P]),
    "TF_Message": (ctypes.c_char_p, [P]),
    "TF_NewGraph": (P, []),
    "TF_NewBuffer": (ctypes.POINTER(Buffer), []),
    "TF_NewSessionOptions": (P, []),
    "TF_LoadSessionFromSavedModel": (
        P,
        [P, P, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, P, ctypes.POINTER(Buffer), P],
    ),
    "TF_GraphOperationByName": (P, [P, ctypes.c_char_p]),
    "TF_AllocateTensor": (P, [ctypes.c_int, ctypes.POINTER(I64), ctypes.c_int, SIZE]),
    "TF_DeleteTensor": (None, [P]),
    "TF_TensorData": (P, [P]),
    "TF_TensorByteSize": (SIZE, [P]),
    "TF_TensorType": (ctypes.c_int, [P]),
    "TF_NumDims": (ctypes.c_int, [P]),
    "TF_Dim": (I64, [P, ctypes.c_int]),
    "TF_SessionRun": (
        None,
        [P, P]
        + [ctypes.POINTER(Output), ctypes.POINTER(P), ctypes.c_int] * 2
        + [ctypes.POINTER(P), ctypes.c_int, P, P],
    ),
}


def load_library() -> ctypes.CDLL:
    """Opens the pip package's libtensorflow_cc.so.2, found without importing the package."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The tensorflow pip package is not installed.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "libtensorflow_cc.so.2"))
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Host:
    """A loaded SavedModel. It is never closed: a host lives as long as its process."""

    def __init__(self, saved_model: str | os.PathLike[str]):
        self._tf = load_library()
        self._graph = self._tf.TF_NewGraph()
        meta_graph = self._tf.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = self._checked(
            self._tf.TF_LoadSessionFromSavedModel,
            self._tf.TF_NewSessionOptions(),
            None,
            os.fsencode(saved_model),
            tags,
            1,
            self._graph,
            meta_graph,
        )
        self.signatures = read_signatures(ctypes.string_at(meta_graph[0].data, meta_graph[0].length))

    def _checked(self, function, *arguments):
        """Calls a function whose last argument is a TF_Status; raises what it says."""
        status = self._tf.TF_NewStatus()
        try:
            result = function(*arguments, status)
            if self._tf.TF_GetCode(status):
                raise RuntimeError(self._tf.TF_Message(status).decode(errors="replace"))
            return result
        finally:
            self._tf.TF_DeleteStatus(status)

    def _output(self, info: TensorInfo) -> Output:
        name, _, index = info.tensor.partition(":")
        operation = self._tf.TF_GraphOperationByName(self._graph, name.encode())
        if not operation:
            raise ValueError(f"The graph has no operation {name!r}.")
        return Output(operation, int(index or 0))

    def _to_tensor(self, name: str, value: np.ndarray, info: TensorInfo) -> int:
        value = np.asarray(value, order="C")
        if value.dtype.name != info.dtype:
            raise ValueError(f"Input {name!r} is {info.dtype}. Received: {value.dtype.name}.")
        number = next(number for number, dtype in DTYPES.items() if dtype == info.dtype)
        dims = (I64 * value.ndim)(*value.shape)
        tensor = self._tf.TF_AllocateTensor(number, dims, value.ndim, value.nbytes)
        if value.nbytes:
            ctypes.memmove(self._tf.TF_TensorData(tensor), value.tobytes(), value.nbytes)
        return tensor

    def _to_array(self, tensor: int) -> np.ndarray:
        shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
        size, dtype = self._tf.TF_TensorByteSize(tensor), DTYPES[self._tf.TF_TensorType(tensor)]
        data = ctypes.string_at(self._tf.TF_TensorData(tensor), size) if size else b""
        return np.frombuffer(data, dtype).reshape(shape).copy()

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one signature on exactly its named inputs."""
        if signature not in self.signatures:
            raise ValueError(f"No signature {signature!r}; there are {sorted(self.signatures)}.")
        spec = self.signatures[signature]
        if set(inputs) != set(spec.inputs):
            raise ValueError(f"{signature!r} takes {sorted(spec.inputs)}. Received: {sorted(inputs)}.")
        sources = [self._output(spec.inputs[name]) for name in inputs]
        targets = [self._output(info) for info in spec.outputs.values()]
        tensors = [self._to_tensor(name, value, spec.inputs[name]) for name, value in inputs.items()]
        results = (P * len(targets))()
        try:
            self._checked(
                self._tf.TF_SessionRun,
                self._session,
                None,
                *((Output * len(sources))(*sources), (P * len(tensors))(*tensors), len(sources)),
                *((Output * len(targets))(*targets), results, len(targets)),
                *(None, 0, None),
            )
            return {name: self._to_array(tensor) for name, tensor in zip(spec.outputs, results, strict=True)}
        finally:
            for tensor in [*tensors, *filter(None, results)]:
                self._tf.TF_DeleteTensor(tensor)


def run_in_process(
    saved_model: str | os.PathLike[str],
    calls: list[tuple[str, Mapping[str, np.ndarray]]],
    folder: Path,
) -> list[dict[str, np.ndarray]]:
    """Runs signatures in a fresh process, which it checks to have imported nothing of TensorFlow's Python.

    Args:
        saved_model: The folder that holds saved_model.pb.
        calls: (signature, inputs) pairs; the model is loaded once for all of them.
        folder: Where the arrays are exchanged.

    Returns:
        The outputs of each call.

    Raises:
        RuntimeError: The process failed; the message is its standard error.
    """
    arguments = []
    for number, (signature, inputs) in enumerate(calls):
        np.savez(folder / f"in{number}.npz", **inputs)
        arguments += [signature, str(folder / f"in{number}.npz"), str(folder / f"out{number}.npz")]
    command = [sys.executable, __file__, str(saved_model), *arguments]
    # Isolated from the checkout, which would otherwise offer flowzoo to the process.
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    if run.returncode:
        raise RuntimeError(run.stderr)
    if json.loads(run.stdout)["imported"]:
        raise RuntimeError(f"The host imported {run.stdout}")
    outputs = []
    for number in range(len(calls)):
        with np.load(folder / f"out{number}.npz", allow_pickle=False) as arrays:
            outputs.append(dict(arrays))
    return outputs


def main(arguments: list[str]) -> int:
    """The command of the module's docstring; prints one JSON line on what it loaded."""
    saved_model, *rest = arguments or [""]
    if not rest or len(rest) % 3:
        print(__doc__, file=sys.stderr)
        return 2
    start = time.perf_counter()
    host = Host(saved_model)
    seconds = time.perf_counter() - start
    for signature, source, target in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        with np.load(source, allow_pickle=False) as arrays:
            outputs = host.run(signature, dict(arrays))
        np.savez(target, **outputs)
    imported = [name for name in FORBIDDEN if name in sys.modules]
    print(json.dumps({"signatures": sorted(host.signatures), "load_seconds": seconds, "imported": imported}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
