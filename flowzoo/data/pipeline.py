"""The one way from examples to batches: order, batch, repeat, prefetch.

Everything random hangs on the seed alone, not on TensorFlow's global one. Epoch e of a pipeline has the order
that (seed, e) draws. Examples that can be reached by row are shuffled as a whole, by their row numbers, and
fetched a batch at a time; a stream is shuffled window by window.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.data.source import Source, is_dataset
from flowzoo.data.splits import random_state
from flowzoo.data.values import check_values
from flowzoo.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_WINDOW = 8192
"""How many examples of a stream are shuffled with one another."""

MAX_TENSOR_BYTES = 2**30
"""Arrays up to this size are copied into TensorFlow's memory, from which batches are gathered faster."""


def pipeline(
    data: Any,  # noqa: ANN401
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    conditional: bool = False,
    repeat: bool = False,
    drop_remainder: bool = False,
    limit: int | None = None,
    skip: int = 0,
) -> tf.data.Dataset:
    """Turns a source or plain arrays into batches.

    Without `repeat`, each pass over the dataset is the next epoch: its order differs from the one before,
    and a new pipeline with the same seed goes through the same orders. With `repeat`, one pass never ends,
    epoch follows upon epoch (no batch holds examples of two), and each pass starts again at the first.

    Args:
        data: A `Source`, an array `[N, *event]`, a pair of arrays (x, condition), or a `tf.data.Dataset` of
            single examples or pairs.
        batch_size: The number of examples in a batch.
        shuffle: Whether to shuffle anew in each epoch.
        seed: What the orders hang on.
        conditional: Whether to give (x, condition) and not x alone.
        repeat: Whether to go on for ever.
        drop_remainder: Whether to leave out the last batch of an epoch if it is not full. Every batch then
            has the same static shape.
        limit: Use the first so many examples only.
        skip: Begin after so many batches, as if they had been drawn; needs `repeat`.

    Returns:
        A dataset of batches of x, or of (x, condition), in the examples' own type: uint8 stays uint8.

    Raises:
        DataError: An argument out of range, a condition that is not there, values that are not finite.
    """
    _check_arguments(batch_size, seed, limit)
    if skip and not repeat:
        raise DataError(f"skip goes on with an endless pipeline: it needs repeat=True. Received: {skip}")
    x, condition = _unpacked(data, conditional)
    if is_dataset(x):
        dataset, steps = _streamed(x, batch_size, shuffle, seed, repeat, drop_remainder, limit, skip)
    else:
        size = len(x) if limit is None else min(limit, len(x))
        rows, steps = _row_batches(size, batch_size, shuffle, seed, repeat, drop_remainder, skip)
        dataset = _gathered(rows, x, condition)
    return _finished(dataset, steps, repeat)


def _check_arguments(batch_size: int, seed: int, limit: int | None) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: {batch_size}")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed must lie between 0 and 2**32 - 1. Received: {seed}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, or None for all examples. Received: {limit}")


def _unpacked(data: Any, conditional: bool) -> tuple[Any, np.ndarray | None]:  # noqa: ANN401
    """Brings whatever was given to (x, condition), or to (dataset, None) for a stream of what is wanted."""
    if not isinstance(data, Source):
        data = _as_source(data)
    check_values(data)
    if conditional and data.condition_shape is None:
        raise DataError(f"conditional=True, but {data.name!r} has no condition. Give (x, condition) pairs.")
    if data.is_streamed:
        pairs = data.condition_shape is not None
        return (data.x.map(lambda x, _: x) if pairs and not conditional else data.x), None
    return data.x, data.condition if conditional else None


def _as_source(data: Any) -> Source:  # noqa: ANN401
    if is_dataset(data):
        return Source(x=data, name="dataset")
    x, condition = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8:
        x = x.astype(np.float32)
    return Source(x=x, condition=None if condition is None else np.asarray(condition), name="arrays")


def _epochs(repeat: bool, first: int = 0) -> tf.data.Dataset:
    """Gives the number of the epoch that a pass over the dataset is, or with `repeat` those of all epochs."""
    import tensorflow as tf

    if repeat:
        return tf.data.Dataset.counter(first)
    passes = itertools.count()
    return tf.data.Dataset.range(1).map(
        lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(next(passes)), [], tf.int64), [])
    )


