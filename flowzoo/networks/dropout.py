"""Dropout whose noise belongs to the example, not to the batch or the replica that holds it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from flowzoo import random


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
        uniform = random.keyed_uniform(self._keys, tokens * x.shape[-1], seed)
        kept = tf.reshape(uniform >= self._rate, [-1, x.shape[-1]])
        return tf.where(kept, x * tf.cast(1 / (1 - self._rate), x.dtype), tf.zeros([], x.dtype))
