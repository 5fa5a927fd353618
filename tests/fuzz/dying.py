"""A target that dies, ends, or takes all memory at its fourth input: for the tests of the runner."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import time
from typing import Any

from tests.fuzz import runner
from tests.fuzz.harness import Target


def attempt(world: Any, given: float) -> str:
    """Do what the environment says at the input whose number it says."""
    if told := os.environ.get("FLOWZOO_FUZZ_TOLD"):
        with open(told, "a") as file:
            file.write(f"{os.getpid()} {given}\n")
    if given == DIES_AT:
        _WAYS[os.environ["FLOWZOO_FUZZ_DYING"]]()
    return "fine"


def work_early(name: str, start: int, *rest: Any) -> None:
    """Work as a broken runner would that tries the last input of the turn before once more."""
    runner.work(name, max(0, start - 1), *rest)


def work_late(name: str, start: int, *rest: Any) -> None:
    """Work as a broken runner would that leaves out the first input of every turn but the first."""
    runner.work(name, start + (start > 0), *rest)


def work_never(*arguments: Any) -> None:
    """Hang before the first input."""
    time.sleep(60)


_WAYS = {
    "die": lambda: ctypes.string_at(0),
    "grow": lambda: bytearray(2**33),
    "leave": lambda: os._exit(0),
    "live": lambda: None,
}
DIES_AT = random.Random("dying/0/3").random()
TARGET = Target("dying", contextlib.nullcontext, lambda r, world: r.random(), attempt, memory=2**30)
