"""Tables from files that anyone may have made: CSV, plain or gzip, and Parquet."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo.bounded import read_gzip
from flowzoo.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_GZIP_MAGIC = b"\x1f\x8b"


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Reads a CSV file, plain or gzip: its contents tell which, not its name.

    Args:
        path: The file.
        **options: Of `pandas.read_csv`.

    Raises:
        DataError: The file cannot be read as a table.
    """
    import pandas as pd

    if len(options.get("sep", ",")) > 1:
        options = {"engine": "python", **options}  # C's takes one character, and pandas warns of the other

    def read() -> pd.DataFrame:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        return pd.read_csv(io.BytesIO(read_gzip(path)) if packed else path, compression=None, **options)

    return _explained(path, read)


def read_named_csv(path: Path, header: bool | None = None, **options: Any) -> pd.DataFrame:
    """Reads a CSV file whose first row names its columns, or does not.

    Args:
        path: The file.
        header: Whether the first row is names. None: it is, unless all of it are numbers, one of which has
            more than digits: those are values, and would be lost.
        **options: Of `pandas.read_csv`.

    Raises:
        DataError: As `read_csv`; a first row of numbers without a word on what they are; rows with more
            values than the first row has names.
    """
    import pandas as pd

    # By default pandas would take the first values of longer rows for names of the rows, and move the others.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = read_csv(path, header=None if header is False else 0, index_col=False, **options)
    names = [str(name) for name in frame.columns]
    if header is None and all(map(_is_number, names)) and not all(name.isdigit() for name in names):
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        raise DataError(
            f"{path}: the first row, which names the columns, holds numbers: {shown}. Say header=false if "
            "they are values, header=true if they are names."
        )
    return frame


def _is_number(text: str) -> bool:
    """Tells whether a name is a number, also one that pandas made by numbering equal names (0.5, 0.5.1)."""
    for part in (text, text.rpartition(".")[0]):
        try:
            return math.isfinite(float(part))
        except ValueError:
            continue
    return False


def read_parquet(path: Path) -> pd.DataFrame:
    """Reads a Parquet file; errors as `read_csv`."""
    import pandas as pd

    return _explained(path, lambda: pd.read_parquet(path))


def _explained(path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    try:
        return read()
    except Exception as error:  # the parsers of pandas and Arrow raise errors of a dozen kinds
        why = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        if isinstance(error, UnicodeDecodeError):
            why = f"it is not UTF-8 ({why}). Save it in this encoding"
        elif isinstance(error, pd.errors.EmptyDataError):
            why = "it is empty"
        elif isinstance(error, pd.errors.ParserWarning):
            why = (
                "its rows hold more values than the first row names columns. Commas within numbers take the "
                "option decimal, and other separators the option separator"
            )
        raise DataError(f"{path}: cannot be read as a table: {why}") from error
