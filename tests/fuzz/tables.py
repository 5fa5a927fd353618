"""Tables and arrays given as data: CSV, Parquet, NPZ, NPY, IDX, HDF5, gzip, and CIFAR's records."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.cli.files import read_examples
from flowzoo.data import open_source
from flowzoo.data.catalog import source_info
from flowzoo.errors import DataError
from tests.fuzz.harness import GIB, Defect, Target, must_be_finite
from tests.fuzz.mutate import NUMBERS, WORDS, mutate, mutate_words


@dataclass(frozen=True)
class Seed:
    """A sound file: the source that reads it, where it lies, and the options that open it."""

    source: str
    file: str
    raw: bytes
    options: dict[str, Any]
    # Other files that the source needs beside it.
    others: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """A folder, sound files, and the file that a pickle would make if it were read."""

    folder: Path
    marker: Path
    seeds: list[Seed]

    def of(self, source: str) -> Seed:
        """Return the first seed of a source."""
        return next(seed for seed in self.seeds if seed.source == source)


@dataclass(frozen=True)
class Given:
    """A seed with other contents; `door` is the source or "examples"."""

    seed: Seed
    raw: bytes
    door: str
    options: dict[str, Any] = field(default_factory=dict)


@contextmanager
def world() -> Iterator[World]:
    """Let every source of tables write its example."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as base:
        seeds = []
        for source in ("csv", "parquet", "npz", "adbench", "idx", "power", "bsds300", "cifar10"):
            folder = Path(base) / source
            folder.mkdir()
            example = source_info(source).example
            options = dict(example(folder)) if example else {}
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            seeds += _seeds(source, files, options)
        inside = Path(base) / "data"
        inside.mkdir()
        yield World(inside, Path(base) / "ran", seeds)


