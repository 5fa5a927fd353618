"""Learning from pairs: noises, and where a teacher takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.models.flow_matching import FlowMatching, one_uniform
from flowzoo.ode import FixedSolver
from flowzoo.ode.divergence import example_noise
from flowzoo.ode.scope import solving

_TIME, _DROP, _NOISE = 0xF21, 0xF22, 0xF23


@dataclasses.dataclass(frozen=True)
class PairMatching:
    """The regression on pairs: as `model.lesson` it makes a `FlowMatching` fit and evaluate pairs.

    The loss is that of `FlowMatching` on the straight line between the two of a pair. With `one_step` the
    time is always 0: the velocity there learns goal - z, the whole way in one Euler step. The time and the
    dropped conditions are functions of a pair and the seed: new at each step of training, the same at each
    evaluation, and the same under any number of replicas.

    A batch is x, or x and its condition, as the layers take it (class labels one-hot). Without `noises` x is
    the pairs, [batch, 2, *latent_shape]: noise and goal. With it x is the goals alone, [batch,
    *latent_shape], and the condition is [batch, 1 + k]: the number of the pair, from which its noise is
    drawn anew (`pair_noise`), and the k entries of the condition. Pairs in memory are so half as large. A
    pair whose number is below 0 stays where it is: its goal is its noise as well.

    Attributes:
        one_step: whether to distil one step.
        noises: seed of the noises, where batches do not hold them.

    References:
        Liu et al., Flow Straight and Fast (2022), https://arxiv.org/abs/2209.03003, algorithm 1.
    """

    one_step: bool = False
    noises: int | None = None

    def unpack(self, flow: FlowMatching, data: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        """Return the pairs of a batch, [batch, 2, *latent_shape], their condition and sample weights."""
        x, condition, weight = keras.utils.unpack_x_y_sample_weight(data)
        x = tf.cast(x, flow.compute_dtype)
        if self.noises is not None:
            number, condition = tf.cast(condition[:, 0], tf.int64), condition[:, 1:]
            x = tf.ensure_shape(x, [None, *flow.latent_shape])
            z = pair_noise(number, self.noises, flow.latent_shape, flow.compute_dtype)
            still = tf.reshape(number < 0, [-1, *[1] * len(flow.latent_shape)])
            x = tf.stack([tf.where(still, x, z), x], axis=1)
        shape = flow.chain.condition_shape
        if shape is None:
            return x, None, weight
        return x, tf.reshape(tf.cast(condition, flow.compute_dtype), [-1, *shape]), weight

    def loss(
        self, flow: FlowMatching, pairs: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """Return the regression loss of each pair, [batch]: the mean over its entries."""
        z, goal = pairs[:, 0], pairs[:, 1]
        time = one_uniform(z, seed, _TIME, z.dtype)
        time = tf.zeros_like(time) if self.one_step else time
        kept = None
        if flow.condition_dropout:
            kept = one_uniform(z, seed, _DROP, z.dtype) >= flow.condition_dropout
        return flow.velocity_loss(z, goal, time, condition, kept)


def pair_noise(number: tf.Tensor, seed: int, shape: tuple[int, ...], dtype: Any) -> tf.Tensor:
    """Draw the noises of pairs, functions of their numbers and the seed: the same with XLA as without.

    Args:
        number: int64 [batch], from 0.
        seed: of all of them.
        shape: of one noise.
        dtype: of the noise.
    """
    seeds = random.seeds_of_rows(random.fold_in(seed, _NOISE), number)
    blank = tf.zeros([tf.shape(number)[0], int(np.prod(shape, dtype="int64"))], tf.float32)
    return example_noise("gaussian", blank, seeds, shape, dtype)


def transport(
    teacher: FlowMatching,
    guidance: float | None = None,
    solver: str | None = None,
    steps: int | None = None,
) -> Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]:
    """Return the function from noises and conditions (as the layers take them) to the ends of their paths.

    On a GPU fixed steps are compiled by XLA: give it batches of one size.

    Args:
        teacher: a trained model.
        guidance: as `FlowMatching.sample`.
        solver: as `FlowMatching.sample`.
        steps: as `FlowMatching.sample`.

    Raises:
        ValueError: what `FlowMatching.sample` refuses.
    """
    orders = teacher.orders(guidance, solver, steps)[0]
    fixed = isinstance(orders["solver"], FixedSolver)
    compiled = fixed and bool(tf.config.list_logical_devices("GPU"))

    @tf.function(autograph=False, jit_compile=compiled)
    def ends(z: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        with solving(log_det=False, **orders):
            return teacher.chain.chained[0].flow_forward(z, condition)[0]

    return ends
