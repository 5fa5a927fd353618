"""Velocities that also know how to go without their condition, for classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowzoo.networks.velocity import Velocity, as_velocity


@keras.saving.register_keras_serializable("flowzoo")
class Guided(Velocity):
    """A velocity with a null condition: f(x, t, c) and f(x, t, none) by one network.

    The null condition is all zeros. Zeros are no class label as a one-hot vector, and with
    `indicator=False` they stand as they are. Any other condition may well be zero: with `indicator=True`
    the network sees one more entry of the condition's last axis (one more channel of an image), which is 1
    where there is a condition and 0 where there is none.

    `velocity` is f(x, t, c); `guided(w)` is (1 + w) f(x, t, c) - w f(x, t, none), at the cost of both.

    Args:
        network: f, a `Velocity`.
        indicator: whether an entry says that there is a condition.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: there is no condition.
        TypeError: `network` is not a Velocity.

    References:
        Ho & Salimans, Classifier-Free Diffusion Guidance (2022), https://arxiv.org/abs/2207.12598,
        equation 6.
    """

    def __init__(self, network: Velocity, indicator: bool = True, **kwargs: Any) -> None:
        kwargs.pop("activation", None)
        super().__init__("linear", **kwargs)
        network = as_velocity(network)  # type: ignore[assignment]
        if network is None:
            raise TypeError("network takes a flowzoo.networks.Velocity. Received: None")
        self.network, self.indicator = network, bool(indicator)

    def _build(self) -> None:
        shapes = self.shapes
        condition = shapes["condition_shape"]
        if condition is None:
            raise ValueError("Guided takes a condition. Received: condition_shape=None")
        seen = (*condition[:-1], condition[-1] + 1) if self.indicator else tuple(condition)
        self.network.build_for(
            shapes["input_shape"], shapes["entry_shape"], shapes["params_per_entry"], seen, self.dtype_policy
        )

    def _velocity(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        return self.network.velocity(x, time, self._seen(condition, tf.ones_like(time)))

    def dropped(self, x: tf.Tensor, time: tf.Tensor, condition: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Return f(x, t, c) where `kept`, [batch], is 1 and f(x, t, none) where it is 0."""
        return tf.reshape(self.network.velocity(x, time, self._seen(condition, kept)), tf.shape(x))

    def guided(self, weight: Any) -> Callable[..., tf.Tensor]:
        """Return the function (x, time, condition) to (1 + w) f(x, t, c) - w f(x, t, none)."""

        def field(x: tf.Tensor, time: Any, condition: tf.Tensor) -> tf.Tensor:
            # Both from one batch of twice the size: half the graph, and better use of a GPU.
            time = tf.broadcast_to(tf.convert_to_tensor(time, x.dtype), tf.shape(x)[:1])
            kept = tf.concat([tf.ones_like(time), tf.zeros_like(time)], 0)
            twice = tf.concat([x, x], 0), tf.concat([time, time], 0), tf.concat([condition, condition], 0)
            both = self.dropped(*twice, kept)
            plain, none = tf.split(both, 2)
            scale = tf.cast(weight, x.dtype)
            return tf.ensure_shape((1 + scale) * plain - scale * none, x.shape)

        return field

    def _seen(self, condition: tf.Tensor | None, kept: tf.Tensor) -> tf.Tensor:
        """Return what the network sees: zeros where the condition is dropped, and the indicator."""
        kept = tf.reshape(tf.cast(kept, condition.dtype), [-1] + [1] * (condition.shape.rank - 1))
        condition = condition * kept
        if not self.indicator:
            return condition
        return tf.concat([condition, tf.ones_like(condition[..., :1]) * kept], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        config = super().get_config()
        config.pop("activation")
        network = keras.saving.serialize_keras_object(self.network)
        return {**config, "network": network, "indicator": self.indicator}
