"""What a file of a training's state holds, read without believing it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from flowzoo.arrays import read_npz
from flowzoo.errors import DataError

_ARRAYS = ("weight", "optimizer", "kept", "running")


def read_state(content: bytes, origin: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a state, and what it says of them.

    Args:
        content: of the file.
        origin: what an error calls it.

    Raises:
        DataError: it is no state of a training.
    """
    try:
        arrays = read_npz(content)
        about = json.loads(str(arrays.pop("about")))
        _check_about(about)
        _check_arrays(arrays)
    except (ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{origin} cannot be read ({error}): delete it and train anew.") from error
    return arrays, about


def numbered(name: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the arrays name_0, name_1 ... in their order."""
    keys = (key for key in arrays if key.startswith(f"{name}_"))
    return [arrays[key] for key in sorted(keys, key=lambda key: int(key.rpartition("_")[2]))]


def assign(arrays: dict[str, np.ndarray], name: str, variables: list[Any], origin: str) -> None:
    """Give variables the arrays of a name.

    Raises:
        DataError: their number or shapes differ.
    """
    values = numbered(name, arrays)
    check_shapes(values, variables, origin)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def check_shapes(values: list[np.ndarray], variables: list[Any], origin: str) -> None:
    """Raise DataError unless the values are those of the variables."""
    if [tuple(value.shape) for value in values] != [tuple(variable.shape) for variable in variables]:
        raise DataError(f"{origin} does not fit the model: it was made by another version.")


def _check_about(about: Any) -> None:
    if not isinstance(about, dict) or not isinstance(about["recipe"], str):
        raise ValueError("it does not say of which recipe it is")
    logs, seconds = about["logs"], about["seconds"]
    if not isinstance(seconds, list) or not isinstance(logs, list) or len(logs) != len(seconds):
        raise ValueError("it does not say what its epochs were")
    if not all(isinstance(log, dict) for log in logs) or not isinstance(about["stopped"], bool):
        raise ValueError("it does not say what its epochs were")
    numbers = [about[key] for key in ("best_value", "best_epoch", "running")]
    numbers += [*seconds, *(value for log in logs for value in log.values())]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("what should be numbers is not")
    batch = about["batch"]
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
        raise ValueError(f"it says that {batch!r} batches were done")


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        prefix, _, number = name.rpartition("_")
        if prefix not in _ARRAYS or not (number.isascii() and number.isdecimal()):
            raise ValueError(f"the array {name!r} belongs to no state")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"the array {name!r} holds {array.dtype}")
