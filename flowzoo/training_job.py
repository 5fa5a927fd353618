"""A training's folders: one process writes there, and the result is safe before the state is deleted."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.config import EntryConfig, TrainingConfig
from flowzoo.data import Source
from flowzoo.files import sole_writer, write_atomic
from flowzoo.manifest import MANIFEST
from flowzoo.publish import TrainResult, publish
from flowzoo.training.recipe import Trained
from flowzoo.training.resuming import Saving
from flowzoo.training.workers import Workers

_log = logging.getLogger(__name__)

# Of arrays up to so many bytes all is digested, of others so many examples at either end.
_SMALL_BYTES, _FEW = 2**24, 8


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """One training of an entry, from its start to its published folder, over restarts.

    Attributes:
        config: of the entry.
        recipe: of the training.
        target: the folder that is published.
        saving: where the state of the training is written, and the `fingerprint` of each split: what was
            published is another training's once the data change.
        workers: who train; the chief alone touches the folders.
        limit: examples of each split that are used, or None for all.
        overwrite: whether an earlier result is replaced.
        command: what the card says repeats it.
    """

    config: EntryConfig
    recipe: TrainingConfig
    target: Path
    saving: Saving
    workers: Workers
    limit: int | None
    overwrite: bool
    command: str

    @property
    def beside(self) -> Path:
        """The folder of what belongs to the training and not to its result."""
        return self.saving.states.folder.parent

    @property
    def _note(self) -> Path:
        return self.beside / "published.json"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Fail before the training and not after it, and keep another training out.

        Raises:
            FileExistsError: there is an earlier result, which is not to be replaced.
            BlockingIOError: another process has the folder.
            OSError: the folder cannot be written.
        """
        if not self.workers.is_chief:
            yield
            return
        published = self.saving.resume and self._published_before()
        if self.target.exists() and not self.overwrite and not published:
            raise FileExistsError(f"{self.target} exists: choose another folder, or pass overwrite=True.")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(sole_writer(self.beside))
                for folder in (self.target.parent, self.beside):
                    probe = folder / f".{self.target.name}.{os.getpid()}"
                    probe.touch()
                    probe.unlink()
            except OSError as error:
                hint = "choose another folder (out=, --out), or make this one writable"
                raise _explained(error, hint, self.beside) from error
            try:
                yield
            finally:  # of a training that failed before its first state nothing is left
                with contextlib.suppress(OSError):
                    self.beside.rmdir()

    def result_of_before(self) -> TrainResult | None:
        """Return what this training has published already, on every worker, if it is to be resumed."""
        found = b""
        if self.workers.is_chief:
            found = self._published_before() if self.saving.resume else b""
            if found:
                _log.info("the training is done and published: %s", self.target)
                self.saving.states.clear()
            else:
                self._note.unlink(missing_ok=True)
        found = self.workers.from_chief(found)
        if found:
            self.workers.part()
        return TrainResult(**json.loads(found)) if found else None

    def _published_before(self) -> bytes:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            digest = hashlib.sha256((self.target / MANIFEST).read_bytes()).hexdigest()
        except FileNotFoundError:
            return b""
        # Earlier versions wrote notes that do not name the data: these are taken at their word.
        if note["about"] not in (self._about, self._about[:-1]) or note["result"]["sha256"] != digest:
            return b""
        return json.dumps(note["result"] | {"published_before": True}).encode()

    @property
    def _about(self) -> list[Any]:
        return [self.saving.about, self.recipe.model_dump(mode="json"), self.limit, self.saving.data]

    def publish(self, trained: Trained, sources: dict[str, Source]) -> TrainResult:
        """Publish a flow, then delete the states that led to it; return the chief's result on every worker.

        Raises:
            FloatingPointError: the flow is not fit to be published.
            OSError: it cannot be written; the last state is kept, and resuming publishes it.
        """
        message = b""
        if self.workers.is_chief:
            message = json.dumps(dataclasses.asdict(self._publish(trained, sources))).encode()
        # The others wait here: were they gone already, they would be missing if the chief had to start again.
        message = self.workers.from_chief(message)
        self.workers.part()
        return TrainResult(**json.loads(message))

    def _publish(self, trained: Trained, sources: dict[str, Source]) -> TrainResult:
        try:
            result = publish(
                self.config,
                self.recipe,
                trained,
                sources,
                self.target,
                limit=self.limit,
                overwrite=self.overwrite,
                command=self.command,
            )
            note = {"about": self._about, "result": dataclasses.asdict(result)}
            write_atomic(self._note, json.dumps(note))
        except (OSError, tf.errors.OpError) as error:
            hint = (
                f"the result could not be written, and what lay there before is whole. The training is done, "
                f"and its last state is in {self.saving.states.folder}: free space, or make the folder "
                f"writable, and call again with resume=True (flowzoo train ... --resume): it only publishes"
            )
            raise _explained(error, hint, self.target) from error
        self.saving.states.clear()
        return result


def fingerprint(source: Source, limit: int | None) -> list[Any]:
    """Return what tells a split from one of other data, in a moment: its size, type and shape, and a digest.

    The digest is that of small arrays, of the first and the last few examples of others (and of those that
    are made on demand), or of the digests of TFRecord shards. Other streams have none: None.

    Args:
        source: the split.
        limit: only so many examples are used, or None for all.
    """
    digest = None
    if source.records is not None:
        digest = hashlib.sha256("".join(file.sha256 for file in source.records.files).encode())
    elif not source.is_streamed:
        digest = hashlib.sha256()
        for values in (source.x, source.condition):
            if values is not None:
                digest.update(np.ascontiguousarray(_some(values, limit)).tobytes())
    shapes = [
        list(source.event_shape),
        None if source.condition_shape is None else list(source.condition_shape),
    ]
    return [source.split, source.size, str(source.dtype), shapes, digest and digest.hexdigest()]


def _some(values: Any, limit: int | None) -> np.ndarray:
    size = len(values) if limit is None else min(limit, len(values))
    if isinstance(values, np.ndarray) and values[:size].nbytes <= _SMALL_BYTES:
        return values[:size]
    first, last = range(min(_FEW, size)), range(max(0, size - _FEW), size)
    return np.asarray(values[np.array(sorted({*first, *last}))])


def _explained(error: OSError | tf.errors.OpError, hint: str, path: Path) -> OSError:
    """Return an OSError of the same number that says what to do; TensorFlow's errors have none."""
    if isinstance(error, OSError):
        return OSError(error.errno, f"{error.strerror or error}: {hint}", str(error.filename or path))
    return OSError(None, f"{error.message}: {hint}", str(path))
