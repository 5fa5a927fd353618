"""Bases without weights: the standard normal and the standard logistic."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo import random
from flowzoo.distributions.base import BaseDistribution
from flowzoo.layers.base import sum_event

tfd = tfp.distributions


@keras.saving.register_keras_serializable("flowzoo")
class Normal(BaseDistribution):
    """Independent standard normal entries; at temperature T their standard deviation is T."""

    kind: ClassVar[str | None] = "normal"

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return the sum of -(z^2 + log 2 pi) / 2 over the event, [batch]."""
        zero, one = tf.zeros((), z.dtype), tf.ones((), z.dtype)
        return sum_event(tfd.Normal(zero, one).log_prob(z))

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`."""
        dtype = self.compute_dtype
        return random.normal(shape, seed, dtype) * tf.cast(temperature, dtype)


@keras.saving.register_keras_serializable("flowzoo")
class Logistic(BaseDistribution):
    """Independent standard logistic entries; at temperature T their scale is T.

    References:
        Dinh et al., NICE (2014), https://arxiv.org/abs/1410.8516, section 3.4.
    """

    kind: ClassVar[str | None] = "logistic"

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return the sum of -z - 2 log(1 + exp(-z)) over the event, [batch]."""
        zero, one = tf.zeros((), z.dtype), tf.ones((), z.dtype)
        return sum_event(tfd.Logistic(zero, one).log_prob(z))

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`."""
        dtype = self.compute_dtype
        uniform = random.open_uniform(shape, seed, dtype)
        return (tf.math.log(uniform) - tf.math.log1p(-uniform)) * tf.cast(temperature, dtype)
