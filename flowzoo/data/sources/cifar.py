"""CIFAR-10 in its binary version, as files or inside the archive it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.archives import open_tar
from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_file, missing, search_folders
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range
from flowzoo.errors import DataError

FOLDER, ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
_TRAIN, _TEST = [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]
_PIXELS = 3 * 32 * 32


def _write_example(folder: Path) -> Mapping[str, Any]:
    random = np.random.RandomState(0)
    (folder / FOLDER).mkdir()
    for name in (*_TRAIN, *_TEST):
        rows = random.randint(0, 256, (12, 1 + _PIXELS)).astype(np.uint8)
        rows[:, 0] = np.arange(12) % 10
        (folder / FOLDER / name).write_bytes(rows.tobytes())
    return {"data_dir": folder}


@register_source(
    "cifar10",
    kind="images",
    licence="not stated by its authors",
    origin="Krizhevsky 2009: CIFAR-10",
    example=_write_example,
)
def cifar10(split: str, *, data_dir: Path | None = None) -> Source:
    """60,000 colour pictures of 32 by 32 pixels in ten classes.

    The last tenth of the training files (5,000 of 50,000) is the validation split; the test file (10,000) is
    the test split.

    Args:
        split: Which split.
        data_dir: The folder of the six `.bin` files, or one that holds their folder or archive; by default
            the data folders are searched.
    """
    folders = search_folders(data_dir, [FOLDER])
    names = _TEST if split == "test" else _TRAIN
    rows = np.concatenate([_records(name, folders) for name in names])
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = rows[:, 0].astype(np.int32)
    if np.max(labels, initial=0) > 9:
        raise DataError(
            f"CIFAR-10: labels go from 0 to 9. Received: {np.max(labels)}; the files are corrupt."
        )
    if split != "test":
        chosen = split_range(len(images), split, validation=0.1, test=0, where="CIFAR-10")
        images, labels = images[chosen], labels[chosen]
    return Source(x=np.ascontiguousarray(images), condition=labels, num_values=256, num_classes=10)


def _records(name: str, folders: list[Path]) -> np.ndarray:
    path = find_file([name], folders)
    archive = find_file([ARCHIVE], folders)
    if path is None and archive is None:
        get_it = f"The binary version, {ARCHIVE}, is at https://www.cs.toronto.edu/~kriz/cifar.html."
        raise missing("CIFAR-10", f"{name} or {ARCHIVE}", folders, get_it)
    raw = path.read_bytes() if path else _member(archive, f"{FOLDER}/{name}")  # type: ignore[arg-type]
    where = path or f"{archive}, {name}"
    if not raw or len(raw) % (1 + _PIXELS):
        raise DataError(f"{where}: truncated: {len(raw)} bytes are no multiple of {1 + _PIXELS}.")
    return np.frombuffer(raw, np.uint8).reshape(-1, 1 + _PIXELS)


def _member(archive: Path, name: str) -> bytes:
    try:
        with open_tar(archive) as opened:
            file = opened.extractfile(name)
            return file.read() if file else b""
    except Exception as error:  # what Python's readers raise at corrupt bytes is of a dozen kinds
        raise DataError(f"{archive}: {name} cannot be read: {error}") from error
