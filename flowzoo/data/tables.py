"""From tables to sources: numeric columns, labels, and splits, whatever file the table came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowzoo.data.source import Source
from flowzoo.data.values import check_finite
from flowzoo.errors import DataError, near_matches
from flowzoo.rounding import lost_in_float32

if TYPE_CHECKING:
    import pandas as pd

# What pandas calls the first column where the file gives it no name.
_NO_NAME = "Unnamed: 0"


def numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Turns numeric values into float32.

    Args:
        values: Whole or floating numbers.
        where: What the values are, for messages.

    Returns:
        The same values as float32; the same array if it is float32 already.

    Raises:
        DataError: The values are not numbers, are NaN or infinite, too large for float32, or rounded by
            float32 by more than a thousandth of the standard deviation of a column.
    """
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise DataError(f"{where}: must hold numbers. Received: {values.dtype}")
    check_finite(values, where)
    with np.errstate(over="ignore"):
        converted = values.astype(np.float32, copy=False)
    check_finite(converted, f"{where}, as float32 (at most 3.4e38)")
    loss = lost_in_float32(values)
    if loss is not None:
        column = f", column {', '.join(map(str, loss.index))}" if values.ndim > 1 else ""
        raise DataError(f"{where}{column}: {loss}. Subtract an offset from it (the mean, say).")
    return converted


def labels(values: np.ndarray, where: str) -> tuple[np.ndarray, int | None]:
    """Turns a label column into a condition.

    Args:
        values: Whole numbers from 0 on, words or truth values, which are classes; or floating numbers, which
            are a condition of their own.
        where: The column, for messages.

    Returns:
        int32 labels `[N]` and the number of classes, or float32 numbers `[N, 1]` and None. Words are
        numbered in alphabetical order.
    """
    if np.issubdtype(values.dtype, np.floating):
        return numbers(values, where)[:, None], None
    if np.issubdtype(values.dtype, np.integer):
        if values.min() < 0 or values.max() >= 2**31:
            raise DataError(
                f"{where}: labels must be whole numbers from 0 on. Received: {values.min()} to {values.max()}"
            )
        return values.astype(np.int32), int(values.max()) + 1
    names, codes = np.unique(values.astype(str), return_inverse=True)
    return codes.astype(np.int32), len(names)


def table_source(
    frame: pd.DataFrame,
    rows: np.ndarray | slice,
    *,
    columns: Sequence[str] | None,
    label: str | None,
    where: str,
) -> Source:
    """Makes a source of some rows of a table.

    Classes are numbered, and every value checked, in the whole table, so the splits of one table agree.

    Args:
        frame: The whole table.
        rows: The rows of the split.
        columns: The columns of the event; None for all but the label.
        label: The column of the condition, or None.
        where: The file, for messages.

    Returns:
        The source.

    Raises:
        DataError: A column that is not there, is named twice, is not numeric, or has gaps; an empty table.
    """
    frame, columns = chosen_columns(frame, columns, label, where)
    x = np.empty((len(frame), len(columns)), np.float32)
    for number, name in enumerate(columns):
        x[:, number] = numbers(numeric_column(frame, name, where), f"{where}, column {name!r}")
    condition, num_classes = label_column(frame, label, where) if label else (None, None)
    condition = None if condition is None else condition[rows]
    return Source(x=x[rows], condition=condition, num_classes=num_classes)


def chosen_columns(
    frame: pd.DataFrame, columns: Sequence[str] | None, label: str | None, where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Gives a table whose columns are named by text, and the columns of the event.

    Args:
        frame: The table.
        columns: The columns of the event; None for all but the label.
        label: The column of the condition, or None.
        where: The file, for messages.

    Raises:
        DataError: A column that is not there or is named twice (a density given one of its own entries, or of
            two entries that are equal, is infinite); numbers of the rows as the first column; an empty table.
    """
    frame = frame.rename(columns=str)
    wanted = [name for name in frame.columns if name != label] if columns is None else list(columns)
    named = [*wanted, *([label] if label else [])]
    _check_columns(frame, named, where)
    if len(frame) == 0 or not wanted:
        raise DataError(f"{where}: the table is empty: {len(frame)} rows, {len(wanted)} columns.")
    if columns is None and wanted[0] == _NO_NAME and np.array_equal(frame[_NO_NAME], np.arange(len(frame))):
        raise DataError(
            f"{where}: the first column has no name and counts the rows, as pandas writes its index. Write "
            "the table with index=False, or name the columns of the event: the option columns."
        )
    return frame, wanted


def _check_columns(frame: pd.DataFrame, wanted: Sequence[str], where: str) -> None:
    known = list(frame.columns)
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: columns and label name {twice!r} twice. Received: {', '.join(wanted)}")
    for name in wanted:
        if name not in known:
            listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
            raise DataError(f"{where}: no column {name!r}.{near_matches(name, known)} It has: {listed}.")


def numeric_column(frame: pd.DataFrame, name: str, where: str) -> np.ndarray:
    """Gives a column's numbers as they are, gaps as NaN.

    Raises:
        DataError: The column holds something else; the message shows where, and says what may help.
    """
    column = frame[name]
    if column.dtype.kind not in "iuf":
        row, count = _first_that_is_no_number(column)
        value = column.iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        raise DataError(
            f"{where}, column {name!r}: must hold numbers. Received: {column.dtype}, such as {value!r} in "
            f"row {row}{count}. {_way_out(frame, name, value)}"
        )
    # Columns with gaps may be masked integers: as floats, their gaps are NaN, which numbers() refuses.
    return column.to_numpy(np.float64, na_value=np.nan) if column.isna().any() else column.to_numpy()


def _first_that_is_no_number(column: pd.Series) -> tuple[int, str]:
    """Finds it, and counts in words: of a column of text most values may be numbers, and one a '?'."""
    import pandas as pd

    if not (pd.api.types.is_string_dtype(column) or column.dtype == object):
        return 0, ""
    wrong = (pd.to_numeric(column, errors="coerce").isna() & column.notna()).to_numpy(bool)
    if not wrong.any():
        return 0, ""
    return int(wrong.argmax()), f" ({wrong.sum()} of {len(column)} values are no numbers)"


def _way_out(frame: pd.DataFrame, name: str, value: object) -> str:
    other = next((mark for mark in ";\t|" if mark in name), None)
    if len(frame.columns) == 1 and other is not None:
        return f"If {other!r} stands between the values, say so: the option separator."
    way = "Choose other columns with the option columns, or make it the label."
    if isinstance(value, str) and value.replace(",", "").replace(".", "").strip("+- ").isdigit():
        way += " Decimal commas take the option decimal; commas of thousands must go."
    return way


def label_column(frame: pd.DataFrame, name: str, where: str) -> tuple[np.ndarray, int | None]:
    """Gives a column as `labels` makes it a condition.

    Raises:
        DataError: A label is missing, or as `labels`.
    """
    column = frame[name]
    place = f"{where}, column {name!r}"
    if column.isna().any():
        raise DataError(f"{place}: {int(column.isna().sum())} labels are missing.")
    return labels(column.to_numpy(), place)
