"""Arrays whose digits Keras would cut: it casts the floats of arrays to `keras.config.floatx()`.

A flow of float64 needs them as they are. Keras leaves batches of a `tf.data.Dataset` alone, so it is given
such arrays as batches, of the sizes and in the order in which it would make them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def cut(flow: Any, *arrays: Any) -> bool:
    """Say whether Keras would cast one of the arrays to floats of fewer digits than the flow computes in."""
    size = tf.as_dtype(keras.config.floatx()).size
    floats = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return tf.as_dtype(flow.compute_dtype).size > size and any(array.itemsize > size for array in floats)


def batches(
    x: Any,
    y: Any = None,
    weight: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
    shuffle: bool | str = False,
) -> tf.data.Dataset:
    """Return arrays as the batches that Keras would make of them, in their own dtypes.

    Args:
        x: data.
        y: conditions, or None.
        weight: sample weights, or None; they come with conditions.
        batch_size: of a batch; None for what the steps of an epoch ask for, else 32.
        steps: of an epoch.
        shuffle: whether the rows are shuffled, by TensorFlow's global seed; "batch": each batch by itself.
    """
    size = len(x)
    batch_size = batch_size or (-(-size // steps) if steps else 32)

    def rows(_: tf.Tensor) -> tf.data.Dataset:
        order = tf.range(size, dtype=tf.int64)
        if shuffle and shuffle != "batch":
            order = tf.random.shuffle(order)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    order = tf.data.Dataset.range(1).flat_map(rows)
    if shuffle == "batch":
        order = order.map(tf.random.shuffle)
    order = order.apply(tf.data.experimental.assert_cardinality(-(-size // batch_size)))
    return gathered(order, tuple(part for part in (x, y, weight) if part is not None))


def gathered(rows: tf.data.Dataset, arrays: tuple[Any, ...]) -> tf.data.Dataset:
    """Return the batches whose rows in arrays a dataset yields; several workers each take a part of them."""
    whole = tf.data.Dataset.from_tensors(tuple(tf.convert_to_tensor(array) for array in arrays)).repeat()
    dataset = tf.data.Dataset.zip(rows, whole).map(
        lambda rows, arrays: tuple(tf.gather(array, rows) for array in arrays),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(sharding).prefetch(tf.data.AUTOTUNE)


def training_batches(
    flow: Any, x: Any, y: Any, validation_data: Any, options: dict[str, Any]
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return data, conditions, validation data and options for Keras's `fit`, as batches where it would cut.

    Args:
        flow: the model.
        x: data, checked.
        y: conditions of an array.
        validation_data: batches, or a tuple of arrays.
        options: of `fit`, all by name.
    """
    options, whole = dict(options), cut(flow, x, y)
    size = options.get("batch_size")
    if whole:
        weight = _weights(y, options)
        split = options.pop("validation_split", 0.0)
        if split and validation_data is None:
            (x, y, weight), validation_data = _split((x, y, weight), split)
        steps, shuffle = options.get("steps_per_epoch"), options.get("shuffle", True)
        x, y = batches(x, y, weight, size, steps, shuffle), None
        options["shuffle"] = False  # it is
        options["validation_batch_size"] = options.get("validation_batch_size") or size
        options.pop("batch_size", None)
    if isinstance(validation_data, tuple) and cut(flow, *validation_data[:2]):
        size, steps = options.get("validation_batch_size") or size, options.get("validation_steps")
        validation_data = batches(*validation_data, batch_size=size, steps=steps)
    return x, y, validation_data, options


def _weights(y: Any, options: dict[str, Any]) -> Any:
    """Take sample weights, or those of class labels, out of the options of `fit`."""
    weight, of_class = options.pop("sample_weight", None), options.get("class_weight")
    if of_class is None or y is None or y.ndim != 1:
        return weight
    if weight is not None:
        raise ValueError("sample_weight and class_weight cannot both be given.")
    del options["class_weight"]
    return np.array([of_class.get(int(label), 1.0) for label in y], "float32")


def _split(arrays: tuple[Any, ...], part: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the first rows of arrays, to train on, and their last part, to validate on, as Keras does."""
    size = len(arrays[0])
    first = int(size * (1 - part))
    if not 0 < first < size:
        raise ValueError(
            f"validation_split takes a part that leaves examples on both sides. Received: {part} of {size}"
        )

    def rows(chosen: slice) -> tuple[Any, ...]:
        return tuple(None if array is None else array[chosen] for array in arrays)

    return rows(slice(first)), rows(slice(first, None))
