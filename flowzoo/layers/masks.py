"""How a coupling layer divides an event: what is kept and conditions, what is transformed."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from flowzoo.layers.base import Shape

MASKS = ("half", "alternating", "channel", "checkerboard")


@dataclasses.dataclass(frozen=True)
class SplitMask:
    """Divide the last axis into kept and transformed entries, by index: nothing is computed twice."""

    kept: tuple[int, ...]
    changed: tuple[int, ...]

    def shapes(self, event_shape: Shape) -> tuple[Shape, Shape]:
        """Return the shapes of the kept part and of the transformed part."""
        return (*event_shape[:-1], len(self.kept)), (*event_shape[:-1], len(self.changed))

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the kept and the transformed part."""
        return tf.gather(x, self.kept, axis=-1), tf.gather(x, self.changed, axis=-1)

    def merge(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
        """Undo `split`."""
        order = np.argsort(np.array(self.kept + self.changed))
        return tf.gather(tf.concat([kept, changed], axis=-1), order, axis=-1)

    def weigh(self, log_det: tf.Tensor) -> tf.Tensor:
        """Keep the elementwise log-determinant as it is: every entry was transformed."""
        return log_det


@dataclasses.dataclass(frozen=True)
class CheckerboardMask:
    """Keep the pixels of one colour of a checkerboard: Dinh et al. (2017), section 3.4.

    The convolutions see the whole picture with the transformed pixels set to zero, so that heights
    and widths may be odd.
    """

    odd: bool

    def _mask(self, x: tf.Tensor) -> tf.Tensor:
        height, width = x.shape[-3], x.shape[-2]
        board = (np.arange(height)[:, None] + np.arange(width)[None, :]) % 2 == int(self.odd)
        return tf.constant(board[:, :, None], x.dtype)

    def shapes(self, event_shape: Shape) -> tuple[Shape, Shape]:
        """Return the shapes of the kept part and of the transformed part: both whole."""
        return event_shape, event_shape

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the picture with transformed pixels at zero, and the picture."""
        return x * self._mask(x), x

    def merge(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
        """Take the kept pixels from one and the transformed from the other."""
        return kept + changed * (1 - self._mask(changed))

    def weigh(self, log_det: tf.Tensor) -> tf.Tensor:
        """Drop the elementwise log-determinant of the kept pixels."""
        return log_det * (1 - self._mask(log_det))


def make_mask(mask: str, swap: bool, event_shape: Shape) -> SplitMask | CheckerboardMask:
    """Build the mask of a name for an event.

    Args:
        mask: "half" (first half of the last axis kept), "channel" (the same, its name for images),
            "alternating" (even entries kept) or "checkerboard" (pixels of one colour kept).
        swap: exchange what is kept and what is transformed.
        event_shape: shape of one event.

    Raises:
        ValueError: an unknown name, or an event that the mask cannot divide.
    """
    if mask not in MASKS:
        raise ValueError(f"mask takes one of {', '.join(MASKS)}. Received: {mask!r}")
    if mask == "checkerboard":
        if len(event_shape) != 3:
            raise ValueError(
                f"A checkerboard takes events (height, width, channels). Received: {event_shape}"
            )
        if event_shape[0] * event_shape[1] < 2:
            raise ValueError(f"A checkerboard takes at least two pixels. Received: {event_shape}")
        return CheckerboardMask(odd=swap)
    size = event_shape[-1] if event_shape else 0
    if size < 2:
        raise ValueError(
            f"A coupling layer divides the last axis, which must hold at least 2 entries. "
            f"Received: event_shape={event_shape}"
        )
    entries = range(size)
    first = tuple(i for i in entries if (i < (size + 1) // 2 if mask != "alternating" else i % 2 == 0))
    second = tuple(i for i in entries if i not in set(first))
    return SplitMask(second, first) if swap else SplitMask(first, second)
