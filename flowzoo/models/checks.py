"""What a user hands to a flow, checked at the door: shapes, values, conditions, numbers.

Eager values are checked whole. Inside a graph only shapes are known; `fit` and `evaluate` check
the values of datasets in the pipeline.
"""

from __future__ import annotations

from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers.domain import Domain
from flowzoo.models.condition_scaling import scaled

NOT_FINITE = "flowzoo: data are not finite"
OUT_OF_RANGE = "flowzoo: data are out of range"
NO_CLASS = "condition takes class labels"


class Shaped(Protocol):
    """What the checks ask of a flow."""

    name: str
    event_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    condition_shape: tuple[int, ...] | None
    num_classes: int | None
    num_values: int | None
    data_range: tuple[float, float] | None
    domain: Domain | None
    condition_scaler: Any
    compute_dtype: Any


def is_eager(value: Any) -> bool:
    """Say whether the numbers of a value can be read now."""
    return tf.executing_eagerly() and not tf.is_symbolic_tensor(value)


def data(flow: Shaped, x: Any, name: str = "x") -> tf.Tensor:
    """Return a batch of data as a tensor of the flow's dtype.

    Raises:
        ValueError: wrong shape, NaN or infinity, values out of range or between integers.
        TypeError: not numbers.
    """
    x = numeric(x, name)
    shaped(x, flow.event_shape, name, "event_shape")
    if is_eager(x):
        values(flow, np.asarray(x), name)
    return tf.cast(x, flow.compute_dtype)


def latent(flow: Shaped, z: Any) -> tf.Tensor:
    """Return a batch of latents as a tensor of the flow's dtype; errors as `data`."""
    z = numeric(z, "z")
    shaped(z, flow.latent_shape, "z", "latent_shape")
    if is_eager(z):
        finite(np.asarray(z), "z")
    return tf.cast(z, flow.compute_dtype)


def numeric(value: Any, name: str) -> tf.Tensor:
    """Return a tensor of numbers, else raise TypeError."""
    if value is None:
        raise TypeError(f"{name} takes an array or a tensor. Received: None")
    if isinstance(value, keras.Variable):
        value = tf.convert_to_tensor(value)
    if not tf.is_tensor(value):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name} takes numbers. Received: an array of dtype {array.dtype}")
        value = tf.convert_to_tensor(array)
    if not (value.dtype.is_floating or value.dtype.is_integer or value.dtype.is_bool):
        raise TypeError(f"{name} takes numbers. Received: a tensor of dtype {value.dtype.name}")
    return value


def shaped(value: Any, event: tuple[int, ...], name: str, which: str) -> None:
    """Raise ValueError unless `value` has the shape [batch, *event]."""
    shape = tf.TensorShape(value.shape)
    if shape.rank != len(event) + 1 or not shape[1:].is_compatible_with(event):
        hint = " (a batch of one needs a leading dimension of 1)" if shape.is_compatible_with(event) else ""
        raise ValueError(
            f"{name} takes the shape {_text(event)}: one row an example of {which}={event}{hint}. "
            f"Received: {tuple(shape)}"
        )


def _text(event: tuple[int, ...]) -> str:
    return "[" + ", ".join(["batch", *map(str, event)]) + "]"


def values(flow: Shaped, x: np.ndarray, name: str) -> None:
    """Raise ValueError where data are not finite, out of range or not whole numbers."""
    finite(x, name)
    within(flow, x, name)
    if flow.data_range is None or not x.size:
        return
    low, high = flow.data_range
    least, most = x.min(), x.max()
    kind = "whole numbers" if flow.num_values else "numbers"
    if least < low or most > high:
        raise ValueError(
            f"{name} takes {kind} from {low:g} to {high:g}. Received: values from {least:g} to {most:g}"
        )
    if flow.num_values and x.dtype.kind == "f" and np.any(x != np.floor(x)):
        bad = x[x != np.floor(x)][0]
        raise ValueError(
            f"{name} takes whole numbers from {low:g} to {high:g} (this flow models discrete values). "
            f"Received: {bad:g}; for continuous data build the flow with num_values=None"
        )


def within(flow: Shaped, x: np.ndarray, name: str) -> None:
    """Raise ValueError where data lie outside the flow's domain, in the precision of the flow."""
    if flow.domain is None or not x.size:
        return
    allowed = np.asarray(flow.domain.contains(tf.cast(x, flow.compute_dtype)))
    if not allowed.all():
        index = tuple(int(i) for i in np.argwhere(~allowed)[0])
        raise ValueError(
            f"{name} takes {flow.domain.accepts(index[1:])}. Received: {flow.domain.received(x, index)}"
        )


