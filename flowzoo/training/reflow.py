"""Reflow as a recipe: pairs that a teacher makes once, and a student that starts from its weights.

Pair i is a noise, drawn from the seed and i, and the end of the teacher's path from it, before the
preprocessing is undone. The first `held_out` pairs are for validation; after the others come `still` images
of a single colour, for training, which are both ends of their pairs. In memory lie the ends alone (40,000
of 64x64x3: 1 GB): the noise of a pair is drawn anew in each step. Ends of discrete data are float16, which
errs by less than a tenth of a value (of 256 on [-1, 1]: by 0.06 at most), below what the teacher's solver
errs by; uint8 would err by half of one. Ends of other data are float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.config import ReflowConfig, TrainingConfig
from flowzoo.data import Source
from flowzoo.files import write_atomic
from flowzoo.models.dtypes import dtype_policy
from flowzoo.models.flow_matching import FlowMatching
from flowzoo.models.pair_making import PairMaker, check_teacher, pool_of
from flowzoo.models.pair_matching import PairMatching
from flowzoo.training.resuming import Saving
from flowzoo.training.workers import Workers

_log = logging.getLogger(__name__)

# What student and teacher may differ in: how a flow is trained and solved, not what its weights are.
_FREE = {"name", "dtype", "path", "sigma_min", "coupling", "entropy", "guidance", "solver", "steps", "rtol"}
_FREE |= {"atol", "max_steps", "trace", "noise", "gradient", "one_step"}
_BATCH_ENTRIES, _PIECE = 2**23, 4096  # numbers that are solved for at once; pairs of one file, about
_CONDITIONS = 65536  # read of a stream


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A student with the teacher's weights, and what it learns from.

    Attributes:
        student: its `lesson` is set, so that `fit` takes the pairs.
        pairs: to train on, and held out.
    """

    student: FlowMatching
    pairs: tuple[Source, Source]

    def give_student(self) -> FlowMatching:
        """Return the student: what `make` is to a recipe without a teacher."""
        return self.student


def prepare(
    make: Callable[[], Any],
    recipe: TrainingConfig,
    teacher: Any,
    conditions: Source | None,
    strategy: tf.distribute.Strategy,
    limit: int | None,
    saving: Saving | None,
) -> Lesson:
    """Build the student and make the pairs, or read those that an earlier start has made.

    They are written beside the states of the training, a few thousand at a time, and belong to a teacher (its
    weights), a seed and a solver: others are not read.

    Args:
        make: builds the student; called under the strategy's scope.
        recipe: with `reflow`.
        teacher: the trained model.
        conditions: a split from which the pairs take their conditions; None without.
        strategy: where the student trains. The pairs are made on one device.
        limit: the most pairs that are used of either kind.
        saving: where the pairs are kept; None keeps none.

    Raises:
        ValueError: no teacher or no `reflow`, a student that is not the teacher's like, several workers, or
            conditions that do not fit.
        FloatingPointError: some noises have no finite path.
        OSError: the pairs cannot be written.
    """
    config = _checked(recipe, teacher, strategy)
    with strategy.scope(), dtype_policy(recipe.precision):
        student = make()
    check_student(student, teacher, config)
    with strategy.scope():
        student.set_weights(teacher.get_weights())
    student.lesson = PairMatching(config.one_step, config.seed)
    sizes = (config.held_out, config.num_pairs)
    held_out, num = sizes if limit is None else (min(limit, size) for size in sizes)
    maker = StoredPairs(teacher, config, _pool(teacher, conditions))
    goals = maker.first_goals(held_out + num, None if saving is None else saving.states.pairs)
    marks = maker.marks(held_out + num)
    if config.still:
        goals, marks = maker.with_still(goals, marks, min(config.still, num))
    name = f"pairs of {teacher.name} {maker.fingerprint}"
    parts = {"train": slice(held_out, None), "validation": slice(held_out)}
    train, validation = (
        Source(x=goals[rows], condition=marks[rows], name=name, split=split) for split, rows in parts.items()
    )
    return Lesson(student, (train, validation))


def _checked(recipe: TrainingConfig, teacher: Any, strategy: tf.distribute.Strategy) -> ReflowConfig:
    if recipe.reflow is None:
        raise ValueError("A teacher was given, and the recipe has no reflow that says what to learn of it.")
    check_teacher(teacher)
    workers = Workers.of(strategy).count
    if workers > 1:
        raise ValueError(
            f"reflow trains in one process, on the devices of one machine: each worker would make pairs of "
            f"its own. Received: {workers} workers; take strategy='one' or 'mirrored'."
        )
    return recipe.reflow


