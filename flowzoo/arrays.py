"""NPY and NPZ files, read without pickle and without trusting what they say of themselves.

NumPy makes an array of the size that the file's header claims before it reads a byte of it. Here the claim
is compared with what is there first.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flowzoo.bounded import bound, read_member

_MAGIC = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an NPY file.

    Args:
        path: The file.

    Returns:
        The array, read-only, in the file's own memory.

    Raises:
        ValueError: The file is no NPY file, is truncated or corrupt, or holds Python objects or records.
        OSError: It cannot be opened.
    """
    with open(path, "rb") as file:
        return _parsed(file.read())


def npz_names(path: str | os.PathLike[str]) -> list[str]:
    """Lists the arrays of an NPZ file; errors as `read_npz`."""
    with _opened(path) as archive:
        return _names(archive)


def read_npz(
    path: str | os.PathLike[str] | bytes, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays of an NPZ file, and no others.

    Args:
        path: The file, or what it holds.
        names: The arrays; None for all.

    Returns:
        The arrays by name, read-only.

    Raises:
        ValueError: The file is no NPZ file, is truncated or corrupt, unpacks to far more than it is, or an
            array holds Python objects or records.
        KeyError: An array is not in it.
        OSError: The file cannot be opened.
    """
    most = bound(len(path) if isinstance(path, bytes) else Path(path).stat().st_size)
    with _opened(path) as archive:
        found = {}
        for name in _names(archive) if names is None else names:
            found[name] = _member(archive, name, most)
            most -= found[name].nbytes
        return found


def _opened(path: str | os.PathLike[str] | bytes) -> zipfile.ZipFile:
    with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise ValueError("it holds one bare array; save it with np.savez(path, x=array)")
    try:
        return zipfile.ZipFile(io.BytesIO(path) if isinstance(path, bytes) else path)
    except Exception as error:
        raise ValueError(f"no NPZ archive, or a truncated one: {error}") from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _member(archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    if f"{name}.npy" not in archive.NameToInfo:
        raise KeyError(name)
    try:
        raw = read_member(archive, f"{name}.npy", most)
    except Exception as error:  # zipfile's own errors and those of what unpacks are of a dozen kinds
        raise ValueError(f"the array {name!r} cannot be unpacked: {error}") from error
    try:
        return _parsed(raw)
    except ValueError as error:
        raise ValueError(f"the array {name!r}: {error}") from error


def _parsed(raw: bytes) -> np.ndarray:
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        raise ValueError(f"not NumPy's format: {error}") from error
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format, which only records need, is not read")
    try:
        shape, fortran_order, dtype = _HEADERS[version](stream)
    except Exception as error:  # the header is a Python literal: its parser raises what it likes
        raise ValueError(f"the header is corrupt: {error}") from error
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError(
            f"numbers or text are accepted, no Python objects (a pickle) and no records: {dtype}"
        )
    there = len(raw) - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"the header says {dtype} of shape {shape}, but {there} bytes follow it")
    flat = np.frombuffer(raw, dtype, offset=stream.tell()) if there else np.zeros(0, dtype)
    flat = flat.astype(dtype.newbyteorder("="), copy=False)
    return flat.reshape(shape, order="F" if fortran_order else "C")