def _row_batches(
    size: int, batch_size: int, shuffle: bool, seed: int, repeat: bool, drop_remainder: bool, skip: int
) -> tuple[tf.data.Dataset, int]:
    """Gives the row numbers of each batch, and the number of batches in an epoch."""
    import tensorflow as tf

    full, rest = divmod(size, batch_size)
    if drop_remainder and not full:
        raise DataError(f"drop_remainder=True and batch_size={batch_size} leave nothing of {size} examples.")

    def order(epoch: tf.Tensor) -> tf.Tensor:
        if not shuffle:
            return tf.range(size, dtype=tf.int64)
        draw = _permutation(seed, size)
        return tf.ensure_shape(tf.numpy_function(draw, [epoch], tf.int64), [size])

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = order(epoch)
        last = tf.data.Dataset.from_tensors(rows[full * batch_size :])
        if not full:
            return last
        # Whole batches are sliced from a matrix of row numbers: no work is done per example.
        blocks = tf.data.Dataset.from_tensor_slices(tf.reshape(rows[: full * batch_size], [full, batch_size]))
        return blocks.concatenate(last) if rest and not drop_remainder else blocks

    steps = full if drop_remainder or not rest else full + 1
    return _epochs(repeat, skip // steps).flat_map(batches).skip(skip % steps), steps


def _permutation(seed: int, size: int) -> Callable[[np.int64], np.ndarray]:
    return lambda epoch: random_state(seed, int(epoch)).permutation(size).astype(np.int64)


def _gathered(rows: tf.data.Dataset, x: Any, condition: np.ndarray | None) -> tf.data.Dataset:  # noqa: ANN401
    import tensorflow as tf

    fetch_x = _fetcher(x)
    if condition is None:
        return rows.map(fetch_x, num_parallel_calls=tf.data.AUTOTUNE)
    fetch_condition = _fetcher(condition)
    return rows.map(lambda r: (fetch_x(r), fetch_condition(r)), num_parallel_calls=tf.data.AUTOTUNE)


def _fetcher(values: Any) -> Callable[[tf.Tensor], tf.Tensor]:  # noqa: ANN401
    """Makes the function from row numbers to examples."""
    import tensorflow as tf

    # type(), not isinstance(): a memory-mapped array must not be read whole.
    if type(values) is np.ndarray and values.nbytes <= MAX_TENSOR_BYTES:
        with tf.device("CPU:0"):
            tensor = tf.convert_to_tensor(values)
        return lambda rows: tf.gather(tensor, rows)
    dtype, event = tf.as_dtype(values.dtype), tuple(values.shape[1:])

    def fetch(rows: tf.Tensor) -> tf.Tensor:
        batch = tf.numpy_function(lambda r: np.asarray(values[r]), [rows], dtype)
        return tf.ensure_shape(batch, rows.shape.concatenate(event))

    return fetch


def _streamed(
    stream: tf.data.Dataset,
    batch_size: int,
    shuffle: bool,
    seed: int,
    repeat: bool,
    drop_remainder: bool,
    limit: int | None,
    skip: int,
) -> tuple[tf.data.Dataset, int | None]:
    """Batches a stream; the number of batches in an epoch is None where the stream does not know its size."""
    import tensorflow as tf

    stream = stream if limit is None else stream.take(limit)
    size = int(stream.cardinality())

    def shuffled(epoch: tf.Tensor, window: tf.Tensor, examples: Any) -> Any:  # noqa: ANN401
        def draw(e: np.int64, w: np.int64, n: np.int64) -> np.ndarray:
            return random_state(seed, int(e), int(w)).permutation(n).astype(np.int64)

        count = tf.shape(tf.nest.flatten(examples)[0], out_type=tf.int64)[0]
        rows = tf.ensure_shape(tf.numpy_function(draw, [epoch, window, count], tf.int64), [None])
        return tf.nest.map_structure(lambda values: tf.gather(values, rows), examples)

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        if not shuffle:
            return stream.batch(batch_size, drop_remainder=drop_remainder)
        windows = stream.batch(SHUFFLE_WINDOW).enumerate()
        mixed = windows.map(lambda number, examples: shuffled(epoch, number, examples))
        return mixed.prefetch(1).rebatch(batch_size, drop_remainder=drop_remainder)

    steps = size // batch_size if drop_remainder else -(-size // batch_size)
    if size >= 0 and steps < 1:
        raise DataError(
            f"drop_remainder={drop_remainder} and batch_size={batch_size} leave nothing of {size}."
        )
    if size < 0:
        return _epochs(repeat).flat_map(batches).skip(skip), None
    return _epochs(repeat, skip // steps).flat_map(batches).skip(skip % steps), steps


def _finished(dataset: tf.data.Dataset, steps: int | None, repeat: bool) -> tf.data.Dataset:
    import tensorflow as tf

    # flat_map forgets the number of batches, which Keras wants for its progress bar.
    if repeat:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    elif steps is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(tf.data.AUTOTUNE)
