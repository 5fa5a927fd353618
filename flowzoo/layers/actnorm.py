"""Act-norm: an affine transform a channel, set from the first data that it sees."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, event_size


def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return mean and log standard deviation of each entry of the last axis, in float64.

    An entry that does not vary gets the log standard deviation 0. The spread is that of x - mean, so
    that a mean far from zero costs no digits.
    """
    x = tf.reshape(tf.cast(x, tf.float64), [-1, x.shape[-1]])
    mean = tf.reduce_mean(x, axis=0)
    std = tf.sqrt(tf.reduce_mean(tf.square(x - mean), axis=0))
    varies = std > 1e-9 * tf.abs(mean)
    return mean, tf.math.log(tf.where(varies, std, tf.ones_like(std)))


class DataAffine(FlowLayer):
    """Base of layers x = z exp(log_scale) + shift with weights an entry of the last axis, set from data.

    `data_init` sets the weights once, so that the latent of the data it is given has mean 0 and
    standard deviation 1, and notes it in the weight `initialized`, which is saved with the others.
    `Flow.fit` calls it before the first step, outside the training graph, where replicas agree.
    """

    trains_from_data = True

    @property
    def data_init_examples(self) -> int:  # type: ignore[override]
        """2048 images, but 32768 vectors: the spread of a column may be that of a few rows far out."""
        return 32768 if len(self.event_shape) <= 1 else 2048

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return nothing: the layers that derive from this one are tested."""
        return []

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        if not event_shape:
            raise ValueError(f"{type(self).__name__} takes events of rank 1 or more. Received: ()")
        size = event_shape[-1:]
        trainable = self.trains_from_data
        self.shift = self.add_weight(shape=size, initializer="zeros", trainable=trainable, name="shift")
        self.log_scale = self.add_weight(
            shape=size, initializer="zeros", trainable=trainable, name="log_scale"
        )
        self.initialized = self.add_weight(
            shape=(), initializer="zeros", dtype="bool", trainable=False, name="initialized"
        )

    def _affine(self) -> Any:
        return elementwise.affine(tf.convert_to_tensor(self.shift), tf.convert_to_tensor(self.log_scale))

    def _total(self, log_det: tf.Tensor) -> tf.Tensor:
        """Return the log-determinant of an example from that of one place."""
        return tf.reduce_sum(log_det) * (event_size(self.event_shape) // self.event_shape[-1])

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = elementwise.forward(self._affine(), z)
        return x, constant_log_det(self._total(log_det), z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = elementwise.inverse(self._affine(), x)
        return z, constant_log_det(self._total(log_det), x)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Set shift and scale from `x`, unless they were set before, and return its latent."""
        x = self._checked("x", x, "event_shape")
        mean, log_std = moments(x)
        done = tf.convert_to_tensor(self.initialized)
        for weight, value in ((self.shift, mean), (self.log_scale, log_std)):
            value = tf.cast(value, weight.dtype)
            weight.assign(tf.where(done, tf.convert_to_tensor(weight), value))
        self.initialized.assign(tf.ones((), tf.bool))
        return self.flow_inverse(x, condition)[0]


@keras.saving.register_keras_serializable("flowzoo")
class ActNorm(DataAffine):
    """Activation normalisation: x = z exp(s) + b, with s and b a number a channel.

    log |det dx/dz| = (height width) sum of s for images, sum of s for vectors. The first data give s
    and b (latents of mean 0 and standard deviation 1); from there they train. Both directions cost
    one multiplication.

    Args:
        **kwargs: of `FlowLayer`.

    References:
        Kingma & Dhariwal, Glow (2018), https://arxiv.org/abs/1807.03039, section 3.1.
    """

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector and images."""
        return [LayerCase({}, (3,)), LayerCase({}, (2, 3, 2)), LayerCase({}, (2, 2, 1), condition_shape=(2,))]


@keras.saving.register_keras_serializable("flowzoo")
class Standardize(DataAffine):
    """Bring data of any scale to mean 0 and standard deviation 1: x = z exp(log_scale) + shift.

    The weights are the data's mean and log standard deviation, a number an entry of the last axis;
    they do not train, and their log-determinant is in log_prob, which therefore stays the density of
    the user's own data. A column that does not vary is only shifted.

    Args:
        **kwargs: of `FlowLayer`.
    """

    data_init_examples = 65536
    trains_from_data = False

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector and an image."""
        return [LayerCase({}, (3,)), LayerCase({}, (2, 2, 2), condition_shape=(1,))]
