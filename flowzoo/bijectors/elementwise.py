"""Elementwise transforms: TFP bijectors built anew from tensors at each call.

No bijector here lives longer than the call that made it and none holds a variable: TFP copies a
Keras variable silently, and its cache would return stale values after a weight update.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


class Affine(tfb.Bijector):
    """x = z exp(log_scale) + shift, elementwise; log |dx/dz| = log_scale.

    What a chain of TFP's Shift and Scale computes. It is the innermost part of most layers, and the chain,
    which looks up and remembers every value in between, takes seventy times as long a call.

    Args:
        shift: a tensor that broadcasts against z.
        log_scale: another one.
        validate_args: as every TFP bijector; there is nothing to validate.
        name: of the bijector.
    """

    def __init__(self, shift: Any, log_scale: Any, validate_args: bool = False, name: str = "affine") -> None:
        parameters = dict(locals())
        self.shift, self.log_scale = tf.convert_to_tensor(shift), tf.convert_to_tensor(log_scale)
        super().__init__(
            forward_min_event_ndims=0,
            is_constant_jacobian=True,
            dtype=self.shift.dtype,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        return {"shift": tfp.util.ParameterProperties(), "log_scale": tfp.util.ParameterProperties()}

    def _forward(self, z: tf.Tensor) -> tf.Tensor:
        return z * tf.exp(self.log_scale) + self.shift

    def _inverse(self, x: tf.Tensor) -> tf.Tensor:
        return (x - self.shift) * tf.exp(-self.log_scale)

    def _forward_log_det_jacobian(self, z: tf.Tensor) -> tf.Tensor:
        return self.log_scale

    def _inverse_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return -self.log_scale


def affine(shift: Any, log_scale: Any) -> Affine:
    """Build x = z exp(log_scale) + shift."""
    return Affine(shift, log_scale)


def soft_bound(value: tf.Tensor, bound: float) -> tf.Tensor:
    """Squeeze values into (-bound, bound): b tanh(v / b), the identity near 0."""
    return bound * tf.tanh(value / bound)


def bounded_affine(params: tf.Tensor, bound: float) -> tfb.Bijector:
    """Build x = z exp(s) + t from t and the raw s on the last axis of `params`, with |s| below `bound`."""
    shift, raw = tf.unstack(params, 2, axis=-1)
    return affine(shift, soft_bound(raw, bound))


def narrowing_affine(params: tf.Tensor, bound: float) -> tfb.Bijector:
    """Build x = z / c + t with c = e^-b + (1 - e^-b) sigmoid(raw + 2): from x to z it never widens."""
    shift, raw = tf.unstack(params, 2, axis=-1)
    least = math.exp(-bound)
    return affine(shift, -tf.math.log(least + (1 - least) * tf.sigmoid(raw + 2.0)))


def scaled_logit(alpha: float, dtype: Any) -> tfb.Bijector:
    """Build x = (sigmoid(z) - alpha) / (1 - 2 alpha), which reaches 0 and 1 at finite z.

    The inverse is the logit of alpha + (1 - 2 alpha) x: Dinh et al. (2017), section 4.1.
    """
    scale = tf.constant(1.0 / (1.0 - 2.0 * alpha), dtype)
    return tfb.Scale(scale)(tfb.Shift(tf.constant(-alpha, dtype))(tfb.Sigmoid()))


def forward(bijector: tfb.Bijector, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return x = f(z) and log |df/dz|, both elementwise."""
    if isinstance(bijector, Affine):  # without TFP's cache
        return bijector._forward(z), bijector._forward_log_det_jacobian(z)
    return bijector.forward(z), bijector.forward_log_det_jacobian(z, event_ndims=0)


def inverse(bijector: tfb.Bijector, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return z = f^-1(x) and log |dz/dx|, both elementwise."""
    if isinstance(bijector, Affine):
        return bijector._inverse(x), bijector._inverse_log_det_jacobian(x)
    return bijector.inverse(x), bijector.inverse_log_det_jacobian(x, event_ndims=0)


def apply(bijector: tfb.Bijector, value: tf.Tensor, inverse_wanted: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Run `inverse` or `forward`."""
    return inverse(bijector, value) if inverse_wanted else forward(bijector, value)
