"""From TFRecord shards to batches: blocks are read in parallel, in an order that does not depend on it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.data.plan import Plan
from flowzoo.data.record_index import Feature, Records, dealt, layout
from flowzoo.data.record_plan import Order, Window
from flowzoo.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

WINDOW_BYTES = 2**25
"""How much is read at a time and, where there is shuffling, shuffled with one another."""

PARALLEL_READS = 8
"""How many blocks are read at once."""

MAX_BUFFER_BYTES = 2**20
"""How much is read of a file in one call of the file system."""

_CORRUPT = "a record is corrupt or missing"

_log = logging.getLogger(__name__)


def batched_records(records: Records, plan: Plan, conditional: bool) -> tuple[tf.data.Dataset, int]:
    """Batches shards as `pipeline` says; also gives the number of batches in an epoch.

    Where there are at least as many files as workers, a worker opens its own files alone (and those that
    are left over when the files do not divide evenly). Each worker has N / count examples of an epoch, to
    within one, and the workers' parts have no example in common.

    To begin at a later place (`plan.skip`) costs the reading of one window at most.
    """
    steps = plan.steps(plan.limited(records.size))
    first, left = divmod(plan.skip, steps)
    order = _order(records, plan)

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of the first epoch alone something may be left out.
        done = _where(epoch, first, left)
        examples = _windows(records, order, epoch, done * plan.part_size, conditional)
        # The worker's share may hold a batch more than others' shares.
        return examples.rebatch(plan.part_size, drop_remainder=plan.drop_remainder).take(steps - done)

    return plan.epochs(first).flat_map(batches), steps


def windows_of_records(records: Records, plan: Plan, conditional: bool) -> tf.data.Dataset:
    """Gives what `batched_records` reads at a time, before it is cut into batches."""
    import tensorflow as tf

    order = _order(records, plan)
    start = tf.constant(0, tf.int64)
    return plan.epochs().flat_map(lambda epoch: _windows(records, order, epoch, start, conditional))


def streamed_records(records: Records, window: int = 1024) -> tf.data.Dataset:
    """Gives the single examples, or pairs of an example and its condition, in the order of writing."""
    import tensorflow as tf

    sizes = [file.num_examples for file in records.files]
    order = Order(sizes, (0, 1), window, shuffle=False, seed=0)
    start = tf.constant(0, tf.int64)
    paired = records.index.condition is not None
    examples = _windows(records, order, start, start, paired).unbatch()
    return examples.apply(tf.data.experimental.assert_cardinality(records.size))


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turns what TensorFlow raises when it reads a corrupt shard into a `DataError` that names the file."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"([^\[\]\n]+: {_CORRUPT})", str(error))
        if found is None:
            raise
        raise DataError(f"{found[1]}. Write the shards anew.") from error


def _where(epoch: tf.Tensor, first: int, left: int) -> tf.Tensor:
    import tensorflow as tf

    return tf.where(tf.equal(epoch, first), tf.constant(left, tf.int64), tf.constant(0, tf.int64))


def _order(records: Records, plan: Plan) -> Order:
    files, (index, count) = len(records.files), plan.shard
    if files < count:
        _log.warning(
            "%s, %s: %d files for %d workers: a file is read by several workers, each its own range of "
            "examples. Write at least as many shards as there are workers.",
            records.folder,
            records.split,
            files,
            count,
        )
    sizes = dealt(plan.limited(records.size), files)
    window = max(1, WINDOW_BYTES // records.stride)
    order = Order(sizes, plan.shard, window, shuffle=plan.shuffle, seed=plan.seed)
    _log.info(
        "worker %d of %d reads %d of the %d files of %s",
        index,
        count,
        len(order.files),
        files,
        records.folder,
    )
    return order


def _windows(
    records: Records, order: Order, epoch: tf.Tensor, place: tf.Tensor, conditional: bool
) -> tf.data.Dataset:
    """Gives the windows of an epoch from the example at `place` on, each brought into order."""
    import tensorflow as tf

    found = tf.numpy_function(order.listed, [epoch, place], [tf.int64] * 6)
    files, starts, counts, ends = (tf.ensure_shape(values, [None]) for values in found[:4])
    number, within = (tf.ensure_shape(values, []) for values in found[4:])

    def read(window: tf.Tensor) -> tf.data.Dataset:
        own = slice(ends[window], ends[window + 1])
        blocks = tf.data.Dataset.from_tensor_slices((files[own], starts[own], counts[own]))
        examples = blocks.interleave(
            lambda file, start, count: _block(records, file, start, count, conditional),
            cycle_length=PARALLEL_READS,
            block_length=1,
            num_parallel_calls=PARALLEL_READS,
            deterministic=True,
        )
        rows = _rows(order, epoch, window, files[own], starts[own], counts[own])
        rows = rows[tf.where(tf.equal(window, number), within, 0) :]
        whole = examples.rebatch(tf.reduce_sum(counts[own]))
        return whole.map(lambda *x: tf.nest.map_structure(lambda v: tf.gather(v, rows), _single(x)))

    # While one window is consumed, the next is read.
    last = tf.shape(ends, tf.int64)[0] - 1
    return tf.data.Dataset.range(number, last).flat_map(read).prefetch(1)


def _rows(order: Order, epoch: tf.Tensor, number: tf.Tensor, *blocks: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    def draw(e: np.int64, n: np.int64, *arrays: np.ndarray) -> np.ndarray:
        return order.within(int(e), int(n), Window(*arrays)).astype(np.int64)

    return tf.ensure_shape(tf.numpy_function(draw, [epoch, number, *blocks], tf.int64), [None])


def _single(parts: tuple[Any, ...]) -> Any:  # noqa: ANN401
    return parts if len(parts) > 1 else parts[0]


def _block(
    records: Records, file: tf.Tensor, start: tf.Tensor, count: tf.Tensor, conditional: bool
) -> tf.data.Dataset:
    """Reads neighbouring records of one file as one batch of examples."""
    import tensorflow as tf

    path = tf.gather(tf.constant(records.paths), file)
    # The only reader of TensorFlow that begins at a byte: tf.data.TFRecordDataset reads what it skips.
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=tf.minimum(count * records.stride, MAX_BUFFER_BYTES),
        byte_offsets=(start * records.stride)[None],
    )
    raw = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(count)
    # A record whose checksum is wrong ends the file. The last element is no record: it is there so that a
    # block without any is seen too.
    raw = raw.ignore_errors().concatenate(tf.data.Dataset.from_tensors("")).batch(count + 1)

    def parse(serialized: tf.Tensor) -> Any:  # noqa: ANN401
        whole = tf.equal(tf.shape(serialized, tf.int64)[0], count + 1)
        serialized = _unless_corrupt(whole, serialized, path)[:-1]
        return _parsed(records, serialized, conditional, path)

    return raw.map(parse)


def _unless_corrupt(whole: tf.Tensor, value: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
    """Gives `value`, or the error that `clear_errors` knows."""
    import tensorflow as tf

    check = tf.debugging.Assert(whole, [tf.strings.join([path, f": {_CORRUPT}"])])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _parsed(records: Records, serialized: tf.Tensor, conditional: bool, path: tf.Tensor) -> Any:  # noqa: ANN401
    """Takes the values out of records: all else is the same in each, and must be.

    Not by TensorFlow's parser of examples: a damaged length under a right checksum makes it read beyond the
    record, and the process ends.
    """
    import tensorflow as tf

    whole = tf.reduce_all(tf.equal(tf.strings.length(serialized), records.index.record_bytes))
    rows = tf.io.decode_raw(_unless_corrupt(whole, serialized, path), tf.uint8)
    rows = tf.ensure_shape(rows, [None, records.index.record_bytes])
    features, values, whole, at = records.index.features, {}, tf.constant(True), 0
    for name, before in layout(features):
        fixed = tf.constant(np.frombuffer(before, np.uint8))
        whole &= tf.reduce_all(tf.equal(rows[:, at : at + len(before)], fixed))
        at += len(before)
        values[name] = rows[:, at : at + features[name].num_bytes]
        at += features[name].num_bytes
    wanted = ("x", "condition") if conditional and "condition" in features else ("x",)
    return _single(
        tuple(_decoded(_unless_corrupt(whole, values[name], path), features[name]) for name in wanted)
    )


def _decoded(raw: tf.Tensor, feature: Feature) -> tf.Tensor:
    """Reads bytes, [n, bytes of an example], as values: they lie there with the lowest byte first."""
    import tensorflow as tf

    size = np.dtype(feature.dtype).itemsize
    if size == 1:
        return tf.reshape(raw, [-1, *feature.shape])
    raw = tf.reshape(raw, [tf.shape(raw)[0], *feature.shape, size])
    return tf.bitcast(raw if sys.byteorder == "little" else tf.reverse(raw, [-1]), feature.dtype)
