"""From bounded numbers to all numbers: positive data and data in a box."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, sum_event
from flowzoo.layers.domain import BoxDomain, Domain, PositiveDomain, tiny

tfb = tfp.bijectors
TRANSFORMS = ("exp", "softplus")
# Between the bounds of a box: data rounded by a thousandth of their spread have nearly the density they had.
_LEAST_NUMBERS = 1000


@keras.saving.register_keras_serializable("flowzoo")
class Positive(FlowLayer):
    """Take all numbers to the positive ones: x = exp(z), or x = log(1 + exp(z)).

    log |det dx/dz| is the sum of z, or of log sigmoid(z), over the entries. Both directions cost one
    elementwise pass. "exp" suits data over orders of magnitude, and with `Standardize` beneath it the unit of
    the data does not matter; "softplus" leaves large data nearly as they are, and its samples cannot grow
    exponentially. Every sample is positive: where exp would round to 0 or infinity, the nearest finite
    positive number is given.

    Args:
        transform: "exp" or "softplus".
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: an unknown transform.
    """

    domain: Domain | None = PositiveDomain()

    def __init__(self, transform: str = "exp", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if transform not in TRANSFORMS:
            raise ValueError(f"transform takes one of {', '.join(TRANSFORMS)}. Received: {transform!r}")
        self.transform = transform

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return both transforms, and a condition, which the layer leaves alone."""
        return [
            LayerCase({}, (2,), support="positive"),
            LayerCase({"transform": "softplus"}, (1,), condition_shape=(2,), support="positive"),
        ]

    def _bijector(self) -> tfb.Bijector:
        return tfb.Exp() if self.transform == "exp" else tfb.Softplus()

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        bijector = self._bijector()
        least, most = tiny(z.dtype), z.dtype.max / 2
        # Clipped before the exponential, so that no gradient is infinity times zero; and after, for rounding.
        inside = tf.clip_by_value(z, math.log(least), math.log(most) if self.transform == "exp" else most)
        x = tf.clip_by_value(bijector.forward(inside), least, z.dtype.max)
        return x, sum_event(bijector.forward_log_det_jacobian(z, event_ndims=0))

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = elementwise.inverse(self._bijector(), x)
        return z, sum_event(log_det)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "transform": self.transform}


@keras.saving.register_keras_serializable("flowzoo")
class Box(FlowLayer):
    """Take all numbers to an open interval an entry: x = low + (high - low) sigmoid(z).

    log |det dx/dz| is the sum over the entries of log(high - low) + log sigmoid(z) + log sigmoid(-z). Both
    directions cost one elementwise pass. Every sample lies inside: where rounding would reach a bound, the
    nearest number within is given. `Logit` with its alpha is for data that take the bounds themselves, and
    its samples may lie a little outside; here none does.

    Args:
        low: the lower bounds, a number or an array that broadcasts to the event shape.
        high: the upper bounds.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: a lower bound is not below its upper one, a bound is not finite, or (when built) they do
            not suit the event, or are too large or too close together for the precision of the layer.
    """

    def __init__(self, low: Any = 0.0, high: Any = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = (np.asarray(bound, "float64") for bound in (low, high))
        if not (
            np.isfinite(self.low).all() and np.isfinite(self.high).all() and np.all(self.low < self.high)
        ):
            raise ValueError(
                f"low and high take finite numbers, each low below its high. Received: {low!r}, {high!r}"
            )

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return one box for all entries and one an entry."""
        own = {"low": [0.0, -3.0], "high": [10.0, -1.0]}
        return [
            LayerCase({}, (2, 2, 1), support="unit"),
            LayerCase(own, (2,), condition_shape=(2,), support=(("box", 0, 10), ("box", -3, -1))),
        ]

    @property
    def domain(self) -> Domain | None:  # type: ignore[override]
        """Between the bounds; None until the layer is built."""
        if not self.built:
            return None
        return BoxDomain(*(np.broadcast_to(bound, self.event_shape) for bound in (self.low, self.high)))

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        for bound in (self.low, self.high):
            try:
                fits = np.broadcast_shapes(bound.shape, event_shape) == event_shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(
                    f"low and high take a number or one an entry of event_shape={event_shape}. "
                    f"Received: shape {bound.shape}"
                )
        self._check_precision()

    def _check_precision(self) -> None:
        """Refuse a box whose density float32 would lose: 1e9 and 1e9 + 1 are one number in it."""
        with np.errstate(over="ignore"):
            low, high = self._bounds(self.compute_dtype)
            width = np.asarray(high - low)
        step = np.spacing(np.maximum(np.abs(low), np.abs(high)))
        if not (np.isfinite(width) & (width >= _LEAST_NUMBERS * step) & (width > tiny(low.dtype))).all():
            raise ValueError(
                f"{self.compute_dtype} has too few numbers between low and high, or none as large: a box "
                f"takes bounds with {_LEAST_NUMBERS} between them. Subtract an offset from data and bounds, "
                f"divide both, or build with dtype='float64'. Received: {self.low.tolist()}, "
                f"{self.high.tolist()}"
            )

    def _bounds(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        kind = tf.as_dtype(dtype).as_numpy_dtype
        return self.low.astype(kind), self.high.astype(kind)

    # Not TFP's Sigmoid, whose gradients are NaN far out once it has bounds.
    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        low, high = self._bounds(z.dtype)
        width, least = high - low, np.asarray(tiny(z.dtype), low.dtype)
        # From the nearer bound, where the digits are.
        x = tf.where(z < 0, low + width * tf.sigmoid(z), high - width * tf.sigmoid(-z))
        first = np.maximum(np.nextafter(low, high), low + least)
        last = np.minimum(np.nextafter(high, low), high - least)
        log_det = np.log(width) - tf.nn.softplus(z) - tf.nn.softplus(-z)
        return tf.clip_by_value(x, first, last), sum_event(log_det)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        low, high = self._bounds(x.dtype)
        above, below = tf.math.log(x - low), tf.math.log(high - x)
        return above - below, sum_event(np.log(high - low) - above - below)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "low": self.low.tolist(), "high": self.high.tolist()}
