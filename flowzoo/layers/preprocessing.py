"""From the user's data to real numbers: dequantisation and the logit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, constant_log_det, event_size, sum_event


@keras.saving.register_keras_serializable("flowzoo")
class Dequantize(FlowLayer):
    """Spread integers 0 … K-1 over the unit interval: z = (x + u) / K, with u in [0, 1).

    `flow_inverse` takes the middle of the bin, u = 1/2; `noisy_inverse` draws u from the example and a
    seed, and then log p(z) - D log K is a lower bound, in the mean over u, of the log-probability of
    the integers. `flow_forward` rounds down, x = floor(K z), so that data to latent to data is exact
    and latent to data to latent is not. The log-determinant of data to latent is -D log K.

    Args:
        num_values: K, the number of values, 256 for bytes.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: `num_values` is not an integer of at least 2.

    References:
        Theis et al., A note on the evaluation of generative models (2016),
        https://arxiv.org/abs/1511.01844, section 3.1.
    """

    bijective = False

    def __init__(self, num_values: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_values, bool) or not isinstance(num_values, int) or num_values < 2:
            raise ValueError(f"num_values takes an integer of at least 2. Received: {num_values!r}")
        self.num_values = num_values

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return bytes and two values."""
        return [
            LayerCase({}, (2, 2, 1), support="integers"),
            LayerCase({"num_values": 2}, (3,), condition_shape=(2,), support="integers"),
        ]

    @property
    def data_range(self) -> tuple[float, float]:  # type: ignore[override]
        """From 0 to the largest integer."""
        return 0.0, float(self.num_values - 1)

    def _spread(self, x: tf.Tensor, noise: Any) -> tuple[tf.Tensor, tf.Tensor]:
        log_det = -event_size(self.event_shape) * np.log(self.num_values)
        return (x + noise) / self.num_values, constant_log_det(log_det, x)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.clip_by_value(tf.floor(z * self.num_values), *self.data_range)
        return x, constant_log_det(event_size(self.event_shape) * np.log(self.num_values), z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._spread(x, 0.5)

    def data_init(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return the latent with noise, as training sees it: constant pixels vary by the width of a bin."""
        return self.noisy_inverse(x, 0)[0]

    def noisy_inverse(self, x: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (x + u) / K with u drawn from each example and `seed`, and the log-determinant."""
        x = self._checked("x", x, "event_shape")
        return self._spread(x, random.example_uniform(x, seed, x.dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "num_values": self.num_values}


@keras.saving.register_keras_serializable("flowzoo")
class Logit(FlowLayer):
    """Take the unit interval to the real line: z = logit(a + (1 - 2a) x).

    With a > 0 the ends of the interval lie at finite z. Both directions cost one elementwise pass; the
    log-determinants are those of TFP's Sigmoid, with log(1 - 2a) an entry for the scaling.

    Args:
        alpha: a, in [0, 0.5).
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: `alpha` is outside [0, 0.5).

    References:
        Dinh et al. (2017), https://arxiv.org/abs/1605.08803, section 4.1.
    """

    data_range = (0.0, 1.0)

    def __init__(self, alpha: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha takes a number in [0, 0.5). Received: {alpha!r}")
        self.alpha = float(alpha)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return both ends of alpha."""
        return [
            LayerCase({}, (2, 2, 1), support="unit"),
            LayerCase({"alpha": 1e-6}, (3,), condition_shape=(2,), support="unit"),
            LayerCase({"alpha": 0.0}, (2,), support="unit"),
        ]

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = elementwise.forward(elementwise.scaled_logit(self.alpha, z.dtype), z)
        return x, sum_event(log_det)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = elementwise.inverse(elementwise.scaled_logit(self.alpha, x.dtype), x)
        return z, sum_event(log_det)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "alpha": self.alpha}
