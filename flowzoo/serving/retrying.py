"""Asking again: only what is safe, only after errors that pass, never beyond the deadline."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flowzoo.errors import ServerUnavailableError
from flowzoo.serving.deadline import Deadline

_LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retry:
    """How often, and after what waits, a safe call is sent again when the server is unavailable.

    The wait before attempt k + 1 is `min(longest, first * factor**(k - 1))` seconds, of which a random
    part between a half and the whole is taken, so that many clients do not come back at once.

    Attributes:
        attempts: how often a call is sent in all; 1 sends nothing again.
        first: the first wait in seconds.
        factor: by which each wait is longer than the one before it.
        longest: no wait is longer, in seconds.
    """

    attempts: int = 4
    first: float = 0.1
    factor: float = 2.0
    longest: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"attempts takes a whole number from 1. Received: {self.attempts!r}")
        for name, least in (("first", 0), ("factor", 1), ("longest", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value >= least:
                raise ValueError(f"{name} takes a number of at least {least}. Received: {value!r}")

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after the `attempt`-th failure, counted from 1."""
        whole = min(self.longest, self.first * self.factor ** (attempt - 1))
        return whole * random.uniform(0.5, 1.0)

    def run(self, send: Callable[[], Answer], deadline: Deadline, *, safe: bool) -> Answer:
        """Return what `send` returns, sending again where that is allowed.

        Args:
            send: sends the call once.
            deadline: of the call with all its attempts; a wait that would reach it is not begun.
            safe: whether the call may be sent twice.

        Raises:
            ServerUnavailableError: after the last attempt, or at once if the call is not safe.
            ServingError: any other error of `send`, at once.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return send()
            except ServerUnavailableError as error:
                wait = self.wait(attempt)
                if not safe or attempt >= self.attempts or wait >= deadline.remaining:
                    raise
                _LOG.info("attempt %d failed (%s); again in %.2f s", attempt, error, wait)
            time.sleep(wait)
