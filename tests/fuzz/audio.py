"""Sound, and archives of sound, given as data."""

from __future__ import annotations

import bz2
import ctypes
import functools
import gzip
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data import open_source
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
from tests.fuzz.sounds import (
    Files,
    early_opus,
    files_of_sound,
    floats,
    loud,
    lying_flac,
    lying_ogg,
    lying_wav,
    other,
    silence,
    summed,
    written,
)

_ARCHIVES = (".zip", ".tar", ".tgz", ".bz2", ".txz", ".gz")
_SHORT = {"length": 4}
_M_PERTURB = -6


@dataclass(frozen=True)
class World:
    """A folder, files of sound by their ending, and whole archives by theirs."""

    folder: Path
    files: Files
    archives: Files = field(default_factory=list)

    @property
    def good(self) -> bytes:
        """A WAV file that every reader takes."""
        return self.files[0][1]

    @property
    def packed(self) -> bytes:
        """A FLAC file that every reader takes."""
        return next(raw for ending, raw in self.files if ending == ".flac")


@dataclass(frozen=True)
class Given:
    """A file's name and contents, alone in a folder unless it is an archive, and how it is opened."""

    name: str
    raw: bytes
    options: dict[str, Any]


@contextmanager
def world() -> Iterator[World]:
    """Make sound of every coding and archives of every kind."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "data"
        inside.mkdir()
        files = list(files_of_sound())
        made = World(inside, files)
        made.archives.extend(archives_of([("0.wav", made.good), ("1.flac", made.packed)]))
        yield made


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Change a file of sound or an archive, or make one that lies."""
    way = r.random()
    if way < 0.5:
        ending, raw = mutated(r, world.files, 0.95)
        if ending == ".ogg" and r.random() < 0.8:
            raw = summed(raw)
        if r.random() < 0.1:
            ending = r.choice(world.files)[0]
        return Given(f"x{ending}", raw, _options(r))
    if way < 0.65:
        ending, raw = mutated(r, world.archives)
        return Given(f"x{ending}", raw, _options(r))
    return Given(*r.choice(_MADE)(r, world), _options(r))


def _options(r: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"length": r.choice((1, 4, 4, 64, 300, 2**40)), "cache": r.random() < 0.5}
    if r.random() < 0.3:
        options["hop"] = r.choice((1, 3, 1000, 2**62))
    if r.random() < 0.1:
        options["rate"] = r.choice((8000, 16000, 2**31))
    return options


def _bomb(r: random.Random, world: World) -> tuple[str, bytes]:
    """A few kilobytes that unpack to megabytes: of nothing, or of silence."""
    return r.choice(_bombs(r.choice((10**6, 2 * 10**7)), world.good))


@functools.cache
def _bombs(size: int, good: bytes) -> list[tuple[str, bytes]]:
    zeros = bytes(size)
    silence = written(np.zeros(size // 2, np.int16), "WAV", "PCM_16")
    tar = tar_of([("x.wav", zeros, {}), ("y.wav", good, {})])
    return [
        ("x.zip", zip_of([("x.wav", zeros)])),
        ("x.zip", zip_of([("x.wav", silence)])),
        ("x.zip", zip_of([("x.wav", silence)], zipfile.ZIP_BZIP2)),
        ("x.flac", written(np.zeros(size, np.int16), "FLAC", "PCM_16")),
        ("x.tgz", gzip.compress(tar)),
        ("x.tar.bz2", bz2.compress(tar)),
    ]


def _alone(make: Callable[[random.Random, Files], tuple[str, bytes]]) -> Callable:
    return lambda r, world: make(r, world.files)


def _packed(make: Callable[[random.Random, bytes, str], tuple[str, bytes]]) -> Callable:
    def made(r: random.Random, world: World) -> tuple[str, bytes]:
        ending, raw = r.choice(((".wav", world.good), (".flac", world.packed)))
        return make(r, raw, ending)

    return made


_MADE: tuple[Callable[[random.Random, World], tuple[str, bytes]], ...] = (
    *map(_packed, (odd_zip, lying_zip, odd_tar, same_names)),
    *map(_alone, (lying_wav, lying_wav, lying_wav, lying_flac, lying_flac, lying_ogg, lying_ogg, floats)),
    _bomb,
    _alone(other),
)


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Open it as train split and look at every window; nothing may appear outside the folder."""
    with placed(world.folder, given.name, given.raw) as path:
        place = path if path.suffix in _ARCHIVES else world.folder
        with _filled_memory(85):
            x = _read(place, given.options)
        with _filled_memory(170):
            again = _read(place, given.options | {"cache": not given.options.get("cache", True)})
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != given.options["length"] or not x.size:
        raise Defect(f"sound of type {x.dtype} and shape {x.shape}")
    must_be_finite(x, "sound")
    if np.abs(x).max() > 1:
        raise Defect(f"samples of {np.abs(x).max()}")
    if not np.array_equal(x, again):  # memory that nobody wrote to
        raise Defect("other samples the second time")
    return "accepted"


@contextmanager
def _filled_memory(byte: int) -> Iterator[None]:
    """Let glibc fill the memory that it gives out: what is read before it is written then depends on it."""
    setting = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: 0)
    setting(_M_PERTURB, byte)
    try:
        yield
    finally:
        setting(_M_PERTURB, 0)


def _read(path: Path, options: dict[str, Any]) -> np.ndarray:
    """Give windows from the first to the last, of many not all: hop=1 makes a gigabyte of a megabyte."""
    source = open_source("audio_folder", "train", path=path, validation=0, test=0, **options)
    return source.x[np.unique(np.linspace(0, len(source.x) - 1, 5000).astype(int))]


KNOWN: dict[str, Callable[[World], Given]] = {
    "a FLAC that claims 10^10 samples": lambda world: Given("x.flac", silence(10**10), _SHORT),
    "a FLAC that claims what may just be": lambda world: Given("x.flac", silence(2**27), _SHORT),
    # It was 2**63 - 1 samples to libsndfile.
    "a FLAC that does not say its length": lambda world: Given("x.flac", silence(0), _SHORT),
    # A decoder gives samples up to 1.01 and more.
    "loud Vorbis": lambda world: Given("x.ogg", written(loud(), "OGG", "VORBIS"), _SHORT),
    # libsndfile gave memory that nobody wrote, other samples each time.
    "Opus that ends before it begins": lambda world: Given("x.ogg", early_opus(), _SHORT),
    # They are infinite as float32.
    "doubles beyond float32": lambda world: Given(
        "x.wav", written(np.full(80, 1e300), "WAV", "DOUBLE"), _SHORT
    ),
    # The mean of two channels is NaN, and of two others within the range.
    "infinity that is averaged": lambda world: Given(
        "x.wav", written(np.array([[np.inf, -np.inf]] * 80), "WAV", "FLOAT"), _SHORT
    ),
    "a sparse file of eight gigabytes": lambda world: Given("x.tgz", sparse_tar(world.good, ".wav"), _SHORT),
    "a ZIP that says too little": lambda world: Given("x.zip", short_zip(".wav"), _SHORT),
}

TARGET = Target("audio", world, make, attempt, clean=(DataError,), memory=2 * GIB, known=KNOWN)