def _seeds(source: str, files: dict[str, bytes], options: dict[str, Any]) -> Iterator[Seed]:
    packed = source in ("csv", "idx")
    for file in list(files)[:2]:
        raw = files[file]
        rest = {name: other for name, other in files.items() if name != file}
        plain = {key: value for key, value in options.items() if key not in ("path", "data_dir")}
        yield Seed(source, file, raw, plain, rest)
        if packed:
            yield Seed(source, f"{file}.gz", gzip.compress(raw), plain, rest)
    if source == "cifar10":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, raw in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
        yield Seed(source, "cifar-10-binary.tar.gz", buffer.getvalue(), {})


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Change a sound file, or make one that lies."""
    if r.random() < 0.25:
        return r.choice(_MADE)(r, world)
    seed = r.choice(world.seeds)
    raw = seed.raw
    if seed.file.endswith(".csv") and r.random() < 0.5:
        raw = mutate_words(r, raw.decode()).encode(errors="surrogatepass")
    elif seed.file.endswith(".gz") and r.random() < 0.5:
        raw = gzip.compress(mutate(r, gzip.decompress(raw)), 1)
    else:
        raw = mutate(r, raw, [raw])
    door = "examples" if _has_ending(seed.file) and r.random() < 0.3 else seed.source
    return Given(seed, raw, door, _options(r, seed.source))


def _has_ending(name: str) -> bool:
    return name.endswith((".csv", ".npy", ".npz", ".parquet"))


def _options(r: random.Random, source: str) -> dict[str, Any]:
    """Options that are allowed, and that the file may not bear out."""
    if source in ("csv", "parquet") and r.random() < 0.3:
        return {"label": r.choice(("kind", "a", "b", "no such", None))}
    if source == "csv" and r.random() < 0.3:
        return {"separator": r.choice((",", ";", "\t", " ", "|")), "header": False, "label": None}
    if source == "npz" and r.random() < 0.3:
        return {"condition": r.choice((None, "x", "theta", "y")), "x": r.choice(("x", "theta", "x_{split}"))}
    return {}


def _npy(header: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1", errors="replace") + b"\n"
    size = struct.pack("<H", len(text) % 2**16) if version[0] == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def _lying_npy(r: random.Random, world: World) -> Given:
    """A header that claims more, less or something else than what follows."""
    shape = r.choice(("(10, 3)", "(10**9, 3)", "(1000000000000, 3)", "(-1, 3)", "(9223372036854775807, 9)",
    "()", "(0, 3)",
                      "(10, 3, 0)", "(True, 3)", "[10, 3]", "(1e3, 3)", "(10,)", "'x'", "__import__('os')",
                      "(10, 3)" * 50,
                      "(" * 200 + ")" * 200, "(" * 90000 + ")" * 90000))  # fmt: skip
    kind = r.choice(("<f8", "|O", "<f4", ">f8", "<f2", "<f16", "|u1", "<i8", "<U3", "|S5", "<c16", "<M8[s]",
    "|b1", "|V8",
                     "<q", "nonsense", "<f8,<f8", "(2,3)<f8", "O8"))  # fmt: skip
    descr = r.choice((repr(kind), "[('a', '<f8'), ('b', '<f8')]", "('<f8', (2,))", "None", "1", "[]"))
    descr = repr(kind) if r.random() < 0.8 else descr
    header = (
        f"{{'descr': {descr}, 'fortran_order': {r.choice(('False', 'True', '0', 'None'))}, 'shape': {shape}}}"
    )
    header = mutate_words(r, header) if r.random() < 0.2 else header
    version = r.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    data = r.choice(
        (np.random.RandomState(0).normal(size=(10, 3)).tobytes(), b"", b"\0" * 240, b"\xff" * 240)
    )
    return _as_array(r, world, _npy(header, data, version))


def _as_array(r: random.Random, world: World, raw: bytes) -> Given:
    """Hand in an NPY file as such, or as the array x of an NPZ."""
    if r.random() < 0.4:
        return Given(Seed("power", "x.npy", b"", {}), raw, "examples")
    return _as_npz(r, world, {"x.npy": raw})


def _as_npz(r: random.Random, world: World, files: dict[str, bytes]) -> Given:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", r.choice((0, 8))) as archive:
        for name, raw in files.items():
            archive.writestr(zipfile.ZipInfo(name), raw, archive.compression)
    seed = Seed("npz", "x.npz", b"", {})
    return Given(seed, buffer.getvalue(), r.choice(("npz", "examples")), _options(r, "npz"))


class _Runs:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def _pickled(r: random.Random, world: World) -> Given:
    """A pickle that acts when it is read, as an array of objects or by itself."""
    raw = pickle.dumps(_Runs(world.marker), protocol=r.choice((0, 2, 4)))
    if r.random() < 0.2:
        return Given(
            Seed("power", r.choice(("x.npy", "x.npz", "x.csv", "x.parquet")), b"", {}), raw, "examples"
        )
    array = np.empty((r.choice((0, 1, 10)), 3), object)
    array[:] = _Runs(world.marker)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return _as_array(r, world, buffer.getvalue())


def _odd_array(r: random.Random, world: World) -> Given:
    """Honest files of numbers that are no data: NaN, infinities, the largest, none at all."""
    rng = np.random.RandomState(r.randrange(2**32))
    x = rng.normal(size=r.choice(((30, 3), (30,), (), (0, 3), (1, 1), (30, 2, 2), (3, 0))))
    kind = r.choice(("<f8", ">f4", "<f2", "u1", "i1", "<i8", "<u8", "?", "<c8", "<M8[D]", "U4", "<f16"))
    with np.errstate(all="ignore"):
        x = (x * r.choice((1, 1, 1e39, 1e308, 1e-320))).astype(kind)
    if x.size and x.dtype.kind == "f" and r.random() < 0.5:
        x.ravel()[rng.randint(x.size)] = r.choice((np.nan, np.inf, -np.inf))
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(x) if r.random() < 0.3 else x)
    return _as_array(r, world, buffer.getvalue())


def _lying_zip(r: random.Random, world: World) -> Given:
    given = _odd_array(r, world)
    raw = bytearray(given.raw)
    if given.seed.file == "x.npz":
        central = raw.rindex(b"PK\1\2")
        at = r.choice((central + 10, central + 16, central + 20, central + 24, 8, 14, 18, 22))
        struct.pack_into("<I", raw, at, r.choice(NUMBERS) % 2**32)
    return Given(given.seed, bytes(raw), given.door, given.options)


def _idx(r: random.Random, world: World) -> Given:
    seed = r.choice([seed for seed in world.seeds if seed.source == "idx"])
    rank = r.choice((0, 1, 3, 3, 255))
    head = bytes([r.choice((0, 0, 1)), 0, r.choice((8, 8, 9, 0x0D)), rank])
    sizes = b"".join(
        struct.pack(">I", r.choice((*NUMBERS[:6], 36, 28, 2**31)) % 2**32) for _ in range(min(rank, 4))
    )
    raw = head + sizes + r.randbytes(r.choice((0, 12, 36, 36 * 784)))
    return Given(seed, gzip.compress(raw, 1) if seed.file.endswith("gz") else raw, "idx")


def _csv(r: random.Random, world: World) -> Given:
    """Tables by rule and not by example: odd values, rows of other lengths, quotes that do not close."""
    width = r.randint(1, 4)
    cells = (
        *WORDS,
        "0.5",
        "-2",
        "1e38",
        "3.5e38",
        "1e39",
        "NA",
        "tall",
        '"',
        '"a',
        "2020-01-01",
        "1,000",
        "0.1.2",
        "1j",
    )
    rows = [",".join(r.choice(("0.5", "1", "2.25", r.choice(cells)))
    for _ in range(width + (r.random() < 0.05)))
            for _ in range(r.choice((0, 1, 5, 30)))]  # fmt: skip
    names = ",".join(r.choice(("a", "b", "c", "kind", "", "a", r.choice(WORDS))) for _ in range(width))
    text = r.choice(("\n", "\n", "\r\n", "\r")).join([names, *rows]).encode(errors="surrogatepass")
    seed = world.of("csv")
    raw = gzip.compress(text, 1) if r.random() < 0.1 else text
    return Given(seed, raw, r.choice(("csv", "examples")), {"label": None, **_options(r, "csv")})


def _bomb(r: random.Random, world: World) -> Given:
    """Gigabytes in a few megabytes, or as many as fit into the time of an input."""
    zeros = bytes(3 * 10**7)
    if r.random() < 0.97:  # packing them takes longer than all else
        return _csv(r, world)
    if r.random() < 0.5:
        return _as_npz(
            r,
            world,
            {"x.npy": _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (30000000, 1)}", zeros)},
        )
    return Given(world.of("csv"), gzip.compress(zeros, 1), "csv")


_MADE: tuple[Callable[[random.Random, World], Given], ...] = (
    _lying_npy, _lying_npy, _pickled, _odd_array, _lying_zip, _idx, _csv, _csv, _bomb,
)  # fmt: skip


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Open it; what is accepted must be finite and no pickle may have been read."""
    folder = world.folder
    try:
        for name, raw in {**given.seed.others, given.seed.file: given.raw}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)
        parts = _read(given, folder)
    finally:
        shutil.rmtree(folder)
        folder.mkdir()
        if world.marker.exists():
            world.marker.unlink()
            raise Defect("a pickle was read")
    for part in parts:
        if part is not None and part.dtype.kind not in "fiub":
            raise Defect(f"data of type {part.dtype}")
        must_be_finite(part if part is not None else 0.0, "data")
    return "accepted"


