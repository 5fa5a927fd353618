"""Heavy tails: Student's t."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo import random
from flowzoo.distributions.base import BaseDistribution
from flowzoo.layers.base import Shape, sum_event

tfd = tfp.distributions


@keras.saving.register_keras_serializable("flowzoo")
class StudentT(BaseDistribution):
    """Independent entries of Student's t with v degrees of freedom, location 0 and scale 1.

    log p(z) is the sum over the entries of
    log G((v + 1) / 2) - log G(v / 2) - log(pi v) / 2 - (v + 1) / 2 log(1 + z^2 / v), with G the gamma
    function. v > 2, so that the variance v / (v - 2) is finite. At temperature T the scale is T. A flow whose
    layers are Lipschitz has the tails of its base: this one is for data with heavy tails.

    Args:
        degrees: v, above 2; where it starts if it is learned.
        learned: learn v, one an entry, as 2 + softplus of a weight.
        **kwargs: of `BaseDistribution`.

    Raises:
        ValueError: `degrees` is not above 2.

    References:
        Jaini et al., Tails of Lipschitz Triangular Flows (2020), https://arxiv.org/abs/1907.04481;
        Laszkiewicz et al., Marginal Tail-Adaptive Normalizing Flows (2022),
        https://arxiv.org/abs/2206.10311 (degrees of freedom an entry).
    """

    kind: ClassVar[str | None] = "student_t"

    def __init__(self, degrees: float = 5.0, learned: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not 2 < degrees < math.inf:
            raise ValueError(
                f"degrees takes a finite number above 2, below which there is no variance. "
                f"Received: {degrees!r}"
            )
        self.degrees, self.learned = float(degrees), bool(learned)

    def _build(self, latent_shape: Shape) -> None:
        if self.learned:
            above = self.degrees - 2
            start = above + math.log(-math.expm1(-above))  # undoes softplus
            self.raw_degrees = self.add_weight(
                shape=latent_shape, initializer=keras.initializers.Constant(start), name="raw_degrees"
            )

    def degrees_of_freedom(self) -> tf.Tensor:
        """Return v: [] if it is fixed, [*latent_shape] if it is learned."""
        if self.learned:
            return 2 + tf.nn.softplus(tf.convert_to_tensor(self.raw_degrees))
        return tf.constant(self.degrees, self.compute_dtype)

    def log_prob(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Return log p(z), [batch]."""
        zero, one = tf.zeros((), z.dtype), tf.ones((), z.dtype)
        return sum_event(tfd.StudentT(self.degrees_of_freedom(), zero, one).log_prob(z))

    def sample(
        self, shape: Any, seed: tf.Tensor, temperature: Any = 1.0, condition: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw latents of `shape`."""
        dtype = self.compute_dtype
        noise = random.student_t(shape, self.degrees_of_freedom(), seed, dtype)
        return noise * tf.cast(temperature, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal base."""
        return {**super().get_config(), "degrees": self.degrees, "learned": self.learned}
