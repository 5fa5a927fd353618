"""Runs a target on inputs that a seed decides, each under a time limit, and counts what came of them."""

from __future__ import annotations

import math
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30


class Defect(Exception):
    """Nothing crashed, and yet what came out is wrong: a NaN, a changed file that was accepted."""


class TooSlow(BaseException):
    """An input took longer than the limit. No Exception, so that no `except` of the library swallows it."""


@dataclass(frozen=True)
class Target:
    """One door through which bad input may come.

    Attributes:
        name: What the runner calls it.
        world: Makes what all inputs share (folders, servers, models) and takes it down.
        make: One input, from a seeded generator and the world.
        attempt: Hands the input to the library; returns what came of it in a word or two, or raises.
        clean: The errors that the documentation promises for bad input. Anything else is a failure.
        limit: Seconds that an input may take.
        memory: Bytes that an input may take beyond what the world took; the runner enforces it.
        turn: How many inputs a worker of the runner tries before a fresh one takes over: what a library keeps
            of each input must not add up to the memory limit.
        known: Inputs that once went wrong, by a name that says how. They are tried first.
    """

    name: str
    world: Callable[[], AbstractContextManager[Any]]
    make: Callable[[random.Random, Any], Any]
    attempt: Callable[[Any, Any], str]
    clean: tuple[type[BaseException], ...] = (ValueError, TypeError, OSError)
    limit: float = 20.0
    memory: int = 3 * GIB
    turn: int = 1_000_000
    known: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


@dataclass
class Report:
    """What came of some inputs; reports of parts add up.

    Attributes:
        outcomes: How often each outcome came: what `attempt` returned, or the class of a clean error.
        failures: What went wrong, by its last line: how often, the first input, and how it came.
        slowest: Seconds and number of the slowest input.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def failed(self) -> int:
        """How many inputs failed."""
        return sum(count for count, _, _ in self.failures.values())

    @property
    def inputs(self) -> int:
        """How many inputs were tried."""
        return sum(self.outcomes.values()) + self.failed

    def fail(self, index: object, text: str) -> None:
        """Note a failure."""
        self._fail(text.strip().rpartition("\n")[2][:60], 1, str(index), text)

    def _fail(self, kind: str, count: int, index: str, text: str) -> None:
        known = self.failures.get(kind, (0, index, text))
        self.failures[kind] = (known[0] + count, *known[1:])

    def add(self, other: Report) -> None:
        """Add a later part."""
        self.outcomes += other.outcomes
        for kind, (count, index, text) in other.failures.items():
            self._fail(kind, count, index, text)
        self.slowest = max(self.slowest, other.slowest)

    def details(self) -> str:
        """Say what went wrong, each kind once."""
        failures = sorted(self.failures.values(), reverse=True)
        return "\n".join(f"--- {count} times, first input {index}\n{text}" for count, index, text in failures)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return (
            f"{self.inputs} inputs: {counts or 'none'}; failures {self.failed}; "
            f"slowest {self.slowest[0]:.2f} s (input {self.slowest[1]})"
        )


def input_of(target: Target, world: Any, seed: int, index: int) -> Any:
    """Return one input: the same for the same seed and number, whatever came before it."""
    return target.make(random.Random(f"{target.name}/{seed}/{index}"), world)


def run(
    target: Target,
    world: Any,
    indices: Iterable[int],
    seed: int = 0,
    before: Callable[[int], None] = lambda index: None,
) -> Report:
    """Try the inputs of some numbers.

    Args:
        target: What is tried.
        world: What its `world` gave.
        indices: The numbers of the inputs.
        seed: Decides them all.
        before: Called with each number before its turn.
    """
    report = Report()
    for index in indices:
        before(index)
        try_one(target, world, index, lambda index=index: input_of(target, world, seed, index), report)
    return report


def try_known(target: Target, world: Any) -> Report:
    """Try the inputs that once went wrong."""
    report = Report()
    for name, make in target.known.items():
        try_one(target, world, name, lambda make=make: make(world), report)
    return report


def try_one(target: Target, world: Any, index: object, make: Callable[[], Any], report: Report) -> None:
    """Try one input and note what came of it."""
    given = make()
    start = time.perf_counter()
    try:
        with within(target.limit):
            report.outcomes[target.attempt(world, given)] += 1
    except target.clean as error:
        if isinstance(error, MemoryError):  # a subclass of OSError it is not; of a custom `clean` it might be
            report.fail(index, _told(error))
        else:
            report.outcomes[type(error).__name__] += 1
    except TooSlow:
        report.fail(index, f"{traceback.format_exc(limit=-4)}longer than {target.limit:g} s")
    except (Exception, SystemExit) as error:
        report.fail(index, _told(error))
    report.slowest = max(report.slowest, (time.perf_counter() - start, str(index)))


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-6))[-3000:]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block after so many seconds; an earlier alarm, pytest's, goes on afterwards."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlow

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - start)), interval)


def must_be_finite(values: Any, what: str) -> None:
    """Raise Defect where numbers are NaN or infinite."""
    import numpy as np

    array = np.asarray(values)
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise Defect(f"{what} holds {array[~np.isfinite(array)].ravel()[:4]}")


def finite_tree(content: Any, what: str) -> None:
    """Raise Defect where plain data hold NaN or infinity at any depth."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            finite_tree(value, f"{what}.{key}")
    elif isinstance(content, list | tuple):
        for value in content:
            finite_tree(value, what)
    elif isinstance(content, float) and not math.isfinite(content):
        raise Defect(f"{what} is {content}")