def _read(given: Given, folder: Path) -> tuple[np.ndarray | None, ...]:
    path = folder / given.seed.file
    if given.door == "examples":
        return read_examples(path)
    options = {**given.seed.options, **given.options}
    if "path" in source_info(given.door).options:
        options["path"] = path
    else:
        options["data_dir"] = folder
    source = open_source(given.door, "train", **options)
    return np.asarray(source.x[:]), source.condition


_NPZ, _NPY = Seed("npz", "x.npz", b"", {}), Seed("power", "x.npy", b"", {})


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _damaged_cifar(world: World) -> Given:
    seed = next(seed for seed in world.seeds if seed.file == "cifar-10-binary.tar.gz")
    return Given(seed, seed.raw[:600] + b"\xff" * 50 + seed.raw[650:], "cifar10")


KNOWN: dict[str, Callable[[World], Given]] = {
    # zlib.error.
    "a damaged archive of CIFAR": _damaged_cifar,
    # MemoryError: eight terabytes were asked for before a byte was read.
    "a header that claims eight terabytes": lambda world: Given(
        _NPY,
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}", bytes(80)),
        "examples",
    ),
    # NumPy could not reshape it.
    "a table of no rows": lambda world: Given(Seed("csv", "x.csv", b"", {}), b"a,b\n", "examples"),
    # TypeError: len() of unsized object.
    "a number instead of an array": lambda world: Given(_NPZ, _npz(x=np.array(1.0)), "npz"),
    # They went to the model unchecked.
    "words as conditions": lambda world: Given(
        _NPZ, _npz(x=np.ones((2, 2)), condition=np.array(["a", "b"])), "examples"
    ),
    "a NaN condition": lambda world: Given(
        _NPZ, _npz(x=np.ones((2, 2)), condition=np.array([1, np.nan])), "examples"
    ),
    "complex numbers for POWER": lambda world: Given(
        Seed("power", "power/data.npy", b"", {}),
        _npy("{'descr': '<c16', 'fortran_order': False, 'shape': (1, 8)}", bytes(128)),
        "power",
    ),
}

TARGET = Target("tables", world, make, attempt, clean=(DataError,), memory=2 * GIB, known=KNOWN)
