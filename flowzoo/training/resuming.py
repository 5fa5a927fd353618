"""Going on with a training that was stopped at any step, as if it had not been."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import time
from typing import Any

import keras
import numpy as np

from flowzoo.errors import DataError
from flowzoo.networks.base import positive_int
from flowzoo.training.callbacks import AverageWeights, Clock, KeepWeights, Patience
from flowzoo.training.state_format import assign, check_shapes, numbered, read_state
from flowzoo.training.states import State, StateFolder
from flowzoo.training.waiting import WaitForData
from flowzoo.training.workers import Workers

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where the state of a training is written, how often, and whether one is taken up.

    Attributes:
        states: the folder. Only the chief writes there, and only it reads.
        seconds: the state is written when so many have passed since the last time,
        steps: or when so many steps were taken; None for the seconds alone.
        resume: go on from the newest state that is there.
        about: what the recipe does not say of the training; the state of another is refused.
        data: tells the data from others, as JSON can hold it, or None. Of a state of others the logger warns:
            of pictures another decoder gives other digests, and a training is not lost to that.
    """

    states: StateFolder
    seconds: float = 60.0
    steps: int | None = None
    resume: bool = False
    about: str = ""
    data: list[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse an interval that is none."""
        if not self.seconds >= 0:
            raise ValueError(f"state_seconds takes seconds, 0 or more. Received: {self.seconds!r}")
        if self.steps is not None:
            positive_int("state_steps", self.steps)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        epoch: epochs that are done.
        batch: batches that are done of the epoch after them.
        stopped: whether it ended before its last epoch, because of `Patience` say.
    """

    epoch: int = 0
    batch: int = 0
    stopped: bool = False


class SaveState(keras.callbacks.Callback):
    """Write the state of a training; placed after all other callbacks, and its `first` before them.

    Weights, what the optimizer knows, the averages of the epoch that runs, the kept weights, logs and times
    are saved, not the order of the data and the noise: these follow from the seed and the step.

    Args:
        saving: where and how often.
        workers: those who train together.
        recipe: what makes the training what it is, as JSON text; another recipe cannot go on from it.
        steps: of one epoch.
        batch_size: of all workers together.
        keep: of the recipe.
        clock: of the recipe.
        average: of the recipe, or None without.
        patience: of the recipe, or None without.
    """

    def __init__(
        self,
        saving: Saving,
        workers: Workers,
        recipe: str,
        steps: int,
        batch_size: int,
        *,
        keep: KeepWeights,
        clock: Clock,
        average: AverageWeights | None,
        patience: Patience | None,
    ) -> None:
        super().__init__()
        self._saving, self._workers, self._recipe = saving, workers, recipe
        self._steps, self._batch_size = steps, batch_size
        self._average, self._keep, self._clock, self._patience = average, keep, clock, patience
        self._logs: list[dict[str, float]] = []
        self._done = Progress()
        self._running: list[np.ndarray] = []  # averages of the epoch that was interrupted
        self._written = (0, time.monotonic())
        self.first = _RestOfEpoch()

    # -- going on -------------------------------------------------------------------------------------

    def restore(self, model: Any) -> Progress:
        """Give a compiled model, on every worker, the newest state of the chief's folder, if there is one.

        Args:
            model: as it was when the training began.

        Returns:
            How far the training has come.

        Raises:
            DataError: the state is of another recipe or another model, or no state can be read.
        """
        state = self._newest() if self._workers.is_chief else None
        content = self._workers.from_chief(state.content if state is not None else b"")
        if not content:
            return self._done
        origin = str(state.path) if state is not None else "the chief's state"
        arrays, about = read_state(content, origin)
        if about["recipe"] != self._recipe:
            raise DataError(
                f"{origin} is the state of a training with another recipe, seed or data: train without "
                f"resuming, or delete {self._saving.states.folder}."
            )
        if self._saving.data is not None and about.get("data") not in (None, self._saving.data):
            _log.warning(
                "%s is the state of a training with other data than these (the digest of a split differs): "
                "going on with these; delete %s to begin anew",
                origin,
                self._saving.states.folder,
            )
        kept = numbered("kept", arrays)
        check_shapes(kept or model.weights, model.weights, origin)
        with self._workers.strategy.scope():
            model.optimizer.build(model.trainable_variables)
            assign(arrays, "weight", model.weights, origin)
            assign(arrays, "optimizer", model.optimizer.variables, origin)
        self._keep.restore(kept or None, about["best_value"], about["best_epoch"])
        self._clock.restore(about["seconds"], about["running"])
        self._running = numbered("running", arrays)
        self._logs = list(about["logs"])
        if self._patience is not None:
            self._patience.set_model(model)
            for epoch, logs in enumerate(self._logs):
                self._patience.on_epoch_end(epoch, logs)
        self._done = Progress(len(self._logs), about["batch"], about["stopped"])
        self._written = (self._step, time.monotonic())
        _log.info("going on after step %d (epoch %d), from %s", self._step, self._done.epoch + 1, origin)
        return self._done

    def _newest(self) -> State | None:
        state = self._saving.states.newest()
        if state is not None and not self._saving.resume:
            _log.warning("begins anew: %s, of a training that did not end, will be replaced", state.path)
            return None
        return state

    @property
    def history(self) -> dict[str, list[float]]:
        """The logs of all epochs, by name."""
        names = dict.fromkeys(name for logs in self._logs for name in logs)
        return {name: [logs[name] for logs in self._logs if name in logs] for name in names}

    @property
    def _step(self) -> int:
        return self._done.epoch * self._steps + self._done.batch

    # -- the epoch that was interrupted -----------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Go on with the averages of the epoch that was interrupted, which Keras has just put to zero."""
        self._begun_at = self._done.batch
        # The sums of several replicas can be set inside the scope of their strategy alone.
        with self._workers.strategy.scope():
            for variable, value in zip(self.model.metrics_variables, self._running, strict=False):
                variable.assign(value)
        self._running = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state if it is time, and end an epoch that was interrupted where it ends."""
        done = self._begun_at + batch + 1
        self._done = Progress(len(self._logs), done)
        if done < self._steps:
            self._write_if_due(logs or {})
        elif self._begun_at:
            self.first.end_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the logs, and write the state if it is time."""
        self._logs.append({key: float(value) for key, value in lasting(logs or {}).items()})
        self._done = Progress(epoch + 1, 0, bool(self.model.stop_training))
        self._write_if_due({})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write the last state: if publishing fails, the training need not be repeated."""
        if self._written[0] != self._step:
            self._write({})

    # -- saving ---------------------------------------------------------------------------------------

    def _write_if_due(self, logs: dict[str, Any]) -> None:
        step, at = self._written
        every = self._saving.steps
        if (every and self._step - step >= every) or time.monotonic() - at >= self._saving.seconds:
            self._write(logs)

    def _write(self, logs: dict[str, Any]) -> None:
        if self._workers.is_chief:
            self._write_file(logs)
        self._written = (self._step, time.monotonic())

    def _write_file(self, logs: dict[str, Any]) -> None:
        arrays = {f"weight_{i}": w for i, w in enumerate(self._trained_weights())}
        arrays |= {f"optimizer_{i}": v.numpy() for i, v in enumerate(self.model.optimizer.variables)}
        arrays |= {f"kept_{i}": w for i, w in enumerate(self._keep.weights or [])}
        if self._done.batch:
            arrays |= {f"running_{i}": v for i, v in enumerate(self._averages(logs))}
        about = {
            "recipe": self._recipe,
            "data": self._saving.data,
            "logs": self._logs,
            "batch": self._done.batch,
            "stopped": self._done.stopped,
            "seconds": self._clock.epochs,
            "running": self._clock.running if self._done.batch else 0.0,
            "best_value": self._keep.best_value,
            "best_epoch": self._keep.best_epoch,
        }
        buffer = io.BytesIO()
        np.savez(buffer, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        try:
            self._saving.states.write(self._step, buffer.getvalue())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror or error}: the state of the training could not be written; earlier ones "
                f"are whole. Free space, or make the folder writable, and go on with resume=True "
                f"(flowzoo train ... --resume)",
                error.filename,
            ) from error

    def _averages(self, logs: dict[str, Any]) -> list[np.ndarray]:
        """Return the sums and counts of the metrics in the epoch so far, over all workers."""
        if self._workers.count == 1:
            return [variable.numpy() for variable in self.model.metrics_variables]
        # A variable's sum over the workers cannot be had by one alone; the logs of a step are means over all.
        count = np.float32(self._done.batch * self._batch_size)
        return [
            value for metric in self.model.metrics for value in (np.float32(logs[metric.name]) * count, count)
        ]

    def _trained_weights(self) -> list[np.ndarray]:
        """Return the weights of training, also while their average is in the model."""
        weights = self.model.get_weights()
        if self._average is None or self._average.trained is None:
            return weights
        places = {id(weight): place for place, weight in enumerate(self.model.weights)}
        for variable, value in zip(self.model.trainable_variables, self._average.trained, strict=True):
            weights[places[id(variable)]] = value
        return weights


def lasting(logs: dict[str, Any]) -> dict[str, Any]:
    """Return the logs that a repeated training gives again: all but what the clock says."""
    return {name: value for name, value in logs.items() if name not in WaitForData.LOGS}


class _RestOfEpoch(keras.callbacks.Callback):
    """End an epoch of which a part was done before; placed before callbacks that stop the training.

    Keras gives every epoch the same number of steps. `stop_training` ends this one earlier, and is taken back
    before the next would not begin.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: bool | None = None

    def end_epoch(self) -> None:
        """End the epoch after this batch."""
        self._before, self.model.stop_training = bool(self.model.stop_training), True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Let the next epoch begin."""
        if self._before is not None:
            self.model.stop_training, self._before = self._before, None
