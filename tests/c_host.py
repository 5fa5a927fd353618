"""Compiles tests/host.c, gives it calls of signatures and reads its replies."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import capi

PASSED = ("CUDA_", "LD_LIBRARY_PATH", "NVIDIA_", "TF_")
NUMBERS = {name: number for number, name in capi.DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back of one call: outputs by name, or the number and the text of an error."""

    outputs: dict[str, np.ndarray]
    code: int = 0
    message: str = ""


@functools.cache
def program() -> Path:
    """Return the compiled host; skips the test where there is no C compiler or no TensorFlow to link with."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the host in C is not built")
    spec = importlib.util.find_spec("tensorflow")
    folder = Path(spec.submodule_search_locations[0])
    libraries = [folder / "libtensorflow_cc.so.2", folder / "libtensorflow_framework.so.2"]
    if not all(library.is_file() for library in libraries):
        pytest.skip("this TensorFlow has no libtensorflow_cc.so.2 to link with")
    target = Path(tempfile.mkdtemp(prefix="flowzoo_host_")) / "host"
    source = Path(__file__).with_name("host.c")
    command = [compiler, "-O2", "-Wall", "-Werror", f"-I{folder / 'include'}", str(source), "-o", str(target)]
    command += [*map(str, libraries), f"-Wl,-rpath,{folder}", "-lpthread", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(
    saved_model: Path,
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    folder: Path,
    threads: int = 0,
    seconds: float = 0.0,
    patience: float = 240,
) -> tuple[list[Reply], dict[str, Any]]:
    """Run signatures in the host.

    Args:
        saved_model: the folder of saved_model.pb.
        calls: (signature, inputs) pairs.
        folder: where tensors are exchanged.
        threads: how many threads repeat the calls afterwards.
        seconds: for how long.
        patience: seconds that the calls may take, besides those of the threads.

    Returns:
        A reply a call, and what the threads counted.
    """
    binary = program()
    meta_graph = next(v for n, v in capi.fields((saved_model / "saved_model.pb").read_bytes()) if n == 2)
    signatures = capi.read_signatures(meta_graph)
    plan = [_planned(i, signatures[name], inputs, folder) for i, (name, inputs) in enumerate(calls)]
    (folder / "plan.txt").write_text("".join(plan))
    command = [str(binary), str(saved_model), str(folder / "plan.txt")]
    if threads:
        command += [str(threads), str(seconds)]
    # Of this process's environment what finds and picks a GPU, and nothing that finds a Python.
    env = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/nowhere"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience + 4 * seconds, env=env)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    lines = done.stdout.splitlines()
    counted = json.loads(lines.pop()) if threads else {}
    return _replies(lines, [list(signatures[name].outputs) for name, _ in calls], folder), counted


def _planned(number: int, signature: capi.Signature, inputs: Mapping[str, Any], folder: Path) -> str:
    lines = [f"call {number} {len(inputs)} {len(signature.outputs)}"]
    for name, value in inputs.items():
        value, path = np.asarray(value), folder / f"{number}_{name}.in"
        path.write_bytes(value.tobytes())
        operation, _, index = signature.inputs[name].tensor.partition(":")
        dims = " ".join(map(str, value.shape))
        lines.append(f"in {operation} {index or 0} {NUMBERS[value.dtype.name]} {value.ndim} {dims} {path}")
    for name, info in signature.outputs.items():
        operation, _, index = info.tensor.partition(":")
        lines.append(f"out {operation} {index or 0} {folder / f'{number}_{name}.out'}")
    return "\n".join(lines) + "\n"


def _replies(lines: list[str], outputs: list[list[str]], folder: Path) -> list[Reply]:
    replies: list[Reply] = []
    for line in lines:
        kind, *rest = line.split(" ")
        if kind == "error":
            replies.append(Reply({}, int(rest[1]), " ".join(rest[2:])))
        elif kind == "ok":
            replies.append(Reply({}))
        elif kind == "tensor":
            number, shape = len(replies) - 1, [int(part) for part in rest[2:]]
            name = outputs[number][len(replies[-1].outputs)]
            data = np.fromfile(folder / f"{number}_{name}.out", capi.DTYPES[int(rest[0])])
            replies[-1].outputs[name] = data.reshape(shape)
    assert len(replies) == len(outputs), lines
    return replies
