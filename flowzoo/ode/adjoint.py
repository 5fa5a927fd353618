"""Gradients of a solution by the adjoint method: memory that does not grow with the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from flowzoo.ode.solution import State, widen

# (time, x, rest) to (dx/dt, rates): rates of shape [batch, K] are integrated beside x.
Augmented = Callable[[tf.Tensor, tf.Tensor, Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


def solve_augmented(
    dynamics: Augmented,
    solver: Any,
    x: tf.Tensor,
    rest: Sequence[tf.Tensor],
    rates: int,
    start: float,
    end: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Integrate x and `rates` integrals beside it; gradients go through the solver's own operations.

    Returns:
        x at the end, the integrals [batch, rates], NFE, and whether each example arrived. Where one did
        not, its x and integrals are NaN.
    """
    integrals = tf.zeros(tf.concat([tf.shape(x)[:1], [rates]], 0), x.dtype)
    integrals = tf.ensure_shape(integrals, [x.shape[0], rates])
    solution = solver.solve(lambda time, x, _: dynamics(time, x, rest), (x, integrals), start, end)
    moved, integrals = (nan_unless(solution.finished, part) for part in solution.state)
    return moved, integrals, solution.nfe, solution.finished


def nan_unless(finished: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """Return `part` with NaN where its example did not arrive."""
    return tf.where(widen(finished, part), part, tf.constant(float("nan"), part.dtype))


def solve_with_adjoint(
    dynamics: Augmented,
    solver: Any,
    x: tf.Tensor,
    rest: Sequence[tf.Tensor],
    rates: int,
    start: float,
    end: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Integrate x and `rates` integrals beside it, with gradients by the adjoint method.

    With a(t) = dL/dx(t), b = dL/dq for the integrals q, f the velocity and r the rates,

        da/dt = -(a df/dx + b dr/dx),    dL/dw = integral of (a df/dw + b dr/dw) dt,

    solved backwards in time together with x itself, for every w in `rest` (weights, condition). Memory
    does not grow with the number of steps. The gradient is that of the equation, not of its discretisation:
    it agrees with backpropagation through the solver to the order of the solver. The adaptive solver takes
    one step for the whole batch here, with its tolerances relative to the largest entry of the incoming
    gradient, and without the integrals for `rest` in its error.

    Args:
        dynamics: function (time, x, rest) to dx/dt and the rates [batch, rates].
        solver: a `FixedSolver` or an `AdaptiveSolver`.
        x: [batch, ...].
        rest: all other tensors that the dynamics depend on and that must get a gradient.
        rates: number of integrals.
        start: the time of `x`.
        end: the time of the result.

    Returns:
        x at the end and the integrals; NaN, as their gradients, where an example did not arrive.

    References:
        Chen et al., Neural Ordinary Differential Equations (2018), https://arxiv.org/abs/1806.07366,
        equations 3 to 5 and algorithm 1; Kidger et al. (2021), https://arxiv.org/abs/2009.09457, on the
        error norm without the integrals.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, *rest: tf.Tensor) -> tuple:
        moved, integrals, _, _ = solve_augmented(dynamics, solver, x, rest, rates, start, end)

        def backward(to_x: tf.Tensor, to_integrals: tf.Tensor) -> Any:
            entries = tf.concat([tf.reshape(to_x, [-1]), tf.reshape(to_integrals, [-1])], 0)
            scale = tf.reduce_max(tf.concat([tf.abs(entries), tf.zeros([1], entries.dtype)], 0))
            scale = tf.where(scale > 0, scale, tf.ones_like(scale))
            upstream = to_integrals / scale

            def adjoint(time: tf.Tensor, x: tf.Tensor, to_x: tf.Tensor, *_: tf.Tensor) -> State:
                with tf.GradientTape() as tape:
                    tape.watch([x, *rest])
                    outputs = dynamics(time, x, rest)
                velocity = outputs[0]
                gradients = tape.gradient(
                    outputs,
                    [x, *rest],
                    output_gradients=[to_x, upstream],
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                return (velocity, *(-g for g in gradients))

            zeros = [tf.zeros_like(value) for value in rest]
            initial = (tf.stop_gradient(moved), to_x / scale, *zeros)
            solution = solver.solve(adjoint, initial, end, start, controlled=2, shared=True)
            return [scale * nan_unless(solution.finished, part) for part in solution.state[1:]]

        return (moved, integrals), backward

    return run(x, *rest)
