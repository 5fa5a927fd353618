"""ADBench: tables for anomaly detection, one NPZ file each, with X and y (1 for an anomaly)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.files import missing, search_folders
from flowzoo.data.npz import read_npz
from flowzoo.data.options import Part, Seed
from flowzoo.data.source import Source
from flowzoo.data.splits import random_state, split_rows
from flowzoo.data.tables import numbers
from flowzoo.errors import DataError, near_matches


def _write_example(folder: Path) -> Mapping[str, Any]:
    x = np.random.RandomState(0).normal(size=(60, 4))
    np.savez(folder / "99_example.npz", X=x, y=(np.arange(60) % 12 == 0).astype(int))
    return {"dataset": "example", "data_dir": folder}


@register_source(
    "adbench",
    kind="table",
    licence="as each data set's own; the collection is BSD-2-Clause",
    origin="ADBench, Han et al. 2022",
    example=_write_example,
)
def adbench(
    split: str,
    *,
    dataset: str,
    data_dir: Path | None = None,
    anomalies: bool = False,
    dequantize: bool = False,
    split_seed: Seed = 0,
    validation: Part = 0.1,
    test: Part = 0.1,
) -> Source:
    """The inliers of an ADBench table, divided into the three splits.

    Args:
        split: Which split.
        dataset: The table, with its number or without: `"6_cardio"` or `"cardio"`.
        data_dir: The folder of the NPZ files; by default the data folders and their `adbench/` are searched.
        anomalies: Whether the test split holds all anomalies as well, after its inliers. The condition is
            then y.
        dequantize: Whether uniform noise is added, once and by `split_seed`, as wide as the smallest gap
            between two values of its column. Rounded values have no density: without it a flow gains
            likelihood without end by spikes on them. With it, log p + the sum of the columns' log gaps is, in
            the mean, a lower bound on the log-probability of the table's own values.
        split_seed: Another seed gives another division.
        validation: The validation part of the inliers, a fraction or a number of rows.
        test: The test part of the inliers, likewise.
    """
    path = _find(dataset, search_folders(data_dir, ["adbench"]))
    x, y = read_npz(path, ["X", "y"])
    x = numbers(x, f"{path}, X")
    y = y.reshape(-1)
    if x.ndim != 2 or len(x) != len(y) or not np.isin(y, (0, 1)).all():
        raise DataError(f"{path}: X must be [N, D] and y [N] of 0 and 1. Received: {x.shape} and {y.shape}")
    if dequantize:
        x = _dequantized(x, split_seed, str(path))
    inliers = np.flatnonzero(y == 0)
    division: dict[str, Any] = {"seed": split_seed, "validation": validation, "test": test}
    rows = inliers[split_rows(len(inliers), split, where=str(path), **division)]
    if anomalies and split == "test":
        rows = np.concatenate([rows, np.flatnonzero(y == 1)])
    condition = y[rows].astype(np.int32) if anomalies else None
    classes = 2 if anomalies else None
    return Source(x=x[rows], condition=condition, num_classes=classes, origin=f"ADBench, {path.name}")


def _dequantized(x: np.ndarray, seed: int, where: str) -> np.ndarray:
    """Spread each value over its bin, the same way for every split."""
    columns = [np.unique(column) for column in x.T.astype(np.float64)]
    constant = [number for number, values in enumerate(columns) if len(values) < 2]
    if constant:
        raise DataError(f"{where}: the columns {constant} hold one value each: no gap to dequantize by.")
    gaps = np.array([np.diff(values).min() for values in columns])
    noise = random_state(seed, zlib.crc32(b"dequantize")).uniform(size=x.shape)
    return (x + gaps * noise).astype(np.float32)


def _find(dataset: str, folders: Iterable[Path]) -> Path:
    folders = list(folders)
    files = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.npz"))}
    short = {re.sub(r"^\d+_", "", stem): path for stem, path in files.items()}
    found = files.get(dataset) or short.get(dataset)
    if found is not None:
        return found
    near = near_matches(dataset, [*short, *files])
    get_it = (
        f"{near} The tables are in the folder adbench/datasets/Classical of "
        "https://github.com/Minqi824/ADBench; put them into a folder adbench."
    ).strip()
    raise missing("ADBench", f"{dataset}.npz, with or without a number before it,", folders, get_it)
