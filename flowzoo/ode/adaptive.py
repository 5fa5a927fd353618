"""Dormand and Prince's pair of orders 5 and 4 with step control."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.ode.solution import Dynamics, Solution, State, combine, widen

# Hairer, Nørsett & Wanner (1993), table II.5.2. The last row holds the weights of order 5 as well, so
# that the seventh slope of an accepted step is the first of the next.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(fifth - fourth for fifth, fourth in zip((*_ROWS[-1], 0.0), _FOURTH, strict=True))

# The PI controller of the same book's volume II, section IV.2, with the constants of its code DOPRI5.
_SAFETY, _SMALLEST, _LARGEST = 0.9, 0.2, 10.0
_BETA = 0.04
_ALPHA = 0.2 - 0.75 * _BETA


@dataclasses.dataclass(frozen=True)
class AdaptiveSolver:
    """Solve dy/dt = f(t, y) by Dormand-Prince 5(4), with steps chosen by a PI controller.

    The estimated error of each step stays below atol + rtol |y|, in the root mean square over an example's
    entries. Every example has steps of its own, so that its result does not depend on its batch; the loop
    runs until the slowest is done. A step costs 6 evaluations of f, accepted or not, and the first step 2
    more. No gradient goes through the loop: `solve_with_adjoint` gives it.

    State, time and step are float64 whatever the dtype of the dynamics, which alone rounds to it: what is
    added up over hundreds of steps keeps its digits. Tolerances that the rounding of the dynamics does not
    let be met are raised (to 1.5e-8 in float32, 4e-15 in float64). An example that has not arrived after
    `max_steps` attempts (a stiff or exploding system, or a velocity that is not finite) has `finished` false,
    and its state means nothing.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: largest number of attempted steps.

    Raises:
        ValueError: a tolerance is not positive, or `max_steps` not a positive integer.

    References:
        Dormand & Prince (1980); Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I
        (1993), section II.4 (error norm, first step), and II (1996), section IV.2 (PI control).
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name} takes a positive number. Received: {value!r}")
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"max_steps takes an integer of at least 1. Received: {self.max_steps!r}")

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
            dynamics: function (time, *state) to the derivatives; time is [batch], or [] if `shared`.
            state: tensors of one dtype, float32 or float64; unless `shared`, each [batch, ...].
            start: the time of `state`.
            end: the time of the result.
            controlled: how many leading parts of the state the error is measured on; None for all.
            shared: one step for the whole batch, that of its worst example; only the controlled parts
                must then have a batch dimension.
        """
        sign = 1.0 if end >= start else -1.0
        dtype = state[0].dtype

        def forwards(time: tf.Tensor, now: State) -> State:
            slopes = dynamics(tf.cast(start + sign * time, dtype), *_as(dtype, now))
            slopes = tuple(tf.ensure_shape(s, part.shape) for s, part in zip(slopes, now, strict=True))
            return tuple(sign * slope for slope in _as(tf.float64, slopes))

        if not tf.executing_eagerly():  # a graph holds the dynamics once, and not at each of eight places
            forwards = tf.function(forwards, autograph=False)
        least = np.finfo(dtype.as_numpy_dtype).eps * (16 if dtype == tf.float64 else 0.125)
        run = _Run(self, forwards, len(state) if controlled is None else controlled, shared, float(least))
        solution = run.solve(_as(tf.float64, state), abs(end - start))
        return solution._replace(state=_as(dtype, solution.state))


def _as(dtype: tf.DType, state: State) -> State:
    return tuple(tf.cast(part, dtype) for part in state)


class _Run:
    """One solution, from time 0 to `span`."""

    def __init__(
        self, solver: AdaptiveSolver, dynamics: Any, controlled: int, shared: bool, least: float
    ) -> None:
        self.solver, self.dynamics, self.controlled, self.shared = solver, dynamics, controlled, shared
        self.rtol, self.atol = max(solver.rtol, least), max(solver.atol, least)

    def norm(self, error: State, *sizes: State) -> tf.Tensor:
        """Root mean square of the error in units of the tolerance: [batch], or [] if shared."""
        total: Any = 0.0
        count = 0
        for i in range(self.controlled):
            largest = tf.abs(sizes[0][i])
            for other in sizes[1:]:
                largest = tf.maximum(largest, tf.abs(other[i]))
            ratio = error[i] / (self.atol + self.rtol * largest)
            axes = list(range(1, ratio.shape.rank))
            total += tf.reduce_sum(tf.square(ratio), axis=axes)
            count += int(np.prod(ratio.shape[1:], dtype="int64"))
        norm = tf.sqrt(total / max(count, 1))
        # The batch of zeros keeps an empty batch from the largest of nothing.
        return tf.reduce_max(tf.concat([norm, tf.zeros([1], norm.dtype)], 0)) if self.shared else norm

    def first_step(self, state: State, slope: State, span: tf.Tensor) -> tf.Tensor:
        """Hairer's guess: an Euler step of one hundredth, then the second derivative."""
        size, speed = self.norm(state, state), self.norm(slope, state)
        tiny = tf.constant(1e-5, span.dtype)
        guess = tf.where((size < tiny) | (speed < tiny), 1e-6 * span, 0.01 * size / (speed + 1e-30))
        guess = tf.minimum(guess, span)
        bent = self.dynamics(guess, combine(state, guess, (1.0,), [slope]))
        change = tuple(b - a for a, b in zip(slope, bent, strict=True))
        sharpest = tf.maximum(speed, self.norm(change, state) / guess)
        longest = tf.where(
            sharpest < 1e-15,
            tf.maximum(1e-6 * span, guess * 1e-3),
            (0.01 / (sharpest + 1e-30)) ** tf.constant(0.2, span.dtype),
        )
        step = tf.minimum(tf.minimum(100 * guess, longest), span)
        return tf.where(tf.math.is_finite(step) & (step > 0), step, 1e-6 * span)

    def attempt(self, time: tf.Tensor, step: tf.Tensor, state: State, slope: State) -> tuple:
        """Try one step: the new state, its slope, and the error in units of the tolerance."""
        slopes = [slope]
        new = state
        for node, row in zip(_NODES, _ROWS, strict=True):
            new = combine(state, step, row, slopes)
            slopes.append(self.dynamics(time + node * step, new))
        zeros = tuple(tf.zeros_like(part) for part in state)
        error = self.norm(combine(zeros, step, _ERROR, slopes), state, new)
        # What is not finite is a step that was far too long.
        return new, slopes[-1], tf.where(tf.math.is_finite(error), error, tf.constant(1e10, error.dtype))

    def solve(self, state: State, span: float) -> Solution:
        dtype = state[0].dtype
        shape = [] if self.shared else tf.shape(state[0])[:1]
        end = tf.fill(shape, tf.constant(span, dtype))
        start = tf.zeros_like(end)
        slope = self.dynamics(start, state)
        step = self.first_step(state, slope, end)
        parts = len(state)

        def running(index: tf.Tensor, time: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return (index < self.solver.max_steps) & tf.reduce_any(time < end)

        def body(index: tf.Tensor, *now: tf.Tensor) -> tuple:
            time, step, before, held, nfe = now[:5]
            state, slope = now[5 : 5 + parts], now[5 + parts :]
            active, left = time < end, end - time
            taken = tf.minimum(step, left)
            new, last, error = self.attempt(time, taken, state, slope)
            accepted = active & (error <= 1)
            step, before, held = control(taken, step, error, before, held, accepted)
            time = tf.where(accepted, tf.where(taken >= left, end, time + taken), time)
            state = tuple(tf.where(widen(accepted, b), a, b) for a, b in zip(new, state, strict=True))
            slope = tuple(tf.where(widen(accepted, b), a, b) for a, b in zip(last, slope, strict=True))
            return (index + 1, time, step, before, held, nfe + 6 * tf.cast(active, tf.int32), *state, *slope)

        counts = tf.fill(shape, 2)
        variables = (tf.constant(0), start, step, 1e-4 * tf.ones_like(end), tf.fill(shape, False), counts)
        out = tf.while_loop(
            running, body, (*variables, *state, *slope), maximum_iterations=self.solver.max_steps
        )
        return Solution(tuple(out[6 : 6 + parts]), out[5], out[1] >= end)


def control(
    taken: tf.Tensor,
    planned: tf.Tensor,
    error: tf.Tensor,
    before: tf.Tensor,
    held: tf.Tensor,
    accepted: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the next step, the error that it remembers, and whether it must not grow.

    Args:
        taken: the step that was tried, cut at the end of the interval.
        planned: the step before it was cut.
        error: its error in units of the tolerance.
        before: the error of the last accepted step.
        held: whether the last attempt was rejected, so that the step may not grow now.
        accepted: whether this attempt is.
    """
    error = tf.maximum(error, tf.constant(1e-10, error.dtype))
    growth = _SAFETY * error ** tf.constant(-_ALPHA, error.dtype) * before ** tf.constant(_BETA, error.dtype)
    growth = tf.clip_by_value(growth, _SMALLEST, _LARGEST)
    growth = tf.where(held, tf.minimum(growth, 1.0), growth)
    shrink = tf.clip_by_value(_SAFETY * error ** tf.constant(-0.2, error.dtype), _SMALLEST, 1.0)
    step = tf.where(accepted, taken * growth, taken * shrink)
    step = tf.where(taken > 0, step, planned)
    remembered = tf.where(accepted, tf.maximum(error, tf.constant(1e-4, error.dtype)), before)
    return step, remembered, ~accepted
