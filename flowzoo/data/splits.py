"""Which examples belong to which split: the same ones on every machine and with every version of NumPy."""

from __future__ import annotations

import numpy as np

from flowzoo.data.source import SPLITS
from flowzoo.errors import DataError


def random_state(*key: int) -> np.random.RandomState:
    """Makes the generator of a key of integers (a seed, then what it is used for).

    NumPy promises never to change what `RandomState` draws, and makes no such promise of its newer
    generators: a split or a seeded data set that moved with a NumPy release would make published metrics
    worthless.

    Args:
        *key: Integers from 0 to 2**32 - 1. Different keys give independent streams.

    Returns:
        The generator.
    """
    return np.random.RandomState(list(key))


def part_size(total: int, part: int | float) -> int:
    """Turns a part of a data set, a number of examples (int) or a fraction (float), into a number."""
    return part if isinstance(part, int) else round(total * part)


def split_range(
    total: int, split: str, *, validation: int | float = 0.1, test: int | float = 0.1, where: str
) -> slice:
    """Finds a split in a data set that is laid out as train, validation, test.

    Args:
        total: The number of all examples.
        split: Which split.
        validation: The validation part, a number of examples (int) or a fraction (float).
        test: The test part, likewise.
        where: What is split, for the message.

    Returns:
        The range of the split's examples.

    Raises:
        DataError: The split would be empty.
    """
    sizes = {"validation": part_size(total, validation), "test": part_size(total, test)}
    sizes["train"] = total - sizes["validation"] - sizes["test"]
    if sizes[split] < 1 or sizes["train"] < 1:
        listed = ", ".join(f"{name} {max(sizes[name], 0)}" for name in SPLITS)
        raise DataError(
            f"{where}: {total} examples cannot be split into validation={validation} and test={test}: "
            f"{listed}. Give other parts, or more data."
        )
    ends = np.cumsum([sizes[name] for name in SPLITS])
    end = int(ends[SPLITS.index(split)])
    return slice(end - sizes[split], end)


def split_rows(
    total: int,
    split: str,
    *,
    seed: int = 0,
    validation: int | float = 0.1,
    test: int | float = 0.1,
    where: str,
) -> np.ndarray:
    """Draws a split of a data set whose order may mean something, such as a sorted table.

    Args:
        total: The number of all examples.
        split: Which split.
        seed: Another seed gives another division.
        validation: The validation part, a number of examples (int) or a fraction (float).
        test: The test part, likewise.
        where: What is split, for the message.

    Returns:
        The row numbers of the split, in random order.
    """
    chosen = split_range(total, split, validation=validation, test=test, where=where)
    return random_state(seed).permutation(total)[chosen]
