"""The one way from examples to batches: order, batch, repeat, prefetch.

Everything random hangs on the seed alone, not on TensorFlow's global one. Epoch e of a pipeline has the order
that (seed, e) draws. Examples that can be reached by row are shuffled as a whole, by their row numbers, and
fetched a batch at a time; a stream is shuffled window by window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.data.plan import Plan
from flowzoo.data.record_index import Records
from flowzoo.data.record_reader import WINDOW_BYTES, batched_records, windows_of_records
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
    shard: tuple[int, int] | None = None,
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
        shard: `(index, count)`: give the part of every batch that worker `index` of `count` takes, from 0.
            `batch_size`, `skip` and `limit` still count for all workers together: the parts of a batch, put
            together in the order of the workers, are the batch without `shard`. Every batch must divide by
            `count`, the last of an epoch too unless `drop_remainder` leaves it out.

    Returns:
        A dataset of batches of x, or of (x, condition), in the examples' own type: uint8 stays uint8.

    Raises:
        DataError: An argument out of range, a condition that is not there, values that are not finite,
            batches that do not divide by the number of workers.
    """
    plan = Plan(batch_size, shuffle, seed, repeat, drop_remainder, limit, skip, shard or (0, 1))
    plan.check()
    return list(stages(data, plan, conditional).values())[-1]()


def stages(data: Any, plan: Plan, conditional: bool) -> dict[str, Callable[[], tf.data.Dataset]]:  # noqa: ANN401
    """Gives what `pipeline` is made of, so that the cost of each stage can be measured.

    Args:
        data: As of `pipeline`.
        plan: The other arguments of `pipeline`, checked.
        conditional: As of `pipeline`.

    Returns:
        By the name of a stage, what makes the pipeline up to it. An early stage yields what it works on: it
        need not be batches, and may be the examples of all workers. The last is the pipeline itself.

    Raises:
        DataError: As `pipeline`.
    """
    x, condition, records = _unpacked(data, conditional)
    steps: int | None
    if records is not None:
        dataset, steps = batched_records(records, plan, conditional)
        early = {"read": lambda: windows_of_records(records, plan, conditional)}
    elif is_dataset(x):
        dataset, steps = _streamed(x, plan)
        early = {"read": lambda: x.batch(plan.batch_size)}
    else:
        rows, steps = _row_batches(len(x), plan)
        dataset = _gathered(rows, x, condition)
        early = {"order": lambda: rows, "fetch": lambda: dataset}
    return {**early, "shuffle, batch, prefetch": lambda: _finished(dataset, steps, plan)}


def read_together(source: Source) -> int:
    """Gives how many examples are read at a time where an epoch is shuffled: 1 of data reached by row."""
    if source.records is not None:
        window = max(1, WINDOW_BYTES // source.records.stride)
    else:
        window = SHUFFLE_WINDOW if source.is_streamed else 1
    return window if source.size is None else min(window, source.size)


def _unpacked(data: Any, conditional: bool) -> tuple[Any, np.ndarray | None, Records | None]:  # noqa: ANN401
    """Brings whatever was given to x and its condition; a stream of what is wanted, or shards, come alone."""
    if not isinstance(data, Source):
        data = _as_source(data)
    check_values(data)
    if conditional and data.condition_shape is None:
        raise DataError(f"conditional=True, but {data.name!r} has no condition. Give (x, condition) pairs.")
    if data.is_streamed:
        pairs = data.condition_shape is not None
        stream = data.x.map(lambda x, _: x) if pairs and not conditional else data.x
        return stream, None, data.records
    return data.x, data.condition if conditional else None, None


def _as_source(data: Any) -> Source:  # noqa: ANN401
    if is_dataset(data):
        return Source(x=data, name="dataset")
    x, condition = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8:
        x = x.astype(np.float32)
    return Source(x=x, condition=None if condition is None else np.asarray(condition), name="arrays")


def _row_batches(total: int, plan: Plan) -> tuple[tf.data.Dataset, int]:
    """Gives the row numbers of each batch, and the number of batches in an epoch."""
    import tensorflow as tf

    size = plan.limited(total)
    steps = plan.steps(size)
    full, rest = divmod(size, plan.batch_size)
    index, count = plan.shard
    width = plan.batch_size // count

    def order(epoch: tf.Tensor) -> tf.Tensor:
        if not plan.shuffle:
            return tf.range(size, dtype=tf.int64)
        draw = _permutation(plan.seed, size)
        return tf.ensure_shape(tf.numpy_function(draw, [epoch], tf.int64), [size])

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = order(epoch)
        last = tf.data.Dataset.from_tensors(plan.part(rows[full * plan.batch_size :]))
        if not full:
            return last
        # Whole batches are sliced from a matrix of row numbers: no work is done per example.
        matrix = tf.reshape(rows[: full * plan.batch_size], [full, count, width])
        blocks = tf.data.Dataset.from_tensor_slices(matrix[:, index])
        return blocks.concatenate(last) if rest and not plan.drop_remainder else blocks

    return plan.epochs(plan.skip // steps).flat_map(batches).skip(plan.skip % steps), steps


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


def _streamed(stream: tf.data.Dataset, plan: Plan) -> tuple[tf.data.Dataset, int | None]:
    """Batches a stream; the number of batches in an epoch is None where the stream does not know its size."""
    import tensorflow as tf

    stream = stream if plan.limit is None else stream.take(plan.limit)
    size = int(stream.cardinality())
    if size < 0 and plan.shard[1] > 1 and not plan.drop_remainder:
        raise DataError(
            "A stream of unknown size may end with a batch that does not divide among the workers: shard "
            f"needs drop_remainder=True. Received: shard={plan.shard}"
        )

    def shuffled(epoch: tf.Tensor, window: tf.Tensor, examples: Any) -> Any:  # noqa: ANN401
        def draw(e: np.int64, w: np.int64, n: np.int64) -> np.ndarray:
            return random_state(plan.seed, int(e), int(w)).permutation(n).astype(np.int64)

        count = tf.shape(tf.nest.flatten(examples)[0], out_type=tf.int64)[0]
        rows = tf.ensure_shape(tf.numpy_function(draw, [epoch, window, count], tf.int64), [None])
        return tf.nest.map_structure(lambda values: tf.gather(values, rows), examples)

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        if not plan.shuffle:
            return stream.batch(plan.batch_size, drop_remainder=plan.drop_remainder)
        windows = stream.batch(SHUFFLE_WINDOW).enumerate()
        mixed = windows.map(lambda number, examples: shuffled(epoch, number, examples))
        return mixed.prefetch(1).rebatch(plan.batch_size, drop_remainder=plan.drop_remainder)

    steps = plan.steps(size) if size >= 0 else None
    first, left = divmod(plan.skip, steps) if steps else (0, plan.skip)
    dataset = plan.epochs(first).flat_map(batches).skip(left)
    if plan.shard[1] > 1:
        dataset = dataset.map(lambda *parts: plan.part(parts if len(parts) > 1 else parts[0]))
    return dataset, steps


def _finished(dataset: tf.data.Dataset, steps: int | None, plan: Plan) -> tf.data.Dataset:
    import tensorflow as tf

    # flat_map forgets the number of batches, which Keras wants for its progress bar.
    if plan.repeat:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    elif steps is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    if plan.shard[1] > 1:
        # What is a worker's own part already, a strategy must not divide among the workers once more.
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        dataset = dataset.with_options(options)
    return dataset.prefetch(tf.data.AUTOTUNE)
