"""Archives that are as they should be, and archives that lie, of files of any kind; files given as data."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Defect
from tests.fuzz.mutate import NUMBERS, mutate

OUTSIDE = Path("/tmp/flowzoo-fuzz-outside.png")
_NAMES = (
    "../outside.png", "/tmp/flowzoo-fuzz-outside.png", "a/../../outside.png", "..\\outside.png",
    "C:\\outside.png",
    "a//b.png", "./x.png", "~/x.png", "x.png\0.txt", "x" * 300 + ".png", "é\u202e.png", " .png", ".png",
    "a/", "",
    "x.PNG", "x.jpeg", "x.eps", "__MACOSX/x.png", "%2e%2e/x.png", "con.png", "x.png/y.png",
)  # fmt: skip


def zip_of(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, raw in files:
            archive.writestr(zipfile.ZipInfo(name), raw, method)
    return buffer.getvalue()


def tar_of(files: list[tuple[str, bytes, dict[str, Any]]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Make a tar archive, of names, contents and other attributes of members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, raw, attributes in files:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def archives_of(files: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Give endings and contents of archives of every kind, none of which lies."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield ".zip", zip_of(files, method)
    members: list[tuple[str, bytes, dict[str, Any]]] = [(name, raw, {}) for name, raw in files]
    plain = tar_of(members)
    yield from ((".tar", plain), (".tar", tar_of(members, tarfile.PAX_FORMAT)))
    yield from (
        (".tgz", gzip.compress(plain)),
        (".tar.bz2", bz2.compress(plain)),
        (".txz", lzma.compress(plain)),
    )


# --- Archives that lie: each takes a generator, a good file and its ending, and gives a name and contents --


def odd_zip(r: random.Random, good: bytes, ending: str) -> tuple[str, bytes]:
    """Names that lead elsewhere, or are none."""
    files = [(_name(r, ending), good) for _ in range(r.randint(1, 3))]
    return "x.zip", zip_of([*files, (f"good{ending}", good)])


def lying_zip(r: random.Random, good: bytes, ending: str) -> tuple[str, bytes]:
    """Says another size, sum or method in one of the two places where a ZIP says it."""
    files = [(f"a{ending}", good), (f"b{ending}", b"\0" * 1000)]
    raw = bytearray(zip_of(files, r.choice((0, 8))))
    central = raw.rindex(b"PK\1\2")
    field_at = r.choice(
        (central + 10, central + 16, central + 20, central + 24, central + 28, 8, 14, 18, 22, 26)
    )
    struct.pack_into("<I", raw, field_at, r.choice(NUMBERS) % 2**32)
    return "x.zip", bytes(raw)


def same_names(r: random.Random, good: bytes, ending: str) -> tuple[str, bytes]:
    """Several files of one name."""
    name = f"x{ending}"
    files = [(name, good), (name, b"other"), (name, good)]
    return ("x.zip", zip_of(files)) if r.random() < 0.5 else ("x.tar", tar_of([(n, b, {}) for n, b in files]))


def odd_tar(r: random.Random, good: bytes, ending: str) -> tuple[str, bytes]:
    """Links, devices, and sizes that lie."""
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE,
    tarfile.CONTTYPE,
             tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"Z")  # fmt: skip
    attributes = {
        "type": r.choice(kinds),
        "linkname": r.choice(("/etc/passwd", f"../outside{ending}", f"good{ending}", "")),
    }
    files = [(_name(r, ending), good, attributes if r.random() < 0.7 else {}) for _ in range(2)]
    raw = bytearray(
        tar_of([*files, (f"good{ending}", good, {})], r.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    )
    if r.random() < 0.5:  # a size that lies, with a sum that is right
        raw[124:136] = r.choice(
            (b"77777777777\0", b"00000000000\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"9" * 12)
        )
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
    packed = bytes(raw)
    return r.choice((("x.tar", packed), ("x.tgz", gzip.compress(packed, 1))))


def _name(r: random.Random, ending: str) -> str:
    return r.choice(_NAMES).replace(".png", ending).replace(".PNG", ending.upper())


def sparse_tar(good: bytes, ending: str) -> bytes:
    """Stands for eight gigabytes of zeros."""
    raw = bytearray(tar_of([(f"x{ending}", good, {"type": tarfile.GNUTYPE_SPARSE})]))
    raw[483:495] = b"77777777777\0"  # the size that it has when its holes are filled with zeros
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return gzip.compress(bytes(raw))


def short_zip(ending: str) -> bytes:
    """Says that a file of ten million bytes has ten: zipfile unpacks it all before it cuts it."""
    raw = bytearray(zip_of([(f"x{ending}", bytes(10**7))]))
    struct.pack_into("<I", raw, raw.rindex(b"PK\1\2") + 24, 10)
    return bytes(raw)


def mutated(r: random.Random, files: list[tuple[str, bytes]], share: float = 1.0) -> tuple[str, bytes]:
    """Choose a file, an ending and contents, and change a share of them, mixed with the others."""
    ending, raw = r.choice(files)
    if share >= 1 or r.random() < share:
        raw = mutate(r, raw, [other for _, other in files])
    return ending, raw


@contextmanager
def placed(folder: Path, name: str, raw: bytes) -> Iterator[Path]:
    """Put a file into a folder for a while, in which nothing else may appear, nor outside."""
    path = folder / name
    path.write_bytes(raw)
    try:
        yield path
    finally:
        path.unlink()
        _nothing_may_appear(folder)


def _nothing_may_appear(folder: Path) -> None:
    """Raise Defect if there are files in a folder, beside it, or where odd names lead."""
    left = [entry.name for entry in (*folder.iterdir(), *folder.parent.iterdir())]
    if left != [folder.name] or OUTSIDE.exists():
        raise Defect(f"files appeared: {left}")
