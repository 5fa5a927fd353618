"""Gaussian noise on the data of training, instead of dequantisation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.layers.base import FlowLayer, LayerCase, constant_log_det
from flowzoo.ode.divergence import example_noise

# Noise that is drawn with the seed of another must not repeat it.
_STREAM = 0x6A55


@keras.saving.register_keras_serializable("flowzoo")
class GaussianNoise(FlowLayer):
    """Mark data as trained on with noise: the identity in both directions, log-determinant 0.

    `noisy_inverse` returns x + noise_std e, e standard normal: what a flow is trained on, which then models
    the density of noisy data. e is a function of each example and a seed, as that of `Dequantize` is.

    Args:
        noise_std: standard deviation of the noise, in the units of x.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: `noise_std` is not a positive number.

    References:
        Zhai et al. (2024), https://arxiv.org/abs/2412.06329, on noise augmented training.
    """

    def __init__(self, noise_std: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (
            isinstance(noise_std, bool)
            or not isinstance(noise_std, int | float)
            or not 0 < noise_std < np.inf
        ):
            raise ValueError(f"noise_std takes a positive number. Received: {noise_std!r}")
        self.noise_std = float(noise_std)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector and an image."""
        return [
            LayerCase({"noise_std": 0.5}, (2,)),
            LayerCase({"noise_std": 1}, (2, 2, 1), condition_shape=(2,)),
        ]

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return z, constant_log_det(0.0, z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return x, constant_log_det(0.0, x)

    def noisy_inverse(self, x: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return x with noise drawn from each example and `seed`, and the log-determinant, 0."""
        x = self._checked("x", x, "event_shape")
        noise = example_noise("gaussian", x, random.fold_in(seed, _STREAM), self.event_shape, x.dtype)
        return x + self.noise_std * noise, constant_log_det(0.0, x)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return the data with noise, as training sees them."""
        return self.noisy_inverse(x, 0)[0]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "noise_std": self.noise_std}
