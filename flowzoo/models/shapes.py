"""The shapes that a flow is made for, checked at the door."""

from __future__ import annotations

from typing import Any

from flowzoo.layers.base import Shape, as_shape


def checked_shape(name: str, shape: Any) -> Shape:
    """Return a shape as a tuple of positive integers, else raise TypeError or ValueError."""
    try:
        sizes = as_shape(shape)
    except TypeError as error:
        raise TypeError(f"{name} takes a tuple of positive integers. Received: {shape!r}") from error
    if not sizes or any(size < 1 for size in sizes) or sizes != tuple(shape):
        raise ValueError(f"{name} takes a tuple of one or more positive integers. Received: {shape!r}")
    return sizes


def condition_shapes(condition_shape: Any, num_classes: int | None) -> tuple[Shape | None, Shape | None]:
    """Return the shape of a user's condition and of what the layers get."""
    if num_classes is not None:
        if condition_shape not in (None, (), []):
            raise ValueError(
                f"A class label has no shape: give num_classes or condition_shape. "
                f"Received: num_classes={num_classes}, condition_shape={condition_shape}"
            )
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f"num_classes takes an integer of at least 2. Received: {num_classes!r}")
        return (), (num_classes,)
    if condition_shape is None:
        return None, None
    return (shape := checked_shape("condition_shape", condition_shape)), shape
