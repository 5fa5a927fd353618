"""Train a flow as the recipe of a config says."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from flowzoo.config import TrainingConfig
from flowzoo.data import Source, pipeline
from flowzoo.training.callbacks import (
    AverageWeights,
    Clock,
    KeepWeights,
    Patience,
    RoundTrip,
    StopOnNaN,
)
from flowzoo.training.optimizers import make_optimizer
from flowzoo.training.resuming import SaveState


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        model: the trained flow.
        history: logs by epoch: `loss` and `val_loss` in nats, and `val_round_trip` (see `RoundTrip`).
        seconds: of the whole fit.
        epoch_seconds: of each epoch; the first holds the compilation.
        kept_epoch: the epoch whose weights were kept, from 1.
    """

    model: Any
    history: dict[str, list[float]]
    seconds: float
    epoch_seconds: list[float]
    kept_epoch: int


def train_recipe(
    make: Callable[[], Any],
    recipe: TrainingConfig,
    train: Source,
    validation: Source,
    *,
    conditional: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    limit: int | None = None,
    callbacks: list[keras.callbacks.Callback] | None = None,
    state: Path | None = None,
    state_seconds: float = 60.0,
    resume: bool = False,
    verbose: int = 1,
) -> Trained:
    """Build a flow under a strategy and train it.

    Args:
        make: builds the flow; called under the strategy's scope after the seed is set.
        recipe: epochs, batch size, optimizer, seed, EMA.
        train: the training split.
        validation: the validation split, which decides which epoch's weights are kept.
        conditional: whether the sources' conditions are given to the flow.
        strategy: where to train; None for one device.
        limit: use only so many examples of each split (for a quick look).
        callbacks: of your own, added after the recipe's.
        state: a file (.npz) to which the state of the training is written at the end of epochs, and which is
            deleted when the training is done; None for none.
        state_seconds: how much time must lie between two writings.
        resume: go on from `state` if it is there; the result is that of a training that was never stopped.
        verbose: as `keras.Model.fit`.

    Raises:
        FloatingPointError: the loss became NaN.
        ValueError: the data do not fit the flow.
        DataError: `state` is of another training.
    """
    keras.utils.set_random_seed(recipe.seed)
    steps, batch_size = _steps(recipe, train, limit)
    held_out = pipeline(
        validation,
        recipe.validation_batch_size or recipe.batch_size,
        shuffle=False,
        seed=recipe.seed,
        conditional=conditional,
        limit=limit,
    )
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = make()
        model.seed = recipe.seed
        decay_steps = steps * (recipe.optimizer.decay_epochs or recipe.epochs)
        optimizer = make_optimizer(recipe.optimizer, decay_steps, recipe.ema)
        model.compile(optimizer, jit_compile=_jit(recipe, strategy))
    average = AverageWeights() if recipe.ema is not None else None
    keep, clock = KeepWeights(best=recipe.keep == "best"), Clock()
    patience = Patience(recipe.patience) if recipe.patience is not None else None
    given = [callback for callback in (StopOnNaN(), average, patience) if callback is not None]
    given += [RoundTrip(validation, conditional), keep, clock, *(callbacks or [])]
    save, done = None, 0
    if state is not None:
        about = json.dumps([recipe.model_dump(mode="json"), train.name, train.size, limit, conditional])
        save = SaveState(state, about, average, keep, clock, patience, state_seconds)
        done = save.restore(model) if resume else 0
        given.append(save)
    batches = pipeline(
        train,
        batch_size,
        shuffle=True,
        seed=recipe.seed,
        conditional=conditional,
        repeat=True,
        drop_remainder=True,
        limit=limit,
        skip=done * steps,
    )
    start = time.perf_counter()
    history = model.fit(
        batches,
        epochs=recipe.epochs,
        initial_epoch=done,
        steps_per_epoch=steps,
        validation_data=held_out,
        callbacks=given,
        verbose=verbose,
    )
    seconds = time.perf_counter() - start + sum(clock.epochs[:done])
    logs = history.history if save is None else save.history
    return Trained(model, logs, seconds, clock.epochs, keep.best_epoch + 1)


def _steps(recipe: TrainingConfig, train: Source, limit: int | None) -> tuple[int, int]:
    """Return the steps of one epoch, and the size of a batch."""
    size = train.size if limit is None or train.size is None else min(limit, train.size)
    batch_size = recipe.batch_size if size is None else min(recipe.batch_size, size)
    steps = recipe.steps_per_epoch
    if steps is None:
        if size is None:
            raise ValueError(f"The size of {train.name} is unknown: the recipe must name steps_per_epoch.")
        steps = max(1, math.floor(size / batch_size))
    return steps, batch_size


def _jit(recipe: TrainingConfig, strategy: tf.distribute.Strategy) -> bool | str:
    return "auto" if strategy.num_replicas_in_sync > 1 else recipe.jit_compile
