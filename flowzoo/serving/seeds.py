"""Seeds as the signature `sample` takes them: two int32, as `flowzoo.random.as_seed` makes them.

Written in NumPy, since a client has no TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def as_pair(seed: Any) -> np.ndarray:
    """Return a seed as two int32.

    Args:
        seed: None (fresh from the operating system), an integer, or two integers.

    Raises:
        TypeError: anything else.
    """
    if seed is None:
        return (np.random.SeedSequence().generate_state(2) >> 1).astype(np.int32)
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        value = int(seed) & 0xFFFFFFFFFFFFFFFF
        return np.array([value & 0xFFFFFFFF, value >> 32], np.uint32).view(np.int32)
    is_array = isinstance(seed, list | tuple) or hasattr(seed, "__array__")
    pair = np.asarray(seed) if is_array else None
    if pair is None or pair.shape != (2,) or pair.dtype.kind not in "iu":
        raise TypeError(f"seed takes None, an integer or two integers. Received: {seed!r}")
    return pair.astype(np.int32)


def child(pair: np.ndarray, index: int) -> np.ndarray:
    """Return the seed of the `index`-th part of what a seed draws; the first part's is the seed itself."""
    if index == 0:
        return pair
    words = [int(word) for word in pair.view(np.uint32)]
    return np.random.SeedSequence([*words, index]).generate_state(2).view(np.int32)
