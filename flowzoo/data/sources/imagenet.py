"""ImageNet at 32 by 32 and 64 by 64 pixels, the sets on which papers give bits per dimension."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowzoo.data.archives import IMAGES, open_files
from flowzoo.data.catalog import register_source
from flowzoo.data.files import missing, search_folders
from flowzoo.data.images import ImageExamples
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range

_ENDINGS = ("", ".tar", ".tar.gz", ".zip")


def _write_example(folder: Path) -> Mapping[str, Any]:
    from PIL import Image

    random = np.random.RandomState(0)
    for part, count in (("train", 110), ("valid", 12)):
        (folder / f"{part}_32x32").mkdir()
        for number in range(count):
            pixels = random.randint(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{part}_32x32" / f"{number:05d}.png")
    return {"data_dir": folder, "size": 32}


@register_source(
    "imagenet",
    kind="images",
    licence="non-commercial research only (ImageNet)",
    origin="ImageNet, made small by van den Oord et al. 2016",
    example=_write_example,
)
def imagenet(
    split: str, *, size: Literal[32, 64] = 32, data_dir: Path | None = None, cache: bool = False
) -> Source:
    """1,281,149 training and 49,999 validation photographs of ImageNet at 32 or 64 pixels.

    Its validation set is the test split, as in the papers; the last hundredth of the training files, by name,
    is the validation split.

    Args:
        split: Which split.
        size: Of the pictures.
        data_dir: The folder that holds `train_32x32` and `valid_32x32` (or 64), folders or archives of PNG
            files; by default the data folders and their `imagenet/` are searched.
        cache: Whether to keep decoded images in memory: 4 or 16 GB.
    """
    name = f"{'valid' if split == 'test' else 'train'}_{size}x{size}"
    path = _find(name, search_folders(data_dir, ["imagenet"]))
    files = open_files(path, IMAGES)
    names = list(files.names)
    if split != "test":
        names = names[split_range(len(names), split, validation=0.01, test=0, where=str(path))]
    images = ImageExamples(names, files.read, size=None, crop=None, channels=3, where=str(path), cache=cache)
    return Source(x=images, num_values=256, origin=f"ImageNet, {path.name}")


def _find(name: str, folders: list[Path]) -> Path:
    for folder in folders:
        for ending in _ENDINGS:
            if (folder / f"{name}{ending}").exists():
                return folder / f"{name}{ending}"
    get_it = "The small ImageNet of van den Oord et al. is listed at https://image-net.org/download-images."
    raise missing("ImageNet", f"{name} (a folder, .tar, .tar.gz or .zip)", folders, get_it)
