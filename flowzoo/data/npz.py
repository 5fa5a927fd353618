"""NPZ archives of arrays, opened without pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from flowzoo import arrays
from flowzoo.errors import DataError, near_matches

Result = TypeVar("Result")


def npz_keys(path: Path) -> list[str]:
    """Lists the arrays of an NPZ file.

    Args:
        path: The file.

    Returns:
        Their names.

    Raises:
        DataError: The file is no NPZ archive.
    """
    return _explained(path, lambda: arrays.npz_names(path))


def read_npz(path: Path, keys: Iterable[str]) -> list[np.ndarray]:
    """Reads some arrays of an NPZ file, and no others.

    Args:
        path: The file.
        keys: The names of the arrays.

    Returns:
        The arrays, in the order of the keys.

    Raises:
        DataError: The file is truncated or corrupt, a name is not in it, or an array holds Python objects.
    """
    known, keys = npz_keys(path), list(keys)
    for key in keys:
        if key not in known:
            listed = ", ".join(known)
            raise DataError(f"{path}: no array {key!r}.{near_matches(key, known)} It has: {listed}.")
    found = _explained(path, lambda: arrays.read_npz(path, keys))
    return [found[key] for key in keys]


def _explained(path: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as NPZ: {error}") from error
