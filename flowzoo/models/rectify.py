"""Rectified flow: straighter paths by reflow, and one step by distillation.

Here are functions of models that one has; `reflow:` in a recipe does the same with all that a recipe gives
(`flowzoo.training.reflow`).

from flowzoo.models.rectify import distill, reflow

teacher = flowzoo.build("flow_matching", event_shape=(2,), path="rectified")
teacher.compile("adam")
teacher.fit(x, epochs=50)

straight = reflow(teacher, num_pairs=50_000, epochs=20)       # 2-rectified flow: few steps will do
fast = distill(straight, num_pairs=50_000, epochs=20)
fast.sample(16)                                               # one evaluation of the network
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.models import checks
from flowzoo.models.flow_matching import FlowMatching
from flowzoo.models.pair_making import PairMaker, check_teacher, pool_of
from flowzoo.models.pair_matching import PairMatching
from flowzoo.networks.base import positive_int
from flowzoo.ode import FixedSolver


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Noises and where a teacher takes them.

    Attributes:
        z: noise, [num_pairs, *latent_shape].
        goal: the end of the path from z, of the same shape: samples before the preprocessing is undone.
        condition: as the layers take it (class labels one-hot), [num_pairs, ...], or None.
    """

    z: np.ndarray
    goal: np.ndarray
    condition: np.ndarray | None = None


def make_pairs(
    teacher: FlowMatching,
    num_pairs: int,
    condition: Any = None,
    *,
    guidance: float | None = None,
    solver: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 2048,
) -> Pairs:
    """Draw noises and solve the teacher's equation from each.

    Args:
        teacher: a trained model.
        num_pairs: how many.
        condition: conditions to draw from, [N, *condition_shape] (those of the training data, say). A model
            with class labels draws from all of its classes when None.
        guidance: as `FlowMatching.sample`.
        solver: as `FlowMatching.sample`.
        steps: as `FlowMatching.sample`.
        seed: of the noises and of the choice of conditions.
        batch_size: pairs that are solved at once.

    Raises:
        ValueError: a teacher that is no trained `FlowMatching`, a missing condition, or what
            `FlowMatching.sample` refuses.
        FloatingPointError: some noises have no finite path ("dopri5" did not arrive).
    """
    check_teacher(teacher)
    positive_int("num_pairs", num_pairs)
    maker = PairMaker(teacher, pool_of(teacher, condition), seed, guidance, solver, steps)
    number = tf.range(num_pairs, dtype=tf.int64)
    parts = [number[start : start + batch_size] for start in range(0, num_pairs, batch_size)]
    goal = np.concatenate([maker.goals(part, teacher.compute_dtype) for part in parts])
    given = None if maker.pool is None else np.asarray(maker.conditions(number))
    return Pairs(np.asarray(maker.noises(number)), goal, given)


def reflow(
    teacher: FlowMatching,
    num_pairs: int = 50_000,
    condition: Any = None,
    *,
    epochs: int = 20,
    batch_size: int = 256,
    optimizer: Any = None,
    pairs: Pairs | None = None,
    guidance: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Any] = (),
    verbose: int = 0,
) -> FlowMatching:
    """Train a student on the straight lines between a teacher's noises and samples.

    The student starts from the teacher's weights and has its architecture, with path="rectified". It
    samples what the teacher samples, by paths that cross less and so bend less: fewer steps will do. Its
    errors add to the teacher's. Repeat with the student as the teacher for straighter paths still. Guidance
    of the teacher is learned with its samples; the student has none of its own set.

    Args:
        teacher: a trained model; it is not changed.
        num_pairs: pairs that are made, once.
        condition: as `make_pairs`.
        epochs: passes over the pairs.
        batch_size: pairs a step.
        optimizer: a Keras name or optimizer; None is Adam at 1e-3, falling to 0 by a cosine, with
            averaged weights.
        pairs: pairs to use instead of making them.
        guidance: with which the pairs are made; None takes the teacher's.
        seed: of pairs, order and times.
        callbacks: of Keras's fit.
        verbose: as Keras's fit.

    Returns:
        The student, with the teacher's solver (with 32 steps of "rk4" where that goes in one step).

    Raises:
        ValueError: as `make_pairs`.

    References:
        Liu et al., Flow Straight and Fast (2022), https://arxiv.org/abs/2209.03003, algorithm 1.
    """
    pairs = pairs or make_pairs(teacher, num_pairs, condition, guidance=guidance, seed=seed)
    solving = {"solver": "rk4", "steps": 32, "one_step": False} if teacher.one_step else {}
    student = _student(teacher, path="rectified", coupling="independent", guidance=0.0, **solving)
    return _trained(student, pairs, False, epochs, batch_size, optimizer, seed, callbacks, verbose)


