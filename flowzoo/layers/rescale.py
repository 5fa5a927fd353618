"""An affine map that nobody learns: from one interval to another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, constant_log_det, event_size


@keras.saving.register_keras_serializable("flowzoo")
class Rescale(FlowLayer):
    """Take data to z = scale x + shift, with two numbers that stay as they are.

    The log-determinant of data to latent is D log |scale|, D the size of an event. Both directions cost one
    elementwise pass.

    Args:
        scale: finite and not 0; 2 with the shift -1 takes the unit interval to [-1, 1].
        shift: finite.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: a number that is not finite, or a scale of 0.
    """

    def __init__(self, scale: float = 2.0, shift: float = -1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("scale", scale), ("shift", shift)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not np.isfinite(value) or (name == "scale" and value == 0):
                raise ValueError(f"{name} takes a finite number (scale: not 0). Received: {value!r}")
        self.scale, self.shift = float(scale), float(shift)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return a vector with a condition that is left alone."""
        return [LayerCase({"scale": -3.0, "shift": 0.5}, (2,), condition_shape=(1,))]

    def _log_det(self) -> float:
        return event_size(self.event_shape) * float(np.log(abs(self.scale)))

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return (z - self.shift) / self.scale, constant_log_det(-self._log_det(), z)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self.scale * x + self.shift, constant_log_det(self._log_det(), x)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "scale": self.scale, "shift": self.shift}
