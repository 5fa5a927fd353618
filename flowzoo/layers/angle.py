"""Angles: the circle's seam, and rotations that move it."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det
from flowzoo.layers.domain import AngleDomain, Domain


def wrap(angle: tf.Tensor) -> tf.Tensor:
    """Return angles with their whole turns taken off, from -pi to pi."""
    turns = tf.floor((angle + math.pi) / (2 * math.pi))
    return tf.clip_by_value(angle - 2 * math.pi * turns, -math.pi, math.pi)


@keras.saving.register_keras_serializable("flowzoo")
class Angle(FlowLayer):
    """Take whole turns off, in both directions: x = z - 2 pi floor((z + pi) / (2 pi)), in [-pi, pi).

    It closes a stack of circular layers at both ends, between which values may have turned: pi and -pi
    are then the same datum, and the latents lie in [-pi, pi), where the base is uniform. On the circle it is
    the identity, and its log-determinants are 0. Both directions cost one elementwise pass. A flow whose
    layer next to the data this is refuses angles outside [-pi, pi], which are degrees more often than turns.

    Args:
        **kwargs: of `FlowLayer`.
    """

    domain: Domain | None = AngleDomain()

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return angles, with and without a condition."""
        return [
            LayerCase({}, (2,), support="angle"),
            LayerCase({}, (3,), condition_shape=(2,), support="angle"),
        ]

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return wrap(z), constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return wrap(x), constant_log_det(0.0, x)


@keras.saving.register_keras_serializable("flowzoo")
class Rotation(FlowLayer):
    """Rotate each angle by a learned one: x = z + s.

    Circular splines keep the point ±pi where it is; rotations between them put it elsewhere, so that no
    point of the circle is special. log |det dx/dz| = 0. Both directions cost one addition.

    Args:
        initial: s at the start, for all entries.
        **kwargs: of `FlowLayer`.

    References:
        Rezende et al., Normalizing Flows on Tori and Spheres (2020), https://arxiv.org/abs/2002.02428,
        section 2.1 (phase translations).
    """

    def __init__(self, initial: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = float(initial)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors, with and without a condition."""
        return [LayerCase({"initial": 2.0}, (2,)), LayerCase({}, (3,), condition_shape=(2,))]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        start = keras.initializers.Constant(self.initial)
        self.shift = self.add_weight(shape=event_shape, initializer=start, name="shift")

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return z + tf.convert_to_tensor(self.shift), constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return x - tf.convert_to_tensor(self.shift), constant_log_det(0.0, x)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "initial": self.initial}
