"""Diagonal scaling: the one volume change of NICE."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, sum_event


@keras.saving.register_keras_serializable("flowzoo")
class DiagonalScaling(FlowLayer):
    """Scale each entry by a learned factor: x = z exp(s).

    log |det dx/dz| = sum of s. NICE writes h = exp(s) x for data to latent; its s is the negative of
    this one. Both directions cost one multiplication.

    Args:
        **kwargs: of `FlowLayer`.

    References:
        Dinh et al., NICE (2014), https://arxiv.org/abs/1410.8516, section 3.3.
    """

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector, an image and a single number."""
        return [LayerCase({}, (4,)), LayerCase({}, (2, 2, 2), condition_shape=(3,)), LayerCase({}, (1,))]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        self.log_scale = self.add_weight(shape=event_shape, initializer="zeros", name="log_scale")

    def _affine(self) -> Any:
        log_scale = tf.convert_to_tensor(self.log_scale)
        return elementwise.affine(tf.zeros_like(log_scale), log_scale)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = elementwise.forward(self._affine(), z)
        return x, sum_event(tf.broadcast_to(log_det, tf.shape(z)))

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = elementwise.inverse(self._affine(), x)
        return z, sum_event(tf.broadcast_to(log_det, tf.shape(x)))
