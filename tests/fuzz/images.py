"""Pictures, and archives of pictures, given as data."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import random
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowzoo.cli.files import read_examples
from flowzoo.data import open_source
from flowzoo.data.images import read_pictures
from flowzoo.errors import DataError
from tests.fuzz.archives import (
    archives_of,
    lying_zip,
    mutated,
    odd_tar,
    odd_zip,
    placed,
    same_names,
    short_zip,
    sparse_tar,
    tar_of,
    zip_of,
)
from tests.fuzz.harness import GIB, Defect, Target, must_be_finite
from tests.fuzz.mutate import NUMBERS

# All that a reader of pictures may say of bad ones.
CLEAN = (DataError,)


@dataclass(frozen=True)
class World:
    """A folder, pictures by their ending, and whole archives by theirs."""

    folder: Path
    pictures: list[tuple[str, bytes]]
    archives: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def sound(self) -> bytes:
        """A PNG that every reader takes."""
        return self.pictures[0][1]


@dataclass(frozen=True)
class Given:
    """A file's name and contents, and how it is read."""

    name: str
    raw: bytes
    door: str
    options: dict[str, Any] = field(default_factory=dict)


@contextmanager
def world() -> Iterator[World]:
    """Make pictures of every kind and archives of every kind."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "data"
        inside.mkdir()
        pictures = list(_pictures())
        made = World(inside, pictures)
        made.archives.extend(
            archives_of([(f"{i}{ending}", raw) for i, (ending, raw) in enumerate(pictures[:3])])
        )
        yield made


def _pictures() -> Iterator[tuple[str, bytes]]:
    rng = np.random.RandomState(0)
    rgb = Image.fromarray(rng.randint(0, 256, (9, 7, 3)).astype(np.uint8))
    deep = Image.fromarray(rng.randint(0, 65536, (9, 7)).astype(np.uint16))
    floating = Image.fromarray(rng.normal(size=(9, 7)).astype(np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    for ending, image, options in (
        (".png", rgb, {}),
        (".png", rgb.convert("L"), {}),
        (".jpg", rgb, {"exif": exif}),
        (".bmp", rgb, {}),
        (".gif", rgb.convert("P"), {"save_all": True, "append_images": [rgb.convert("P")]}),
        (".png", rgb.convert("P"), {"transparency": 3}),
        (".png", rgb.convert("RGBA"), {}),
        (".png", rgb.convert("1"), {}),
        (".png", deep, {}),
        (".png", rgb.convert("LA"), {}),
        (".png", rgb, {"exif": exif, "pnginfo": _text()}),
        (".jpg", rgb.convert("CMYK"), {}),
        (".jpg", rgb, {"progressive": True}),
        (".ppm", rgb, {}),
        (".pgm", deep, {}),
        (".tiff", rgb, {"compression": "tiff_lzw"}),
        (".tiff", rgb, {"compression": "jpeg"}),
        (".tif", rgb.convert("1"), {"compression": "group4"}),
        (".tif", deep, {"compression": "tiff_adobe_deflate"}),
        (".tif", floating, {}),
        (".tif", rgb.convert("CMYK"), {}),
        (".webp", rgb, {"lossless": True}),
        (".webp", rgb.convert("RGBA"), {"exif": exif}),
    ):
        buffer = io.BytesIO()
        kind = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(ending, ending[1:].upper())
        image.save(buffer, kind, **options)
        yield ending, buffer.getvalue()


def _text() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * 50, zip=True)
    info.add_itxt("comment", "x" * 50, zip=True)
    return info


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Change a picture or an archive, or make one that lies."""
    way = r.random()
    if way < 0.45:
        ending, raw = mutated(r, world.pictures, 0.9)
        if r.random() < 0.1:
            ending = r.choice(world.pictures)[0]
        return Given(f"x{ending}", raw, r.choice(("examples", "pictures")), _options(r))
    if way < 0.75:
        ending, raw = mutated(r, world.archives, 0.95)
        return Given(f"x{ending}", raw, r.choice(("source", "source", "pictures")), _options(r))
    name, raw = r.choice(_MADE)(r, world)
    door = (
        "examples"
        if name.endswith((".png", ".jpg")) and r.random() < 0.5
        else r.choice(("source", "pictures"))
    )
    return Given(name, raw, door, _options(r))


def _options(r: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"size": r.choice((4, 8, (4, 6), None)), "channels": r.choice((1, 3))}
    if r.random() < 0.3:
        options |= {"crop": r.choice(("center", 3, 50)), "labels": r.random() < 0.3}
    return options


def _bomb(r: random.Random, world: World) -> tuple[str, bytes]:
    """A few kilobytes that unpack to megabytes; what they unpack to is no picture."""
    return r.choice(_bombs(r.choice((10**6, 2 * 10**7)), world.sound))


