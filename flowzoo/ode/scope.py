"""What a model asks of the continuous layers inside it, while they run."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_CURRENT: contextvars.ContextVar[Solving | None] = contextvars.ContextVar("solving", default=None)


@dataclasses.dataclass
class Solving:
    """Orders to the continuous layers that run inside, however deep, and what they report.

    Layers pass values and log-determinants to each other and nothing else. A model that holds continuous
    layers needs more: noise that belongs to the user's own example and not to what reaches a layer (whose
    last bits differ under XLA), the number of evaluations, penalties.

    Attributes:
        example: the user's examples, [batch, ...], to which Hutchinson's noise is keyed; None keys it to
            what the layer gets.
        seed: of that noise.
        log_det: whether log-determinants are wanted; without, they are zero and cost nothing.
        penalties: whether to collect what regularises.
        count: whether evaluations are counted (the result then has no adjoint gradient).
        solver: solves the equation in place of the layer's own; None leaves it.
        guidance: weight of classifier-free guidance for velocities that have it; None for none.
        mixed: whether hidden layers of velocities compute in the mixed policy under which they were made.
        index: how many layers have run: each has noise of its own.
        nfe: evaluations, a tensor a layer, [] or [batch].
        kinetic: the integral of |f|^2 over time, a tensor [batch] a layer.
        jacobian: the integral of the squared Frobenius norm of df/dx, a tensor [batch] a layer.
    """

    example: tf.Tensor | None = None
    seed: Any = 0
    log_det: bool = True
    penalties: bool = False
    count: bool = False
    solver: Any = None
    guidance: Any = None
    mixed: bool = False
    index: int = 0
    nfe: list[tf.Tensor] = dataclasses.field(default_factory=list)
    kinetic: list[tf.Tensor] = dataclasses.field(default_factory=list)
    jacobian: list[tf.Tensor] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def solving(**options: Any) -> Iterator[Solving]:
    """Give orders (arguments of `Solving`) to the continuous layers that run inside."""
    orders = Solving(**options)
    token = _CURRENT.set(orders)
    try:
        yield orders
    finally:
        _CURRENT.reset(token)


def current() -> Solving:
    """Return the orders in force, or the usual ones."""
    return _CURRENT.get() or Solving()
