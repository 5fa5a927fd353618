"""Files and folders that appear whole or not at all.

What is written goes to a temporary neighbour of its target first and takes the target's name last, so that a
failure, an interruption or a full disk leaves whatever was there before as it was.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers of a killed process stay until someone deletes them.
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".part"


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file in one step, replacing an earlier one only when the new one is complete.

    Args:
        path: The file; the folder it lies in must exist.
        data: Its content; text is written as UTF-8.

    Raises:
        OSError: It cannot be written. The error names `path`, and an earlier file there is unchanged.
    """
    path = Path(path)
    temporary = _neighbour(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError as error:
        # A full disk is reported without any file name: say which file it was.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives an empty folder that takes the name `target` when the block ends without an error.

    Several processes may do this for one target: each has a folder of its own, and the first to finish wins.
    Folders that a killed process left behind are deleted by the next call for the same target.

    Args:
        target: The folder to make; its parents are made where they are missing.
        overwrite: Whether a folder that exists is replaced. It stays whole until the new one is complete.

    Yields:
        The folder to fill, a hidden neighbour of `target`.

    Raises:
        FileExistsError: `target` exists, before the block or after it, and `overwrite` is false.
        OSError: The folder cannot be made.
    """
    target = Path(os.path.realpath(target))
    _refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    folder, lock = _claim(target)
    try:
        yield folder
        _refuse_existing(target, overwrite)
        _put(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _neighbour(path: Path, suffix: str = _SUFFIX) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.is_dir() and not overwrite:
        raise FileExistsError(f"The folder {target} exists already; it was left as it is.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"A folder is to be written to {target}, but a file of that name exists.")


def _put(folder: Path, target: Path) -> None:
    """Moves the complete folder to its place; an earlier one steps aside, and returns if the move fails."""
    if not target.is_dir():
        os.replace(folder, target)
        return
    # Not named as a leftover: if the process is killed right here, the earlier folder must not be swept away.
    aside = _neighbour(target, ".old")
    os.replace(target, aside)
    try:
        os.replace(folder, target)
    except OSError:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _claim(target: Path) -> tuple[Path, int | None]:
    """Makes a temporary folder and locks it, which tells other processes that its owner lives."""
    while True:
        folder = _neighbour(target)
        folder.mkdir()
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # Between mkdir and the lock, another process's sweep took the folder for a leftover.
        except OSError:
            return folder, None  # No locks on this file system: nobody will sweep here either.
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """Locks a folder until the descriptor is closed or its process dies."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no file locks on this system", str(folder))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(target: Path) -> None:
    """Deletes the temporary folders for `target` whose owner no longer lives."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            lock = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
