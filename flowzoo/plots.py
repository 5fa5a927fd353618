"""Pictures of samples: image grids, scatter plots, densities and histograms, as PNG files.

Everything here takes plain arrays and writes one file in one step. The same arrays give the same bytes, so
that a picture can be listed among the files that a checksum covers. matplotlib is used without pyplot: no
display, no global state, safe in threads.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowzoo.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

PathLike = str | os.PathLike[str]

_MAX_PANELS = 16
_MAX_PIXELS = 100_000_000


def preview(samples: ArrayLike, path: PathLike, *, maximum: float | None = None) -> Path:
    """Draws samples as suits their shape.

    Args:
        samples: `[n, h, w, 1]` or `[n, h, w, 3]` become an image grid, `[n, 2]` a scatter plot, other
            `[n, d]` one histogram a column, and any other `[n, ...]` the histograms of its flattened events.
        path: The `.png` file to write.
        maximum: For images, the value that is white; see `image_grid`. Values beyond the range are clipped.

    Returns:
        The path written.

    Raises:
        ValueError: There is nothing to draw, or a value is not finite.
    """
    array = np.asarray(samples)
    if array.ndim == 4 and array.shape[-1] in (1, 3):
        return image_grid(array, path, maximum=maximum, clip=True)
    if array.ndim == 2 and array.shape[1] == 2:
        return scatter(array, path)
    if array.ndim < 2:
        raise ValueError(f"Samples have the shape [number, ...]. Received: shape {array.shape}.")
    return histograms(array.reshape(len(array), math.prod(array.shape[1:])), path)


def white(num_values: int | None) -> float:
    """Returns the value that is drawn white: the largest of whole numbers from 0, or 1.

    Args:
        num_values: How many values a pixel can take; None for real numbers.
    """
    return 1.0 if num_values is None else num_values - 1.0


def image_grid(
    images: ArrayLike,
    path: PathLike,
    *,
    columns: int | None = None,
    scale: int | None = None,
    maximum: float | None = None,
    clip: bool = False,
) -> Path:
    """Draws images side by side, row by row.

    Args:
        images: `[n, height, width, channels]` of 1 (grey) or 3 (RGB) channels, integers or floats.
        path: The `.png` file to write.
        columns: Images in a row; by default the grid is about square.
        scale: Side of a pixel, in pixels; by default small images are enlarged to about 56 pixels.
        maximum: The value that is white; 0 is black. By default 255 for integers and 1.0 for floats.
        clip: Whether values outside 0…maximum are clipped; otherwise they are an error.

    Returns:
        The path written.

    Raises:
        ValueError: The shape, the values, `columns`, `scale`, `maximum` or the file's name cannot be used.
    """
    from PIL import Image

    target = _png(path)
    pixels = _to_uint8(np.asarray(images), maximum, clip)
    count, height, width, _ = pixels.shape
    columns = _positive("columns", columns, math.ceil(math.sqrt(count)))
    scale = _positive("scale", scale, max(1, 56 // max(height, width)))
    columns = min(columns, count)
    _refuse_huge(math.ceil(count / columns) * height * scale, columns * width * scale)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    grid = _tile(pixels, columns, gap=2)
    mode = grid[..., 0] if grid.shape[-1] == 1 else grid
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mode)).save(buffer, format="PNG", optimize=True)
    write_atomic(target, buffer.getvalue())
    return target


def scatter(samples: ArrayLike, path: PathLike, *, title: str | None = None) -> Path:
    """Draws 2-D samples as points, the axes in equal units.

    Args:
        samples: `[n, 2]`.
        path: The `.png` file to write.
        title: Text above the plot.

    Returns:
        The path written.

    Raises:
        ValueError: The samples are not of shape [n, 2] with n > 0, or not finite; or not a .png file.
    """
    target, points = _png(path), _table(samples, width=2)
    figure = _figure(6.0, 6.0)
    axes = figure.add_subplot()
    axes.scatter(
        points[:, 0], points[:, 1], s=max(0.5, min(12.0, 8000 / len(points))), alpha=0.5, linewidths=0
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title or f"{len(points)} samples")
    return _save(figure, target)


def density(
    log_prob: Callable[[np.ndarray], ArrayLike],
    path: PathLike,
    *,
    bounds: Sequence[float] = (-4.0, 4.0, -4.0, 4.0),
    resolution: int = 200,
    title: str | None = None,
) -> Path:
    """Draws a 2-D density as a heat map.

    Args:
        log_prob: Takes float32 points `[m, 2]` and returns their log densities `[m]`; called once.
        path: The `.png` file to write.
        bounds: Left, right, bottom and top of the plot.
        resolution: Points along each axis.
        title: Text above the plot.

    Returns:
        The path written.

    Raises:
        ValueError: The bounds, the resolution or what `log_prob` returns cannot be used; or not a .png file.
    """
    target, resolution = _png(path), _positive("resolution", resolution, 200)
    left, right, bottom, top = _bounds(bounds)
    x, y = np.meshgrid(np.linspace(left, right, resolution), np.linspace(bottom, top, resolution))
    points = np.stack([x.ravel(), y.ravel()], axis=-1).astype("float32")
    values = np.asarray(log_prob(points), "float64")
    if values.shape != (len(points),):
        raise ValueError(
            f"log_prob of {len(points)} points has shape [{len(points)}]. Received: {values.shape}."
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("log_prob returned NaN or +inf.")
    figure = _figure(6.5, 6.0)
    axes = figure.add_subplot()
    image = np.exp(values).reshape(resolution, resolution)
    shown = axes.imshow(image, origin="lower", extent=(left, right, bottom, top), aspect="equal")
    figure.colorbar(shown, ax=axes, label="density")
    axes.set_title(title or "")
    return _save(figure, target)


def histograms(samples: ArrayLike, path: PathLike, *, names: Sequence[str] | None = None) -> Path:
    """Draws one histogram for each of the first 16 columns of a table.

    Args:
        samples: `[n, d]`.
        path: The `.png` file to write.
        names: The d names of the columns.

    Returns:
        The path written.

    Raises:
        ValueError: The samples are not of shape [n, d], are empty or not finite; or not a .png file.
    """
    target, table = _png(path), _table(samples)
    if names is not None and len(names) != table.shape[1]:
        raise ValueError(
            f"names takes one name for each of the {table.shape[1]} columns. Received: {len(names)}."
        )
    panels = min(table.shape[1], _MAX_PANELS)
    columns = math.ceil(math.sqrt(panels))
    rows = math.ceil(panels / columns)
    figure = _figure(2.6 * columns, 2.2 * rows)
    for index in range(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.hist(table[:, index], bins=min(60, max(5, int(math.sqrt(len(table))))))
        axes.set_title(str(names[index]) if names is not None else f"column {index}", fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    if panels < table.shape[1]:
        figure.suptitle(f"first {panels} of {table.shape[1]} columns", fontsize=8)
    return _save(figure, target)


def _png(path: PathLike) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"Pictures are written as .png files. Received: {str(path)!r}.")
    return target


def _positive(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} takes a positive integer. Received: {value!r}.")
    return int(value)


def _bounds(bounds: Sequence[float]) -> tuple[float, float, float, float]:
    numbers = [float(bound) for bound in bounds]
    if (
        len(numbers) != 4
        or not np.isfinite(numbers).all()
        or numbers[0] >= numbers[1]
        or numbers[2] >= numbers[3]
    ):
        raise ValueError(f"bounds takes left < right and bottom < top. Received: {tuple(bounds)!r}.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _refuse_huge(height: int, width: int) -> None:
    if height * width > _MAX_PIXELS:
        raise ValueError(
            f"The grid would have {height} x {width} pixels: draw fewer images or lower the scale."
        )


def _require_numbers(array: np.ndarray) -> None:
    if array.dtype.kind not in "uif":
        raise ValueError(f"Integers or floats are drawn. Received: dtype {array.dtype}.")
    if array.size == 0:
        raise ValueError(f"There is nothing to draw. Received: shape {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("NaN or inf cannot be drawn; the array has some.")


def _to_uint8(images: np.ndarray, maximum: float | None, clip: bool) -> np.ndarray:
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Images have the shape [n, height, width, 1 or 3]. Received: shape {images.shape}.")
    _require_numbers(images)
    if maximum is None:
        maximum = 1.0 if images.dtype.kind == "f" else 255
    if not (isinstance(maximum, int | float | np.number) and 0 < maximum < math.inf):
        raise ValueError(f"maximum takes a positive number. Received: {maximum!r}.")
    low, high = images.min(), images.max()
    if not clip and (low < 0 or high > maximum):
        raise ValueError(f"Pixels lie in 0…{maximum:g}. Received: values from {low:g} to {high:g}.")
    return np.rint(np.clip(images.astype("float64") / maximum, 0.0, 1.0) * 255).astype("uint8")


def _table(samples: ArrayLike, width: int | None = None) -> np.ndarray:
    table = np.asarray(samples)
    if table.ndim != 2 or (width is not None and table.shape[1] != width):
        raise ValueError(f"Samples have the shape [n, {width or 'd'}]. Received: shape {table.shape}.")
    _require_numbers(table)
    return table.astype("float64")


def _tile(images: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Lays images on a grey sheet with a gap around each."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, "uint8")
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap) + gap, (index % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    return sheet


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, target: Path) -> Path:
    buffer = io.BytesIO()
    # Without the metadata, the file would change with the version of matplotlib.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    write_atomic(target, buffer.getvalue())
    return target
