"""Pictures from files that anyone may have made: by few decoders, of a bounded size, 8 bits a channel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowzoo.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 2**26
"""A picture of more pixels is refused before it is decoded: a few hundred bytes can claim billions."""

# What the endings of image files name, and none of Pillow's other forty: its EPS starts another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")

Mode = Literal["L", "RGB"]


def decoded(raw: bytes, mode: Mode | None, where: str, *, upright: bool = True) -> Image.Image:
    """Decodes an image file.

    Args:
        raw: Its contents.
        mode: `"L"` for grey, `"RGB"` for colour; None for what the file is.
        where: The file, for messages.
        upright: Whether it is turned as its EXIF data say.

    Returns:
        The picture, 8 bits a channel; of 16 bits the upper 8 count, transparency does not.

    Raises:
        DataError: The contents are no picture of these formats, truncated or corrupt; there are more than
            `MAX_PIXELS`; or the values are floating or of 32 bits, which have no agreed white.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as opened:
            _check_size(opened, where)
            mode = mode or ("L" if opened.mode in _GREY else "RGB")
            image = _eight_bits(opened, where)
            image = ImageOps.exif_transpose(image) if upright else image
            return image.convert(mode)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        listed = ", ".join(_FORMATS)
        raise DataError(f"{where}: cannot be decoded as an image: none of {listed}, or truncated.") from error
    except Exception as error:  # what the decoders raise at corrupt bytes is of a dozen kinds
        raise DataError(f"{where}: cannot be decoded as an image: {error}") from error


def _check_size(image: Image.Image, where: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{where}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are decoded.")
    if not image.width * image.height:
        raise DataError(f"{where}: {image.width}x{image.height} pixels; a picture has some.")


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Brings grey values of 16 bits to 8: Pillow would clip them at 255, which leaves a white picture."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        shifted = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        shifted.info, shifted.format = image.info, image.format
        return shifted
    if image.mode in ("I", "F"):
        kind = "floating" if image.mode == "F" else "32-bit"
        raise DataError(f"{where}: {kind} pixels; accepted: 8 or 16 bits a channel.")
    return image
