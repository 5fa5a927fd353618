"""Sources as TFRecord shards: written once, then read by any number of workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from flowzoo.data.record_index import (
    INDEX_FILE,
    Feature,
    RecordIndex,
    ShardFile,
    features_of,
    layout,
    length_of_record,
    sha256,
)
from flowzoo.data.source import Source
from flowzoo.data.values import check_finite
from flowzoo.errors import DataError
from flowzoo.files import staged_folder, write_atomic

_CHUNK_BYTES = 2**23
_DTYPES = get_args(Feature.model_fields["dtype"].annotation)


def write_shards(
    sources: Source | Mapping[str, Source],
    folder: str | os.PathLike[str],
    *,
    num_shards: int,
    overwrite: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> RecordIndex:
    """Writes a data set as TFRecord files with an index, to be opened as the source `tfrecords`.

    Example i of a split goes to file i mod `num_shards`: each file is a fair sample of the whole, whatever
    order the examples are in. A record is a `tf.train.Example` with the bytes of "x" and of "condition".
    Conditions of any whole numbers are written as int32 (uint8 stays uint8).
    Memory is constant for sources that are not in memory themselves.

    Args:
        sources: The splits of one data set, or a single one.
        folder: The folder to make. It appears whole or not at all.
        num_shards: The number of files of the largest split, best a multiple of the number of workers; other
            splits get as many as make their files as large.
        overwrite: Whether a folder that exists is replaced.
        progress: Called with a split and the number of its examples that are written.

    Returns:
        What was written.

    Raises:
        DataError: The splits are not of one kind, more shards than examples, values that are not finite or of
            a type that no record has, or whole numbers beyond int32.
        FileExistsError: The folder exists and `overwrite` is False.
        OSError: It cannot be written.
    """
    if isinstance(sources, Source):
        sources = {sources.split: sources}
    first = _checked(sources, num_shards)
    record = _Record(first)
    files = {}
    with staged_folder(folder, overwrite=overwrite) as staged:
        for split, source in sources.items():
            report = (lambda done, split=split: progress(split, done)) if progress else None
            files[split] = _write_split(
                staged, split, source, record, _count(sources, split, num_shards), report
            )
        index = RecordIndex(
            source=first.name,
            licence=first.licence,
            origin=first.origin,
            num_values=first.num_values,
            num_classes=first.num_classes,
            record_bytes=record.length,
            x=record.x,
            condition=record.condition,
            splits=files,
        )
        write_atomic(staged / INDEX_FILE, index.model_dump_json(indent=1) + "\n")
    return index


def _checked(sources: Mapping[str, Source], num_shards: int) -> Source:
    if num_shards < 1 or not sources:
        raise DataError(f"num_shards must be at least 1, of at least one split. Received: {num_shards}")
    kinds = {
        split: (source.event_shape, source.dtype, source.condition_shape, _condition_dtype(source))
        for split, source in sources.items()
    }
    if len(set(kinds.values())) > 1:
        raise DataError(f"Splits of one data set have one shape and type. Received: {kinds}")
    return next(iter(sources.values()))


def _count(sources: Mapping[str, Source], split: str, num_shards: int) -> int:
    """Gives the number of files of a split; where a size is unknown, all splits get as many."""
    sizes = {name: source.size for name, source in sources.items()}
    own, largest = sizes[split], max((size or 0) for size in sizes.values())
    if own is None or None in sizes.values():
        return num_shards
    if largest < num_shards:
        raise DataError(f"num_shards={num_shards} for {largest} examples: a shard would be empty.")
    return max(1, round(num_shards * own / largest))


class _Record:
    """The bytes of a record. All but the values are the same in each, so no message is built for it."""

    def __init__(self, source: Source) -> None:
        self.x = _feature("x", str(source.dtype), source.event_shape)
        self.condition = None
        if source.condition_shape is not None:
            self.condition = _feature("condition", str(_condition_dtype(source)), source.condition_shape)
        self._features = features_of(self.x, self.condition)
        self.length = length_of_record(self._features)

    def rows(self, x: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
        """Gives the records of examples as rows of bytes."""
        values, parts = {"x": x, "condition": condition}, []
        for name, before in layout(self._features):
            fixed = np.frombuffer(before, np.uint8)
            parts += [np.broadcast_to(fixed, (len(x), len(fixed)))]
            parts += [_bytes(cast(np.ndarray, values[name]), self._features[name])]
        return np.concatenate(parts, axis=1)


def _bytes(values: np.ndarray, feature: Feature) -> np.ndarray:
    little = np.ascontiguousarray(values, np.dtype(feature.dtype).newbyteorder("<"))
    return little.reshape(len(values), -1).view(np.uint8).reshape(len(values), feature.num_bytes)


def _feature(name: str, dtype: str, shape: tuple[int, ...]) -> Feature:
    if dtype not in _DTYPES:
        raise DataError(f"Records hold {', '.join(_DTYPES)}. Received: {name} of {dtype}")
    return Feature(dtype=cast(Any, dtype), shape=shape)


def _condition_dtype(source: Source) -> str | None:
    """Gives the type that conditions are written in; NumPy's and pandas' own whole numbers are int64."""
    if source.condition_shape is None:
        return None
    if source.is_streamed:
        dtype = np.dtype(cast(Any, source.x).element_spec[1].dtype.as_numpy_dtype)
    else:
        dtype = cast(np.ndarray, source.condition).dtype
    return "int32" if dtype.kind in "iub" and str(dtype) not in _DTYPES else str(dtype)


def _check_condition(condition: np.ndarray, where: str) -> None:
    check_finite(condition, where)
    if condition.dtype.kind in "iu" and condition.size:
        low, high, allowed = condition.min(), condition.max(), np.iinfo(np.int32)
        if low < allowed.min or high > allowed.max:
            raise DataError(
                f"{where}: whole numbers are written as int32, {allowed.min} to {allowed.max}. "
                f"Received: {low} to {high}"
            )


def _write_split(
    folder: Path,
    split: str,
    source: Source,
    record: _Record,
    count: int,
    report: Callable[[int], None] | None,
) -> tuple[ShardFile, ...]:
    import tensorflow as tf

    names = [f"{split}-{number:05d}-of-{count:05d}.tfrecord" for number in range(count)]
    done = 0
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(folder / name))) for name in names]
        for x, condition in _chunks(source, record):
            where = f"Source {source.name!r} ({split}), after {done} examples"
            check_finite(x, where)
            if condition is not None:
                _check_condition(condition, f"{where}, condition")
            _write_rows(writers, record.rows(x, condition), done)
            done += len(x)
            if report is not None:
                report(done)
    if done < count:
        raise DataError(f"num_shards={count} for {done} examples of {split}: a shard would be empty.")
    sizes = [len(range(number, done, count)) for number in range(count)]
    return tuple(
        ShardFile(file=name, num_examples=size, sha256=sha256(folder / name))
        for name, size in zip(names, sizes, strict=True)
    )


def _write_rows(writers: list[Any], rows: np.ndarray, done: int) -> None:
    length, content = rows.shape[1], rows.tobytes()
    for number in range(len(rows)):
        writer = writers[(done + number) % len(writers)]
        writer.write(content[number * length : (number + 1) * length])


def _chunks(source: Source, record: _Record) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Gives the examples and conditions of a source, some at a time."""
    size = max(1, _CHUNK_BYTES // record.length)
    if source.is_streamed:
        for batch in cast(Any, source.x).batch(size).prefetch(1).as_numpy_iterator():
            yield batch if isinstance(batch, tuple) else (batch, None)
        return
    for start in range(0, len(cast(Any, source.x)), size):
        part = slice(start, start + size)
        yield np.asarray(source.x[part]), None if source.condition is None else source.condition[part]
