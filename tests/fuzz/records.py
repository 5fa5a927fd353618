"""Folders of TFRecord shards given as data: the index, the framing, the contents, what lies beside."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data import open_source
from flowzoo.data.catalog import source_info
from flowzoo.data.record_index import INDEX_FILE
from flowzoo.errors import DataError
from tests.fuzz.harness import GIB, Defect, Target, must_be_finite
from tests.fuzz.mutate import NUMBERS, mutate, mutate_tree, mutate_words

SPLITS = ("train", "validation", "test")
_LARGEST = 10**7
_FAR = 1e15  # the square of what is larger leaves float32


@dataclass(frozen=True)
class World:
    """A sound folder of shards, what is in it, and a flow that scores it."""

    folder: Path
    files: dict[str, bytes]
    data: dict[str, tuple[np.ndarray, np.ndarray]]
    score: Callable[[np.ndarray], np.ndarray]

    @property
    def index(self) -> dict[str, Any]:
        """Return the index as plain data."""
        return json.loads(self.files[INDEX_FILE])


@dataclass(frozen=True)
class Given:
    """The files of a folder, and how it is opened."""

    files: dict[str, bytes]
    split: str = "train"
    verify: bool = False
    cache: bool = False


@contextmanager
def world() -> Iterator[World]:
    """Let the source write its example."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    with tempfile.TemporaryDirectory() as base:
        path = Path(source_info("tfrecords").example(Path(base))["path"])
        files = {file.name: file.read_bytes() for file in path.iterdir()}
        data = {split: open_source("tfrecords", split, path=path).head() for split in SPLITS}
        inside = Path(base) / "given"
        yield World(inside, files, data, _small_flow())


def _small_flow() -> Callable[[np.ndarray], np.ndarray]:
    import flowzoo

    flow = flowzoo.models.NICE((3,), **flowzoo.models.NICE.small)
    return lambda x: np.asarray(flow.log_prob(x))


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Change the files of a sound folder in one of several ways."""
    files = dict(world.files)
    r.choice(_WAYS)(r, world, files)
    return Given(files, r.choice(SPLITS), r.random() < 0.4, r.random() < 0.3)


def _shard(r: random.Random, files: dict[str, bytes]) -> str:
    return r.choice([name for name in files if name.endswith(".tfrecord")])


def _bytes_of_index(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    files[INDEX_FILE] = mutate(r, files[INDEX_FILE], [files[INDEX_FILE]])


def _words_of_index(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    text = mutate_words(r, files[INDEX_FILE].decode(), most=2)
    files[INDEX_FILE] = text.encode(errors="surrogatepass")


def _tree_of_index(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    changed = mutate_tree(r, world.index)
    files[INDEX_FILE] = json.dumps(changed).encode(errors="surrogatepass")


def _lying_index(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    """Well-formed, and wrong: other shapes, types, lengths, numbers of examples, files of other places."""
    index = world.index
    feature = index[r.choice(("x", "condition"))]
    way = r.randrange(7)
    if way == 0:
        feature["shape"] = r.choice(
            ([], [1], [2], [6], [3, 1], [1, 3], [3, 2], [0], [-3], [2**40], [3, 2**62])
        )
    elif way == 1:
        feature["dtype"] = r.choice(("uint8", "int32", "float16", "float32", "float64", "int64", "object"))
    elif way == 2:
        index["record_bytes"] += r.choice((-16, -1, 1, 16, *NUMBERS[:8]))
    elif way == 3:
        index["condition"] = r.choice((None, index["x"]))
    elif way == 4:
        index["num_classes"], index["num_values"] = r.choice((None, -1, 0, 1, 2, 4)), r.choice((None, 0, 2))
    elif way == 5:
        file = r.choice(index["splits"]["train"])
        file["num_examples"] = r.choice((*NUMBERS, -1))
    else:
        names = ("../index.tfrecord", "/etc/passwd", "..tfrecord", "a/b.tfrecord", "index.json", "x.tfrecord")
        r.choice(index["splits"]["train"])["file"] = r.choice((*names, _shard(r, files)))
    files[INDEX_FILE] = json.dumps(index).encode()


def _bytes_of_shard(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    name = _shard(r, files)
    files[name] = mutate(r, files[name], [files[_shard(r, files)]])


def _same_length(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    """Bits and bytes in place, so that the file keeps the size that the index wants."""
    name = _shard(r, files)
    raw = bytearray(files[name])
    for _ in range(r.choice((1, 1, 2, 8))):
        at = r.randrange(len(raw))
        raw[at] = r.choice((raw[at] ^ (1 << r.randrange(8)), 0, 255, r.randrange(256)))
    files[name] = bytes(raw)


def _sound_framing(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    """Records whose checksums are right and whose contents are not."""
    import tensorflow as tf

    name = _shard(r, files)
    length = world.index["record_bytes"]
    raw, stride = files[name], length + 16
    records = [raw[at + 12 : at + 12 + length] for at in range(0, len(raw), stride)]
    for _ in range(r.choice((1, 2, 5))):
        at = r.randrange(len(records))
        records[at] = r.choice((_in_place, _other, _mutated))(r, records[at])
    path = world.folder.with_name("written.tfrecord")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    files[name] = path.read_bytes()


def _in_place(r: random.Random, record: bytes) -> bytes:
    at = r.randrange(len(record) + 1)
    number = r.choice((np.nan, np.inf, -np.inf, 1e39, 3.4e38, 0.0))
    with np.errstate(all="ignore"):
        value = r.choice((np.float32(number).tobytes(), r.randbytes(4), b"\xff" * 4, bytes(4)))
    return (record[:at] + value + record[at + 4 :])[: len(record)]


def _mutated(r: random.Random, record: bytes) -> bytes:
    return mutate(r, record, [record])


def _other(r: random.Random, record: bytes) -> bytes:
    return r.choice((b"", record * 2, bytes(len(record)), r.randbytes(len(record)), record[::-1]))


def _other_files(r: random.Random, world: World, files: dict[str, bytes]) -> None:
    """Files that are missing, empty, or each other's."""
    one, other = _shard(r, files), _shard(r, files)
    way = r.randrange(4)
    if way == 0:
        del files[r.choice((one, one, INDEX_FILE))]
    elif way == 1:
        files[one] = b""
    elif way == 2:
        files[one], files[other] = files[other], files[one]
    else:
        files[r.choice(("train-00009-of-00009.tfrecord", "note.txt"))] = files[one]


