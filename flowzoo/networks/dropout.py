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

_CURRENT: contextvars.ContextVar[_Dropping | None] = contextvars.ContextVar("dropping", default=None)


class ExampleDropout:
    """Sets features to zero at random in training and scales the others: y = m x / (1 - p), m ~ B(1 - p).

    Each call draws a mask of its own. The masks of an example are a function of its key and of the seed:
    a run under several replicas draws those of a run under one.

    Args:
        rate: p, in [0, 1).
        keys: a number an example, int64 [batch] (`flowzoo.random.example_keys`).
        seed: whatever `flowzoo.random.fold_in` takes, also a seed an example.

    References:
        Srivastava et al., Dropout (2014), section 4; Vaswani et al. (2017),
        https://arxiv.org/abs/1706.03762, section 5.4 (of what each sub-layer adds).
    """

    def __init__(self, rate: float, keys: tf.Tensor, seed: Any) -> None:
        self._rate, self._keys, self._seed = rate, keys, seed
        self._calls = 0

    def __call__(self, x: tf.Tensor, tokens: int) -> tf.Tensor:
        """Return `x` with features dropped.

        Args:
            x: [batch * tokens, width].
            tokens: of one example.
        """
        self._calls += 1
        seed = random.fold_in(self._seed, self._calls)
        return _scaled(x, _kept(self._rate, self._keys, tokens * x.shape[-1], seed), self._rate)


@dataclasses.dataclass
class _Dropping:
    keys: tf.Tensor
    seed: Any
    calls: int = 0

    def next_seed(self) -> Any:
        self.calls += 1
        return random.fold_in(self.seed, self.calls)


@contextlib.contextmanager
def dropping(keys: tf.Tensor, seed: Any) -> Iterator[None]:
    """Let networks inside that have a rate drop features, each time they run by a mask of its own.

    Args:
        keys: a number an example, int64 [batch].
        seed: whatever `flowzoo.random.fold_in` takes, also a seed an example.
    """
    with _entered(_Dropping(keys, seed)):
        yield


@contextlib.contextmanager
def step_of_a_loop(index: tf.Tensor) -> Iterator[None]:
    """Give each pass through a loop masks of its own, where its body is traced once.

    Args:
        index: of the pass, int32 [].
    """
    orders = _CURRENT.get()
    if orders is None:
        yield
        return
    with _entered(_Dropping(orders.keys, random.fold_in(orders.next_seed(), index))):
        yield


def drop(x: tf.Tensor, rate: float) -> tf.Tensor:
    """Return features with some of them dropped inside of `dropping`, and as they are elsewhere.

    Args:
        x: [batch, ...].
        rate: the share that is dropped.
    """
    orders = _CURRENT.get()
    if orders is None or not rate:
        return x
    kept = _kept(rate, orders.keys, int(np.prod(x.shape[1:], dtype="int64")), orders.next_seed())
    # A convolution that must not see an empty batch has made one example up.
    more = tf.shape(x)[0] - tf.shape(kept)[0]
    return _scaled(x, tf.pad(kept, [[0, more], [0, 0]]), rate)


@contextlib.contextmanager
def _entered(orders: _Dropping) -> Iterator[None]:
    token = _CURRENT.set(orders)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _kept(rate: float, keys: tf.Tensor, size: int, seed: Any) -> tf.Tensor:
    """Return which of the features of each example stay, [batch, size]."""
    return random.keyed_uniform(keys, size, seed) >= rate


def _scaled(x: tf.Tensor, kept: tf.Tensor, rate: float) -> tf.Tensor:
    kept = tf.reshape(kept, tf.shape(x))
    return tf.where(kept, x * tf.cast(1 / (1 - rate), x.dtype), tf.zeros([], x.dtype))
