"""A generated table of any length streams through shards, the pipeline and a fit; says what it took.

`python -m tests.data.streaming --rows 10000000` prints one line of JSON. Memory is measured, hence a process
of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil

from flowzoo.data import Source, open_source, pipeline, record_reader, write_shards
from flowzoo.models import NSF


class Table:
    """Rows that are computed from their numbers. The first two columns are the number, in two digits."""

    dtype = np.dtype(np.float32)

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        digits = [numbers // 4096 / 4096, numbers % 4096 / 4096]
        waves = [np.sin(numbers * (0.1 + 0.37 * column)) for column in range(self.shape[1] - 2)]
        return np.stack([*digits, *waves], axis=-1).astype(np.float32)


def numbers_of(x: np.ndarray) -> np.ndarray:
    return np.rint(x[:, 0] * 4096).astype(int) * 4096 + np.rint(x[:, 1] * 4096).astype(int)


class Memory:
    """The memory of this process over a pass: after its first fifth, where buffers are full, and later."""

    def __init__(self, total: int) -> None:
        self._process, self._total = psutil.Process(), total
        self._next, self._samples, self._start = 0.0, [], time.perf_counter()

    def at(self, done: int) -> None:
        if done >= self._next * self._total:
            self._samples.append(self._process.memory_info().rss / 1e6)
            self._next += 0.05

    def report(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        settled, last = self._samples[len(self._samples) // 5], self._samples[-1]
        return {
            "rows_per_second": round(self._total / seconds),
            "seconds": round(seconds, 1),
            "mb_settled": round(settled),
            "mb_end": round(last),
            "mb_peak": round(max(self._samples)),
            "mb_growth": round(max(self._samples[len(self._samples) // 5 :]) - settled),
        }


class Steps(keras.callbacks.Callback):
    def __init__(self, note: Callable[[int], None]) -> None:
        super().__init__()
        self._note = note

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._note(batch + 1)


def stream(rows: int, columns: int, folder: Path, *, batch_size: int, steps: int) -> dict[str, Any]:
    """Writes, reads all of it shuffled, and trains on a part of it."""
    writing = Memory(rows)
    write_shards(
        Source(x=Table(rows, columns), name="generated"),
        folder,
        num_shards=16,
        progress=lambda _, done: writing.at(done),
    )
    found: dict[str, Any] = {"rows": rows, "write": writing.report()}
    source = open_source("tfrecords", path=folder)
    found["bytes"] = sum(path.stat().st_size for path in folder.iterdir())

    seen = np.zeros(rows, np.uint8)
    seen += 0  # its memory is taken now
    done, in_order, reading = 0, 0, Memory(rows)
    for batch in pipeline(source, batch_size, shuffle=True, seed=0):
        numbers = numbers_of(batch.numpy())
        np.add.at(seen, numbers, 1)
        in_order += int((np.diff(numbers) == 1).sum())
        done += len(numbers)
        reading.at(done)
    found["read"] = reading.report()
    found |= {"seen_once": int((seen == 1).sum()), "neighbours": in_order / rows}

    model = NSF(event_shape=(columns,), num_layers=2, hidden_units=32, num_bins=4)
    model.compile("adam")
    batches = pipeline(source, batch_size, shuffle=True, seed=1, repeat=True, drop_remainder=True)
    model.fit(batches.take(2), verbose=0)
    training = Memory(steps)
    fitted = model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[Steps(training.at)], verbose=0)
    found["fit"] = {**training.report(), "loss": fitted.history["loss"][-1]}
    found["fit"]["rows_per_second"] *= batch_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--window-bytes", type=int, default=record_reader.WINDOW_BYTES)
    given = parser.parse_args()
    record_reader.WINDOW_BYTES = given.window_bytes
    with tempfile.TemporaryDirectory() as folder:
        found = stream(
            given.rows, given.columns, Path(folder) / "s", batch_size=given.batch_size, steps=given.steps
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
