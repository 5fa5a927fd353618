"""TFRecord shards as `flowzoo shards` and `flowzoo.data.write_shards` write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_path
from flowzoo.data.record_index import Records, read_index
from flowzoo.data.source import Source
from flowzoo.errors import DataError


def _write_example(folder: Path) -> Mapping[str, Any]:
    from flowzoo.data.record_writer import write_shards

    random = np.random.RandomState(0)
    sources = {
        split: Source(
            x=random.normal(size=(size, 3)).astype(np.float32),
            condition=random.randint(0, 4, size).astype(np.int32),
            num_classes=4,
            split=split,
            licence="CC0-1.0",
            origin="drawn for the tests",
        )
        for split, size in (("train", 61), ("validation", 9), ("test", 10))
    }
    write_shards(sources, folder / "shards", num_shards=4)
    return {"path": folder / "shards"}


@register_source("tfrecords", kind="records", licence="the user's own", example=_write_example)
def tfrecords(split: str, *, path: Path, verify: bool = False, cache: bool = False) -> Source:
    """TFRecord shards with an index, read block by block: more data than memory holds, and many workers.

    The sizes of the files are checked on opening, the checksum of each record as it is read. What is corrupt
    is a DataError that names the file; in a loop of your own over the dataset, where TensorFlow raises, it is
    `tf.errors.InvalidArgumentError`, which names it too.

    Args:
        split: Which split.
        path: The folder, relative to the working folder or to one of the data folders.
        verify: Whether to compare the SHA-256 of every file of the split with the index first, which reads
            all of it.
        cache: Whether to read the split into memory once and shuffle it as a whole, where it fits. Every
            worker then holds all of it.
    """
    folder = find_path(path, "Shards")
    index = read_index(folder)
    if split not in index.splits:
        raise DataError(f"{folder}: no split {split!r} was written. It has: {', '.join(index.splits)}.")
    records = Records(folder, index, split)
    records.check_sizes()
    if verify:
        records.check_hashes()
    source = _streamed(records)
    return _cached(source) if cache else source


def _streamed(records: Records) -> Source:
    from flowzoo.data.record_reader import streamed_records

    index = records.index
    return Source(
        x=streamed_records(records),
        records=records,
        num_values=index.num_values,
        num_classes=index.num_classes,
        licence=index.licence,
        origin=index.origin or str(records.folder),
    )


def _cached(source: Source) -> Source:
    from dataclasses import replace

    x, condition = source.head()
    return replace(source, x=x, condition=condition, records=None)
