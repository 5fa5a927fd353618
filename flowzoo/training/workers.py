"""Processes that train together: who they are, what the chief tells the others, what to say of a lost one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# Bytes of one message between workers: the chief's state goes in pieces of this size.
_PIECE = 2**26


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes of a strategy, seen from one of them.

    Attributes:
        strategy: what they train under.
        index: of this process, from 0; the chief has 0 and alone writes.
        count: how many there are.
    """

    strategy: tf.distribute.Strategy
    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> Workers:
        """Return the processes of a strategy: one, but for MultiWorkerMirroredStrategy with a TF_CONFIG."""
        resolver = strategy.cluster_resolver
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
            return cls(strategy)
        tasks = resolver.cluster_spec().as_dict()
        chiefs = len(tasks.get("chief", []))
        count = chiefs + len(tasks.get("worker", []))
        if not count:
            return cls(strategy)
        index = int(resolver.task_id or 0) + (chiefs if resolver.task_type == "worker" else 0)
        return cls(strategy, index, count)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    def from_chief(self, message: bytes) -> bytes:
        """Return the chief's message on every worker; all must call it, and it waits for all.

        The state of a training comes this way: only the chief's folder has to outlive a restart, and no two
        workers can go on from different states.

        Args:
            message: what the chief says; that of the others is not read.
        """
        if self.count == 1:
            return message
        size = int(self._sum(np.array([len(message) * self.is_chief], np.int64))[0])
        pieces = []
        for start in range(0, size, _PIECE):
            length = min(_PIECE, size - start)
            words = np.zeros(-(-length // 4), np.int32)
            if self.is_chief:
                words.view(np.uint8)[:length] = np.frombuffer(message[start : start + length], np.uint8)
            pieces.append(self._sum(words).tobytes()[:length])
        return b"".join(pieces)

    def part(self) -> None:
        """Wait until all are here: the last thing that a worker does with the others.

        The first to leave ends the connections, which fails what the others still wait for. By now everyone
        has everything, and it does not matter.
        """
        with contextlib.suppress(tf.errors.OpError):
            self.from_chief(b"")

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of an integer array over the workers: zeros but for one, it is that one's."""

        def total(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # A worker's replicas all have its array: its first one speaks.
            first = context.replica_id_in_sync_group % (context.num_replicas_in_sync // self.count) == 0
            values = tf.where(first, values, tf.zeros_like(values))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

        run = tf.function(lambda values: self.strategy.run(total, args=(values,)), autograph=False)
        result = run(tf.constant(values))
        return np.asarray(self.strategy.experimental_local_results(result)[0])


@contextlib.contextmanager
def lost_workers_named(workers: Workers) -> Iterator[None]:
    """Turn what TensorFlow raises when a worker is lost into an error that says what to do.

    Raises:
        ConnectionError: another worker ended or cannot be reached.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.InternalError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        if workers.count == 1:
            raise
        raise ConnectionError(
            f"Worker {workers.index} of {workers.count} stops: another one ended or cannot be reached. See "
            f"the log of the one that ended first; then start all {workers.count} again with resume=True "
            f"(flowzoo train ... --resume): the training goes on from the chief's last state. "
            f"TensorFlow says: {_first_line(error)}"
        ) from error


def _first_line(error: tf.errors.OpError) -> str:
    lines = [
        line.strip() for line in str(error.message).splitlines() if "ollective" in line or "task" in line
    ]
    return (lines or [type(error).__name__])[0]
