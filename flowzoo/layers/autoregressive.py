"""Masked autoregressive transforms: density in one pass, sampling by fixed-point iteration."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import elementwise
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, event_size, sum_event
from flowzoo.layers.coupling import positive_bound
from flowzoo.layers.fixed_point import solve_triangular
from flowzoo.networks.base import as_conditioner
from flowzoo.networks.made import MADE


class MaskedAutoregressive(FlowLayer):
    """Base of masked autoregressive layers: x_i = f(z_i; g_i(x_1 … x_i-1)).

    Data to latent costs one pass of the masked network g; the Jacobian is triangular. Latent to data
    solves x = f(z; g(x)) by iterating it on all entries at once (Jacobi iteration): entry i is right
    after at most i passes, so that D passes are exact. With a `tolerance` of 0 the iteration stops at
    the first pass that changes no bit of x, which gives the same result; with one above 0 it stops at
    the first pass that changes no entry by more than tolerance (1 + |x|).

    Gradients of latent to data do not go back through the passes: with J = d f(z; g(x)) / dx, which is
    strictly triangular, w = v + J^T w is solved for the cotangent w by the same iteration, at the cost
    of one pass and at most D backward ones, and with the memory of one. They are exact, and of first
    order: gradients of these gradients are not provided and raise LookupError.

    Args:
        conditioner: a `MADE`; one of two hidden layers when None.
        tolerance: of latent to data, at least 0.
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: `tolerance` is negative.
        TypeError: `conditioner` is not a MADE.

    References:
        Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017),
        https://arxiv.org/abs/1705.07057; Song et al., Accelerating Feedforward Computation via
        Parallel Nonlinear Equation Solving (2021), https://arxiv.org/abs/2002.03629, algorithm 1.
    """

    params_per_entry = 1

    def __init__(self, conditioner: MADE | None = None, tolerance: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance takes a number in [0, 1). Received: {tolerance!r}")
        self.tolerance = float(tolerance)
        conditioner = as_conditioner(conditioner)
        if conditioner is not None and not isinstance(conditioner, MADE):
            raise TypeError(
                f"An autoregressive layer takes a flowzoo.networks.MADE, whose outputs see only the "
                f"entries before them. Received: {type(conditioner).__name__}"
            )
        self.conditioner = conditioner

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return vectors, an image, a single number, with and without a condition."""
        if cls is MaskedAutoregressive:
            return []
        return [
            LayerCase({"conditioner": MADE((8,), activation="tanh")}, (2,)),
            LayerCase({"conditioner": MADE((8, 8))}, (5,)),
            LayerCase({"conditioner": MADE((8,))}, (3,), condition_shape=(2,)),
            LayerCase({"conditioner": MADE((8,))}, (2, 2, 1)),
            LayerCase({"conditioner": MADE((4,))}, (1,), trains=False),
        ]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        if self.conditioner is None:
            self.conditioner = MADE()
        seen = tuple(self._seen(tf.zeros([1, *event_shape])).shape[1:])
        self.conditioner.build_for(
            seen, event_shape, self.params_per_entry, condition_shape, self.dtype_policy
        )

    def _seen(self, x: tf.Tensor) -> tf.Tensor:
        """Return what the network sees of the entries: these, or several numbers of each, in a last axis."""
        return x

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Transform elementwise; return the value and the elementwise log-determinant.

        Args:
            value: [batch, *event_shape].
            params: [batch, *event_shape, params_per_entry].
            inverse: data to latent.
        """
        raise NotImplementedError

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = self._transform(x, self.conditioner(self._seen(x), condition), inverse=True)
        return z, sum_event(log_det)

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        def apply(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x, log_det = self._transform(z, self.conditioner(self._seen(x), condition), inverse=False)
            return x, sum_event(log_det)

        return solve_triangular(apply, z, event_size(self.event_shape), self.tolerance)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        conditioner = keras.saving.serialize_keras_object(self.conditioner)
        return {**super().get_config(), "conditioner": conditioner, "tolerance": self.tolerance}


@keras.saving.register_keras_serializable("flowzoo")
class MaskedAffineAutoregressive(MaskedAutoregressive):
    """Masked affine autoregressive layer: x_i = z_i exp(s_i) + m_i, with s_i and m_i of x_1 … x_i-1.

    log |det dx/dz| = sum of s. The log-scale is bounded softly, s = b tanh(s_raw / b). Costs:
    `MaskedAutoregressive`.

    Args:
        conditioner: a `MADE`; one of two hidden layers when None.
        log_scale_bound: b, the largest absolute log-scale.
        **kwargs: of `MaskedAutoregressive`.

    Raises:
        ValueError: `log_scale_bound` is not positive; as `MaskedAutoregressive`.
        TypeError: `conditioner` is not a MADE.

    References:
        Papamakarios et al. (2017), https://arxiv.org/abs/1705.07057, equations 3 and 4.
    """

    params_per_entry = 2

    def __init__(self, conditioner: MADE | None = None, log_scale_bound: float = 2.0, **kwargs: Any) -> None:
        super().__init__(conditioner, **kwargs)
        self.log_scale_bound = positive_bound(log_scale_bound)

    def _transform(self, value: tf.Tensor, params: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return elementwise.apply(elementwise.bounded_affine(params, self.log_scale_bound), value, inverse)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}
