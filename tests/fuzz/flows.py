"""The methods of a flow in Python, of every family, given arrays and numbers that are none."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.models import Flow
from tests.fuzz.harness import Defect, Target
from tests.models.flows import CASES
from tests.models.flows import make as make_flow

# FLOWZOO_FUZZ_FLOWS=1 keeps to the first flow: each takes seconds to trace.
_METHODS = (
    "log_prob",
    "log_prob",
    "bits_per_dim",
    "to_latent",
    "from_latent",
    "sample",
    "sample_and_log_prob",
    "fit",
)
_EXTREMES = (
    0.0,
    -0.0,
    1e10,
    1e19,
    3e38,
    -3e38,
    1e-45,
    np.nan,
    np.inf,
    -np.inf,
    255.0,
    256.0,
    1e300,
    -1.0,
    0.5,
)
_KINDS = (
    "f2",
    "f4",
    "f8",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "?",
    "c8",
    "c16",
    "S3",
    "U3",
    "M8[s]",
    "m8[s]",
    "O",
)
_SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3, 3),
    (1, 1, 1),
    (2, 0, 3),
    (0, 2),
    (5, 2),
    (2, 5),
    (1, 4, 4, 1),
    (2, 4, 4),
    (0, 4, 4, 1),
)
_OBJECTS = (
    None, "text", b"bytes", 3, 2.5, True, object(), {}, {"x": 1}, [], [[]], [[1, 2], [3]], [["a", "b"]],
    [None], set(), range(3),
    (1, 2), float("nan"), 10**400, 1j, [[1j, 2]], [np.ones(2), np.ones(3)], int, lambda: 1,
    np.float64("nan"), np.int64(3), -1,
)  # fmt: skip
_RAGGED = tf.ragged.constant([[1.0, 2.0], [3.0]])
_SPARSE = tf.sparse.from_dense([[1.0, 0.0]])


@dataclass(frozen=True)
class World:
    """Flows of all families, with their weights as they were."""

    flows: list[Flow]
    weights: list[list[np.ndarray]]
    fits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Given:
    """A call."""

    flow: int
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)


@contextmanager
def world() -> Iterator[World]:
    """Build small flows with random weights."""
    count = int(os.environ.get("FLOWZOO_FUZZ_FLOWS", len(CASES)))
    flows = [make_flow(family, kind) for family, kind in CASES[:count]]
    for flow in flows:
        flow.compile()
    yield World(flows, [flow.get_weights() for flow in flows])


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """A right call, or one whose arguments are wrong in one way or in several."""
    number = r.randrange(len(world.flows))
    flow = world.flows[number]
    method = r.choice(_METHODS)
    if method == "bits_per_dim" and not flow.discrete:
        method = "log_prob"
    batch = r.choice((0, 1, 2, 5))
    arguments: dict[str, Any] = {}
    if method.startswith("sample"):
        arguments["n"] = batch
        arguments["temperature"] = r.choice((1.0, 0.5))
    else:
        arguments["z" if method == "from_latent" else "x"] = _data(r, flow, batch, method)
    if method != "fit":
        arguments["condition"] = _condition(r, flow, batch)
    else:
        arguments["y"] = _condition(r, flow, batch)
    for name in list(arguments):
        if r.random() < (0.9 if method == "fit" else 0.35):
            arguments[name] = _wrong(r, arguments[name], tame=method == "fit")
    if r.random() < 0.15 and method not in ("to_latent", "from_latent", "fit"):
        arguments["seed"] = r.choice(
            (*_OBJECTS, np.array([1, 2]), np.array([1.0, 2.0]), [1, 2, 3], 2**70, -5, tf.constant([1, 2]))
        )
    return Given(number, method, arguments)


def _data(r: random.Random, flow: Flow, batch: int, method: str) -> np.ndarray:
    rng = np.random.RandomState(r.randrange(2**32))
    if method == "from_latent":
        return rng.normal(size=(batch, *flow.latent_shape)).astype("float32")
    if flow.discrete:
        return rng.randint(0, flow.num_values, (batch, *flow.event_shape)).astype(flow.data_dtype)
    return (rng.normal(size=(batch, *flow.event_shape)) * r.choice((1, 10, 100))).astype("float32")


def _condition(r: random.Random, flow: Flow, batch: int) -> np.ndarray | None:
    if flow.condition_shape is None:
        return None
    rng = np.random.RandomState(r.randrange(2**32))
    if flow.num_classes:
        return rng.randint(0, flow.num_classes, batch)
    return rng.normal(size=(r.choice((1, batch)), *flow.condition_shape)).astype("float32")


def _wrong(r: random.Random, value: Any, tame: bool) -> Any:
    way = r.randrange(9)
    if way == 0 or not isinstance(value, np.ndarray):
        return r.choice(
            (
                *_OBJECTS,
                _RAGGED,
                _SPARSE,
                0.0,
                -1,
                1e30,
                1e-30,
                float("inf"),
                70000.5,
                tf.constant("x"),
                tf.constant(2),
            )
        )
    with np.errstate(all="ignore"):
        try:
            if way == 1:
                return value.astype(r.choice(_KINDS))
            if way == 2:
                return np.resize(value if value.size else np.zeros(1), r.choice(_SHAPES)).astype(value.dtype)
            if way == 3 and value.ndim:
                return np.concatenate([value, value], axis=r.randrange(value.ndim))
            if way == 4:
                return r.choice(
                    (
                        value.tolist(),
                        tf.constant(value),
                        tf.Variable(value),
                        value.T,
                        value[::-1],
                        np.ma.array(value),
                    )
                )
            if way == 5 and value.dtype.kind == "f" and not tame:
                return (value * r.choice((1e10, 1e19, 1e30, 3e38, 1e-38, 1e-45, 0.0))).astype(value.dtype)
            spoilt = np.array(value, r.choice(("f4", "f8", value.dtype)))
            spoilt.reshape(-1)[: r.choice((1, max(1, spoilt.size)))] = r.choice(
                _EXTREMES[7:10] if tame else _EXTREMES
            )
            return spoilt
        except (TypeError, ValueError, OverflowError):
            return value.astype(object)


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Call; a log_prob may be -infinity, and all else that comes back must be finite."""
    flow = world.flows[given.flow]
    if given.method == "fit":
        world.fits[flow.name] += 1
        if world.fits[flow.name] % 100 == 0:
            flow.compile()  # Keras keeps a graph of some megabytes for each shape and dtype
        return _fit(flow, world.weights[given.flow], given.arguments)
    result = getattr(flow, given.method)(**given.arguments)
    parts = result if isinstance(result, tuple) else (result,)
    for part in parts:
        values = part.numpy()
        if values.dtype.kind == "f":
            density = values.ndim == 1
            wrong = ~np.isfinite(values) & ~(
                density & (np.abs(values) == np.inf) & _zero(given.method, values)
            )
            if wrong.any():
                raise Defect(f"{flow.name}.{given.method} gave {values[wrong].ravel()[:3]}")
    return "answered"


def _zero(method: str, values: np.ndarray) -> np.ndarray:
    """Say where a density of 0 explains an infinity."""
    return values > 0 if method == "bits_per_dim" else values < 0


def _fit(flow: Flow, weights: list[np.ndarray], arguments: dict[str, Any]) -> str:
    try:
        history = flow.fit(**arguments, epochs=1, verbose=0)
        if not np.isfinite(history.history["loss"]).all():
            raise Defect(f"{flow.name}.fit: the loss is {history.history['loss']}")
        return "fitted"
    finally:
        flow.set_weights(weights)


TARGET = Target(
    "flows",
    world,
    make,
    attempt,
    clean=(ValueError, TypeError, FloatingPointError),
    limit=120.0,
    memory=6 * 2**30,
    turn=10_000,  # Keras and TensorFlow keep graphs of `fit`: 6 GiB of them after some 36,000 inputs
)
