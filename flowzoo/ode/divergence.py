"""The divergence of a velocity field: exact, or by Hutchinson's estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from flowzoo import random

# (x, time, condition) to dx/dt, example by example.
Velocity = Callable[[tf.Tensor, tf.Tensor, Any], tf.Tensor]

NOISES = ("rademacher", "gaussian")


class Divergence(NamedTuple):
    """A velocity with what its Jacobian J says.

    Attributes:
        velocity: f(x), of the shape of x.
        trace: the trace of J or an estimate of it, [batch].
        frobenius: the squared Frobenius norm of J or an estimate of it, [batch].
    """

    velocity: tf.Tensor
    trace: tf.Tensor
    frobenius: tf.Tensor


def exact_divergence(velocity: Velocity, x: tf.Tensor, time: tf.Tensor, condition: Any = None) -> Divergence:
    """Return the velocity and the exact trace of its Jacobian.

    One vector-Jacobian product on a batch that holds each example D times, D the size of an event: D
    forward and D backward passes.
    """
    shape = x.shape[1:]
    size = int(np.prod(shape, dtype="int64"))
    batch = tf.shape(x)[0]
    copies = _repeated(x, size)
    basis = tf.eye(size, dtype=x.dtype)
    cotangents = tf.reshape(tf.repeat(basis, batch, axis=0), tf.shape(copies))
    times = _repeated(time, size) if time.shape.rank else time
    conditions = None if condition is None else _repeated(condition, size)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        values = velocity(copies, times, conditions)
    rows = tape.gradient(
        values, copies, output_gradients=cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    rows = tf.reshape(rows, [size, batch, size])
    trace = tf.reduce_sum(rows * basis[:, None, :], axis=[0, 2])
    value = tf.ensure_shape(values[:batch], x.shape)
    return Divergence(value, trace, tf.reduce_sum(tf.square(rows), axis=[0, 2]))


def _repeated(value: tf.Tensor, times: int) -> tf.Tensor:
    return tf.tile(value, [times] + [1] * (value.shape.rank - 1))


def hutchinson_divergence(
    velocity: Velocity, x: tf.Tensor, time: tf.Tensor, condition: Any, noise: tf.Tensor
) -> Divergence:
    """Return the velocity and Hutchinson's estimate e J e of the trace of its Jacobian J.

    One forward and one backward pass. The estimate is unbiased for noise e of mean 0 and covariance I,
    and so is |e J|^2 for the squared Frobenius norm.

    References:
        Hutchinson (1990); Grathwohl et al., FFJORD (2019), https://arxiv.org/abs/1810.01367, equation 7.
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = velocity(x, time, condition)
    row = tape.gradient(value, x, output_gradients=noise, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    axes = list(range(1, x.shape.rank))
    return Divergence(value, tf.reduce_sum(row * noise, axes), tf.reduce_sum(tf.square(row), axes))


def example_noise(kind: str, example: tf.Tensor, seed: Any, shape: Any, dtype: Any) -> tf.Tensor:
    """Draw noise for Hutchinson's estimator, a function of each example and the seed.

    Args:
        kind: "rademacher" (-1 or 1, the least variance) or "gaussian".
        example: [batch, ...], at least as large as the noise.
        seed: whatever `flowzoo.random.as_seed` takes.
        shape: of the noise of one example.
        dtype: of the noise.

    Raises:
        ValueError: an unknown kind, or noise larger than an example.
    """
    if kind not in NOISES:
        raise ValueError(f"noise takes one of {', '.join(NOISES)}. Received: {kind!r}")
    size = int(np.prod(shape, dtype="int64"))
    available = int(np.prod(example.shape[1:], dtype="int64"))
    if size > available:
        raise ValueError(
            f"The noise of an example of {available} entries has as many at most. Received: {size}"
        )
    uniform = tf.reshape(random.example_uniform(example, seed, tf.float64), [-1, available])[:, :size]
    if kind == "rademacher":
        values = tf.where(uniform < 0.5, -tf.ones_like(uniform), tf.ones_like(uniform))
    else:
        values = tf.math.ndtri(uniform + 2.0**-25)
    return tf.reshape(tf.cast(values, dtype), [-1, *shape])
