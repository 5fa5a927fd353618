"""Where data must lie, for data that do not fill an interval with both ends: asked at the door of a flow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

# How far the sum of an example of compositions may be from 1.
SUM_TOLERANCE = 1e-4


def tiny(dtype: Any) -> float:
    """Return the smallest positive number whose logarithm TensorFlow gives (below it, numbers flush to 0)."""
    return float(np.finfo(tf.as_dtype(dtype).as_numpy_dtype).tiny)


class Domain:
    """A set of allowed data."""

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry of floats [batch, *event_shape] whether it is allowed."""
        raise NotImplementedError

    def accepts(self, index: tuple[int, ...]) -> str:
        """Say in words what is allowed at an index of the event, and what to do with other data."""
        raise NotImplementedError

    def received(self, x: np.ndarray, index: tuple[int, ...]) -> str:
        """Say in words what was found at an index of the batch."""
        return f"{x[index]!s} at index {index}"


class PositiveDomain(Domain):
    """Numbers above 0."""

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry whether it is above 0."""
        return (x >= tiny(x.dtype)) & (x < math.inf)

    def accepts(self, index: tuple[int, ...]) -> str:
        """Return the text of the error."""
        return (
            "numbers above 0 (a zero has no logarithm, and no density either if many data are exactly 0: "
            "leave zeros out, model whether there is one separately, or add a small constant)"
        )


class BoxDomain(Domain):
    """Numbers between two bounds an entry, the bounds themselves excluded."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low, self.high = low, high

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry whether it is between its bounds."""
        low, high = tf.constant(self.low, x.dtype), tf.constant(self.high, x.dtype)
        least = tiny(x.dtype)
        return (x - low >= least) & (high - x >= least)

    def accepts(self, index: tuple[int, ...]) -> str:
        """Return the text of the error."""
        return (
            f"numbers between {self.low[index]:g} and {self.high[index]:g}, without these two (data that "
            f"reach a bound need a wider box, or np.clip to just inside of it)"
        )


class SimplexDomain(Domain):
    """Positive entries that sum to 1 along the last axis."""

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry whether it is above 0, and its example sums to 1."""
        whole = tf.abs(tf.reduce_sum(x, axis=-1, keepdims=True) - 1) <= SUM_TOLERANCE
        return (x >= tiny(x.dtype)) & whole

    def accepts(self, index: tuple[int, ...]) -> str:
        """Return the text of the error."""
        return (
            f"positive entries that sum to 1 along the last axis, to within {SUM_TOLERANCE:g} (divide by the "
            f"sum; a zero lies on the edge and has no density: replace it by a small share first)"
        )

    def received(self, x: np.ndarray, index: tuple[int, ...]) -> str:
        """Return the example and its sum."""
        row = x[index[:-1]]
        return f"{row} with the sum {row.sum():g} at index {index[:-1]}"


class AngleDomain(Domain):
    """Angles from -pi to pi, both ends taken for one point."""

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry whether it is an angle in radians."""
        # pi in single precision is a little more than pi.
        return tf.abs(x) <= tf.constant(float(np.float32(math.pi)), x.dtype)

    def accepts(self, index: tuple[int, ...]) -> str:
        """Return the text of the error."""
        return (
            "angles in radians from -pi to pi (degrees: np.deg2rad; with other turns: (x + pi) % (2 pi) - pi)"
        )


class ColumnsDomain(Domain):
    """A domain for each column; None allows any number."""

    def __init__(self, columns: list[Domain | None]) -> None:
        self.columns = columns

    def contains(self, x: tf.Tensor) -> tf.Tensor:
        """Say of each entry whether its column allows it."""
        found = [
            tf.ones_like(x[:, i : i + 1], tf.bool) if domain is None else domain.contains(x[:, i : i + 1])
            for i, domain in enumerate(self.columns)
        ]
        return tf.concat(found, axis=1)

    def accepts(self, index: tuple[int, ...]) -> str:
        """Return the text of the error."""
        domain = self.columns[index[0]]
        return f"in column {index[0]} " + ("any number" if domain is None else domain.accepts((0,)))
