"""What rounding to float32 leaves of data: nearly all, unless they lie far from 0 and close together."""

from __future__ import annotations

import dataclasses

import numpy as np

# The part of a column's standard deviation that may be lost: a thousandth moves no density one can see.
_ALLOWED = 1e-3
# A column whose relative spread is below this is constant: what is left is the rounding of float64.
_CONSTANT = 1e-12
_CHUNK, _ENTRIES = 2**18, 2**24


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a column loses.

    Attributes:
        index: of the column in an example.
        mean: of its values.
        spread: their standard deviation.
        error: the standard deviation of what rounding changes.
    """

    index: tuple[int, ...]
    mean: float
    spread: float
    error: float

    def __str__(self) -> str:
        """What is lost, in words."""
        return (
            f"float32 rounds these values, about {self.mean:.9g} with standard deviation {self.spread:.3g}, "
            f"by {self.error:.3g}: by {self.error / self.spread:.2g} standard deviations"
        )


def lost_in_float32(values: np.ndarray) -> Loss | None:
    """Return what the column that loses most would lose in float32, None if no column loses what matters.

    At most 16 million entries are read, in rows that are spread evenly.

    Args:
        values: [N, ...], of any dtype.
    """
    wide = values.dtype.kind in "iu" and values.dtype.itemsize >= 4
    if not (wide or (values.dtype.kind == "f" and values.dtype.itemsize > 4)) or values.size == 0:
        return None
    rows = values.reshape(len(values), -1)
    rows = rows[:: max(1, rows.size // _ENTRIES)]
    mean, spread, error = _moments(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(spread > _CONSTANT * np.abs(mean), error / spread, 0.0)
    share = np.where(np.isfinite(share), share, 0.0)  # floats too large for float32 are another matter
    worst = int(np.argmax(share))
    if not share[worst] > _ALLOWED:
        return None
    index = tuple(int(i) for i in np.unravel_index(worst, values.shape[1:] or (1,)))
    return Loss(index, float(mean[worst]), float(spread[worst]), float(error[worst]))


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the means and standard deviations of columns, and the standard deviations of their rounding."""
    first, sums = rows[0].astype(np.float64), np.zeros([4, rows.shape[1]])
    step = max(1, _CHUNK // rows.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step].astype(np.float64)
            error = chunk - chunk.astype(np.float32)
            chunk -= first  # the squares of values far from 0 would have no digits left for their spread
            sums += [chunk.sum(0), (chunk**2).sum(0), error.sum(0), (error**2).sum(0)]
        mean, square, error, error_square = sums / len(rows)
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        return first + mean, spread, np.sqrt(np.maximum(error_square - error**2, 0))
