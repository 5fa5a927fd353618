"""What a solver returns, and arithmetic on states that are tuples of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

State = tuple[tf.Tensor, ...]
# The right-hand side: (time, *state) to the derivative of each part of the state.
Dynamics = Callable[..., Sequence[tf.Tensor]]


class Solution(NamedTuple):
    """The state at the end of an interval.

    Attributes:
        state: a tensor for each part of the initial state.
        nfe: number of evaluations of the dynamics, int32: [batch] where each example has steps of its
            own, else [].
        finished: whether the end was reached, bool, of the shape of `nfe`. Always true for fixed steps.
    """

    state: State
    nfe: tf.Tensor
    finished: tf.Tensor


def widen(scale: Any, part: tf.Tensor) -> Any:
    """Give a number an example, [batch], the rank of `part`; a scalar stays one."""
    if getattr(scale, "shape", None) is None or scale.shape.rank == 0:
        return scale
    return tf.reshape(scale, [-1] + [1] * (part.shape.rank - 1))


def combine(
    state: State, scale: Any, weights: Sequence[float], slopes: Sequence[Sequence[tf.Tensor]]
) -> State:
    """Return state + scale * (the sum of weights times slopes), part by part."""
    used = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not used:
        return state
    moved = []
    for i, part in enumerate(state):
        total = tf.add_n([weight * slope[i] for weight, slope in used])
        moved.append(part + widen(scale, part) * total)
    return tuple(moved)