_WAYS: tuple[Callable[[random.Random, World, dict[str, bytes]], None], ...] = (
    _bytes_of_index, _words_of_index, _tree_of_index, _lying_index, _lying_index,
    _bytes_of_shard, _same_length, _same_length, _sound_framing, _other_files,
)  # fmt: skip


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Open the folder and read all of it: what the index says, and where all is verified what was written."""
    if world.folder.exists():
        shutil.rmtree(world.folder)
    world.folder.mkdir()
    for name, raw in given.files.items():
        (world.folder / name).write_bytes(raw)
    source = open_source("tfrecords", given.split, path=world.folder, verify=given.verify, cache=given.cache)
    if source.size is not None and source.size > _LARGEST:
        raise Defect(f"{source.size} examples in {sum(map(len, given.files.values()))} bytes")
    x, condition = source.head()
    if x.shape != (source.size, *source.event_shape) or x.dtype != source.dtype:
        raise Defect(f"{x.dtype} of shape {x.shape} for {source.size} of {source.event_shape}")
    if given.verify and given.files[INDEX_FILE] == world.files[INDEX_FILE]:
        wanted = world.data[given.split]
        if not (np.array_equal(x, wanted[0]) and np.array_equal(condition, wanted[1])):
            raise Defect("verified, and other data")
    if x.shape[1:] != (3,) or x.dtype != np.float32:
        return "accepted: another shape"
    if not np.isfinite(x).all():
        # Under a right checksum no reader knows it to be wrong: it is refused where it would be used.
        try:
            world.score(x)
        except ValueError:
            return "accepted: NaN, which a flow refuses"
        raise Defect("a flow took NaN")
    try:
        must_be_finite(world.score(x), "log_prob")
    except FloatingPointError:  # as promised, for numbers as large as 1e38
        if np.abs(x).max() < _FAR:
            raise
        return "accepted: numbers too large for a density in float32, which a flow says"
    return "accepted"


def _with(index: Callable[[dict[str, Any]], Any]) -> Callable[[World], Given]:
    """Return a folder whose index is changed."""

    def given(world: World) -> Given:
        changed = world.index
        index(changed)
        return Given({**world.files, INDEX_FILE: json.dumps(changed).encode()})

    return given


KNOWN: dict[str, Callable[[World], Given]] = {
    # Two thirds of a row each, and half as many rows again.
    "a shape that does not fill the record": _with(lambda index: index["x"].update(shape=[2])),
    "a type that does not fill the record": _with(lambda index: index["x"].update(dtype="float16")),
}

TARGET = Target("records", world, make, attempt, clean=(DataError,), memory=2 * GIB, known=KNOWN)
