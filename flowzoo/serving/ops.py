"""Whether a stock TensorFlow Serving can run a graph: what operations it has, and how they are compiled.

A server links TensorFlow's standard CPU kernels and loads no Python. What it runs are therefore the
operations of `tf.raw_ops` (those that TensorFlow itself was built with, none of a library that was loaded
later) that have a kernel for CPUs here, but for those named in `REFUSED`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# How an operation's name begins, and why a server cannot run it although it may have a kernel here.
REFUSED = {
    "PyFunc": "calls Python, which a server does not have",
    "EagerPyFunc": "calls Python, which a server does not have",
    "Xla": "is compiled by XLA, which a server does not link",
    "Collective": "waits for other processes of a cluster, which a server is not in",
    "Nccl": "waits for other devices of a cluster",
    "DataService": "asks a tf.data service",
    "TPU": "needs a TPU",
}
# Kernels of the device DEFAULT serve all: Assert and NoOp have one.
_ON_CPU = ("CPU", "DEFAULT")
# Attributes of functions and nodes that ask for XLA.
COMPILED = ("_XlaMustCompile", "_xla_must_compile")
_COMPILED_TEXT = "must be compiled by XLA, which a server does not do"


@functools.cache
def servable_ops() -> frozenset[str]:
    """Return the names of the operations that a stock server runs."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels  # the registry has no public name

    registered = kernels.get_all_registered_kernels().kernel
    on_cpu = {kernel.op for kernel in registered if kernel.device_type in _ON_CPU}
    own = {name for name in dir(tf.raw_ops) if not name.startswith("_")}
    return frozenset(name for name in on_cpu & own if reason_against(name) is None)


def reason_against(op: str) -> str | None:
    """Return why a server cannot run an operation of this name, or None if no rule says so."""
    return next((reason for start, reason in REFUSED.items() if op.startswith(start)), None)


def problems(saved_model: str | Path) -> list[str]:
    """Return what a stock server would refuse in a SavedModel: one text an operation or function.

    Args:
        saved_model: the folder of saved_model.pb.

    Raises:
        OSError: it cannot be read.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((Path(saved_model) / "saved_model.pb").read_bytes())
    found: dict[str, None] = {}
    for meta_graph in proto.meta_graphs:
        found.update(dict.fromkeys(_problems(meta_graph.graph_def)))
    return list(found)


def check_servable(saved_model: str | Path) -> None:
    """Raise ValueError if a stock server could not run a SavedModel."""
    found = problems(saved_model)
    if found:
        raise ValueError(
            "TensorFlow Serving could not run this model: "
            + "; ".join(found)
            + ". Layers of your own must be made of TensorFlow's own operations, without tf.py_function, "
            "tf.numpy_function and jit_compile."
        )


def _problems(graph: Any) -> Iterator[str]:
    functions = graph.library.function
    # The name of a function may stand where that of an operation does.
    known = servable_ops() | {function.signature.name for function in functions}
    for function in functions:
        if _compiled(function):
            yield f"the function {function.signature.name} {_COMPILED_TEXT}"
    for node in itertools.chain(graph.node, *(function.node_def for function in functions)):
        if _compiled(node):
            yield f"the operation {node.name} {_COMPILED_TEXT}"
        if node.op not in known:
            reason = reason_against(node.op) or "is no operation of TensorFlow with a kernel for CPUs"
            yield f"the operation {node.op} {reason}"


def _compiled(part: Any) -> bool:
    return any(part.attr[name].b for name in COMPILED if name in part.attr)
