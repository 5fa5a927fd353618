"""Probability paths of flow matching: between a noise z at t = 0 and an example x at t = 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from flowzoo.ode.solution import widen

# The schedule of the noise of the variance-preserving path, as in its paper: beta(s) at s = 0 and s = 1.
BETA_MIN, BETA_MAX = 0.1, 20.0


class Place(NamedTuple):
    """A place on a conditional path: x_t = scale x + spread z, moving at u_t = its derivative in t.

    Attributes:
        point: x_t, of the shape of z.
        velocity: u_t, of the shape of z.
    """

    point: tf.Tensor
    velocity: tf.Tensor


Path = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Place]


def optimal_transport(z: tf.Tensor, x: tf.Tensor, time: tf.Tensor, sigma_min: float) -> Place:
    """Return the place on the conditional optimal-transport path.

    x_t = (1 - (1 - sigma_min) t) z + t x and u_t = x - (1 - sigma_min) z: straight, at constant speed.

    Args:
        z: noise, [batch, ...].
        x: examples of the shape of `z`.
        time: [batch], from 0 to 1.
        sigma_min: the standard deviation of the noise that is left at t = 1, in [0, 1).

    References:
        Lipman et al. (2022), https://arxiv.org/abs/2210.02747, equations 20 to 23.
    """
    time = widen(time, z)
    kept = 1 - sigma_min
    return Place((1 - kept * time) * z + time * x, x - kept * z)


def rectified(z: tf.Tensor, x: tf.Tensor, time: tf.Tensor) -> Place:
    """Return the place on the straight line: x_t = (1 - t) z + t x and u_t = x - z.

    References:
        Liu et al. (2022), https://arxiv.org/abs/2209.03003, equation 1.
    """
    return optimal_transport(z, x, time, 0.0)


def variance_preserving(z: tf.Tensor, x: tf.Tensor, time: tf.Tensor, sigma_min: float) -> Place:
    """Return the place on the variance-preserving diffusion path, run from noise to data.

    With T(s) the integral of beta from 0 to s, beta(s) = 0.1 + 19.9 s, and a = exp(-T(s) / 2):

        x_s = a x + sqrt(1 - a^2) z,    dx_s/ds = -(beta / 2) (a x - a^2 / sqrt(1 - a^2) z),

    where s runs from 1 (noise: a = 0.0066) towards 0 (data). At s = 0 the speed is infinite. The path
    therefore ends at s_end > 0, where sqrt(1 - a^2) = sigma_min, and the time is scaled to fill it:
    s = 1 - t (1 - s_end), so that t = 1 leaves noise of standard deviation sigma_min as on the
    optimal-transport path. sigma_min = 1e-3 gives s_end = 1e-5, where the paper stops.

    Args:
        z: noise, [batch, ...].
        x: examples of the shape of `z`.
        time: [batch], from 0 to 1.
        sigma_min: the standard deviation of the noise that is left at t = 1, in (0, 1).

    References:
        Lipman et al. (2022), https://arxiv.org/abs/2210.02747, equations 18 and 19; Song et al., Score-Based
        Generative Modeling (2021), https://arxiv.org/abs/2011.13456, appendix C, for beta.
    """
    end = _end_of_diffusion(sigma_min)
    s = widen((1 - time) + end * time, z)  # 1 - t (1 - end) would lose the digits of a small s
    integral = BETA_MIN * s + 0.5 * (BETA_MAX - BETA_MIN) * tf.square(s)
    scale = tf.exp(-0.5 * integral)
    spread = tf.sqrt(-tf.math.expm1(-integral))
    half_beta = 0.5 * (BETA_MIN + (BETA_MAX - BETA_MIN) * s)
    speed = (1 - end) * half_beta  # dt runs against ds
    return Place(scale * x + spread * z, speed * (scale * x - tf.square(scale) / spread * z))


def _end_of_diffusion(sigma_min: float) -> float:
    """Return the s at which 1 - exp(-T(s)) = sigma_min^2."""
    wanted = -math.log1p(-(sigma_min**2))
    slope = 0.5 * (BETA_MAX - BETA_MIN)
    return 2 * wanted / (BETA_MIN + math.sqrt(BETA_MIN**2 + 4 * slope * wanted))


PATHS = ("ot", "vp", "rectified")


def make_path(name: str, sigma_min: float) -> Path:
    """Return a path as a function (z, x, time) to its `Place`.

    Args:
        name: "ot", "vp" or "rectified" (which leaves no noise and has no use for `sigma_min`).
        sigma_min: the standard deviation of the noise that is left at t = 1.

    Raises:
        ValueError: an unknown name, `sigma_min` outside [0, 1), or 0 for "vp".
    """
    if name not in PATHS:
        raise ValueError(f"path takes one of {', '.join(PATHS)}. Received: {name!r}")
    number = isinstance(sigma_min, int | float) and not isinstance(sigma_min, bool)
    if not number or not 0 <= sigma_min < 1 or (name == "vp" and sigma_min == 0):
        raise ValueError(
            f"sigma_min takes a number in [0, 1), above 0 for path='vp', whose speed is infinite at the end. "
            f"Received: sigma_min={sigma_min!r}, path={name!r}"
        )
    if name == "rectified":
        return rectified
    function = optimal_transport if name == "ot" else variance_preserving
    return lambda z, x, time: function(z, x, time, float(sigma_min))
