"""The index of a folder of TFRecord shards: what is in which file, and what must be true of the files.

Every record of a folder is one `tf.train.Example` of the same length. The byte at which an example begins is
therefore known without reading what lies before it, and so is the size of every file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from flowzoo.data.source import SPLITS
from flowzoo.errors import DataError

INDEX_FILE = "index.json"
FRAMING_BYTES = 16
"""What TFRecord adds to a record: its length (8 bytes), and checksums of length and contents (4 each)."""

Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Feature(_Strict):
    """One feature of an example, stored as the bytes of its values in C order, little-endian.

    Attributes:
        dtype: The NumPy type of its values.
        shape: The shape of one example's values.
    """

    dtype: Literal["uint8", "int32", "float16", "float32", "float64"]
    shape: tuple[Count, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes of one example's values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class ShardFile(_Strict):
    """One TFRecord file.

    Attributes:
        file: Its name in the folder.
        num_examples: How many examples it holds.
        sha256: The SHA-256 of its contents.
    """

    file: Annotated[str, Field(pattern=r"^[\w.-]+\.tfrecord$")]
    num_examples: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RecordIndex(_Strict):
    """What `index.json` says.

    Attributes:
        format: The name of this format.
        source: The source that the examples come from.
        licence: The licence of the data.
        origin: Who made the data.
        num_values: As of `Source`.
        num_classes: As of `Source`.
        record_bytes: The length of every record, without its framing.
        x: The feature "x": the example itself.
        condition: The feature "condition", or None where there is none.
        splits: The files of each split. Example i of a split lies in file i mod F of its F files, as number
            i // F.
    """

    format: Literal["flowzoo records 1"] = "flowzoo records 1"
    source: str
    licence: str
    origin: str
    num_values: int | None
    num_classes: int | None
    record_bytes: Annotated[int, Field(ge=1)]
    x: Feature
    condition: Feature | None
    splits: dict[str, Annotated[tuple[ShardFile, ...], Field(min_length=1)]]

    @property
    def features(self) -> dict[str, Feature]:
        """The features of a record by name."""
        return features_of(self.x, self.condition)

    @pydantic.model_validator(mode="after")
    def _filled(self) -> RecordIndex:
        """Records of another length would be read as other examples than were written."""
        length = length_of_record(self.features)
        if self.record_bytes != length:
            raise ValueError(f"records of these features take {length} bytes and not {self.record_bytes}")
        return self

    @pydantic.model_validator(mode="after")
    def _dealt_in_turn(self) -> RecordIndex:
        for split, files in self.splits.items():
            if split not in SPLITS:
                raise ValueError(f"unknown split {split!r}")
            sizes = [file.num_examples for file in files]
            if sizes != dealt(sum(sizes), len(files)) or not sum(sizes):
                raise ValueError(f"{split}: the files do not hold their share of the examples: {sizes}")
        return self


def features_of(x: Feature, condition: Feature | None) -> dict[str, Feature]:
    """Gives the features of a record by name."""
    return {"x": x} | ({} if condition is None else {"condition": condition})


def layout(features: dict[str, Feature]) -> tuple[tuple[str, bytes], ...]:
    """Gives for each feature of a record, in their order there, what stands before the bytes of its values.

    A record is a `tf.train.Example` in protobuf's encoding with its features in the order of their names. All
    but the values is therefore the same in every record.
    """
    entries = []
    for name, feature in sorted(features.items()):
        size, before = feature.num_bytes, b""
        for tag in (b"\x0a", b"\x0a", b"\x12"):  # BytesList.value, Feature.bytes_list, the entry's value
            field = tag + _varint(size)
            size, before = size + len(field), field + before
        key = b"\x0a" + _varint(len(name)) + name.encode()
        size, before = size + len(key), key + before
        field = b"\x0a" + _varint(size)
        entries.append((name, field + before, size + len(field)))
    head = b"\x0a" + _varint(sum(size for _, _, size in entries))  # Example.features
    return tuple(
        (name, before if number else head + before) for number, (name, before, _) in enumerate(entries)
    )


def length_of_record(features: dict[str, Feature]) -> int:
    """Gives the bytes of a record, without its framing."""
    return sum(len(before) + features[name].num_bytes for name, before in layout(features))


def _varint(number: int) -> bytes:
    """Encodes a number in groups of seven bits, the lowest first, with the eighth bit set but in the last."""
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def dealt(total: int, files: int) -> list[int]:
    """Gives the number of examples of each file when `total` are dealt to them in turn."""
    return [(total - number + files - 1) // files for number in range(files)]


@dataclass(frozen=True, eq=False)
class Records:
    """The TFRecord files of one split.

    Attributes:
        folder: Where they lie.
        index: What is known of them.
        split: Which split.
    """

    folder: Path
    index: RecordIndex
    split: str

    @property
    def files(self) -> Sequence[ShardFile]:
        """The files, in the order in which examples were dealt to them."""
        return self.index.splits[self.split]

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [str(self.folder / file.file) for file in self.files]

    @property
    def size(self) -> int:
        """The number of examples."""
        return sum(file.num_examples for file in self.files)

    @property
    def stride(self) -> int:
        """The bytes from the beginning of one example in a file to that of the next."""
        return self.index.record_bytes + FRAMING_BYTES

    def check_sizes(self) -> None:
        """Raises `DataError` if a file is missing or has another size than the index says."""
        for file in self.files:
            path, wanted = self.folder / file.file, file.num_examples * self.stride
            try:
                found = path.stat().st_size
            except OSError as error:
                raise DataError(f"{path}: the shard is missing ({error.strerror}). Write it anew.") from error
            if found != wanted:
                raise DataError(
                    f"{path}: truncated, or not the file that the index names: {wanted} bytes wanted. "
                    f"Received: {found}. Write the shards anew."
                )

    def check_hashes(self) -> None:
        """Raises `DataError` if a file is not, byte for byte, the one that was written. Reads all of it."""
        for file in self.files:
            path = self.folder / file.file
            if sha256(path) != file.sha256:
                raise DataError(f"{path}: corrupt: its SHA-256 is not {file.sha256}. Write the shards anew.")


def read_index(folder: Path) -> RecordIndex:
    """Reads the index of a folder.

    Raises:
        DataError: There is none, or it is not one.
    """
    path = folder / INDEX_FILE
    try:
        return RecordIndex.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no {INDEX_FILE} in it. Folders of shards are written by `flowzoo shards`."
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: corrupt, or no index of shards: {where}: {first['msg']}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def sha256(path: Path) -> str:
    """Gives the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
