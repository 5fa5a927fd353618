"""A folder or an archive of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from flowzoo.data.archives import IMAGES, open_files
from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_path
from flowzoo.data.images import ImageExamples, prepared
from flowzoo.data.options import Count, Part, Share
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range
from flowzoo.errors import DataError


def _write_example(folder: Path) -> Mapping[str, Any]:
    from PIL import Image

    random = np.random.RandomState(0)
    for number in range(30):
        pixels = random.randint(0, 256, (12, 10, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return {"path": folder, "size": 8, "crop": "center"}


@register_source("image_folder", kind="images", licence="the user's own", example=_write_example)
def image_folder(
    split: str,
    *,
    path: Path,
    size: Count | tuple[Count, Count] | None = None,
    crop: Literal["center"] | Count | Share | None = None,
    channels: Literal[1, 3] = 3,
    labels: bool = False,
    mirror: bool = False,
    bits: Count = 8,
    validation: Part = 0.1,
    test: Part = 0.1,
    cache: bool = True,
) -> Source:
    """Images of a folder, or of a ZIP or tar archive, divided in the order of their names.

    The first names are the train split, then comes validation, then test. Images are decoded on first use.

    Args:
        split: Which split.
        path: The folder or archive, relative to the working folder or to one of the data folders.
        size: The side, or height and width, to resize to; without it all images must be of one size.
        crop: What to cut from the middle first: `"center"` for the largest square, the side of a square, or a
            part of the shorter side.
        channels: 3 for colour, 1 for grey.
        labels: Whether the folder that an image lies in is its class. Each class is then divided by itself.
        mirror: Whether the train split also has every image with left and right exchanged.
        bits: How many bits of each value are kept: 8 as they are, 5 as in papers on faces.
        validation: The validation part, a fraction or a number of images (with `labels`, of each class).
        test: The test part, likewise.
        cache: Whether to keep decoded images in memory.
    """
    path = find_path(path, "Images")
    files = open_files(path, IMAGES)
    names, condition, classes = _chosen(files.names, split, labels, (validation, test), str(path))
    examples = ImageExamples(
        names,
        files.read,
        size=(size, size) if isinstance(size, int) else size,
        crop=crop,
        channels=channels,
        where=str(path),
        cache=cache,
    )
    both = mirror and split == "train"
    if both and condition is not None:
        condition = np.tile(condition, 2)
    return Source(
        x=prepared(examples, mirror=both, bits=bits),
        condition=condition,
        num_values=2**bits,
        num_classes=classes,
        origin=str(path),
    )


def _chosen(
    names: Sequence[str], split: str, labels: bool, parts: tuple[int | float, int | float], where: str
) -> tuple[list[str], np.ndarray | None, int | None]:
    """Gives the names of a split, and their labels and the number of classes if there are any."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(name).parent.as_posix() if labels else "", []).append(name)
    if labels and len(groups) < 2:
        raise DataError(f"{where}: labels=True needs a folder for each class. Received: {sorted(groups)}")
    chosen, codes = [], []
    for code, folder in enumerate(sorted(groups)):
        place = f"{where}, {folder}" if folder else where
        rows = split_range(len(groups[folder]), split, validation=parts[0], test=parts[1], where=place)
        chosen += groups[folder][rows]
        codes += [code] * (rows.stop - rows.start)
    if not labels:
        return chosen, None, None
    return chosen, np.array(codes, np.int32), len(groups)