def finite(x: np.ndarray, name: str) -> None:
    """Raise ValueError where an array holds NaN or infinity."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"{name} takes finite numbers. Received: {x[index]} at index {index}")


def condition(flow: Shaped, value: Any, batch: Any = None) -> tf.Tensor | None:
    """Return the condition of a batch as what the layers take: standardised, class labels as one-hot vectors.

    Args:
        flow: the flow.
        value: [batch, *condition_shape], or one condition for the whole batch (no batch dimension, or
            one of size 1).
        batch: number of examples, to spread one condition over; None leaves the batch as it is.

    Raises:
        ValueError: missing, not wanted, of a wrong shape, not finite, or no class of the flow.
    """
    if flow.condition_shape is None:
        if value is not None:
            raise ValueError(
                f"{flow.name} takes no condition: it was built without condition_shape or num_classes."
            )
        return None
    if value is None:
        what = (
            f"class labels below {flow.num_classes}"
            if flow.num_classes
            else f"shape {_text(flow.condition_shape)}"
        )
        raise ValueError(f"{flow.name} needs condition= ({what}). Received: None")
    value = numeric(value, "condition")
    if value.shape.rank == len(flow.condition_shape):
        value = value[None]
    shaped(value, flow.condition_shape, "condition", "condition_shape")
    value = _labels(flow, value) if flow.num_classes else _vector(flow, value)
    if batch is None:
        return value
    return _spread(value, batch)


def leading(flow: Shaped, value: Any) -> tf.Tensor | None:
    """Return the condition of a view, [..., *condition_shape], class labels as one-hot vectors.

    Unlike those of `condition` vectors and images are as they were given, not standardised.

    Raises:
        TypeError, ValueError: as `condition`.
    """
    if value is None or flow.condition_shape is None:
        return condition(flow, value)
    value, rank = numeric(value, "condition"), len(flow.condition_shape)
    split = (value.shape.rank or 0) - rank
    if split < 0 or not value.shape[split:].is_compatible_with(flow.condition_shape):
        raise ValueError(
            f"condition takes the shape [..., {', '.join(map(str, flow.condition_shape))}]. "
            f"Received: {tuple(value.shape)}"
        )
    batch, event = tf.shape(value)[:split], tf.constant(flow.condition_shape, tf.int32)
    rows = condition(flow, tf.reshape(value, tf.concat([[-1], event], 0)))
    if not flow.num_classes:
        return tf.cast(value, flow.compute_dtype)
    return tf.reshape(rows, tf.concat([batch, [flow.num_classes]], 0))


def _labels(flow: Shaped, value: tf.Tensor) -> tf.Tensor:
    if is_eager(value):
        array = np.asarray(value)
        if array.size and (
            array.min() < 0 or array.max() >= flow.num_classes or np.any(array != np.floor(array))
        ):
            raise ValueError(f"{NO_CLASS} from 0 to {flow.num_classes - 1}. Received: {array.ravel()[:8]}")
    else:
        # Not in the dtype of the labels: the number of classes may be more than uint8 holds.
        wide = tf.cast(value, tf.float64 if value.dtype.is_floating else tf.int64)
        inside = tf.reduce_all((wide >= 0) & (wide < tf.cast(flow.num_classes, wide.dtype)))
        if value.dtype.is_floating:
            inside &= tf.reduce_all(tf.equal(wide, tf.floor(wide)))
        value = only_if(inside, value, f"{NO_CLASS} from 0 to {flow.num_classes - 1}. Received:", value)
    return tf.one_hot(tf.cast(value, tf.int32), flow.num_classes, dtype=flow.compute_dtype)


def only_if(condition: tf.Tensor, value: tf.Tensor, message: str, *received: tf.Tensor) -> tf.Tensor:
    """Return a value that exists, in a graph, only where the condition holds."""
    # Not tf.debugging.Assert, which wraps the operation in a branch of its own.
    check = tf.raw_ops.Assert(condition=condition, data=[tf.constant(message), *received], summarize=3)
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _vector(flow: Shaped, value: tf.Tensor) -> tf.Tensor:
    if is_eager(value):
        finite(np.asarray(value), "condition")
    return scaled(flow.condition_scaler, tf.cast(value, flow.compute_dtype))


def _spread(value: tf.Tensor, batch: Any) -> tf.Tensor:
    if is_eager(value) and value.shape[0] not in (1, int(batch)):
        raise ValueError(f"condition holds {value.shape[0]} conditions for {int(batch)} examples.")
    shape = tf.concat([tf.reshape(batch, [1]), tf.shape(value)[1:]], 0)
    return tf.broadcast_to(value, shape)


def number_of_samples(n: Any) -> Any:
    """Return n as an int32 scalar, else raise.

    Raises:
        TypeError: not an integer.
        ValueError: negative.
    """
    if tf.is_tensor(n):
        if not n.dtype.is_integer or n.shape.rank not in (0, None):
            raise TypeError(f"n takes one integer. Received: {n.dtype.name} of shape {tuple(n.shape)}")
        if is_eager(n):
            number_of_samples(int(n))
        return tf.cast(n, tf.int32)
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n takes an integer. Received: {n!r}")
    if n < 0:
        raise ValueError(f"n takes a number of samples of at least 0. Received: {n}")
    return tf.constant(int(n), tf.int32)


def temperature(value: Any, dtype: Any) -> tf.Tensor:
    """Return a temperature as a scalar, else raise ValueError (or TypeError if it is no number)."""
    if not tf.is_tensor(value):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"temperature takes a number above 0. Received: {value!r}")
        value = tf.constant(value, dtype)
    if is_eager(value) and not (np.isfinite(value) and float(value) > 0):
        raise ValueError(f"temperature takes a number above 0. Received: {float(value):g}")
    return tf.cast(value, dtype)
