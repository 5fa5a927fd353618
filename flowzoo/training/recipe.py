"""Train a flow as the recipe of a config says."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowzoo.config import TrainingConfig
from flowzoo.data import Source
from flowzoo.models.dtypes import dtype_policy
from flowzoo.training.callbacks import (
    AverageWeights,
    Clock,
    KeepWeights,
    Patience,
    RoundTrip,
    StopOnNaN,
)
from flowzoo.training.feed import Feed
from flowzoo.training.optimizers import make_optimizer
from flowzoo.training.reflow import prepare
from flowzoo.training.resuming import Progress, SaveState, Saving, lasting
from flowzoo.training.waiting import WAIT_SHARE, WaitForData
from flowzoo.training.workers import lost_workers_named

_log = logging.getLogger(__name__)


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
    teacher: Any = None,
    strategy: tf.distribute.Strategy | None = None,
    limit: int | None = None,
    callbacks: list[keras.callbacks.Callback] | None = None,
    saving: Saving | None = None,
    verbose: int = 1,
) -> Trained:
    """Build a flow under a strategy and train it.

    Under a MultiWorkerMirroredStrategy each worker takes its contiguous part of every batch, so that the
    workers together see what one would see. Each scores its part of the validation split, which it reads
    whole, and the sums are shared: all know the same `val_loss` and keep the same epoch.

    With `recipe.reflow` the flow learns from pairs of the teacher's in place of data (see
    `flowzoo.training.reflow`): both losses are those of pairs, an epoch is one pass over them, and the splits
    give the conditions and the round trip alone.

    Where one device trains, the log of an epoch that callbacks and the progress bar see says how long it
    waited for data (see `WaitForData`), and the logger says it of the whole training. Being times, which no
    other training repeats, they are not in the history.

    Args:
        make: builds the flow; called under the strategy's scope after the seed is set.
        recipe: epochs, batch size (of all replicas together), optimizer, seed, EMA.
        train: the training split.
        validation: the validation split, which decides which epoch's weights are kept.
        conditional: whether the sources' conditions are given to the flow.
        teacher: of `recipe.reflow`, a trained `FlowMatching` of the same architecture; it is not changed.
        strategy: where to train; None for one device.
        limit: use only so many examples of each split, or pairs (for a quick look).
        callbacks: of your own, added after the recipe's, on every worker.
        saving: where the state of the training is written and whether to go on from it, which gives what a
            training gives that was never stopped; None for none. The last state stays: whoever has put the
            result in safety deletes it.
        verbose: as `keras.Model.fit`.

    Raises:
        FloatingPointError: the loss became NaN.
        ValueError: the data or the teacher do not fit the flow, a batch does not divide among the replicas,
            or several workers are to learn from pairs.
        DataError: the state is of another training.
        ConnectionError: another worker was lost.
        OSError: the state cannot be written.
    """
    keras.utils.set_random_seed(recipe.seed)
    strategy = strategy or tf.distribute.get_strategy()
    measured = recipe.precision == "float32" and not (recipe.reflow and recipe.reflow.one_step)
    trip = RoundTrip(validation, conditional, every=recipe.round_trip_every) if measured else None
    if recipe.reflow is None and teacher is None:
        feed = Feed(recipe, train, validation, conditional, limit, strategy)
    else:
        lesson = prepare(make, recipe, teacher, train if conditional else None, strategy, limit, saving)
        make, feed = lesson.give_student, Feed(recipe, *lesson.pairs, True, None, strategy)
    with lost_workers_named(feed.workers):
        model = _compiled(make, recipe, feed)
        used = _Used(recipe, feed, saving, trip)
        done = used.save.restore(model) if used.save is not None else Progress()
        start, spent = time.perf_counter(), used.clock.total
        if done.stopped or done.epoch >= recipe.epochs:
            used.keep.set_model(model)
            used.keep.on_train_end()
            history = {}
        else:
            if not model.adapted:
                model.adapt(feed.whole())
            history = model.fit(
                used.watched(model, feed.training(done.epoch * feed.steps + done.batch)),
                epochs=recipe.epochs,
                initial_epoch=done.epoch,
                steps_per_epoch=feed.steps,
                validation_data=feed.held_out(),
                callbacks=used.ordered(callbacks or []),
                verbose=verbose if feed.workers.is_chief else 0,
            ).history
            used.say_what_was_waited()
    model.lesson = None
    seconds = time.perf_counter() - start + spent
    logs = lasting(history) if used.save is None else used.save.history
    return Trained(model, logs, seconds, used.clock.epochs, used.keep.best_epoch + 1)


def _compiled(make: Callable[[], Any], recipe: TrainingConfig, feed: Feed) -> Any:
    with feed.strategy.scope(), dtype_policy(recipe.precision):
        model = make()
        model.seed = recipe.seed
        decay_steps = feed.steps * (recipe.optimizer.decay_epochs or recipe.epochs)
        optimizer = make_optimizer(recipe.optimizer, decay_steps, recipe.ema)
        model.compile(optimizer, jit_compile=recipe.jit_compile)
    return model


class _Used:
    """The callbacks of a recipe."""

    def __init__(
        self, recipe: TrainingConfig, feed: Feed, saving: Saving | None, round_trip: RoundTrip | None
    ) -> None:
        self.keep, self.clock = KeepWeights(best=recipe.keep == "best"), Clock()
        self._average = AverageWeights() if recipe.ema is not None else None
        self._patience = Patience(recipe.patience) if recipe.patience is not None else None
        self._round_trip = round_trip
        # Of several replicas there are upper bounds alone: as a warning these would often be false.
        self._wait = WaitForData() if feed.strategy.num_replicas_in_sync == 1 else None
        self.save = None if saving is None else self._saving(saving, recipe, feed)

    def _saving(self, saving: Saving, recipe: TrainingConfig, feed: Feed) -> SaveState:
        about = [
            recipe.model_dump(mode="json"),
            feed.train.name,
            feed.train.size,
            feed.limit,
            feed.conditional,
        ]
        about.append(saving.about)
        return SaveState(
            saving,
            feed.workers,
            json.dumps(about),
            feed.steps,
            feed.batch_size,
            keep=self.keep,
            clock=self.clock,
            average=self._average,
            patience=self._patience,
        )

    def ordered(self, more: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
        first = None if self.save is None else self.save.first
        found = [first, StopOnNaN(), self._wait, self._average, self._patience, self._round_trip]
        found += [self.keep, self.clock, *more, self.save]
        return [callback for callback in found if callback is not None]

    def watched(self, model: Any, batches: Any) -> Any:
        return batches if self._wait is None else self._wait.watch(model, batches)

    def say_what_was_waited(self) -> None:
        if self._wait is None:
            return
        share = self._wait.share
        level, advice = logging.INFO, ""
        if share >= WAIT_SHARE:
            level, advice = logging.WARNING, ": `flowzoo pipeline` says which stage is slow"
        _log.log(level, "%.0f %% of the training was waiting for data%s", 100 * share, advice)
