"""The files that commands read and write: examples to score, samples and scores."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.arrays import npz_names, read_npy, read_npz
from flowzoo.data.archives import IMAGES
from flowzoo.data.own_files import read_table, source_of
from flowzoo.errors import DataError
from flowzoo.files import write_atomic

SAMPLE_SUFFIXES = (".png", ".npy", ".npz", ".csv")
SCORE_SUFFIXES = (".csv", ".npy", ".npz")
IMAGE_SUFFIXES = tuple(sorted(IMAGES.endings))
DATA_SUFFIXES = (".npy", ".npz", ".csv", ".csv.gz", ".parquet", *IMAGE_SUFFIXES)
_TABLES = ("csv", "parquet")


def check_target(path: Path, suffixes: Sequence[str]) -> None:
    """Looks whether a file can be written, before minutes are spent on what is to be in it.

    Args:
        path: The file.
        suffixes: The endings of its name that are accepted.

    Raises:
        ValueError: The name ends otherwise.
        OSError: Its folder is missing, or it is a folder itself.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"The file's name must end in one of {', '.join(suffixes)}. Received: {str(path)!r}."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist; make it first.")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays with one row an example: all to .npz, the first to .npy, side by side to .csv."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        write_atomic(path, csv_text(arrays))
        return
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    else:
        np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def csv_text(arrays: Mapping[str, np.ndarray]) -> str:
    """Lays arrays side by side as CSV text; `[n, ...]` of name x becomes x0, x1 and so on."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        flat = array.reshape(len(array), -1)
        single = array.ndim == 1
        columns.update(
            {name if single else f"{name}{index}": flat[:, index] for index in range(flat.shape[1])}
        )
    return pd.DataFrame(columns).to_csv(index=False)


def read_examples(
    path: Path, options: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the examples of a file, all of them.

    Args:
        path: A .npy array `[n, ...]`; a .npz with `x` (or one array) and perhaps `condition`; a table, .csv,
            .csv.gz or .parquet, each column a number; an image, or a folder of images of one size.
        options: How a table is read, as the sources `csv` and `parquet` take it: columns, label, separator.

    Returns:
        The examples `[n, ...]` and the conditions or None.

    Raises:
        DataError: The file cannot be read, or does not hold finite numbers in rows.
    """
    suffix = path.suffix.lower()
    table = not path.is_dir() and source_of(path) in _TABLES
    if not path.is_dir() and suffix not in DATA_SUFFIXES and not table:
        raise DataError(f"{path}: examples are read from {', '.join(DATA_SUFFIXES)} or a folder of images.")
    if options and not table:
        raise DataError(f"{path}: --option is for tables and data sources. Received: {options}")
    try:
        x, condition = read_table(path, options or {}) if table else _read(path, suffix)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} cannot be read as {suffix or 'a folder of images'}: {error}") from error
    if x.ndim < 2 or x.dtype.kind not in "uif" or not x.size:
        raise DataError(f"{path}: examples are numbers [n, ...]. Received: {x.dtype} of shape {x.shape}.")
    _check_finite(x, f"{path}: ")
    if condition is not None:
        if condition.dtype.kind not in "uif" or condition.ndim < 1 or len(condition) != len(x):
            received = f"{condition.dtype} of shape {condition.shape}"
            raise DataError(f"{path}: conditions are numbers [{len(x)}, ...]. Received: {received}.")
        _check_finite(condition, f"{path}, condition: ")
    return x, condition


def _check_finite(x: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(-1))
    if len(bad):
        raise DataError(f"{where}NaN or inf in {len(bad)} of {len(x)} examples, first in number {bad[0]}.")


def _read(path: Path, suffix: str) -> tuple[np.ndarray, np.ndarray | None]:
    if path.is_dir() or suffix in IMAGE_SUFFIXES:
        return _read_images(path), None
    if suffix == ".npy":
        return read_npy(path), None
    return _read_npz(path)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    names = npz_names(path)
    arrays = read_npz(path, [name for name in names if name in ("x", "condition") or len(names) == 1])
    key = "x" if "x" in arrays else next(iter(arrays), None) if len(arrays) == 1 else None
    if key is None:
        raise DataError(f"{path}: no array 'x' among {sorted(names)}.")
    return arrays[key], arrays.get("condition")


def _read_images(path: Path) -> np.ndarray:
    from flowzoo.data.decoding import decoded

    names = sorted(path.iterdir()) if path.is_dir() else [path]
    names = [name for name in names if name.suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise DataError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder.")
    images = []
    for name in names:
        pixels = np.asarray(decoded(name.read_bytes(), None, str(name)))
        images.append(pixels if pixels.ndim == 3 else pixels[..., None])
        if images[-1].shape != images[0].shape:
            raise DataError(f"{name} is {images[-1].shape}, but {names[0].name} is {images[0].shape}.")
    return np.stack(images)
