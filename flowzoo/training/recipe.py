"""Train a flow as the recipe of a config says."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowzoo.config import TrainingConfig
from flowzoo.data import Source, pipeline
from flowzoo.training.callbacks import Clock, KeepWeights, RoundTrip, StopOnNaN
from flowzoo.training.optimizers import make_optimizer


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
        verbose: as `keras.Model.fit`.

    Raises:
        FloatingPointError: the loss became NaN.
        ValueError: the data do not fit the flow.
    """
    keras.utils.set_random_seed(recipe.seed)
    batches, steps = _training_batches(recipe, train, conditional, limit)
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
    keep, clock = KeepWeights(best=recipe.keep == "best"), Clock()
    trip = RoundTrip(validation, conditional)
    given = [*_recipe_callbacks(recipe), trip, keep, clock, *(callbacks or [])]
    start = time.perf_counter()
    history = model.fit(
        batches,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=held_out,
        callbacks=given,
        verbose=verbose,
    )
    seconds = time.perf_counter() - start
    return Trained(model, history.history, seconds, clock.epochs, keep.best_epoch + 1)


def _training_batches(
    recipe: TrainingConfig, train: Source, conditional: bool, limit: int | None
) -> tuple[tf.data.Dataset, int]:
    """Return endless whole batches and the steps of one epoch."""
    size = train.size if limit is None or train.size is None else min(limit, train.size)
    batch_size = recipe.batch_size if size is None else min(recipe.batch_size, size)
    steps = recipe.steps_per_epoch
    if steps is None:
        if size is None:
            raise ValueError(f"The size of {train.name} is unknown: the recipe must name steps_per_epoch.")
        steps = max(1, math.floor(size / batch_size))
    batches = pipeline(
        train,
        batch_size,
        shuffle=True,
        seed=recipe.seed,
        conditional=conditional,
        repeat=True,
        drop_remainder=True,
        limit=limit,
    )
    return batches, steps


def _jit(recipe: TrainingConfig, strategy: tf.distribute.Strategy) -> bool | str:
    return "auto" if strategy.num_replicas_in_sync > 1 else recipe.jit_compile


def _recipe_callbacks(recipe: TrainingConfig) -> list[keras.callbacks.Callback]:
    found: list[keras.callbacks.Callback] = [StopOnNaN()]
    if recipe.patience is not None:
        found.append(keras.callbacks.EarlyStopping("val_loss", patience=recipe.patience))
    if recipe.ema is not None:
        found.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    return found
