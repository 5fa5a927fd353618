"""Fixed points of triangular maps, by Jacobi iteration, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Iterates that are not yet right may overflow, and 0 * infinity in a masked product would spoil the
# entries that are: they are kept where a network can still compute with them.
LARGEST = 1e15
# Automatic differentiation would go through one of the backward passes alone, and be wrong in silence.
FIRST_ORDER = (
    "Gradients through an autoregressive layer's iteration are of first order: no second derivatives."
)


def solve_triangular(
    apply: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], start: tf.Tensor, size: int, tolerance: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solve x = F(x), where entry i of F depends on the entries of x before i alone.

    Args:
        apply: x to (F(x), L(x)), L of shape [batch]; it may use other tensors and variables, to which
            gradients flow.
        start: a tensor of the shape and dtype of x.
        size: D, the number of entries of one example.
        tolerance: 0 to stop when no bit changes, else the change, relative to 1 + |x|, that is let go.

    Returns:
        The fixed point x and L(x), after at most D applications. Their gradients are exact at the fixed
        point: with J = dF/dx, nilpotent since it is strictly triangular, the cotangents v of x and c of
        L give w = v + J^T w + (dL/dx)^T c, solved by at most D backward passes. A gradient of these
        gradients raises LookupError.
    """
    x, log_det = apply(_iterate(lambda x: apply(x)[0], tf.zeros_like(start), size - 1, tolerance))

    @tf.custom_gradient
    def solved(x: tf.Tensor, log_det: tf.Tensor) -> tuple:
        def pull_back(v: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(x)
                outputs = apply(x)

            def step(w: tf.Tensor) -> tf.Tensor:
                return v + tape.gradient(
                    outputs, x, [w, c], unconnected_gradients=tf.UnconnectedGradients.ZERO
                )

            w = step(_iterate(step, v, size - 1, tolerance))
            return tuple(tf.raw_ops.PreventGradient(input=part, message=FIRST_ORDER) for part in (w, c))

        return (tf.identity(x), tf.identity(log_det)), pull_back

    return solved(x, log_det)


def _iterate(
    step: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, most: int, tolerance: float
) -> tf.Tensor:
    """Apply `step` until it changes nothing, at most `most` times; no gradient flows through it."""

    def changing(count: tf.Tensor, x: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        change = tf.abs(x - before) - tolerance * (1 + tf.abs(x))
        return tf.logical_or(count < 1, tf.reduce_any(change > 0))

    def body(count: tf.Tensor, x: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return count + 1, tf.clip_by_value(step(x), -LARGEST, LARGEST), x

    start = tf.stop_gradient(start)
    found = tf.while_loop(changing, body, (tf.constant(0), start, start), maximum_iterations=most)[1]
    return tf.stop_gradient(found)
