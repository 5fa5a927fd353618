"""How examples become batches, whatever the examples are: what all kinds of data share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Plan:
    """The arguments of `pipeline`, which explains them, without the data."""

    batch_size: int
    shuffle: bool
    seed: int
    repeat: bool
    drop_remainder: bool
    limit: int | None
    skip: int
    shard: tuple[int, int]

    def check(self) -> None:
        """Raises `DataError` for what is wrong whatever the data are."""
        if self.batch_size < 1:
            raise DataError(f"batch_size must be at least 1. Received: {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed must lie between 0 and 2**32 - 1. Received: {self.seed}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit must be at least 1, or None for all examples. Received: {self.limit}")
        if self.skip < 0 or (self.skip and not self.repeat):
            raise DataError(
                f"skip goes on with an endless pipeline: it needs repeat=True and takes a number from 0 on. "
                f"Received: {self.skip}"
            )
        index, count = self.shard
        if not 0 <= index < count:
            raise DataError(f"shard takes (index, count) with 0 <= index < count. Received: {self.shard}")
        if self.batch_size % count:
            raise DataError(
                f"batch_size is that of all workers together and must divide by their number, {count}. "
                f"Received: {self.batch_size}"
            )

    def limited(self, size: int) -> int:
        """Gives the number of examples that are used of `size`."""
        return size if self.limit is None else min(self.limit, size)

    def steps(self, size: int) -> int:
        """Gives the number of batches in an epoch of `size` examples.

        Raises:
            DataError: There are none, or the last cannot be divided among the workers.
        """
        full, rest = divmod(size, self.batch_size)
        if self.drop_remainder and not full:
            raise DataError(
                f"drop_remainder=True and batch_size={self.batch_size} leave nothing of {size} examples."
            )
        if not self.drop_remainder and rest % self.shard[1]:
            raise DataError(
                f"The last batch, {rest} of {size} examples, does not divide among {self.shard[1]} workers. "
                "Pass drop_remainder=True, or another batch_size or limit."
            )
        return full if self.drop_remainder or not rest else full + 1

    @property
    def part_size(self) -> int:
        """The number of examples that a worker takes of a full batch."""
        return self.batch_size // self.shard[1]

    def part(self, batch: Any) -> Any:  # noqa: ANN401
        """Gives the worker's rows of a batch, or of a structure of them."""
        import tensorflow as tf

        index, count = self.shard
        if count == 1:
            return batch

        def rows(values: tf.Tensor) -> tf.Tensor:
            size = (values.shape[0] or tf.shape(values)[0]) // count
            return values[index * size : (index + 1) * size]

        return tf.nest.map_structure(rows, batch)

    def epochs(self, first: int = 0) -> tf.data.Dataset:
        """Gives the number of the epoch that a pass is, or with `repeat` those of all epochs from `first`."""
        import tensorflow as tf

        if self.repeat:
            return tf.data.Dataset.counter(first)
        passes = itertools.count()
        return tf.data.Dataset.range(1).map(
            lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(next(passes)), [], tf.int64), [])
        )
