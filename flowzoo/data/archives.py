"""Files of one kind in a folder or an archive, pictures or sound, read by name.

Nothing is ever unpacked to the disk, and an archive whose names point outside it is refused all the same.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from flowzoo.bounded import BoundedStream, bound, read_member
from flowzoo.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
"""A larger file is refused: no picture is, recordings can be cut, and a compressed member may be a bomb."""

_TAR_BLOCK = 512
_PACKED: tuple[tuple[bytes, Callable[[Path], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda path: cast(IO[bytes], gzip.open(path))),
    (b"BZh", lambda path: bz2.open(path)),
    (b"\xfd7zXZ\0", lambda path: lzma.open(path)),
)


@dataclass(frozen=True)
class FileKind:
    """Which files are looked for.

    Attributes:
        name: What they are, for the message that there are none: `"images"`.
        endings: The endings of their names, in small letters.
    """

    name: str
    endings: frozenset[str]

    def has(self, name: str) -> bool:
        """Tells by its name whether a file is of this kind; hidden files are not."""
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in parts)
        return PurePosixPath(name).suffix.lower() in self.endings and not hidden


IMAGES = FileKind(
    "images",
    frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")),
)
SOUND = FileKind("sound", frozenset((".flac", ".oga", ".ogg", ".wav", ".wave")))


@dataclass(frozen=True)
class FileSet:
    """The files of one kind in a folder or an archive.

    Attributes:
        names: Their names relative to the folder or inside the archive, sorted.
        read: Gives the contents of the file of a name. Several threads may call it at once.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def open_files(path: Path, kind: FileKind) -> FileSet:
    """Lists the files of a kind in a folder, a ZIP archive or a tar archive (plain, gzip, bzip2 or xz).

    Args:
        path: The folder or archive.
        kind: Which files: `IMAGES` or `SOUND`.

    Returns:
        The files, sorted by name. Hidden files and files of other kinds are left out.

    Raises:
        DataError: The archive is truncated or corrupt, or unsafe; or there are no files of the kind.
    """
    try:
        if path.is_dir():
            sizes, read = _folder(path, kind)
        elif zipfile.is_zipfile(path):
            sizes, read = _zip(path, kind)
        else:
            sizes, read = _tar(path, kind)
    except DataError:
        raise
    except tarfile.ReadError as error:
        raise DataError(
            f"{path}: neither a folder nor a ZIP or tar archive, or a truncated one: {error}. "
            f"Single files of {kind.name} end in {', '.join(sorted(kind.endings))}."
        ) from error
    except Exception as error:  # what Python's readers raise at corrupt bytes is of a dozen kinds
        raise DataError(f"{path}: cannot be read, it may be truncated or corrupt: {error}") from error
    if not sizes:
        raise DataError(f"{path}: no {kind.name} in it. Accepted: {', '.join(sorted(kind.endings))}.")
    for name, size in sizes.items():
        _refuse_large(path, name, size)
    return FileSet(tuple(sorted(sizes)), _explained(path, read))


Listing = tuple[dict[str, int], Callable[[str], bytes]]


def _refuse_unsafe(path: Path, name: str) -> None:
    plain = name.replace("\\", "/")
    has_drive = plain[1:2] == ":"
    if plain.startswith("/") or has_drive or ".." in PurePosixPath(plain).parts:
        raise DataError(f"{path}: unsafe archive: the name {name!r} points outside it.")


def _refuse_large(path: Path, name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {name} has {size} bytes; at most {MAX_FILE_BYTES} are read.")


def _explained(path: Path, read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    def explained(name: str) -> bytes:
        try:
            return read(name)
        except Exception as error:
            raise DataError(f"{path}: {name} cannot be read: {error}") from error

    return explained


def _folder(path: Path, kind: FileKind) -> Listing:
    files = (file for file in path.rglob("*") if file.is_file())
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    chosen = {name: size for name, size in sizes.items() if kind.has(name)}
    return chosen, lambda name: (path / name).read_bytes()


def _zip(path: Path, kind: FileKind) -> Listing:
    archive = zipfile.ZipFile(path)
    for name in archive.namelist():
        _refuse_unsafe(path, name)
    members = [member for member in archive.infolist() if not (member.is_dir() or _is_link(member))]
    sizes = {member.filename: member.file_size for member in members}
    chosen = {name: size for name, size in sizes.items() if kind.has(name)}
    return chosen, lambda name: read_member(archive, name, MAX_FILE_BYTES)


def _is_link(member: zipfile.ZipInfo) -> bool:
    """Say whether a member is a link, whose content is but the name of another file; a tar's are left too."""
    return stat.S_ISLNK(member.external_attr >> 16)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Opens a tar archive, plain or packed; a packed one gives no more than `flowzoo.bounded.bound`."""
    unpack = _unpacker(path)
    if unpack is None:
        with tarfile.open(path, "r:") as archive:
            yield archive
        return
    stream = cast(IO[bytes], BoundedStream(unpack(path), bound(path.stat().st_size)))
    with stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        yield archive


def _unpacker(path: Path) -> Callable[[Path], IO[bytes]] | None:
    with path.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in _PACKED if start.startswith(magic)), None)


def _tar(path: Path, kind: FileKind) -> Listing:
    return _plain_tar(path, kind) if _unpacker(path) is None else _packed_tar(path, kind)


def _plain_tar(path: Path, kind: FileKind) -> Listing:
    with open_tar(path) as archive:
        members = _members(path, archive, kind)
        sizes = {member.name: member.size for member in members}
        offsets = {member.name: member.offset_data for member in members}
    handle = path.open("rb", buffering=0)
    # tarfile takes an archive that breaks off inside a header for a whole one with fewer files.
    if os.pread(handle.fileno(), _TAR_BLOCK, max(path.stat().st_size - _TAR_BLOCK, 0)) != bytes(_TAR_BLOCK):
        handle.close()
        raise tarfile.ReadError("the end mark is missing")

    def read(name: str) -> bytes:
        # pread moves no file position, so threads may share the handle.
        raw = os.pread(handle.fileno(), sizes[name], offsets[name])
        if len(raw) != sizes[name]:
            raise EOFError("the archive ends before the file does")
        return raw

    return sizes, read


def _packed_tar(path: Path, kind: FileKind) -> Listing:
    # It cannot be read from the middle: the files, still coded, are kept in memory.
    with open_tar(path) as archive:
        contents = {member.name: _member(archive, member) for member in _members(path, archive, kind)}
    return {name: len(content) for name, content in contents.items()}, contents.__getitem__


def _members(path: Path, archive: tarfile.TarFile, kind: FileKind) -> list[tarfile.TarInfo]:
    for name in archive.getnames():
        _refuse_unsafe(path, name)
    members = [member for member in archive.getmembers() if member.isreg() and kind.has(member.name)]
    for member in members:
        if member.issparse():  # a few bytes that stand for any number of zeros
            raise DataError(f"{path}: {member.name} is a sparse file; pack it as a plain one.")
        _refuse_large(path, member.name, member.size)
    return members


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
