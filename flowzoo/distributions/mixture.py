"""Several modes: a mixture of normals."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from flowzoo import random
from flowzoo.distributions.base import BaseDistribution
from flowzoo.distributions.full_covariance import positive
from flowzoo.layers.base import Shape


@keras.saving.register_keras_serializable("flowzoo")
class Mixture(BaseDistribution):
    """Mixture of K normals with learned weights w_k, means m_k and standard deviations s_k an entry.

    log p(z) = log sum over k of w_k exp(sum over the entries of
    -((z - m_k) / s_k)^2 / 2 - log s_k - log(2 pi) / 2). At temperature T each component is T times as wide
    about its mean, and the weights stay: cold samples lie near the means of all components. The means start
    apart, drawn from a standard normal, the standard deviations at 1 and the weights equal.

    Both directions cost K times what the normal costs, and log_prob holds [batch, K, *latent_shape] in
    memory. Samples are differentiable with respect to means and standard deviations; which component is drawn
    is not with respect to the weights, which learn through log_prob.

    Args:
        components: K, at least 1.
        seed: of the means at the start.
        **kwargs: of `BaseDistribution`.

    Raises:
        ValueError: `components` is not an integer of at least 1.

    References:
        Izmailov et al., Semi-Supervised Learning with Normalizing Flows (2020),
        https://arxiv.org/abs/1912.13025 (a mixture of normals as the base).
    """

    kind: ClassVar[str | None] = "mixture"
    reparameterized: ClassVar[bool] = False

    def __init__(self, components: int = 5, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise ValueError(f"components takes an integer of at least 1. Received: {components!r}")
        self.components, self.seed = components, seed

    def _build(self, latent_shape: Shape) -> None:
        shape = (self.components, *latent_shape)
        apart = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        self.means = self.add_weight(shape=shape, initializer=apart, name="means")
        self.raw_scales = self.add_weight(shape=shape, initializer="zeros", name="raw_scales")
        self.logits = self.add_weight(shape=(self.components,), initializer="zeros", name="logits")

    def scales(self) -> tf.Tensor:
        """Return the standard deviations, [K, *latent_shape]."""
        return positive(tf.convert_to_tensor(self.raw_scales))

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z), [batch]."""
        scales = self.scales()
        white = (z[:, None] - tf.convert_to_tensor(self.means)) / scales
        entries = -0.5 * white**2 - tf.math.log(scales) - 0.5 * math.log(2 * math.pi)
        inside = tf.reduce_sum(entries, axis=list(range(2, entries.shape.rank)))
        return tf.reduce_logsumexp(tf.nn.log_softmax(self.logits) + inside, axis=1)

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`."""
        dtype = self.compute_dtype
        chosen = self._choose(shape, random.fold_in(seed, 0))
        noise = random.normal(shape, random.fold_in(seed, 1), dtype) * tf.cast(temperature, dtype)
        means = tf.gather(tf.convert_to_tensor(self.means), chosen)
        return means + tf.gather(self.scales(), chosen) * noise

    def _choose(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
        """Draw the component of each example, [batch]."""
        below = tf.cumsum(tf.nn.softmax(tf.convert_to_tensor(self.logits)))[:-1]
        place = random.uniform(tf.reshape(shape[0], [1]), seed, self.compute_dtype)
        return tf.reduce_sum(tf.cast(place[:, None] >= below, tf.int32), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal base."""
        return {**super().get_config(), "components": self.components, "seed": self.seed}