def distill(
    teacher: FlowMatching,
    num_pairs: int = 50_000,
    condition: Any = None,
    *,
    epochs: int = 20,
    batch_size: int = 256,
    optimizer: Any = None,
    pairs: Pairs | None = None,
    guidance: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Any] = (),
    verbose: int = 0,
) -> FlowMatching:
    """Train a student that goes a teacher's whole way in one Euler step: f(z, 0) learns x - z.

    Distil what was straightened by `reflow`: where the teacher's map turns sharply one smooth step cannot
    follow it. The student has solver="euler", steps=1 and one_step=True: it is for sampling. An Euler step
    back is not the inverse of that step, and its velocity at other times means nothing: what asks for a
    density or a latent raises ValueError, and its export has `sample` and `from_latent` alone.

    Arguments, result and errors: as `reflow`.

    References:
        Liu et al., Flow Straight and Fast (2022), https://arxiv.org/abs/2209.03003, section 2.2.
    """
    pairs = pairs or make_pairs(teacher, num_pairs, condition, guidance=guidance, seed=seed)
    changes = {"path": "rectified", "coupling": "independent", "guidance": 0.0}
    student = _student(teacher, **changes, solver="euler", steps=1, gradient="auto", one_step=True)
    return _trained(student, pairs, True, epochs, batch_size, optimizer, seed, callbacks, verbose)


def straightness(model: FlowMatching, n: int = 1024, condition: Any = None, seed: int = 0) -> float:
    """Return how much the paths bend: the mean of |x_1 - x_0 - f(x_t, t)|^2 over paths, times and entries.

    Zero says that every path is straight and run at constant speed, so that one Euler step is exact. It is
    measured along 50 steps of "rk4".

    References:
        Liu et al., Flow Straight and Fast (2022), https://arxiv.org/abs/2209.03003, equation 3.
    """
    model.needs_density("path")
    num = 50
    given = checks.condition(model, condition, n)
    x = random.normal([n, *model.latent_shape], seed, model.compute_dtype)
    solver, first, velocities = FixedSolver("rk4", 1), x, []

    @tf.function(autograph=False)
    def step(index: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        time = tf.cast(index, x.dtype) / num

        def velocity(part: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor]:
            return (model.velocity.velocity(x, time + part, given),)

        return velocity(tf.zeros_like(time), x)[0], solver.solve(velocity, (x,), 0.0, 1.0 / num).state[0]

    for index in range(num):
        velocity, x = step(tf.constant(index), x)
        velocities.append(np.asarray(velocity))
    return float(np.mean((np.asarray(x - first) - np.stack(velocities)) ** 2))


def _student(teacher: FlowMatching, **changes: Any) -> FlowMatching:
    check_teacher(teacher)
    config = {**teacher.get_config(), **changes}
    student = type(teacher).from_config(config)
    student.set_weights(teacher.get_weights())
    return student


def _trained(
    student: FlowMatching,
    pairs: Pairs,
    one_step: bool,
    epochs: int,
    batch_size: int,
    optimizer: Any,
    seed: int,
    callbacks: Sequence[Any],
    verbose: int,
) -> FlowMatching:
    if optimizer is None:
        steps = epochs * max(1, len(pairs.z) // batch_size)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        optimizer = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.99)
    student.lesson, student.seed = PairMatching(one_step), seed
    student.compile(optimizer)
    steps = max(1, len(pairs.z) // batch_size)
    options = {"epochs": epochs, "steps_per_epoch": steps, "callbacks": list(callbacks), "verbose": verbose}
    student.fit(_batches(pairs, batch_size, seed), **options)
    student.lesson = None
    return student


def _batches(pairs: Pairs, batch_size: int, seed: int) -> tf.data.Dataset:
    """Return batches of pairs without end. They are whole: a rest waits its turn."""
    parts = [part for part in (pairs.z, pairs.goal, pairs.condition) if part is not None]
    size = len(pairs.z)
    data = tf.data.Dataset.from_tensor_slices(tuple(parts)).shuffle(size, seed=seed).repeat()
    data = data.batch(min(batch_size, size), drop_remainder=True)
    return data.map(lambda z, goal, *condition: (tf.stack([z, goal], axis=1), *condition)).prefetch(2)
