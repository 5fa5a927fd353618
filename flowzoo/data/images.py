"""Images that are decoded when they are asked for, and kept once they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowzoo.data.archives import IMAGES, open_files
from flowzoo.data.decoding import decoded
from flowzoo.data.lazy import Lazy
from flowzoo.data.source import Examples
from flowzoo.errors import DataError

Crop = Literal["center"] | int | float | None


class ImageExamples(Lazy):
    """Image files as examples `[N, height, width, channels]` of uint8.

    An index of rows decodes the images of these rows, and keeps them if `cache` is set. The store for them
    takes memory only as it fills up.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], bytes],
        *,
        size: tuple[int, int] | None,
        crop: Crop,
        channels: int,
        where: str,
        cache: bool,
    ) -> None:
        """Decodes the first image, to learn the shape of all if no size is given.

        Args:
            names: The names of the images.
            read: Gives the contents of the file of a name.
            size: Height and width to resize to, or None to take the images as they are.
            crop: See `decode_image`.
            channels: 1 for grey, 3 for colour.
            where: The folder or archive, for messages.
            cache: Whether to keep what was decoded.
        """
        self._names, self._read, self._where = list(names), read, where
        self._size, self._crop, self._channels = size, crop, channels
        self.shape = (len(self._names), *self._decode(0).shape)
        self._kept = np.zeros(self.shape, np.uint8) if cache else None
        self._is_kept = np.zeros(len(self._names), bool)

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        """Decodes the images of an array of row numbers, of a slice, or of one number."""
        numbers = np.arange(len(self))[rows]
        if self._kept is None:
            return self._decoded(np.atleast_1d(numbers)).reshape(*numbers.shape, *self.shape[1:])
        new = np.unique(numbers[~self._is_kept[numbers]])
        if new.size:
            self._kept[new] = self._decoded(new)
            self._is_kept[new] = True
        return self._kept[numbers]

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            out[place] = self._shaped(int(rows[place]))

        # Pillow lets go of Python's lock while it decodes, so threads help.
        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(rows))))
        return out

    def _shaped(self, row: int) -> np.ndarray:
        image = self._decode(row)
        if image.shape != self.shape[1:]:
            raise DataError(
                f"{self._where}: {self._names[row]} has the shape {image.shape}, but {self._names[0]} has "
                f"{self.shape[1:]}. Give the option size to bring them all to one size."
            )
        return image

    def _decode(self, row: int) -> np.ndarray:
        name = self._names[row]
        raw = self._read(name)
        return decode_image(
            raw, size=self._size, crop=self._crop, channels=self._channels, where=f"{self._where}: {name}"
        )


class Mirrored(Lazy):
    """Examples, and after them their mirror images: left is right."""

    def __init__(self, examples: Examples) -> None:
        """Takes examples `[N, height, width, channels]` and makes twice as many of them."""
        self._examples = examples
        self.shape, self.dtype = (2 * len(examples), *examples.shape[1:]), examples.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        """The examples of an array of row numbers, of a slice, or of one number."""
        numbers = np.arange(len(self))[rows]
        half = len(self._examples)
        found = self._examples[numbers % half]
        turned = (numbers >= half)[..., None, None, None]
        return np.where(turned, found[..., ::-1, :], found)


class FewerBits(Lazy):
    """Examples of 8 bits whose lowest bits are cut off, as in papers that model 5 bits a channel."""

    dtype = np.dtype(np.uint8)

    def __init__(self, examples: Examples, bits: int) -> None:
        """Takes uint8 examples, and how many bits are left of each value."""
        self._examples, self._cut, self.shape = examples, 8 - bits, examples.shape

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        """The examples of an array of row numbers, of a slice, or of one number."""
        return np.right_shift(self._examples[rows], self._cut)


def prepared(examples: Examples, *, mirror: bool, bits: int) -> Examples:
    """Adds mirror images and cuts bits off, where that is asked for.

    Raises:
        DataError: `bits` is not between 1 and 8.
    """
    if isinstance(bits, bool) or not 1 <= bits <= 8:
        raise DataError(f"bits takes an integer from 1 to 8. Received: {bits!r}")
    examples = Mirrored(examples) if mirror else examples
    return FewerBits(examples, bits) if bits < 8 else examples


def decode_image(
    raw: bytes, *, size: tuple[int, int] | None, crop: Crop, channels: int, where: str
) -> np.ndarray:
    """Decodes, turns upright, crops and resizes an image.

    Args:
        raw: The contents of an image file.
        size: Height and width to resize to (bilinear, with antialiasing), or None.
        crop: What to cut from the middle first: `"center"` for the largest square, an integer for a square of
            this side, a fraction for one of this part of the shorter side, None for nothing. Without a crop,
            resizing may change the proportions.
        channels: 1 for grey, 3 for colour.
        where: The file, for messages.

    Returns:
        The image `[height, width, channels]` in uint8.

    Raises:
        DataError: The contents are no image, truncated, too large, or smaller than the crop.
    """
    from PIL import Image

    image = decoded(raw, "L" if channels == 1 else "RGB", where)
    side = min(image.size) if crop == "center" else crop
    if isinstance(side, float):
        side = max(1, round(side * min(image.size)))
    if side is not None:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if min(left, top) < 0:
            raise DataError(f"{where}: {image.width}x{image.height} pixels, smaller than the crop of {side}.")
        image = image.crop((left, top, left + side, top + side))
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def read_pictures(paths: Sequence[Path], event_shape: tuple[int, ...], crop: Crop = "center") -> np.ndarray:
    """Reads pictures of any size as examples of a flow.

    Args:
        paths: Image files, folders and archives of them.
        event_shape: Height, width and channels (1 or 3) of the examples.
        crop: What to cut from the middle of each first; see `decode_image`.

    Returns:
        The examples `[N, height, width, channels]` in uint8.

    Raises:
        DataError: The event is no image, or a file is missing or cannot be decoded.
    """
    if len(event_shape) != 3 or event_shape[-1] not in (1, 3):
        raise DataError(f"Pictures have the shape (height, width, 1 or 3). Received: {tuple(event_shape)}")
    height, width, channels = event_shape
    found: list[tuple[str, bytes]] = []
    for path in paths:
        if path.is_file() and IMAGES.has(path.name):
            found.append((str(path), path.read_bytes()))
            continue
        files = open_files(path, IMAGES)
        found += [(f"{path}: {name}", files.read(name)) for name in files.names]
    return np.stack(
        [
            decode_image(raw, size=(height, width), crop=crop, channels=channels, where=name)
            for name, raw in found
        ]
    )
