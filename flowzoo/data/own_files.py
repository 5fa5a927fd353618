"""Files of the user's own: which source reads one, and the whole of one, row by row as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.catalog import source_info
from flowzoo.data.frames import read_named_csv, read_parquet
from flowzoo.data.options import checked_options
from flowzoo.data.tables import chosen_columns, label_column, numeric_column
from flowzoo.errors import DataError

# By the endings of names. A bare array is what the source `npz` says how to save.
_SOURCES = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".npz": "npz", ".npy": "npz"}
# What these say is how the rows of one file are divided.
_DIVISION = ("split_seed", "validation", "test")


def source_of(path: Path) -> str | None:
    """Returns the source that reads a file, by the ending of its name; None for no such ending."""
    name = path.name.lower()
    return next((source for ending, source in _SOURCES.items() if name.endswith(ending)), None)


def read_table(path: Path, options: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads all rows of a CSV or Parquet file, in their order.

    Args:
        path: The file.
        options: Of the source that reads it, without those that divide it.

    Returns:
        The columns of the event `[N, D]`, in the precision of the file, and the condition or None.

    Raises:
        DataError: The file cannot be read, an option is unknown or wrong, a column holds no numbers, or
            labels are words: their numbers are those of the table that a model was trained on, which is not
            here.
    """
    source = source_of(path) or "csv"
    for name in _DIVISION:
        if name in options:
            raise DataError(f"{path}: all rows of a file are read, and {name} divides them: leave it out.")
    given = checked_options(source, source_info(source).function, {"path": path, **options})
    columns, label = given.get("columns"), given.get("label")
    if source == "csv":
        marks = {"sep": given.get("separator", ","), "decimal": given.get("decimal", ".")}
        frame = read_named_csv(path, given.get("header"), **marks)
    else:
        frame = read_parquet(path)
    frame, columns = chosen_columns(frame, columns, label, str(path))
    x = np.stack([numeric_column(frame, name, str(path)) for name in columns], axis=-1)
    if label is None:
        return x, None
    if frame[label].dtype.kind not in "iufb":
        raise DataError(
            f"{path}, column {label!r}: classes are numbered in the table that a model is trained on, by the "
            f"alphabet: give their numbers from 0 on. Received: {frame[label].dtype}"
        )
    return x, label_column(frame, label, str(path))[0]
