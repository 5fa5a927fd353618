"""A target that dies, or takes all memory, at its fourth input: for the tests of the runner."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from typing import Any

from tests.fuzz.harness import Target


def attempt(world: Any, given: float) -> str:
    """Do what the environment says at the input whose number it says."""
    if given == DIES_AT:
        if os.environ["FLOWZOO_FUZZ_DYING"] == "die":
            ctypes.string_at(0)
        bytearray(2**33)
    return "fine"


DIES_AT = random.Random("dying/0/3").random()
TARGET = Target("dying", contextlib.nullcontext, lambda r, world: r.random(), attempt, memory=2**30)
