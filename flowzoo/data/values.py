"""Checks of the values of a data set. They read every number once, and copy none."""

from __future__ import annotations

import numpy as np

from flowzoo.data.source import Source
from flowzoo.errors import DataError


def check_finite(values: np.ndarray, where: str) -> None:
    """Raises `DataError` if floating values hold NaN or inf, and says where the first one is.

    Args:
        values: An array whose first axis counts the examples.
        where: What the values are, for the message.
    """
    if not np.issubdtype(values.dtype, np.floating) or values.size == 0:
        return
    # The extremes tell all: NaN spreads through both, and, unlike isfinite, neither makes a second array.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return
    row = next(i for i, value in enumerate(values) if not np.isfinite(value).all())
    bad = int((~np.isfinite(values)).sum())
    raise DataError(
        f"{where}: {bad} of {values.size} values are NaN or infinite, the first in example {row}. "
        "Remove these examples or fill the gaps."
    )


def check_values(source: Source) -> None:
    """Raises `DataError` if the values of an opened source are not what the source says they are.

    Examples that are mapped from a file, made on demand or streamed are left alone: to look at them would be
    to load them.

    Args:
        source: What `open_source` is about to give out.
    """
    where = f"Source {source.name!r} ({source.split})"
    if type(source.x) is np.ndarray:
        check_finite(source.x, where)
        _check_below(source.x, source.num_values, where, "num_values")
    if source.condition is not None:
        check_finite(source.condition, f"{where}, condition")
        _check_below(source.condition, source.num_classes, f"{where}, condition", "num_classes")


def _check_below(values: np.ndarray, count: int | None, where: str, name: str) -> None:
    full_range = values.dtype == np.uint8 and count == 256
    if count is None or full_range:
        return
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{where}: {name}={count} needs whole numbers. Received: {values.dtype}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise DataError(f"{where}: {name}={count} allows 0 to {count - 1}. Received: {low} to {high}")