@functools.cache
def _bombs(size: int, sound: bytes) -> list[tuple[str, bytes]]:
    zeros = bytes(size)
    tar = tar_of([("x.png", zeros, {}), ("y.png", sound, {})])
    return [
        ("x.zip", zip_of([("x.png", zeros)])),
        ("x.zip", zip_of([("x.png", zeros)], zipfile.ZIP_BZIP2)),
        ("x.png", _png(4, 4, 8, 2, zlib.compress(zeros))),
        ("x.tgz", gzip.compress(tar)),
        ("x.tar.bz2", bz2.compress(tar)),
    ]


def _png(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _lying_png(r: random.Random, world: World) -> tuple[str, bytes]:
    sides = (0, 1, 4, 7000, 30000, 50000, 2**31 - 1, 2**32 - 1)
    pixels = zlib.compress(b"\0" * r.choice((1, 100, 100000)))
    return "x.png", _png(
        r.choice(sides), r.choice(sides), r.choice((1, 8, 16)), r.choice((0, 2, 3, 4, 6, 7)), pixels
    )


def _lying_head(r: random.Random, world: World) -> tuple[str, bytes]:
    """Other formats whose first bytes claim any size."""
    w, h = r.choice(NUMBERS), r.choice(NUMBERS)
    return r.choice(
        (
            ("x.gif", b"GIF89a" + struct.pack("<HH", w % 2**16, h % 2**16) + b"\xf7\0\0" + r.randbytes(800)),
            ("x.pgm",
            f"P{r.randint(1, 7)} {w} {h} {r.choice((255, 65535, 0, 70000))}\n".encode() + r.randbytes(99)),
            ("x.pgm", f"Pf {w % 99} {h % 99} -1.0\n".encode() + struct.pack("<f", float("nan")) * 9999),
            ("x.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, w % 2**31, -(h % 2**31), 1,
            24,
                                          r.randrange(5), 0, 0, 0, w % 2**32, 0)),
            ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        )
    )  # fmt: skip


def _files(r: random.Random, world: World) -> tuple[str, bytes]:
    name = r.choice(("x.zip", "x.tar", "x.png", "x.gz", "x"))
    return name, r.choice((b"", b"PK\5\6" + b"\0" * 18, b"\0" * 10240, b"\x1f\x8b", b"PK", r.randbytes(200)))


def _of_pictures(make: Callable[[random.Random, bytes, str], tuple[str, bytes]]) -> Callable:
    return lambda r, world: make(r, world.sound, ".png")


_ODD_ZIP, _LYING_ZIP, _ODD_TAR = map(_of_pictures, (odd_zip, lying_zip, odd_tar))
_MADE: tuple[Callable[[random.Random, World], tuple[str, bytes]], ...] = (
    _ODD_ZIP, _ODD_ZIP, _LYING_ZIP, _LYING_ZIP, _of_pictures(same_names), _bomb, _ODD_TAR, _ODD_TAR,
    _lying_png, _lying_png, _lying_head, _files,
)  # fmt: skip


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Read it through one of the three doors; nothing may appear outside the folder."""
    with placed(world.folder, given.name, given.raw) as path:
        x = _read(path, given)
    if x.dtype != np.uint8 or x.ndim != 4 or not x.size:
        raise Defect(f"pictures of type {x.dtype} and shape {x.shape}")
    must_be_finite(x, "pictures")
    return "accepted"


def _read(path: Path, given: Given) -> np.ndarray:
    if given.door == "examples":
        return read_examples(path)[0]
    if given.door == "pictures":
        return read_pictures([path], (5, 5, given.options["channels"]), given.options.get("crop"))
    source = open_source("image_folder", "train", path=path, validation=0, test=0, **given.options)
    return np.asarray(source.x[:])


KNOWN: dict[str, Callable[[World], Given]] = {
    # 178 million pixels were decoded, a gigabyte a thread.
    "a picture of 178 million pixels": lambda world: Given(
        "x.png", _png(14000, 12700, 8, 2, zlib.compress(bytes(100))), "examples"
    ),
    "a picture of floats": lambda world: Given("x.tif", world.pictures[19][1], "pictures", {"channels": 1}),
    # Pillow's decoder of EPS starts Ghostscript.
    "PostScript by another name": lambda world: Given(
        "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "examples"
    ),
    "a sparse file of eight gigabytes": lambda world: Given(
        "x.tgz", sparse_tar(world.sound, ".png"), "pictures", {"channels": 3}
    ),
    "a ZIP that says too little": lambda world: Given(
        "x.zip", short_zip(".png"), "pictures", {"channels": 3}
    ),
    "a bzip2 bomb in a ZIP": lambda world: Given(
        "x.zip", _bombs(10**6, world.sound)[1][1], "source", {"size": 4}
    ),
}

TARGET = Target("images", world, make, attempt, clean=CLEAN, memory=2 * GIB, known=KNOWN)
