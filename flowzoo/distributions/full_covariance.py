"""The normal with a covariance of its own."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo import random
from flowzoo.distributions.base import BaseDistribution
from flowzoo.layers.base import Shape, event_size

# Added to the diagonal of the Cholesky factor, so that the covariance stays regular.
MIN_SCALE = 1e-4


def positive(raw: tf.Tensor) -> tf.Tensor:
    """Turn unbounded numbers into scales above MIN_SCALE: softplus, shifted so that 0 gives 1."""
    return MIN_SCALE + tf.nn.softplus(raw + math.log(math.expm1(1.0 - MIN_SCALE)))


@keras.saving.register_keras_serializable("flowzoo")
class FullCovarianceNormal(BaseDistribution):
    """Normal with a learned mean m and a learned Cholesky factor L of its covariance L L'.

    log p(z) = -|L^-1 (z - m)|^2 / 2 - sum of log L_ii - D/2 log 2 pi, D the size of a latent, which is
    flattened. At temperature T the standard deviation is T times as large about the mean: m + T L e with e
    standard normal. It starts as the standard normal. A batch costs D^2 operations an example in either
    direction, and there are D (D + 3) / 2 weights.

    Args:
        **kwargs: of `BaseDistribution`.
    """

    kind: ClassVar[str | None] = "full_covariance_normal"

    def _build(self, latent_shape: Shape) -> None:
        self._size = event_size(latent_shape)
        count = self._size * (self._size + 1) // 2
        self.mean = self.add_weight(shape=(self._size,), initializer="zeros", name="mean")
        # One vector: no weight is without effect, as above the diagonal of a matrix.
        self.factor = self.add_weight(shape=(count,), initializer="zeros", name="factor")

    def cholesky(self) -> tf.Tensor:
        """Return L, [D, D], lower triangular with a positive diagonal."""
        lower = tfp.math.fill_triangular(tf.convert_to_tensor(self.factor))
        return tf.linalg.set_diag(lower, positive(tf.linalg.diag_part(lower)))

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z), [batch]."""
        factor = self.cholesky()
        centred = tf.reshape(z, [-1, self._size]) - tf.convert_to_tensor(self.mean)
        white = tf.linalg.triangular_solve(factor, tf.transpose(centred), lower=True)
        log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)))
        return -0.5 * tf.reduce_sum(white**2, axis=0) - log_det - 0.5 * self._size * math.log(2 * math.pi)

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`."""
        dtype = self.compute_dtype
        noise = random.normal(shape, seed, dtype) * tf.cast(temperature, dtype)
        noise = tf.matmul(tf.reshape(noise, [-1, self._size]), self.cholesky(), transpose_b=True)
        return tf.reshape(tf.convert_to_tensor(self.mean) + noise, shape)
