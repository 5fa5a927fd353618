"""BaseDistribution: the contract of a base."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import flow_dtype


class BaseDistribution(keras.layers.Layer):
    """The distribution of the latent; temperature is its property.

    A subclass writes `log_prob` and `sample`. Bases that learn create their weights in `build`.
    """

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(dtype=flow_dtype(dtype), **kwargs)

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z) in nats, [batch], for z of shape [batch, *latent_shape]."""
        raise NotImplementedError

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`, [batch, *latent_shape], spread `temperature` times as wide as the base."""
        raise NotImplementedError

    def call(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return `log_prob`."""
        return self.log_prob(z, condition)


def make_base(base: Any) -> BaseDistribution:
    """Return a base from itself, its Keras config or its name ("normal", "logistic").

    Raises:
        ValueError: an unknown name.
        TypeError: `base` is something else.
    """
    if isinstance(base, BaseDistribution):
        return base
    if isinstance(base, dict):
        return make_base(keras.saving.deserialize_keras_object(base))
    if isinstance(base, str):
        known = importlib.import_module("flowzoo.distributions.standard").BY_NAME
        if base not in known:
            raise ValueError(
                f"base takes one of {', '.join(sorted(known))} or a BaseDistribution. Received: {base!r}"
            )
        return known[base]()
    raise TypeError(f"base takes a name or a flowzoo.distributions.BaseDistribution. Received: {base!r}")
