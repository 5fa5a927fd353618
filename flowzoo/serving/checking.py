"""What a user hands to the client, checked at the door against what the server says that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo.serving.signatures import TensorSpec


def tensor(value: Any, spec: TensorSpec) -> np.ndarray:
    """Return an array of the type and shape that an input takes.

    Raises:
        TypeError: not numbers (strings, for an input of strings).
        ValueError: a wrong shape, NaN or infinity, or numbers that the type does not hold.
    """
    array = _array(value, spec)
    _shaped(array, spec)
    return _typed(array, spec)


def condition(value: Any, spec: TensorSpec | None, rows: int, model: str) -> np.ndarray | None:
    """Return one condition a row.

    A server that merges requests into batches takes only inputs of one length, so that one condition
    for all is repeated here and not there.

    Args:
        value: a condition a row, or one for all (with or without a batch dimension).
        spec: the input of the signature; None if it has none.
        rows: how many rows the request has.
        model: the model's name, for errors.

    Raises:
        ValueError: missing, not wanted, or of another shape.
    """
    if spec is None:
        if value is not None:
            raise ValueError(f"{model} takes no condition. Received: an array of shape {np.shape(value)}")
        return None
    if value is None:
        raise ValueError(f"{model} needs condition= ({spec.dtype}, shape {spec.text}). Received: None")
    array = _array(value, spec)
    if spec.shape is not None and array.ndim == len(spec.shape) - 1:
        array = array[None]
    array = tensor(array, spec)
    if len(array) not in (1, rows):
        raise ValueError(f"condition holds {len(array)} conditions for {rows} examples.")
    return np.broadcast_to(array, (rows, *array.shape[1:]))


def number_of_samples(n: Any) -> int:
    """Return n, else raise.

    Raises:
        TypeError: not a whole number.
        ValueError: negative.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n takes an integer. Received: {n!r}")
    if n < 0:
        raise ValueError(f"n takes a number of samples of at least 0. Received: {n}")
    return int(n)


def temperature(value: Any) -> float:
    """Return a temperature, else raise.

    Raises:
        TypeError: not a number.
        ValueError: not above 0, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"temperature takes a number above 0. Received: {value!r}")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"temperature takes a number above 0. Received: {value:g}")
    return float(value)


def _array(value: Any, spec: TensorSpec) -> np.ndarray:
    if value is None:
        raise TypeError(f"{spec.name} takes an array. Received: None")
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{spec.name} takes an array of shape {spec.text}. Received: {error}") from error
    kinds = "SUO" if spec.dtype == "bytes" else "fiub"
    if array.dtype.kind not in kinds:
        what = "strings or bytes" if spec.dtype == "bytes" else "numbers"
        raise TypeError(f"{spec.name} takes {what}. Received: an array of dtype {array.dtype}")
    return array


def _shaped(array: np.ndarray, spec: TensorSpec) -> None:
    if spec.fits(array.shape):
        return
    rest = spec.shape[1:] if spec.shape else ()
    one = bool(spec.shape) and TensorSpec("", spec.dtype, rest).fits(array.shape)
    hint = " (a batch of one needs a leading dimension of 1)" if one else ""
    raise ValueError(f"{spec.name} takes the shape {spec.text}{hint}. Received: {array.shape}")


def _typed(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.dtype == "bytes":
        return array.astype(object)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{spec.name} takes finite numbers. Received: {array[index]} at index {index}")
    wanted = np.dtype(spec.dtype)
    if array.size and array.dtype != wanted:
        _held(array, wanted, spec.name)
    return np.asarray(array, wanted, order="C")


def _held(array: np.ndarray, wanted: np.dtype, name: str) -> None:
    """Raise ValueError where numbers would change their value in the type."""
    if wanted.kind == "b":
        raise ValueError(f"{name} takes true or false. Received: an array of dtype {array.dtype}")
    least, most = array.min(), array.max()
    limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
    if least < limits.min or most > limits.max:
        raise ValueError(
            f"{name} takes numbers from {limits.min:g} to {limits.max:g} ({wanted}). "
            f"Received: values from {least:g} to {most:g}"
        )
    if wanted.kind in "iu" and array.dtype.kind == "f" and np.any(array != np.floor(array)):
        bad = array[array != np.floor(array)][0]
        raise ValueError(f"{name} takes whole numbers ({wanted}). Received: {bad:g}")
