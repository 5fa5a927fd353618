"""Diagonal scaling: the one volume change of NICE."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.actnorm import moments
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, event_size


@keras.saving.register_keras_serializable("flowzoo")
class DiagonalScaling(FlowLayer):
    """Scale each entry by a learned factor: x = z exp(s).

    log |det dx/dz| = sum of s. NICE writes h = exp(s) x for data to latent; its s is the negative of
    this one. Both directions cost one multiplication. The first data may set s, so that each entry of
    the latent starts with standard deviation 1; from there it trains.

    Args:
        from_data: whether the first data set s.
        **kwargs: of `FlowLayer`.

    References:
        Dinh et al., NICE (2014), https://arxiv.org/abs/1410.8516, section 3.3.
    """

    def __init__(self, from_data: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_data = bool(from_data)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector, an image and a single number."""
        return [
            LayerCase({}, (4,)),
            LayerCase({"from_data": True}, (2, 2, 2), condition_shape=(3,)),
            LayerCase({}, (1,)),
        ]

    @property
    def data_init_examples(self) -> int:  # type: ignore[override]
        """A spread of the data, where they set the weights."""
        return 65536 if self.from_data else 0

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        self.log_scale = self.add_weight(shape=event_shape, initializer="zeros", name="log_scale")
        if self.from_data:
            self.initialized = self.add_weight(
                shape=(), initializer="zeros", dtype="bool", trainable=False, name="initialized"
            )

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set s to the log standard deviation of each entry of `x`, unless it was set before."""
        if self.from_data:
            x = self._checked("x", x, "event_shape")
            log_std = moments(tf.reshape(x, [-1, event_size(self.event_shape)]))[1]
            log_std = tf.cast(tf.reshape(log_std, self.event_shape), self.log_scale.dtype)
            done = tf.convert_to_tensor(self.initialized)
            self.log_scale.assign(tf.where(done, tf.convert_to_tensor(self.log_scale), log_std))
            self.initialized.assign(tf.ones((), tf.bool))
        return self.flow_inverse(x, condition)[0]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "from_data": self.from_data}

    def _affine(self) -> Any:
        log_scale = tf.convert_to_tensor(self.log_scale)
        return elementwise.affine(tf.zeros_like(log_scale), log_scale)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = elementwise.forward(self._affine(), z)
        return x, constant_log_det(tf.reduce_sum(log_det), z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = elementwise.inverse(self._affine(), x)
        return z, constant_log_det(tf.reduce_sum(log_det), x)
