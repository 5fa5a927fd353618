"""How long training waits for its data: logged by epoch, and measured stage by stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo.data import Source
from flowzoo.data.pipeline import read_together, stages
from flowzoo.data.plan import Plan
from flowzoo.data.record_reader import clear_errors
from flowzoo.errors import DataError

WAIT_SHARE = 0.1
"""From this share of a step on, a report says that training waits for data."""


class WaitForData(keras.callbacks.Callback):
    """Log `data_wait_ms`, what a step waits for its batch, and `data_wait_share` of the epoch's time.

    The clock is read before and after each batch is taken from the dataset, in the thread that takes it,
    which costs some 0.1 ms a batch. On one device that is the thread that trains. Under a strategy of several
    replicas it is one that fetches ahead, and the figures are upper bounds.

        wait = WaitForData()
        model.fit(wait.watch(model, batches), callbacks=[wait])
    """

    LOGS: ClassVar[tuple[str, ...]] = ("data_wait_ms", "data_wait_share")

    def __init__(self) -> None:
        super().__init__()
        self._waits: list[float] = []
        self._start = self._end = 0.0
        self._waited = self._seconds = 0.0  # of the epochs that are done

    def watch(self, model: Any, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset with what measures it; nothing may be added to it before it is given to `fit`.

        Args:
            model: the flow that will train on it.
            dataset: batches, as `fit` takes them.

        Raises:
            ValueError: as `fit`, for what the flow does not take.
        """
        checked, _, _ = model._checked(dataset, None, None, "x")  # by its lesson, if it has one
        clock = tf.data.Dataset.counter().map(lambda _: tf.timestamp())

        def note(before: tf.Tensor, batch: Any, after: tf.Tensor) -> Any:
            with tf.control_dependencies([tf.numpy_function(self._note, [after - before], [])]):
                return tf.nest.map_structure(tf.identity, batch)

        # A zip asks its parts one after the other, in the thread that asks it.
        watched = tf.data.Dataset.zip(clock, checked, clock).map(note)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would ask ahead, in another thread
        watched = watched.with_options(options)
        watched._flowzoo_checked = True
        return watched

    def _note(self, seconds: np.float64) -> None:
        self._waits.append(float(seconds))

    @property
    def waits(self) -> list[float]:
        """The seconds that each batch of the epoch was waited for."""
        return list(self._waits)

    @property
    def share(self) -> float:
        """The part of all epochs that was waiting, validation left out."""
        return self._waited / self._seconds if self._seconds else 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin."""
        self._waits.clear()
        self._start, self._end = time.perf_counter(), 0.0

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """End before the validation."""
        self._end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log."""
        seconds = (self._end or time.perf_counter()) - self._start
        waited = min(sum(self._waits), seconds)
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        if logs is not None and self._waits:
            logs["data_wait_ms"] = 1000 * float(np.mean(self._waits))
            logs["data_wait_share"] = waited / seconds


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a pipeline costs up to one of its stages, alone on the machine.

    Attributes:
        name: of the stage.
        ms_per_batch: of the pipeline up to here.
        own_ms: what is more than up to the stage before; stages run side by side, so it may be 0.
    """

    name: str
    ms_per_batch: float
    own_ms: float


@dataclasses.dataclass(frozen=True)
class PipelineReport:
    """What a pipeline gives and what training waits for.

    Attributes:
        batch_size: examples in a batch.
        examples_per_second: of the whole pipeline, alone on the machine.
        ms_per_batch: likewise.
        stages: what each stage costs.
        slowest: the stage with the largest `own_ms`.
        step_ms: a step of training, waiting included; None without a model.
        wait_ms: what a step waits for its batch; None without a model.
        wait_share: the part of a step that is waiting; None without a model.
        waits: whether that is `WAIT_SHARE` or more; None without a model.
    """

    batch_size: int
    examples_per_second: float
    ms_per_batch: float
    stages: tuple[Stage, ...]
    slowest: str
    step_ms: float | None = None
    wait_ms: float | None = None
    wait_share: float | None = None
    waits: bool | None = None


def report_pipeline(
    source: Source,
    batch_size: int,
    *,
    model: Any = None,
    conditional: bool = False,
    seed: int = 0,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    batches: int = 100,
    seconds: float = 10.0,
) -> PipelineReport:
    """Measure what a source's training pipeline costs, and how long a model's training waits for it.

    Each stage runs alone for so many batches or seconds, whichever ends first, and to the end of a window
    where examples are read by windows; then the model trains for as many steps on a batch in memory and on
    the pipeline, after two that compile. A step's waiting is what was measured, or what the pipeline alone
    takes longer than a step computes. The model is changed.

    Args:
        source: the training split.
        batch_size: of all workers together.
        model: a compiled flow, or None to measure the pipeline alone.
        conditional: whether the conditions are given to the flow.
        seed: of the order.
        limit: use only so many examples.
        shard: measure the part of worker (index, count).
        batches: how many are measured, at most.
        seconds: how long a stage is measured, about.

    Raises:
        DataError: as `flowzoo.data.pipeline`.
    """
    plan = Plan(batch_size, True, seed, True, True, limit, 0, shard)
    plan.check()
    made = stages(source, plan, conditional)
    together = read_together(source)
    wanted = -(-batches * plan.part_size // together) * together
    found: list[Stage] = []
    with clear_errors():
        for name, make in made.items():
            per_batch = 1000 * plan.part_size * _seconds_per_example(make, wanted, together, seconds)
            found.append(
                Stage(name, per_batch, max(0.0, per_batch - (found[-1].ms_per_batch if found else 0.0)))
            )
    last = found[-1].ms_per_batch
    report = PipelineReport(
        batch_size=plan.part_size,
        examples_per_second=1000 * plan.part_size / last,
        ms_per_batch=last,
        stages=tuple(found),
        slowest=max(found, key=lambda stage: stage.own_ms).name,
    )
    if model is None:
        return report
    computing, waited = _train(model, list(made.values())[-1](), batches, seconds)
    # Within a window nothing is waited for: in the long run a step takes what the slower of the two takes.
    waited = max(waited, last / 1000 - computing)
    step = computing + waited
    share = waited / step
    return dataclasses.replace(
        report, step_ms=1000 * step, wait_ms=1000 * waited, wait_share=share, waits=share >= WAIT_SHARE
    )


def _seconds_per_example(
    make: Callable[[], tf.data.Dataset], wanted: int, together: int, seconds: float
) -> float:
    """Time a dataset from the first element of one window to that of a later one."""
    dataset = make()
    start, seen, windows = 0.0, 0, 0
    while True:
        before = seen
        for element in dataset:
            now = time.perf_counter()
            start = start or now
            whole, windows = seen // together > windows, seen // together
            if seen >= wanted or (whole and now - start > seconds):
                return (now - start) / seen
            seen += int(tf.shape(tf.nest.flatten(element)[0])[0])
        if seen == before:
            raise DataError("The pipeline gives no examples.")


def _train(model: Any, dataset: tf.data.Dataset, batches: int, seconds: float) -> tuple[float, float]:
    """Return the seconds that a step computes and waits, once it is compiled and the pipeline runs.

    What it computes is measured on a batch in memory: beside a pipeline that keeps TensorFlow's threads busy
    a step may wait for these, which is waiting for data and looks like computing.
    """
    model.fit(dataset.take(2), epochs=1, verbose=0)
    first = next(iter(dataset.take(1)))
    alone, beside, wait = _StopAfter(seconds / 2), _StopAfter(seconds), WaitForData()
    steps = max(2, batches)
    held = tf.data.Dataset.from_tensors(first).repeat()
    model.fit(held, epochs=1, steps_per_epoch=steps, callbacks=[alone], verbose=0)
    watched = wait.watch(model, dataset)
    model.fit(watched, epochs=1, steps_per_epoch=steps, callbacks=[wait, beside], verbose=0)
    later = wait.waits[1 : len(beside.times)]  # the first step starts the pipeline
    return alone.mean, sum(later) / max(1, len(later))


class _StopAfter(keras.callbacks.Callback):
    """Note when each step ends, and stop after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self.start = seconds, 0.0
        self.times: list[float] = []

    @property
    def mean(self) -> float:
        """The seconds of a step after the first."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note, and stop."""
        self.times.append(time.perf_counter())
        if self.times[-1] - self.start > self._seconds:
            self.model.stop_training = True
