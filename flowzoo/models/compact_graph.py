"""A smaller saved_model.pb that computes the same: short names, each constant and function once.

In the functions of a SavedModel the names of nodes and the shapes that follow from the inputs take more room
than the operations: of the 5.6 MB of a RealNVP of 23 couplings 1.7 MB are left, which load in half the time.
The loops that several signatures run are written once: of the Glow of 64x64 faces that is a fifth.
What others refer to stays: the names of functions, signatures, inputs and outputs.

Short names sort as the long ones did. TensorFlow puts the inputs of a sum or product in the order of their
names before it looks for what it can fuse, and finds a GELU behind a matrix product in one order alone: with
names that sorted otherwise a TarFlow took 1.13 times the processor time.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

_FIRST, _NEXT = string.ascii_lowercase, string.digits + string.ascii_lowercase
# Read from a graph where they are, worked out anew where they are not.
_DERIVED = "_output_shapes"
# What a call would name an input; of a variable among them it is a number that no call can give.
_USER_NAME = "_user_specified_name"
# From how many operations on a function that another one calls more than once stays a function.
_LARGE = 200


def compact(folder: Path) -> None:
    """Rewrite saved_model.pb, and fingerprint.pb with it, in a folder that `tf.saved_model.save` wrote.

    The functions do the same operations with the same variables; errors at run time name nodes by their
    short names.
    """
    from tensorflow.python.saved_model import fingerprinting_utils  # public is only the reading

    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    for meta in saved.meta_graphs:
        renamed = {f.signature.name: _compact_function(f) for f in meta.graph_def.library.function}
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "captured_tensor":  # a constant of a function, by its name
                captured = node.captured_tensor
                captured.name = _renamed(captured.name, renamed[captured.concrete_function])
        _merge_equal_functions(meta)
        _keep_apart(meta.graph_def.library)
    path.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))


def _compact_function(function: Any) -> dict[str, str]:
    """Rewrite one FunctionDef; return the new names of its nodes."""
    for node in function.node_def:
        node.attr.pop(_DERIVED, None)
    first = _equal_constants(function)
    kept = [node for node in function.node_def if first.get(node.name, node.name) == node.name]
    names = _short_names(function, [node.name for node in kept])
    names |= {name: names[other] for name, other in first.items()}
    for position, argument in enumerate(function.signature.input_arg):
        argument.name = names.get(argument.name, argument.name)
        if argument.type == types_pb2.DT_RESOURCE and position in function.arg_attr:
            function.arg_attr[position].attr.pop(_USER_NAME, None)
            if not function.arg_attr[position].attr:
                del function.arg_attr[position]
    for node in kept:
        node.name = names[node.name]
        inputs = [_renamed(reference, names) for reference in node.input]
        node.ClearField("input")
        node.input.extend(inputs)
    for key in list(function.ret):
        function.ret[key] = _renamed(function.ret[key], names)
    _rename_control_outputs(function, names)
    kept = [type(node).FromString(node.SerializeToString()) for node in kept]
    function.ClearField("node_def")
    function.node_def.extend(kept)
    return names


def _rename_control_outputs(function: Any, names: dict[str, str]) -> None:
    """Name what runs for its effect alone by its node: only the function itself refers to these names."""
    nodes = [function.control_ret[key] for key in function.signature.control_output]
    kept = list(dict.fromkeys(names.get(node, node) for node in nodes))
    function.signature.ClearField("control_output")
    function.ClearField("control_ret")
    function.signature.control_output.extend(kept)
    function.control_ret.update({node: node for node in kept})


def _merge_equal_functions(meta: Any) -> None:
    """Keep one of functions that do the same, until no two do; those with a signature all stay."""
    library, signed = meta.graph_def.library, {*meta.object_graph_def.concrete_functions}
    while True:
        first: dict[bytes, str] = {}
        equal = {}
        for function in sorted(library.function, key=lambda f: f.signature.name not in signed):
            name = function.signature.name
            other = first.setdefault(_without_name(function), name)
            if other != name and name not in signed:
                equal[name] = other
        if not equal:
            return
        kept = [f for f in library.function if f.signature.name not in equal]
        kept = [type(f).FromString(f.SerializeToString()) for f in kept]
        library.ClearField("function")
        library.function.extend(kept)
        for node in itertools.chain(meta.graph_def.node, *(f.node_def for f in library.function)):
            for called in _called(node):
                called.name = equal.get(called.name, called.name)


def _keep_apart(library: Any) -> None:
    """Forbid TensorFlow to copy a large function into one that calls it again and again.

    A session copies every function to where it is called and then folds constants: of the eight calls of a
    U-Net and its divergence in a solver for digits it made 30,000 operations, and took 280 seconds for the
    first request. Apart they take 6, and what is computed is the same.
    """
    sizes = {function.signature.name: len(function.node_def) for function in library.function}
    often: set[str] = set()
    for function in library.function:
        calls = Counter(called.name for node in function.node_def for called in _called(node))
        often |= {name for name, count in calls.items() if count > 1 and sizes[name] >= _LARGE}
    for function in library.function:
        if function.signature.name in often:
            function.attr["_noinline"].b = True


def _without_name(function: Any) -> bytes:
    bare = type(function)()
    bare.CopyFrom(function)
    bare.signature.ClearField("name")
    return bare.SerializeToString(deterministic=True)


def _called(node: Any) -> Iterator[Any]:
    """Yield the functions that a node names in its attributes."""
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func
        yield from value.list.func


def _equal_constants(function: Any) -> dict[str, str]:
    """Return for each constant the first one that equals it."""
    first: dict[bytes, str] = {}
    equal = {}
    for node in function.node_def:
        if node.op == "Const" and not node.input:
            bare = type(node)()
            bare.CopyFrom(node)
            bare.ClearField("name")
            equal[node.name] = first.setdefault(bare.SerializeToString(deterministic=True), node.name)
    return equal


def _short_names(function: Any, nodes: list[str]) -> dict[str, str]:
    """Return new names of the nodes, and of the variables among the inputs, which are told by position."""
    inputs = function.signature.input_arg
    variables = [argument.name for argument in inputs if argument.type == types_pb2.DT_RESOURCE]
    taken = {argument.name for argument in inputs} - {*variables}
    named = sorted([*variables, *nodes])
    fresh = (name for name in _names(len(named) + len(taken)) if name not in taken)
    return dict(zip(named, fresh, strict=False))


def _names(count: int) -> Iterator[str]:
    """Yield at least so many names in the order of strings, all of one length."""
    length = next(n for n in itertools.count() if len(_FIRST) * len(_NEXT) ** n >= count)
    for letters in itertools.product(_FIRST, *[_NEXT] * length):
        yield "".join(letters)


def _renamed(reference: str, names: dict[str, str]) -> str:
    """Return `name`, `name:output:index` or `^name` with the new name."""
    mark = "^" if reference.startswith("^") else ""
    name, colon, rest = reference.removeprefix("^").partition(":")
    return f"{mark}{names.get(name, name)}{colon}{rest}"
