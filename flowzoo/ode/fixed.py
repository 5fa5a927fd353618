"""Explicit Runge-Kutta methods with a fixed number of equal steps."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from flowzoo.ode.solution import Dynamics, Solution, State, combine


class Tableau(NamedTuple):
    """A Butcher tableau: nodes c, the strictly lower rows of A, and weights b."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int


METHODS = {
    "euler": Tableau((0.0,), ((),), (1.0,), 1),
    "midpoint": Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0), 2),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), 2),
    "rk4": Tableau(
        (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4
    ),
}


@dataclasses.dataclass(frozen=True)
class FixedSolver:
    """Solve dy/dt = f(t, y) with `steps` equal steps of an explicit Runge-Kutta method.

    The error falls as steps^-p: p is 1 for "euler", 2 for "midpoint" and "heun", 4 for "rk4". A step
    costs 1, 2, 2 and 4 evaluations of f. The number of steps is known when the graph is made, so that
    gradients through the loop exist under XLA as well.

    There and back again: stepping from the start to the end and back to the start does not return to the
    same point to the last bit. In the methods of even order the leading errors of the two directions
    cancel, so that the round trip errs as steps^-(p+1), one order less than the solution; Euler's errs as
    steps^-1.

    Args:
        method: "euler", "midpoint", "heun" or "rk4".
        steps: number of steps, at least 1.

    Raises:
        ValueError: an unknown method, or steps that are not a positive integer.

    References:
        Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), section II.1.
    """

    method: str = "rk4"
    steps: int = 8

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method takes one of {', '.join(METHODS)}. Received: {self.method!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps takes an integer of at least 1. Received: {self.steps!r}")

    @property
    def evaluations(self) -> int:
        """How often a solution evaluates the dynamics."""
        return self.steps * len(METHODS[self.method].nodes)

    def solve(
        self,
        dynamics: Dynamics,
        state: State,
        start: float,
        end: float,
        *,
        controlled: int | None = None,
        shared: bool = False,
    ) -> Solution:
        """Integrate from `start` to `end`, in either direction.

        Args:
            dynamics: function (time [], *state) to the derivatives, a tensor for each part of the state.
            state: tensors of any shape, all of one floating dtype.
            start: the time of `state`.
            end: the time of the result.
            controlled: of adaptive solvers; without effect here.
            shared: of adaptive solvers; without effect here.
        """
        tableau, dtype = METHODS[self.method], state[0].dtype
        step = tf.constant((end - start) / self.steps, dtype)  # tf.cast would round to float32 first

        def body(index: tf.Tensor, *now: tf.Tensor) -> tuple:
            time = tf.constant(start, dtype) + step * tf.cast(index, dtype)
            slopes: list = []
            for node, row in zip(tableau.nodes, tableau.rows, strict=True):
                slopes.append(dynamics(time + node * step, *combine(now, step, row, slopes)))
            moved = combine(now, step, tableau.weights, slopes)
            shaped = [tf.ensure_shape(part, old.shape) for part, old in zip(moved, now, strict=True)]
            return (index + 1, *shaped)

        first = tf.constant(0, tf.int32)
        _, *last = tf.while_loop(
            lambda index, *_: index < self.steps, body, (first, *state), maximum_iterations=self.steps
        )
        return Solution(tuple(last), tf.constant(self.evaluations, tf.int32), tf.constant(True))
