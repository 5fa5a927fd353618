"""Compositions: shares that sum to one."""

from __future__ import annotations

import keras
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape
from flowzoo.layers.domain import Domain, SimplexDomain, tiny


@keras.saving.register_keras_serializable("flowzoo")
class Simplex(FlowLayer):
    """Take D - 1 numbers to D positive ones that sum to 1: x = softmax(z_1 … z_D-1, 0), along the last axis.

    Data to latent is the additive log-ratio z_i = log x_i - log x_D. The density is that of the first D - 1
    entries (with respect to their Lebesgue measure; the last is what they leave), as that of a Dirichlet
    distribution: log |det d(x_1 … x_D-1)/dz| is the sum of log x_i over all D entries. (The density with
    respect to the area of the simplex in R^D is smaller by the factor sqrt(D): subtract log(D) / 2.) Both
    directions cost one pass over the entries. Every sample has positive entries.

    Args:
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: when built for fewer than 2 entries on the last axis.

    References:
        Aitchison, The Statistical Analysis of Compositional Data (1982), Journal of the Royal Statistical
        Society B 44 (additive log-ratio).
    """

    domain: Domain | None = SimplexDomain()

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return three shares, two with a condition, and pixels of three shares."""
        return [
            LayerCase({}, (3,), support="simplex"),
            LayerCase({}, (2,), condition_shape=(2,), support="simplex"),
            LayerCase({}, (2, 1, 3), support="simplex"),
        ]

    def _latent_shape(self, event_shape: Shape) -> Shape:
        if not event_shape or event_shape[-1] < 2:
            raise ValueError(
                f"A simplex takes at least 2 entries on the last axis. Received: event_shape={event_shape}"
            )
        return (*event_shape[:-1], event_shape[-1] - 1)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        last = tf.zeros_like(z[..., :1])
        log_x = tf.nn.log_softmax(tf.concat([z, last], axis=-1))
        x = tf.maximum(tf.exp(log_x), tiny(z.dtype))
        return x, _sum(log_x)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        log_x = tf.math.log(x)
        return log_x[..., :-1] - log_x[..., -1:], -_sum(log_x)


def _sum(value: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(value, axis=list(range(1, value.shape.rank)))
