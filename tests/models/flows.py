"""Small flows of every family, for the tests: a new family joins by its `family` name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from flowzoo.models import Flow, families


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of data that every family must take."""

    name: str
    event_shape: tuple[int, ...]
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    def data(self, num: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        num_values = self.arguments.get("num_values")
        if num_values:
            return rng.integers(0, num_values, (num, *self.event_shape)).astype("uint8")
        return rng.normal(size=(num, *self.event_shape)).astype("float32") * 3 + 5

    def condition(self, num: int, seed: int = 1) -> np.ndarray | None:
        rng = np.random.default_rng(seed)
        if "num_classes" in self.arguments:
            return rng.integers(0, self.arguments["num_classes"], num)
        if "condition_shape" in self.arguments:
            return rng.normal(size=(num, *self.arguments["condition_shape"])).astype("float32")
        return None


KINDS = {
    kind.name: kind
    for kind in (
        Kind("vector", (3,)),
        Kind("conditional", (2,), {"condition_shape": (2,)}),
        Kind("image", (4, 4, 1), {"num_values": 16}),
        Kind("labelled_image", (4, 4, 1), {"num_values": 4, "num_classes": 3}),
        Kind("odd_image", (3, 5, 2), {"num_values": 8}),
    )
}
# Families built from the parts of another one. What takes seconds a family is examined in that one by default
# (with the mark slow in these too): tracing all nine for each test took a third of the whole run.
ALIKE = {"ffjord": "flow_matching", "iaf": "maf", "nsf": "glow", "realnvp": "glow"}
# Their networks see an image as a vector, which another kind is.
OF_VECTORS = ("iaf", "maf", "nice")


def sparing(cases: Iterable[Any], also: Iterable[str] = ()) -> list[Any]:
    """Mark the cases of families like another one slow, and those of the families in `also`.

    A case is the name of a family, with or without ":variant", that of its tiny entry ("test_..."), or a
    tuple that begins with one of them.
    """
    slow = {*ALIKE, *also}
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        left = values[0].removeprefix("test_").split(":")[0] in slow
        marked.append(pytest.param(*values, marks=pytest.mark.slow if left else ()))
    return marked


# What every family is examined with. Single tests take the other kinds.
CASES = [(family, kind) for family in sorted(families()) for kind in ("conditional", "labelled_image")]


def make(family: str, kind: str, seed: int = 0, scale: float = 0.1) -> Flow:
    """Build a flow of a family for a kind of data, adapted, with random weights."""
    what = KINDS[kind]
    arguments = {**families()[family].small, **what.arguments}
    flow = families()[family](event_shape=what.event_shape, name=f"{family}_{kind}", **arguments)
    flow.adapt(what.data(64), what.condition(64))
    randomise_gently(flow, seed, scale)
    return flow


@functools.cache
def shared(family: str, kind: str) -> Flow:
    """Return a flow as `make` does, the same for all tests that only read it: tracing takes seconds."""
    return make(family, kind)


def randomise_gently(flow: Flow, seed: int, scale: float) -> None:
    """Move the weights a little from where they start: whole flows are deeper than one layer."""
    rng = np.random.default_rng(seed)
    for weight in flow.trainable_weights:
        fan = max(1, int(np.prod(weight.shape[:-1]))) if len(weight.shape) > 1 else 1
        weight.assign(weight + scale * rng.normal(size=weight.shape) / np.sqrt(fan))


__all__ = ["ALIKE", "CASES", "KINDS", "OF_VECTORS", "Kind", "make", "randomise_gently", "shared", "sparing"]
