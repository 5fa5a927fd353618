"""NPZ files: arrays of examples, and of conditions, by their names in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_path
from flowzoo.data.npz import npz_keys, read_npz
from flowzoo.data.options import Part, Seed
from flowzoo.data.source import Source
from flowzoo.data.splits import split_rows
from flowzoo.data.tables import labels, numbers
from flowzoo.errors import DataError


def _write_example(folder: Path) -> Mapping[str, Any]:
    random = np.random.RandomState(0)
    np.savez(folder / "example.npz", x=random.normal(size=(50, 3)), theta=random.normal(size=(50, 2)))
    return {"path": folder / "example.npz", "condition": "theta"}


@register_source("npz", kind="arrays", licence="the user's own", example=_write_example)
def npz(
    split: str,
    *,
    path: Path,
    x: str = "x",
    condition: str | None = None,
    split_seed: Seed = 0,
    validation: Part = 0.1,
    test: Part = 0.1,
) -> Source:
    """Arrays of an NPZ file. uint8 stays uint8, with 256 values; other numbers become float32.

    Args:
        split: Which split.
        path: The file.
        x: The name of the array of examples `[N, *event_shape]`. With `{split}` in it, as in `"x_{split}"`,
            the file holds an array a split (without one for validation, a part of train is taken).
        condition: The name of the array of conditions, likewise: whole numbers `[N]` are labels.
        split_seed: Another seed gives another division.
        validation: The validation part, a fraction or a number of examples.
        test: The test part, likewise.
    """
    path = find_path(path, "NPZ file")
    keys = [x] if condition is None else [x, condition]
    part, division = _layout(path, x, split, {"validation": validation, "test": test})
    arrays = read_npz(path, [key.replace("{split}", part) for key in keys])
    _check_shapes(arrays, str(path))
    rows: np.ndarray | slice = slice(None)
    if division is not None:
        rows = split_rows(len(arrays[0]), split, seed=split_seed, where=str(path), **division)
    return _source(arrays, rows, str(path))


def _layout(path: Path, x: str, split: str, division: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Tells which arrays hold a split, and how they must be divided: None for not at all."""
    if "{split}" not in x:
        return split, division
    if split == "test" or x.replace("{split}", "validation") in npz_keys(path):
        return split, None
    return "train", {**division, "test": 0}


def _check_shapes(arrays: list[np.ndarray], where: str) -> None:
    if arrays[0].ndim < 2 or len({len(array) if array.ndim else 0 for array in arrays}) > 1:
        raise DataError(
            f"{where}: examples must be [N, *event_shape], with as many conditions. "
            f"Received: {[array.shape for array in arrays]}"
        )


def _source(arrays: list[np.ndarray], rows: np.ndarray | slice, where: str) -> Source:
    x = arrays[0]
    discrete = x.dtype == np.uint8
    x = x if discrete else numbers(x, f"{where}, x")
    condition, num_classes = _condition(arrays[1:], where)
    return Source(
        x=x[rows],
        condition=None if condition is None else condition[rows],
        num_values=256 if discrete else None,
        num_classes=num_classes,
        origin=where,
    )


def _condition(arrays: list[np.ndarray], where: str) -> tuple[np.ndarray | None, int | None]:
    if not arrays:
        return None, None
    if arrays[0].ndim == 1:
        return labels(arrays[0], f"{where}, condition")
    return numbers(arrays[0], f"{where}, condition"), None
