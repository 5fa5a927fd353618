"""Patches: images, vectors and sequences as sequences of tokens."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det
from flowzoo.networks.base import positive_int


@keras.saving.register_keras_serializable("flowzoo")
class Patchify(FlowLayer):
    """Cut events into patches of p entries a side: data to latent [tokens, channels].

    (height, width, c) becomes (height/p width/p, p p c), the patches row by row; (length, c) becomes
    (length/p, p c); (length,) becomes (length/p, p). The log-determinant is 0; both directions cost a copy.

    Args:
        patch_size: p.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: `patch_size` is not a positive integer; (when built) it does not divide the event, or
            the event has more than three dimensions.
    """

    def __init__(self, patch_size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size = positive_int("patch_size", patch_size)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return an image, a vector and a sequence."""
        return [
            LayerCase({"patch_size": 2}, (4, 2, 2)),
            LayerCase({"patch_size": 3}, (6,), condition_shape=(2,)),
            LayerCase({"patch_size": 1}, (2, 3)),
        ]

    def _latent_shape(self, event_shape: Shape) -> Shape:
        side, sizes = self.patch_size, event_shape if len(event_shape) == 1 else event_shape[:-1]
        if len(event_shape) not in (1, 2, 3) or any(size % side for size in sizes):
            raise ValueError(
                f"patch_size takes a number that divides the height and width of an image, or the length of "
                f"a vector or sequence. Received: patch_size={side} for event_shape={event_shape}"
            )
        channels = 1 if len(event_shape) == 1 else event_shape[-1]
        if len(event_shape) == 3:
            return (sizes[0] // side) * (sizes[1] // side), side * side * channels
        return sizes[0] // side, side * channels

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if len(self.event_shape) == 3:
            height, width, channels = self.event_shape
            side = self.patch_size
            z = tf.reshape(z, [-1, height // side, width // side, side, side, channels])
            z = tf.transpose(z, [0, 1, 3, 2, 4, 5])
        x = tf.reshape(z, [-1, *self.event_shape])
        return x, constant_log_det(0.0, x)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if len(self.event_shape) == 3:
            height, width, channels = self.event_shape
            side = self.patch_size
            x = tf.reshape(x, [-1, height // side, side, width // side, side, channels])
            x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
        z = tf.reshape(x, [-1, *self.latent_shape])
        return z, constant_log_det(0.0, z)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "patch_size": self.patch_size}
