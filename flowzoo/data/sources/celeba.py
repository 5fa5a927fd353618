"""CelebA: aligned photographs of famous faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.archives import IMAGES, open_files
from flowzoo.data.catalog import register_source
from flowzoo.data.files import missing, search_folders
from flowzoo.data.images import ImageExamples, prepared
from flowzoo.data.options import Count, Part
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range

_NAMES = ("img_align_celeba", "img_align_celeba.zip", "celeba_9k.zip")
# The first images are for training, then come validation and test, in the list of the authors' own division.
_ALL, _TRAIN, _TRAIN_AND_VALIDATION = 202_599, 162_770, 182_637
# A square of 148 of the 178 pixels of the original width, which is the shorter side, as in Dinh et al. 2017.
_CROP = 148 / 178


def _write_example(folder: Path) -> Mapping[str, Any]:
    from PIL import Image

    random = np.random.RandomState(0)
    (folder / "img_align_celeba").mkdir()
    for number in range(1, 31):
        pixels = random.randint(0, 256, (22, 18, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / f"{number:06d}.png")
    return {"data_dir": folder, "size": 8, "validation": 4, "test": 4}


@register_source(
    "celeba",
    kind="images",
    licence="non-commercial research only (CelebA)",
    origin="Liu, Luo, Wang & Tang 2015: Deep Learning Face Attributes in the Wild",
    example=_write_example,
    crop=_CROP,
)
def celeba(
    split: str,
    *,
    size: Count = 64,
    data_dir: Path | None = None,
    mirror: bool = False,
    bits: Count = 8,
    validation: Part = 500,
    test: Part = 0,
    cache: bool = True,
) -> Source:
    """Aligned faces, 202,599 of them or the first few thousand, cut to a square and resized.

    The square is taken from the middle and is 148 pixels wide where the image is 178. The whole set is
    divided as its authors did; an excerpt (its first images alone) in the order of its names.

    Args:
        split: Which split.
        size: Of the pictures.
        data_dir: The folder that holds `img_align_celeba/` (or .zip) or `celeba_9k.zip`; by default the data
            folders and their `celeba/` are searched.
        mirror: Whether the train split also has every image with left and right exchanged.
        bits: How many bits of each value are kept: 8 as they are, 5 as in Glow.
        validation: Of an excerpt, the validation part, a fraction or a number of images.
        test: Of an excerpt, the test part, likewise.
        cache: Whether to keep decoded images in memory.
    """
    path = _find(search_folders(data_dir, ["celeba"]))
    files = open_files(path, IMAGES)
    names = _of_split(files.names, split, (validation, test), str(path))
    images = ImageExamples(
        names, files.read, size=(size, size), crop=_CROP, channels=3, where=str(path), cache=cache
    )
    return Source(
        x=prepared(images, mirror=mirror and split == "train", bits=bits),
        num_values=2**bits,
        origin=f"CelebA, {path.name}, {len(files.names)} images",
    )


def _of_split(
    names: Sequence[str], split: str, parts: tuple[int | float, int | float], where: str
) -> list[str]:
    if len(names) == _ALL:
        ends = {"train": (0, _TRAIN), "validation": (_TRAIN, _TRAIN_AND_VALIDATION)}
        return list(names[slice(*ends.get(split, (_TRAIN_AND_VALIDATION, _ALL)))])
    return list(names[split_range(len(names), split, validation=parts[0], test=parts[1], where=where)])


def _find(folders: Sequence[Path]) -> Path:
    for folder in folders:
        for name in _NAMES:
            if (folder / name).exists():
                return folder / name
    get_it = "img_align_celeba.zip is at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial)."
    raise missing("CelebA", " or ".join(_NAMES), folders, get_it)
