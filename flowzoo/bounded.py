"""Packed files, unpacked only as far as an honest file would go.

A few megabytes of gzip or ZIP can unpack to as many gigabytes. What is packed here (tables, arrays, images)
never shrinks two hundredfold, so more than that is refused, whatever the file says of its own size.
"""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import IO, Any

MAX_RATIO = 200
FREE_BYTES = 256 * 2**20
"""So much may always be unpacked: black pictures and zeros do shrink a thousandfold."""

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def bound(packed: int) -> int:
    """Returns the most bytes that `packed` bytes may unpack to."""
    return max(FREE_BYTES, MAX_RATIO * packed)


def read_gzip(path: Path) -> bytes:
    """Reads a gzip file whole.

    Raises:
        ValueError: It unpacks to more than `bound` of its size.
        OSError: It cannot be read, or is no gzip file.
        EOFError: It is truncated.
        zlib.error: It is corrupt.
    """
    most = bound(path.stat().st_size)
    with gzip.open(path) as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it unpacks to more than {most} bytes, {MAX_RATIO} times its size")
        return content


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Reads a file of a ZIP archive, which may say too little of its size as well as too much.

    Args:
        archive: The archive.
        name: The file's name in it.
        most: How many bytes are accepted.

    Raises:
        ValueError: It is larger, or packed in a way other than deflate, whose output cannot be bounded.
        KeyError: It is not there.
        RuntimeError: It is encrypted.
        zipfile.BadZipFile: It is corrupt.
    """
    info = archive.getinfo(name)
    if info.compress_type not in _PLAIN:
        raise ValueError(f"{name} is packed by method {info.compress_type}; accepted: deflate, or as it is")
    if info.file_size > most:
        raise ValueError(f"{name} has {info.file_size} bytes; at most {most} are read")
    with archive.open(info) as file:
        # With a size, zipfile unpacks so much and no more; without, all that the packed bytes hold.
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise EOFError(f"{name} has {len(content)} bytes instead of {info.file_size}")
    return content


class BoundedStream:
    """A stream for tarfile that raises ValueError where it is asked to go past a bound."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        """Takes an open stream and the most bytes that it may give."""
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        """Reads so many bytes."""
        place = self._stream.tell()
        self._check(place + size if size >= 0 else self._most)
        return self._stream.read(size if size >= 0 else self._most - place)

    def seek(self, place: int, whence: int = 0) -> int:
        """Goes to a place."""
        self._check(place)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        """Says where it is."""
        return self._stream.tell()

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()

    def _check(self, place: int) -> None:
        if place > self._most:
            raise ValueError(f"it unpacks to more than {self._most} bytes")

    def __enter__(self) -> BoundedStream:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
