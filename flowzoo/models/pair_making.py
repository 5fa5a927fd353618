"""Pairs for reflow and distillation: noises, and the ends of a teacher's paths from them; single colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.models import checks
from flowzoo.models.flow_matching import FlowMatching
from flowzoo.models.pair_matching import pair_noise, transport

# Streams of a seed: the rows of conditions, single colours, and the noise that dequantises those.
_ROWS, _COLOURS, _DEQUANTISED = 0xF24, 0xF25, 0xF26


def check_teacher(teacher: Any) -> None:
    """Raise ValueError unless a model is a `FlowMatching` whose weights of data are set."""
    if not isinstance(teacher, FlowMatching):
        name = getattr(teacher, "name", None)
        received = (
            "none" if teacher is None else f"a {type(teacher).__name__}" + (f" ({name})" if name else "")
        )
        raise ValueError(f"reflow takes a trained FlowMatching as the teacher. Received: {received}")
    if not teacher.adapted:
        raise ValueError(f"The teacher {teacher.name} is not trained: its weights of data are not set.")


def pool_of(teacher: FlowMatching, condition: Any = None) -> tf.Tensor | None:
    """Return the conditions that pairs are drawn from, as the layers take them; None without.

    Args:
        teacher: a model; one with class labels draws from all of its classes where `condition` is None.
        condition: [N, *condition_shape].

    Raises:
        ValueError: a missing condition, or one of another shape.
    """
    if condition is None and teacher.num_classes:
        condition = np.arange(teacher.num_classes)
    return checks.condition(teacher, condition)


class PairMaker:
    """Makes pairs one by one: all of pair i is a function of i, the seed and the teacher.

    Args:
        teacher: a trained model.
        pool: conditions to draw from, as the layers take them; None without.
        seed: of the noises and of the choice of conditions.
        guidance: as `FlowMatching.sample`.
        solver: as `FlowMatching.sample`.
        steps: as `FlowMatching.sample`.

    Raises:
        ValueError: what `FlowMatching.sample` refuses.
    """

    def __init__(
        self,
        teacher: FlowMatching,
        pool: tf.Tensor | None,
        seed: int,
        guidance: float | None = None,
        solver: str | None = None,
        steps: int | None = None,
    ) -> None:
        self.teacher, self.pool, self.seed = teacher, pool, seed
        self._transport = transport(teacher, guidance, solver, steps)

    def noises(self, number: tf.Tensor) -> tf.Tensor:
        """Return the noises of pairs, [batch, *latent_shape], from their numbers, int64 [batch]."""
        return pair_noise(number, self.seed, self.teacher.latent_shape, self.teacher.compute_dtype)

    def conditions(self, number: tf.Tensor) -> tf.Tensor | None:
        """Return the conditions of pairs, as the layers take them."""
        if self.pool is None:
            return None
        seeds = random.seeds_of_rows(random.fold_in(self.seed, _ROWS), number)
        uniform = random.example_uniform(tf.zeros([len(number), 1]), seeds, tf.float64)[:, 0]
        return tf.gather(self.pool, tf.cast(uniform * len(self.pool), tf.int32))

    def goals(self, number: tf.Tensor, dtype: Any) -> np.ndarray:
        """Return the ends of the paths of pairs, [batch, *latent_shape], in a type.

        Raises:
            FloatingPointError: some are not finite in it.
        """
        found = np.asarray(self._transport(self.noises(number), self.conditions(number))).astype(dtype)
        if not np.isfinite(found).all():
            raise FloatingPointError(
                f"{self.teacher.name}: some noises have no finite path. Take another solver or more steps "
                "(max_steps of dopri5)."
            )
        return found

    def single_colours(self, count: int, dtype: Any) -> np.ndarray:
        """Return images of a single colour, half of them grey, as the velocity sees them at t = 1.

        A teacher that never saw such an image can send it along a path from which float32 does not come back
        exactly.

        Args:
            count: how many, functions of the seed.
            dtype: of the result, [count, *latent_shape].

        Raises:
            ValueError: the teacher's data are no images of whole numbers.
        """
        shape = self.teacher.event_shape
        if not self.teacher.discrete or len(shape) != 3:
            kind = "discrete" if self.teacher.discrete else "continuous"
            raise ValueError(
                f"Single colours are for images [height, width, channels] of whole numbers. "
                f"{self.teacher.name} has {kind} data of shape {shape}"
            )
        uniform = random.uniform([count, shape[-1]], random.fold_in(self.seed, _COLOURS))
        grey = tf.range(count)[:, None] % 2 == 0
        colour = tf.floor(self.teacher.num_values * tf.where(grey, uniform[:, :1], uniform))
        x = tf.broadcast_to(tf.cast(colour, tf.int32)[:, None, None], [count, *shape])
        number = tf.range(count, dtype=tf.int64)
        seed = random.fold_in(self.seed, _DEQUANTISED)
        return np.asarray(self.teacher.preprocessed(x, self.conditions(number), seed)).astype(dtype)
