"""MNIST and the data sets of its format: four IDX files, plain or gzip.

The first eleven twelfths of the training files (55,000 of MNIST's 60,000) are the train split, the rest
(5,000) is the validation split, and the test files (10,000) are the test split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_file, missing, read_file, search_folders
from flowzoo.data.idx import parse_idx, write_idx
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range
from flowzoo.errors import DataError

_IMAGES, _LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"

# MD5 sums of the original files, decompressed.
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def _write_example(folder: Path) -> Mapping[str, Any]:
    random = np.random.RandomState(0)
    for part, count in (("train", 36), ("t10k", 12)):
        write_idx(folder / _IMAGES.format(part), random.randint(0, 256, (count, 28, 28)).astype(np.uint8))
        write_idx(folder / _LABELS.format(part), (np.arange(count) % 10).astype(np.uint8))
    return {"data_dir": folder}


def _write_unverified(folder: Path) -> Mapping[str, Any]:
    return {**_write_example(folder), "verify": False}


@register_source(
    "mnist",
    kind="idx",
    licence="CC BY-SA 3.0",
    origin="LeCun, Cortes, Burges: the MNIST database of handwritten digits",
    example=_write_unverified,
)
def mnist(split: str, *, data_dir: Path | None = None, verify: bool = True) -> Source:
    """70,000 handwritten digits of 28 by 28 grey pixels; the label is the digit.

    Args:
        split: Which split.
        data_dir: The folder of the four files; by default the data folders and their `mnist/` are searched.
        verify: Whether to compare the files with the original MD5 sums.
    """
    folders = search_folders(data_dir, ["mnist"])
    get_it = "The four original files are mirrored at https://ossci-datasets.s3.amazonaws.com/mnist/."
    return _opened("MNIST", split, folders, get_it, _MNIST_MD5 if verify else None)


@register_source(
    "fashion_mnist",
    kind="idx",
    licence="MIT",
    origin="Xiao, Rasul, Vollgraf 2017: Fashion-MNIST, Zalando Research",
    example=_write_unverified,
)
def fashion_mnist(split: str, *, data_dir: Path | None = None, verify: bool = True) -> Source:
    """70,000 pieces of clothing of 28 by 28 grey pixels; the label is one of ten kinds.

    Args:
        split: Which split.
        data_dir: The folder of the four files; by default `fashion_mnist/` in the data folders is searched,
            and where Debian's package puts it.
        verify: Whether to compare the files with the original MD5 sums.
    """
    # The files are named as MNIST's are, so a data folder itself is no place to look in.
    debian = "/usr/share/datasets/fashion-mnist"
    folders = search_folders(data_dir, ["fashion_mnist", "fashion-mnist"], others=[debian], top=False)
    get_it = (
        "On Debian and Ubuntu: apt-get install dataset-fashion-mnist; "
        "else from https://github.com/zalandoresearch/fashion-mnist, into a folder fashion_mnist."
    )
    return _opened("Fashion-MNIST", split, folders, get_it, _FASHION_MD5 if verify else None)


@register_source(
    "idx", kind="idx", licence="the user's own", origin="IDX files of the user", example=_write_example
)
def idx(split: str, *, data_dir: Path) -> Source:
    """Any images and labels in four IDX files that are named as MNIST's are.

    Args:
        split: Which split.
        data_dir: The folder of the four files.
    """
    return _opened("IDX", split, search_folders(data_dir, []), "", None)


def _opened(
    what: str, split: str, folders: Sequence[Path], get_it: str, md5: Mapping[str, str] | None
) -> Source:
    part = "t10k" if split == "test" else "train"
    images = _read(what, _IMAGES.format(part), folders, get_it, md5)
    both = {name: _read(what, _LABELS.format(name), folders, get_it, md5) for name in ("train", "t10k")}
    labels = both[part]
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{what}: images must be [N, height, width] and labels [N]. "
            f"Received: {images.shape} and {labels.shape}"
        )
    # Counted in both files, so that all splits agree.
    classes = max(int(values.max(initial=0)) for values in both.values()) + 1
    if split != "test":
        rows = split_range(len(images), split, validation=1 / 12, test=0, where=what)
        images, labels = images[rows], labels[rows]
    return Source(
        x=images[..., None],
        condition=labels.astype(np.int32),
        num_values=256,
        num_classes=classes,
    )


def _read(
    what: str, name: str, folders: Sequence[Path], get_it: str, md5: Mapping[str, str] | None
) -> np.ndarray:
    names = [name, f"{name}.gz", name.replace("-idx", ".idx")]
    path = find_file(names, folders)
    if path is None:
        raise missing(what, f"{name} or {name}.gz", folders, get_it)
    raw = read_file(path)
    values = parse_idx(raw, str(path))
    if md5 and (digest := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5[name]:
        raise DataError(
            f"{path}: not the original {what} file: its MD5 (decompressed) must be {md5[name]}. "
            f"Received: {digest}. Fetch it again, or open it with the source 'idx'."
        )
    return values