def check_student(student: Any, teacher: FlowMatching, config: ReflowConfig) -> None:
    """Raise ValueError unless a student can take a teacher's weights and learn its paths."""
    if not isinstance(student, FlowMatching):
        raise ValueError(f"reflow trains a FlowMatching. Received: a {type(student).__name__}")
    own, theirs = student.get_config(), teacher.get_config()
    for each in (own, theirs):  # whether the network knows "no condition", not how often it is trained
        each["condition_dropout"] = bool(each["condition_dropout"])
    different = [key for key in own if key not in _FREE and _plain(own[key]) != _plain(theirs.get(key))]
    if different:
        listed = ", ".join(f"{key} ({own[key]!r} and {theirs.get(key)!r})" for key in different)
        raise ValueError(
            f"The student {student.name} must be built as its teacher {teacher.name}, from whose weights it "
            f"starts. They differ in: {listed}"
        )
    for key, value in config.student.items():
        if own[key] != value:
            raise ValueError(f"reflow asks for a student with {key}={value!r}. Received: {own[key]!r}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _pool(teacher: FlowMatching, conditions: Source | None) -> tf.Tensor | None:
    """Return the conditions that pairs are drawn from, as the layers take them."""
    if conditions is None:
        return pool_of(teacher)
    return pool_of(
        teacher, conditions.head(_CONDITIONS)[1] if conditions.is_streamed else conditions.condition
    )


class StoredPairs(PairMaker):
    """The pairs of a recipe: of one teacher, solver and seed, whose ends are kept in files.

    Args:
        teacher: a trained model.
        config: solver, guidance and seed.
        pool: conditions to draw from, as the layers take them; None without.

    Attributes:
        fingerprint: of the teacher, its weights, solver and seed, and of the conditions.
    """

    def __init__(self, teacher: FlowMatching, config: ReflowConfig, pool: tf.Tensor | None) -> None:
        super().__init__(teacher, pool, config.seed, config.guidance, config.solver, config.steps)
        self._dtype = np.dtype("float16" if teacher.discrete else "float32")
        size = int(np.prod(teacher.latent_shape, dtype="int64"))
        self._most = max(1, min(_PIECE, _BATCH_ENTRIES // size))
        self.fingerprint = self._digest(config)

    def _digest(self, config: ReflowConfig) -> str:
        about = {key: value for key, value in self.teacher.get_config().items() if key != "name"}
        solving = config.model_dump(include={"guidance", "solver", "steps", "seed"})
        digest = hashlib.sha256(json.dumps([about, solving, self._dtype.name], default=str).encode())
        for array in (*self.teacher.get_weights(), *([] if self.pool is None else [self.pool.numpy()])):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def first_goals(self, count: int, folder: Path | None = None) -> np.ndarray:
        """Return the ends of the first `count` pairs, [count, *latent_shape].

        Args:
            count: how many.
            folder: where they are read, and written as they are made; None makes them all.

        Raises:
            FloatingPointError: some are not finite.
            OSError: they cannot be written.
        """
        goals = np.empty([count, *self.teacher.latent_shape], self._dtype)
        batch = min(self._most, count)
        piece = batch * max(1, _PIECE // batch)
        for start in range(0, count, piece):
            part = goals[start : start + piece]
            path = None if folder is None else folder / f"{self.fingerprint}_{start:07d}.npy"
            if path is None or not _read(path, part):
                for first in range(0, len(part), batch):  # of one size each, for XLA
                    number = tf.range(start + first, start + first + batch, dtype=tf.int64)
                    part[first : first + batch] = self.goals(number, self._dtype)[: len(part) - first]
                _log.info("made pairs %d to %d of %d", start + 1, start + len(part), count)
                _write(path, part)
        return goals

    def marks(self, count: int) -> np.ndarray:
        """Return what stands beside the ends: the number of each pair and its condition, [count, 1 + k]."""
        number = tf.range(count, dtype=tf.int64)
        marks, condition = np.arange(count, dtype="float32")[:, None], self.conditions(number)
        if condition is None:
            return marks
        return np.concatenate([marks, np.reshape(condition, [count, -1]).astype("float32")], axis=1)

    def with_still(self, goals: np.ndarray, marks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Append images of a single colour, and marks which say that they stay where they are.

        Raises:
            ValueError: the data are no images of whole numbers.
        """
        still = self.marks(count)
        still[:, 0] = -1.0
        colours = self.single_colours(count, self._dtype)
        return np.concatenate([goals, colours]), np.concatenate([marks, still])


def _read(path: Path, part: np.ndarray) -> bool:
    """Read pairs into their place; return whether there were any."""
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return False
    except (ValueError, EOFError):
        found = np.empty(0)
    if found.shape != part.shape or found.dtype != part.dtype:
        _log.warning("%s does not hold the pairs that it should: they are made anew", path)
        return False
    part[...] = found
    return True


def _write(path: Path | None, part: np.ndarray) -> None:
    if path is None:
        return
    buffer = io.BytesIO()
    np.save(buffer, part, allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
