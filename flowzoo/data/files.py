"""Finding the files of data sets, and reading them whole."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from flowzoo import paths
from flowzoo.bounded import read_gzip
from flowzoo.errors import DataError, MissingDataError

_GZIP_MAGIC = b"\x1f\x8b"


def search_folders(
    data_dir: Path | None, subfolders: Sequence[str], *, others: Sequence[str] = (), top: bool = True
) -> list[Path]:
    """Lists the folders in which a data set may lie, first the ones that count most.

    A folder that the user names is the only one: to go on to the others would silently take other data.

    Args:
        data_dir: The folder that the user named, or None.
        subfolders: Names that the data set's own folder may have inside a data folder.
        others: Folders outside the data folders, such as a system package's.
        top: Whether the files may also lie in a data folder itself.

    Returns:
        The folders, whether they exist or not.
    """
    if data_dir is not None:
        base = data_dir.expanduser()
        return [base, *(base / name for name in subfolders)]
    folders = []
    for base in paths.data_dirs():
        folders += [base] if top else []
        folders += [base / name for name in subfolders]
    return folders + [Path(other) for other in others]


def find_file(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Finds the first file that bears one of the names, folder by folder."""
    names = list(names)
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)


def find_path(path: Path, what: str) -> Path:
    """Finds the file or folder that a user named: as it stands, or else inside the data folders.

    Args:
        path: What the user gave.
        what: What it is, for the message.

    Returns:
        The path of something that exists.

    Raises:
        MissingDataError: There is nothing there.
    """
    path = path.expanduser()
    bases = [] if path.is_absolute() else paths.data_dirs()
    candidates = [path, *(base / path for base in bases)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise missing(what, str(path), [candidate.parent for candidate in candidates], "")


def missing(what: str, wanted: str, folders: Sequence[Path], get_it: str) -> MissingDataError:
    """Makes the error for a data set that is not there.

    Args:
        what: The data set.
        wanted: The files that are wanted.
        folders: Where they were looked for.
        get_it: Where to get them, a sentence.

    Returns:
        The error, to be raised.
    """
    looked = "\n".join(f"  {folder.absolute()}" for folder in dict.fromkeys(folders))
    return MissingDataError(
        f"{what}: {wanted} not found.{' ' + get_it if get_it else ''}\n"
        f"Put the data into one of the folders that were looked in:\n{looked}\n"
        "The environment variable FLOWZOO_DATA adds folders to look in."
    )


def read_file(path: Path) -> bytes:
    """Reads a file whole, decompressing it if it is gzip.

    Args:
        path: The file; its contents, not its name, tell whether it is compressed.

    Returns:
        The contents.

    Raises:
        DataError: The file cannot be read, or is truncated or corrupt.
    """
    try:
        raw = path.read_bytes()
        return read_gzip(path) if raw.startswith(_GZIP_MAGIC) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise DataError(f"{path}: truncated or corrupt gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
