"""The uniform distribution on a box, which on [-pi, pi) is that of the torus."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.distributions.base import BaseDistribution
from flowzoo.layers.base import constant_log_det, event_size


@keras.saving.register_keras_serializable("flowzoo")
class Uniform(BaseDistribution):
    """Independent entries, uniform on [low, high): by default angles on [-pi, pi).

    log p(z) = -D log(high - low) inside, D the size of a latent, and -infinity outside (`high` itself
    counts as inside, since rounding reaches it). It suits layers that take the box to itself, as
    `CircularCoupling` does between two `Angle` layers: any other flow sends data out of the box, and training
    ends with FloatingPointError. Temperature has no meaning: another than 1 is refused
    where it can be seen and by exports, and ignored inside other graphs.

    Args:
        low: the lower end of every entry.
        high: the upper end.
        **kwargs: of `BaseDistribution`.

    Raises:
        ValueError: `low` is not below `high`, or one is not finite.

    References:
        Rezende et al., Normalizing Flows on Tori and Spheres (2020), https://arxiv.org/abs/2002.02428
        (the uniform density as the base of a torus).
    """

    kind: ClassVar[str | None] = "uniform"
    takes_temperature: ClassVar[bool] = False

    def __init__(self, low: float = -math.pi, high: float = math.pi, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"low and high take finite numbers, low below high. Received: {low!r}, {high!r}")
        self.low, self.high = float(low), float(high)

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z), [batch]."""
        inside = tf.reduce_all((z >= self.low) & (z <= self.high), axis=list(range(1, z.shape.rank)))
        density = -event_size(self.latent_shape) * np.log(self.high - self.low)
        return tf.where(inside, constant_log_det(density, z), constant_log_det(-math.inf, z))

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`; a temperature other than 1 raises ValueError where it can be seen."""
        self.check_temperature(temperature)
        dtype = self.compute_dtype
        return self.low + (self.high - self.low) * random.uniform(shape, seed, dtype)

    def check_temperature(self, temperature: Any) -> None:
        """Raise ValueError where the temperature is seen not to be 1."""
        if tf.is_tensor(temperature) and (not tf.executing_eagerly() or tf.is_symbolic_tensor(temperature)):
            return
        if float(np.asarray(temperature)) != 1.0:
            raise ValueError(
                f"temperature has no meaning for a uniform base, whose density is the same everywhere: "
                f"leave it at 1. Received: {float(np.asarray(temperature)):g}"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal base."""
        return {**super().get_config(), "low": self.low, "high": self.high}
