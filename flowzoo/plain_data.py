"""Plain data: what a YAML or JSON file can hold, and nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 50
"""Lists and mappings nested deeper than this are refused: walking them would overflow the stack."""


def plain_copy(value: Any) -> Any:
    """Copies plain data; tuples become lists and paths text, as a file would give them back.

    Args:
        value: Mappings with text as keys, lists, texts, finite numbers, truth values and None.

    Returns:
        The same, sharing nothing that could be changed.

    Raises:
        ValueError: Anything else is in it, or it is nested more than `MAX_DEPTH` deep; the place is named.
    """
    return _copied(value, (), MAX_DEPTH)


def _copied(value: Any, place: tuple[object, ...], depth: int) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if value is None or isinstance(value, bool | int | float | str):
        _check(value, place)
        return value
    if isinstance(value, Mapping | list | tuple):
        if depth == 0:
            raise ValueError(f"received data nested more than {MAX_DEPTH} deep; accepted: at most that")
        if not isinstance(value, Mapping):
            return [_copied(item, (*place, number), depth - 1) for number, item in enumerate(value)]
        return {_key(key, place): _copied(item, (*place, key), depth - 1) for key, item in value.items()}
    raise ValueError(
        f"{_at(place)}received {type(value).__name__}; accepted: text, numbers, true, false, null, and lists "
        "and mappings of them"
    )


def _check(value: bool | int | float | str | None, place: tuple[object, ...]) -> None:
    """Raises for numbers and text that cannot be written to a file and read back."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_at(place)}received {value}; accepted: finite numbers")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(
            f"{_at(place)}received an integer of {value.bit_length()} bits; accepted: at most 63"
        )
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{_at(place)}received {value[:80]!r}; accepted: text in Unicode")


def _key(key: object, place: tuple[object, ...]) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{_at(place)}received the key {key!r}; accepted: text as a key")
    _check(key, place)
    return key


def _at(place: tuple[object, ...]) -> str:
    return f"at {'.'.join(map(str, place))}: " if place else ""
