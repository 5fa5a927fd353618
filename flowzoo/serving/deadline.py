"""The time that a call may take, shared by all that happens inside it."""

from __future__ import annotations

import math
import time
from typing import Any

from flowzoo.errors import ServingTimeoutError


class Deadline:
    """A point in time by which a call must have its answer, retries and waits included."""

    def __init__(self, seconds: float) -> None:
        """Start the clock.

        Args:
            seconds: the time from now.
        """
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left; negative when it has passed."""
        return self._end - time.monotonic()

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            ServingTimeoutError: none are.
        """
        remaining = self.remaining
        if remaining <= 0:
            raise self.passed()
        return remaining

    def passed(self) -> ServingTimeoutError:
        """Return the error that says so."""
        return ServingTimeoutError(f"No answer within {self.seconds:g} s.", "DEADLINE_EXCEEDED")


def seconds(value: Any, name: str) -> float:
    """Return a number of seconds, else raise.

    Raises:
        TypeError: not a number.
        ValueError: not above 0, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} takes a number of seconds. Received: {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} takes a number of seconds above 0. Received: {value!r}")
    return float(value)
