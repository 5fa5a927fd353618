"""BaseDistribution: the contract of a base."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from flowzoo.layers.base import Shape, as_shape, flow_dtype


class BaseDistribution(keras.layers.Layer):
    """The distribution of the latent; temperature is its property.

    A subclass names itself (`kind`), writes `log_prob` and `sample`, creates its weights in `_build` if it
    learns, and says what temperature means. `log_prob` is always that at temperature 1.

    Args:
        dtype: of latents and log-densities; float32 unless a float64 policy is set.
        **kwargs: of `keras.layers.Layer` (name, trainable).
    """

    # The name by which `make_base` finds it.
    kind: ClassVar[str | None] = None
    # Whether samples are differentiable functions of noise with respect to every weight.
    reparameterized: ClassVar[bool] = True
    # Whether another temperature than 1 means anything.
    takes_temperature: ClassVar[bool] = True

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(dtype=flow_dtype(dtype), **kwargs)
        self.latent_shape: Shape = ()  # known once the base is built

    def build(self, input_shape: Any) -> None:
        """Create the weights for a batch of latents, (None, *latent_shape)."""
        self.latent_shape = as_shape(tuple(input_shape)[1:])
        self._build(self.latent_shape)

    def build_for(self, latent_shape: Shape) -> BaseDistribution:
        """Build for a shape without batch dimension, or check that the base was built for it.

        Raises:
            ValueError: the base was built for another shape, or cannot take this one.
        """
        if not self.built:
            self.build((None, *latent_shape))
        elif self.latent_shape != tuple(latent_shape):
            raise ValueError(
                f"{self.name} is built for latents of shape {self.latent_shape} and cannot serve a second "
                f"flow of another. Received: {tuple(latent_shape)}"
            )
        return self

    def _build(self, latent_shape: Shape) -> None:
        """Create the weights. Nothing to do for a base without."""

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z) in nats, [batch], for z of shape [batch, *latent_shape]."""
        raise NotImplementedError

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`, [batch, *latent_shape], at a temperature: see the class."""
        raise NotImplementedError

    def check_temperature(self, temperature: Any) -> None:
        """Raise ValueError for a temperature that the base has no meaning for, where it can be seen."""

    def call(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return `log_prob`."""
        return self.log_prob(z, condition)
