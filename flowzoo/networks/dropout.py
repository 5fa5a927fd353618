"""Dropout whose noise belongs to the example, not to the batch or the replica that holds it.

Networks stand deep inside of layers, which pass values and log-determinants and nothing else. A model that
trains with dropout says so around its layers (`dropping`), and networks that have a rate follow (`drop`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.networks.base import checked_share

_FEATURES = 0xD21  # the stream of a seed that says what is dropped
_EXCLUDED = (
    "dropout and reversible=True exclude each other: activations are computed again without the noise. "
    "Received: dropout={!r}"
)
_CURRENT: contextvars.ContextVar[_Dropping | None] = contextvars.ContextVar("dropping", default=None)


@dataclasses.dataclass
class _Dropping:
    keys: tf.Tensor
    seed: Any
    calls: int = 0

    def next_seed(self) -> Any:
        self.calls += 1
        return random.fold_in(self.seed, self.calls)


_REFUSED = _Dropping(None, 0)


@contextlib.contextmanager
def dropping(keys: tf.Tensor, seed: Any) -> Iterator[None]:
    """Let networks inside that have a rate drop features, each time they run by a mask of its own.

    The masks of an example are functions of its key and the seed: a run under several replicas draws those
    of a run under one.

    Args:
        keys: a number an example, int64 [batch] (`flowzoo.random.example_keys`).
        seed: whatever `flowzoo.random.fold_in` takes, also a seed an example.
    """
    with _entered(_Dropping(keys, random.fold_in(seed, _FEATURES))):
        yield


@contextlib.contextmanager
def step_of_a_loop(index: tf.Tensor) -> Iterator[None]:
    """Give each pass through a loop masks of its own, where its body is traced once.

    Args:
        index: of the pass, int32 [].
    """
    orders = _CURRENT.get()
    if orders is None or orders is _REFUSED:
        yield
        return
    with _entered(_Dropping(orders.keys, random.fold_in(orders.next_seed(), index))):
        yield


@contextlib.contextmanager
def computed_again() -> Iterator[None]:
    """Refuse dropout inside, whose activations the reverse pass computes again, where no mask is known."""
    with _entered(None if _CURRENT.get() is None else _REFUSED):
        yield


def checked_rate(rate: Any, reversible: bool = False) -> float:
    """Return a rate of dropout from 0 to below 1, else raise ValueError; a reversible flow takes none."""
    share = checked_share("dropout", rate)
    if share and reversible:
        raise ValueError(_EXCLUDED.format(rate))
    return share


def drop(x: tf.Tensor, rate: float, tokens: int = 1) -> tf.Tensor:
    """Drop features inside of `dropping`: y = m x / (1 - p), m ~ B(1 - p); elsewhere return them as they are.

    Args:
        x: [batch * tokens, ...].
        rate: p, the share that is dropped.
        tokens: rows of one example.

    Raises:
        ValueError: the layers around are reversible.

    References:
        Srivastava et al., Dropout (2014), section 4; Vaswani et al. (2017),
        https://arxiv.org/abs/1706.03762, section 5.4 (of what each sub-layer adds).
    """
    orders = _CURRENT.get()
    if orders is None or not rate:
        return x
    if orders is _REFUSED:
        raise ValueError(_EXCLUDED.format(rate))
    size = tokens * int(np.prod(x.shape[1:], dtype="int64"))
    kept = random.keyed_uniform(orders.keys, size, orders.next_seed()) >= rate
    kept = tf.reshape(kept, [-1, *x.shape[1:]])
    # A convolution that must not see an empty batch has made one example up.
    more = tf.shape(x)[0] - tf.shape(kept)[0]
    kept = tf.pad(kept, [[0, more], *([0, 0] for _ in x.shape[1:])])
    return tf.where(kept, x * tf.cast(1 / (1 - rate), x.dtype), tf.zeros([], x.dtype))


@contextlib.contextmanager
def _entered(orders: _Dropping | None) -> Iterator[None]:
    token = _CURRENT.set(orders)
    try:
        yield
    finally:
        _CURRENT.reset(token)
