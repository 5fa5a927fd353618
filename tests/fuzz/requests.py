"""Requests to exported flows: through `tf.saved_model.load`, and through the C API that a server uses."""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo import zoo
from flowzoo.models import Flow
from flowzoo.paths import packaged
from tests import capi
from tests.fuzz.harness import Defect, Target
from tests.models.flows import make as make_flow

# FLOWZOO_FUZZ_EXPORTS=1 keeps to the first of all: each takes seconds to write.
FLOWS = (("nice", "labelled_image"), ("maf", "conditional"), ("nsf", "vector"))
# One of every family, with the weights that come with flowzoo.
ENTRIES = tuple(sorted(path.name for path in packaged("saved_models").glob("test_*")))
# A density may be 0, or below what floats hold; all else must be finite.
_MAY_BE = {"log_prob": -np.inf, "anomaly_score": np.inf}
_KINDS = ("float32", "float64", "int32", "uint8", "int8", "int64", "bool", "float16")
_EXTREMES = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e10,
    -1e10,
    1e19,
    3e38,
    -3e38,
    1e-30,
    1e-45,
    np.nan,
    np.inf,
    -np.inf,
    255.0,
    256.0,
)


class LooseHost(capi.Host):
    """Hands the session whatever it is given: of wrong types too, and not all of it."""

    def _to_tensor(self, name: str, value: np.ndarray, info: capi.TensorInfo) -> int:
        return super()._to_tensor(name, value, capi.TensorInfo(info.tensor, value.dtype.name, info.shape))

    def feed(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a signature on some of its inputs."""
        spec = self.signatures[signature]
        kept = {name: info for name, info in spec.inputs.items() if name in inputs}
        self.signatures["fed"] = capi.Signature(kept, spec.outputs)
        return self.run("fed", {name: inputs[name] for name in kept})


@dataclass(frozen=True)
class Export:
    """One exported flow, loaded twice."""

    flow: Flow
    host: LooseHost
    loaded: Any

    @property
    def signatures(self) -> dict[str, capi.Signature]:
        """The signatures that the SavedModel itself declares."""
        return {name: spec for name, spec in self.host.signatures.items() if name != "fed" and spec.inputs}


@dataclass(frozen=True)
class World:
    """The exported flows: `FLOWS`, then `ENTRIES`."""

    exports: list[Export]


@dataclass(frozen=True)
class Given:
    """A request: which export and signature, the inputs, and through which of the two doors.

    One that is known to be `right` must be answered.
    """

    export: int
    signature: str
    inputs: dict[str, np.ndarray]
    door: str
    right: bool = False


@contextmanager
def world() -> Iterator[World]:
    """Export small flows with random weights, and the tiny entries: anew, as exports are made now."""
    count = int(os.environ.get("FLOWZOO_FUZZ_EXPORTS", len(FLOWS) + len(ENTRIES)))
    with tempfile.TemporaryDirectory() as name:
        exports = []
        flows = [functools.partial(make_flow, *which) for which in FLOWS]
        flows += [functools.partial(zoo.restore, packaged("saved_models") / entry) for entry in ENTRIES]
        for make in flows[:count]:
            flow = make()
            folder = Path(name) / flow.name
            flow.export(folder)
            exports.append(Export(flow, LooseHost(folder), tf.saved_model.load(str(folder))))
        yield World(exports)


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """A right request, or one with something wrong in one of its tensors or in several."""
    number = r.randrange(len(world.exports))
    export = world.exports[number]
    signature = r.choice(list(export.signatures))
    batch = r.choice((0, 1, 1, 2, 3, 7))
    inputs = {}
    for name, info in export.signatures[signature].inputs.items():
        inputs[name] = _right(r, export.flow, name, info, batch)
        if r.random() < 0.4:
            inputs[name] = _wrong(r, name, inputs[name])
    if r.random() < 0.03:
        inputs.pop(r.choice(list(inputs)))
    return Given(number, signature, inputs, r.choice(("python", "c")))


def _right(r: random.Random, flow: Flow, name: str, info: capi.TensorInfo, batch: int) -> np.ndarray:
    rng = np.random.RandomState(r.randrange(2**32))
    if name == "num_samples":
        return np.array(batch, np.int32)
    if name == "seed":
        return rng.randint(-(2**31), 2**31 - 1, 2).astype(np.int32)
    if name == "temperature":
        return np.array(r.choice((1.0, 0.5, 1e-3, 2.0)), np.float32)
    shape = [batch, *(info.shape or ())[1:]]
    if name == "condition" and r.random() < 0.3:
        shape[0] = 1
    if info.dtype in ("int32", "uint8"):
        most = flow.num_classes if name == "condition" else flow.num_values
        return rng.randint(0, most, shape).astype(info.dtype)
    return rng.normal(size=shape).astype(info.dtype) * r.choice((1.0, 5.0, 100.0))


def _wrong(r: random.Random, name: str, value: np.ndarray) -> np.ndarray:
    way = r.randrange(7)
    rng = np.random.RandomState(r.randrange(2**32))
    with np.errstate(all="ignore"):
        if way == 0:
            return value.astype(r.choice(_KINDS))
        if way == 1:
            shape = r.choice(
                ((), (0,), (1,), (2,), (3, 3), (1, 1, 1), (2, 0, 3), (5, 2), (1, 4, 4, 1), (1, 4, 4, 2))
            )
            return np.resize(value.ravel() if value.size else np.zeros(1, value.dtype), shape).astype(
                value.dtype
            )
        if way == 2 and value.ndim:
            return np.concatenate([value, value], axis=r.randrange(value.ndim))
        if name == "num_samples":
            return np.array(r.choice((-1, -(2**31), 0, 1000, 70000, 2**31 - 1)), np.int32)
        if value.dtype.kind == "f":
            if way == 3:
                return (value * r.choice((1e10, 1e19, 1e30, 3e38, 1e-38, 1e-45, 0.0, -1.0))).astype(
                    value.dtype
                )
            value = np.array(value)
            value.reshape(-1)[: r.choice((1, value.size))] = r.choice(_EXTREMES)
            return value
        low, high = np.iinfo(value.dtype).min, np.iinfo(value.dtype).max
        return (
            rng.randint(max(low, -300), min(high, 300), value.shape).astype(value.dtype)
            if way < 5
            else np.full_like(value, r.choice((low, high, 3, 0)))
        )


def _seed(place: int, world: World) -> Given:
    """A right request to one of `ENTRIES`, or to the first export of a world that has not all."""
    number = len(FLOWS) + place if len(FLOWS) + place < len(world.exports) else 0
    r, export = random.Random(place), world.exports[number]
    signature = ("log_prob", "sample_and_log_prob", "to_latent")[place % 3]
    inputs = export.signatures[signature].inputs
    given = {name: _right(r, export.flow, name, info, 2) for name, info in inputs.items()}
    return Given(number, signature, given, ("python", "c")[place % 2], right=True)


# --- What comes of them -------------------------------------------------------------------------------------


class Refused(Exception):
    """What a server would answer with an error."""


def attempt(world: World, given: Given) -> str:
    """Ask; an answer must be finite and have a row an example, and all else must be an error."""
    export = world.exports[given.export]
    try:
        outputs = _answer(export, given)
    except Refused as error:
        if given.right:
            raise Defect(f"{given.signature} of {export.flow.name}: a right request is refused") from error
        raise
    rows = {len(value) for value in outputs.values()}
    batch = next((len(given.inputs[name]) for name in ("x", "z") if name in given.inputs), None)
    batch = int(given.inputs["num_samples"]) if batch is None else batch
    if rows != {batch}:
        raise Defect(f"{rows} rows for a batch of {batch}")
    for name, value in outputs.items():
        wrong = (
            ~np.isfinite(value) & (value != _MAY_BE.get(name, np.nan))
            if value.dtype.kind == "f"
            else np.zeros(1, bool)
        )
        if wrong.any():
            raise Defect(f"{given.signature} of {export.flow.name}: {name} holds {value[wrong].ravel()[:3]}")
    return f"{given.door}: answered"


def _answer(export: Export, given: Given) -> dict[str, np.ndarray]:
    try:
        if given.door == "c":
            return export.host.feed(given.signature, given.inputs)
        inputs = {name: tf.constant(value) for name, value in given.inputs.items()}
        outputs = export.loaded.signatures[given.signature](**inputs)
        return {name: value.numpy() for name, value in outputs.items()}
    except (RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
        raise Refused(type(error).__name__) from error


KNOWN: dict[str, Callable[[World], Given]] = {
    f"a right request to {name}": functools.partial(_seed, place) for place, name in enumerate(ENTRIES)
}

TARGET = Target("requests", world, make, attempt, clean=(Refused,), memory=4 * 2**30, known=KNOWN)
