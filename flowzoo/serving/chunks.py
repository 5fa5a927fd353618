"""Many rows as several requests: so many at once, and the answers in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from flowzoo.serving.deadline import Deadline

Answer = TypeVar("Answer")


def slices(rows: int, most: int) -> list[slice]:
    """Divide `rows` rows into slices of at most `most`."""
    return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]


class Crew:
    """A few threads that send the requests of one client."""

    def __init__(self, size: int) -> None:
        """Set how many requests are under way at once.

        Args:
            size: the number of threads, started when they are first needed.
        """
        self._size = size
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, send: Callable[[slice], Answer], parts: Sequence[slice], deadline: Deadline
    ) -> list[Answer]:
        """Return what `send` returns for each part, in order.

        Raises:
            ServingTimeoutError: they are not all there by the deadline.
            ServingError: the first error of a part; parts that were not begun are not sent.
        """
        if len(parts) == 1 or self._size == 1:
            return [send(part) for part in parts]
        futures = [self._started().submit(send, part) for part in parts]
        try:
            return [self._result(future, deadline) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let the threads end."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._size, "flowzoo-client")
            return self._pool

    @staticmethod
    def _result(future: Future[Answer], deadline: Deadline) -> Answer:
        try:
            return future.result(timeout=max(0.0, deadline.remaining))
        except TimeoutError as error:
            if future.done():  # the request's own error
                raise
            raise deadline.passed() from error
