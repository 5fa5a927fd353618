"""Keras callbacks of a recipe."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import keras
import numpy as np

from flowzoo.data import Source
from flowzoo.full_float32 import full_float32
from flowzoo.measure import allowed_round_trip, round_trip
from flowzoo.models.feeding import check_loss

_log = logging.getLogger(__name__)


class KeepWeights(keras.callbacks.Callback):
    """Keep the weights of the best epoch, or of the last, and give them to the model at the end.

    Placed after `AverageWeights`, it sees the averaged weights, which
    are those that the validation scored.

    Args:
        monitor: the log whose smallest value is best.
        best: keep the best; otherwise the last.
    """

    def __init__(self, monitor: str = "val_loss", best: bool = True) -> None:
        super().__init__()
        self._monitor, self._best_only = monitor, best
        self.weights: list[np.ndarray] | None = None
        self.best_value, self.best_epoch = math.inf, -1

    def restore(self, weights: list[np.ndarray] | None, value: float, epoch: int) -> None:
        """Go on from weights that were kept before."""
        self.weights, self.best_value, self.best_epoch = weights, value, epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Copy the weights if they are to be kept."""
        value = float((logs or {}).get(self._monitor, math.nan))
        if not self._best_only or value < self.best_value:
            self.weights = self.model.get_weights()
            self.best_value, self.best_epoch = value, epoch

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Give the kept weights to the model."""
        if self.weights is not None:
            self.model.set_weights(self.weights)
            _log.info(
                "kept the weights of epoch %d (%s %.4f)", self.best_epoch + 1, self._monitor, self.best_value
            )


class AverageWeights(keras.callbacks.Callback):
    """Put the optimizer's moving average into the model for evaluation, and at the end of each epoch.

    Callbacks after this one see the averaged weights; the weights of training come back, bit for bit, when
    it goes on. (Keras's `SwapEMAWeights` exchanges the two by sums, and each exchange loses a digit.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[np.ndarray] | None = None

    def _average(self) -> None:
        if self.trained is None:
            self.trained = [variable.numpy() for variable in self.model.trainable_variables]
            averages = self.model.optimizer._model_variables_moving_average
            for variable, average in zip(self.model.optimizer._trainable_variables, averages, strict=True):
                variable.assign(average.value)

    def _put_back(self) -> None:
        if self.trained is not None:
            for variable, value in zip(self.model.trainable_variables, self.trained, strict=True):
                variable.assign(value)
        self.trained = None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Validate the average."""
        self._average()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Go on with the weights of training."""
        self._put_back()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the average to the callbacks that follow."""
        self._average()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Go on with the weights of training."""
        self._put_back()


class Patience(keras.callbacks.Callback):
    """Stop when the validation loss has not fallen for so many epochs.

    (Keras's `EarlyStopping` forgets what it saw when a training goes on after a stop.)

    Args:
        epochs: how many.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs, self._best, self._best_epoch = epochs, math.inf, -1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the loss."""
        value = float((logs or {}).get("val_loss", math.nan))
        if value < self._best:
            self._best, self._best_epoch = value, epoch
        self.model.stop_training = self.model.stop_training or epoch - self._best_epoch >= self._epochs


class StopOnNaN(keras.callbacks.Callback):
    """End training with an error at the first epoch whose loss is not a number."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the loss."""
        check_loss(epoch + 1, float((logs or {}).get("loss", 0.0)), getattr(self.model, "base", None))


class RoundTrip(keras.callbacks.Callback):
    """Log the largest error of data to latent to data as `val_round_trip`, every few epochs.

    A flow that trains well can cease to invert in float32; the loss does not show it.

    Args:
        source: the validation split; its first examples are taken there and back.
        conditional: whether its conditions are given to the flow.
        num: how many examples.
        every: epochs between two measurements.
    """

    def __init__(self, source: Source, conditional: bool, num: int = 16, every: int = 1) -> None:
        super().__init__()
        self._source, self._conditional, self._num, self._every = source, conditional, num, every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure if it is time, and warn where the flow would not be published."""
        if (epoch + 1) % self._every:
            return
        with full_float32():
            error = round_trip(self.model, self._source, self._conditional, self._num)["largest_error"]
        if logs is not None:
            logs["val_round_trip"] = error
        allowed = allowed_round_trip(self.model.discrete)
        if not error < allowed:
            _log.warning(
                "epoch %d: data to latent to data errs by %.3g (allowed: %g)", epoch + 1, error, allowed
            )


class Clock(keras.callbacks.Callback):
    """Measure the seconds of each epoch: the first holds the compilation."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []
        self._before = self._start = 0.0

    def restore(self, epochs: list[float], running: float) -> None:
        """Go on from the epochs that are done, and the seconds that one has run which is not."""
        self.epochs, self._before = list(epochs), running

    @property
    def total(self) -> float:
        """Seconds of all that is done."""
        return sum(self.epochs) + self._before

    @property
    def running(self) -> float:
        """Seconds of the epoch that runs."""
        return self._before + time.perf_counter() - self._start

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop."""
        self.epochs.append(self.running)
        self._before = 0.0
