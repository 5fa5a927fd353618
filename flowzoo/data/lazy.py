"""Examples that are made when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np


class Lazy:
    """What such examples share: a length, and a conversion to an array."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        """The number of examples."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        """The examples of an array of row numbers, of a slice, or of one number."""
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: ANN401
        """All examples."""
        return np.asarray(self[:], dtype=dtype)
