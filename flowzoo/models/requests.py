"""What a request to an exported graph must hold, checked by the graph itself.

A server knows no Python: what `flowzoo.models.checks` does at the door of a flow, these operations do inside
its SavedModel. Every value passes through its checks, so that nothing is computed from what they refuse and
no optimiser may drop them; what fails ends the call in an InvalidArgument error.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.layers.base import event_size
from flowzoo.layers.domain import Domain
from flowzoo.models import checks

# What one request may ask to be drawn: so many examples, and so many entries (64 MB of float32) where these
# are fewer, but at least so many examples as the last says.
MAX_SAMPLES, MAX_ENTRIES, ALWAYS_ALLOWED = 2**16, 2**24, 64
_GUARDED: contextvars.ContextVar[bool] = contextvars.ContextVar("guarded", default=False)
_NO_RESULT = (
    "{name} has no finite result: the request is too far from the data for the precision of the model, or an "
    "equation could not be solved within its steps"
)


def most_samples(flow: Any) -> int:
    """Return how many samples one request may ask for: 65,536, or 2^24 entries where these are fewer."""
    most = MAX_ENTRIES // max(1, event_size(flow.event_shape))
    return min(MAX_SAMPLES, max(most, ALWAYS_ALLOWED))


def checked(flow: Any, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the inputs of a request once they are checked: shapes, finite numbers, ranges.

    Args:
        flow: whose export it is.
        given: some of x, z, num_samples, seed, temperature, condition, as `input_specs` describes them.

    Returns:
        The same by the same names; x and z in the flow's precision, the condition as the layers take it,
        one row an example.
    """
    given = {name: _shaped(flow, name, value) for name, value in given.items()}
    result = {name: _CHECKS[name](flow, value) for name, value in given.items() if name != "condition"}
    if "condition" in given:
        result["condition"] = _condition(flow, given["condition"], _batch(result))
    return result


def finite(value: tf.Tensor, name: str) -> tf.Tensor:
    """Return a result, unless it holds NaN or infinity."""
    if not value.dtype.is_floating:
        return value
    return tf.debugging.check_numerics(value, _NO_RESULT.format(name=name))


def log_density(value: tf.Tensor) -> tf.Tensor:
    """Return a log_prob, unless it holds NaN or +infinity.

    -infinity stays: a density may be 0, or below what the precision expresses.
    """
    message = _NO_RESULT.format(name="log_prob")
    return checks.only_if(tf.reduce_all(value < np.inf), value, message)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Have `before_rounding` check what passes through it, while graphs are traced inside."""
    token = _GUARDED.set(True)
    try:
        yield
    finally:
        _GUARDED.reset(token)


def before_rounding(x: tf.Tensor) -> tf.Tensor:
    """Return what the layers gave as data; inside `guarded` NaN is refused, which integers cannot tell."""
    return finite(x, "x") if _GUARDED.get() else x


def _shaped(flow: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    """Return an input of the declared shape. A session feeds any: broadcasting would hide a wrong one."""
    return tf.ensure_shape(value, value.shape, name=f"shape_of_{name}")


def _batch(given: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return how many examples a request has or asks for."""
    for name in ("x", "z"):
        if name in given:
            return tf.shape(given[name])[0]
    return given["num_samples"]


def _x(flow: Any, x: tf.Tensor) -> tf.Tensor:
    if x.dtype.is_floating:
        x = tf.debugging.check_numerics(x, "x takes finite numbers")
    if flow.data_range is not None:
        x = _in_range(flow, x)
    x = tf.cast(x, flow.compute_dtype)
    if flow.domain is not None:
        allowed = tf.reduce_all(flow.domain.contains(x))
        x = checks.only_if(allowed, x, f"x takes {accepted(flow.domain, flow.event_shape)}")
    return x


def _in_range(flow: Any, x: tf.Tensor) -> tf.Tensor:
    low, high = flow.data_range
    if x.dtype.is_integer and low <= x.dtype.min and high >= x.dtype.max:
        return x
    kind = "whole numbers" if flow.num_values else "numbers"
    least, most = tf.reduce_min(x), tf.reduce_max(x)
    inside = (least >= tf.cast(low, x.dtype)) & (most <= tf.cast(high, x.dtype))
    # Of no examples the least is the greatest number there is, and the other way round.
    fine = inside | tf.equal(tf.size(x), 0)
    return checks.only_if(
        fine, x, f"x takes {kind} from {low:g} to {high:g}. Received numbers from, to:", least, most
    )


def accepted(domain: Domain, event_shape: tuple[int, ...]) -> str:
    """Say in words what a domain allows: each text once, where entries differ."""
    texts = dict.fromkeys(domain.accepts(index) for index in np.ndindex(event_shape))
    return "; ".join(list(texts)[:8])


def _z(flow: Any, z: tf.Tensor) -> tf.Tensor:
    return tf.debugging.check_numerics(z, "z takes finite numbers")


def _num_samples(flow: Any, n: tf.Tensor) -> tf.Tensor:
    most = most_samples(flow)
    message = f"num_samples takes a whole number from 0 to {most}. Received:"
    return checks.only_if((n >= 0) & (n <= most), n, message, n)


def _temperature(flow: Any, temperature: tf.Tensor) -> tf.Tensor:
    if flow.base.takes_temperature:
        fine, text = (temperature > 0) & (temperature < np.inf), "a finite number above 0"
    else:
        fine, text = tf.equal(temperature, 1), "1 alone, since the base of this model is uniform"
    return checks.only_if(fine, temperature, f"temperature takes {text}. Received:", temperature)


def _condition(flow: Any, condition: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    if not flow.num_classes:  # labels are checked where they are read
        condition = tf.debugging.check_numerics(condition, "condition takes finite numbers")
    rows = tf.shape(condition)[0]
    message = "condition takes one row an example, or one row for all. Received rows, examples:"
    condition = checks.only_if(tf.equal(rows, batch) | tf.equal(rows, 1), condition, message, rows, batch)
    result = checks.condition(flow, condition, batch)
    if result is None:
        raise ValueError(f"{flow.name} takes no condition.")
    return result


_CHECKS = {
    "x": _x,
    "z": _z,
    "num_samples": _num_samples,
    "seed": lambda flow, seed: seed,
    "temperature": _temperature,
}
