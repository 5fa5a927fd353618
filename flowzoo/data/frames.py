"""Tables from files that anyone may have made: CSV, plain or gzip, and Parquet."""

from __future__ import annotations

import io
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

    def read() -> pd.DataFrame:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        return pd.read_csv(io.BytesIO(read_gzip(path)) if packed else path, compression=None, **options)

    return _explained(path, read)


def read_parquet(path: Path) -> pd.DataFrame:
    """Reads a Parquet file; errors as `read_csv`."""
    import pandas as pd

    return _explained(path, lambda: pd.read_parquet(path))


def _explained(path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read()
    except Exception as error:  # the parsers of pandas and Arrow raise errors of a dozen kinds
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
