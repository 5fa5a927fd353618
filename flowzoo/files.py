"""Files and folders that appear whole or not at all.

What is written goes to a temporary neighbour of its target first and takes the target's name last, so that a
failure, an interruption or a full disk leaves whatever was there before as it was. It is on the disk before
it takes the name, so that this also holds when the machine goes down.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers of a killed process stay until someone deletes them.
    fcntl = None  # type: ignore[assignment]

_SUFFIX, _ASIDE = ".part", ".old"


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
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _settle(path.parent)
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
    _bring_back(target)
    _refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    folder, lock = _claim(target)
    try:
        yield folder
        _put(folder, target, overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes out of a folder for the block, where they ask as well; made if it is missing.

    A process that dies lets go of it. Where the file system knows no locks, nobody is kept out.

    Raises:
        BlockingIOError: Another process has it.
        OSError: The folder cannot be made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = _lock(folder)
    except BlockingIOError as error:
        raise BlockingIOError(
            errno.EWOULDBLOCK, "another process is writing there: wait until it ends, or stop it", str(folder)
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _neighbour(path: Path, suffix: str = _SUFFIX) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.is_dir() and not overwrite:
        raise FileExistsError(f"The folder {target} exists already; it was left as it is.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"A folder is to be written to {target}, but a file of that name exists.")


def _put(folder: Path, target: Path, overwrite: bool) -> None:
    """Moves the complete folder to its place; an earlier one takes its own, to be deleted there."""
    for path in sorted(folder.rglob("*")):
        _settle(path)
    _refuse_existing(target, overwrite)
    if not _move(folder, target):
        _refuse_existing(target, overwrite)
        if not _exchange(folder, target):
            _step_aside(folder, target)
    _settle(target.parent)


def _move(folder: Path, target: Path) -> bool:
    """Gives a folder its name; False where another has it, be it since a moment ago."""
    if target.is_dir():
        return False
    try:
        os.replace(folder, target)
    except OSError:
        if target.is_dir():
            return False
        raise
    return True


def _step_aside(folder: Path, target: Path) -> None:
    """Replaces a folder in two steps, where one does not go; what is cut short `_bring_back` ends."""
    # Not named as a leftover: if the process is killed right here, the earlier folder must not be swept away.
    aside = _neighbour(target, _ASIDE)
    os.replace(target, aside)
    try:
        os.replace(folder, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _bring_back(target: Path) -> None:
    """Gives a folder its name again whose replacing was cut short, or deletes it where that was not."""
    for aside in target.parent.glob(f".{glob.escape(target.name)}.*{_ASIDE}"):
        with contextlib.suppress(OSError):
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                os.replace(aside, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders in one step; False where the system cannot (Linux's renameat2)."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return None


def _settle(path: Path) -> None:
    """Waits until a file, or the list of what a folder holds, is on the disk; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
