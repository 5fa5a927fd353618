"""CSV and Parquet tables: one file that is split 80/10/10, or a folder with one file a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_file, find_path
from flowzoo.data.frames import read_named_csv, read_parquet
from flowzoo.data.options import Column, Part, Seed, Separator
from flowzoo.data.source import Source
from flowzoo.data.splits import split_rows
from flowzoo.data.tables import chosen_columns, table_source
from flowzoo.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_own_table = partial(register_source, kind="table", licence="the user's own")
_FILE_NAMES = {"train": ["train"], "validation": ["validation", "valid", "val"], "test": ["test"]}


def _example_frame() -> pd.DataFrame:
    import pandas as pd

    random = np.random.RandomState(0)
    values = {name: random.normal(size=60) for name in "abc"}
    return pd.DataFrame({**values, "kind": np.where(np.arange(60) % 3, "tall", "short")})


def _write_csv(folder: Path) -> Mapping[str, Any]:
    _example_frame().to_csv(folder / "example.csv", index=False)
    return {"path": folder / "example.csv", "label": "kind"}


def _write_parquet(folder: Path) -> Mapping[str, Any]:
    _example_frame().to_parquet(folder / "example.parquet")
    return {"path": folder / "example.parquet", "label": "kind"}


@_own_table("csv", example=_write_csv)
def csv(
    split: str,
    *,
    path: Path,
    columns: tuple[Column, ...] | None = None,
    label: Column | None = None,
    separator: Separator = ",",
    decimal: Literal[".", ","] = ".",
    header: bool | None = None,
    split_seed: Seed = 0,
    validation: Part = 0.1,
    test: Part = 0.1,
) -> Source:
    """A CSV table, plain or gzip.

    Args:
        split: Which split.
        path: The file; or a folder with `train.csv`, `test.csv` and perhaps `validation.csv` (without it, the
            validation part is taken from the train file).
        columns: The columns of the event; by default all but the label.
        label: The column of the condition: words or whole numbers are classes, other numbers a condition
            `[1]`.
        separator: What stands between two values.
        decimal: What stands before the decimals of a number; with a comma, give a separator as well.
        header: Whether the first row names the columns; they are called 0, 1, … otherwise. By default it
            does, and a first row of numbers such as 0.5, which are hardly names, is refused.
        split_seed: Another seed gives another division of a single file.
        validation: The validation part, a fraction or a number of rows.
        test: The test part of a single file, likewise.
    """

    def read(file: Path) -> pd.DataFrame:
        return read_named_csv(file, header, sep=separator, decimal=decimal)

    division = {"seed": split_seed, "validation": validation, "test": test}
    return _opened(path, split, ["csv", "csv.gz"], read, columns, label, division)


@_own_table("parquet", example=_write_parquet)
def parquet(
    split: str,
    *,
    path: Path,
    columns: tuple[Column, ...] | None = None,
    label: Column | None = None,
    split_seed: Seed = 0,
    validation: Part = 0.1,
    test: Part = 0.1,
) -> Source:
    """A Parquet table.

    Args:
        split: Which split.
        path: The file; or a folder with `train.parquet`, `test.parquet` and perhaps `validation.parquet`
            (without it, the validation part is taken from the train file).
        columns: The columns of the event; by default all but the label.
        label: The column of the condition: words or whole numbers are classes, other numbers a condition
            `[1]`.
        split_seed: Another seed gives another division of a single file.
        validation: The validation part, a fraction or a number of rows.
        test: The test part of a single file, likewise.
    """
    division = {"seed": split_seed, "validation": validation, "test": test}
    return _opened(path, split, ["parquet"], read_parquet, columns, label, division)


def _opened(
    path: Path,
    split: str,
    endings: list[str],
    read: Callable[[Path], pd.DataFrame],
    columns: tuple[str, ...] | None,
    label: str | None,
    division: dict[str, Any],
) -> Source:
    path = find_path(path, "Table")
    if path.is_dir():
        frame, rows = _read_folder(path, split, endings, read, division)
    else:
        frame = read(path)
        rows = split_rows(len(frame), split, where=str(path), **division)
    source = table_source(frame, rows, columns=columns, label=label, where=str(path))
    if split == "train":
        _warn_of_constants(source.x, chosen_columns(frame, columns, label, str(path))[1], str(path))
    return replace(source, origin=str(path))


def _warn_of_constants(x: Any, names: list[str], where: str) -> None:
    """Say which columns hold one value: a flow gives each a spread of its own, and samples that spread."""
    constant = [name for name, same in zip(names, x.min(axis=0) == x.max(axis=0), strict=True) if same]
    if constant and len(x) > 1:
        _log.warning(
            "%s: of the examples to train on, the columns %s hold one value each, which has no density, and "
            "will be sampled with a spread that they do not have: leave them out (the option columns).",
            where,
            ", ".join(map(repr, constant)),
        )


def _read_folder(
    folder: Path,
    split: str,
    endings: list[str],
    read: Callable[[Path], pd.DataFrame],
    division: dict[str, Any],
) -> tuple[pd.DataFrame, np.ndarray]:
    """Reads all files of a folder, one under the other, so that classes are numbered alike in every split."""
    import pandas as pd

    files = {
        name: find_file([f"{stem}.{ending}" for stem in stems for ending in endings], [folder])
        for name, stems in _FILE_NAMES.items()
    }
    if files["train"] is None or files["test"] is None:
        raise DataError(f"{folder}: a folder of tables needs train.{endings[0]} and test.{endings[0]}.")
    frames = {name: read(file) for name, file in files.items() if file is not None}
    for name, frame in frames.items():
        if list(frame.columns) != list(frames["train"].columns):
            raise DataError(f"{files[name]}: its columns differ from those of {files['train']}.")
    start = 0
    ranges = {}
    for name, frame in frames.items():
        ranges[name] = np.arange(start, start := start + len(frame))
    if split != "test" and "validation" not in frames:
        inner = split_rows(len(ranges["train"]), split, where=str(files["train"]), **{**division, "test": 0})
        ranges[split] = ranges["train"][inner]
    return pd.concat(frames.values(), ignore_index=True), ranges[split]
