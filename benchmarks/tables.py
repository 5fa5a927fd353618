"""The real tables of the comparison: one split and one order of the batches for everybody."""

from __future__ import annotations

import dataclasses

import numpy as np

from flowzoo.data import SPLITS, open_source

BATCH = 256


@dataclasses.dataclass(frozen=True)
class Table:
    """A table in units of the standard deviations of its train split.

    Attributes:
        name: of ADBench.
        train: `[N, D]`, float32.
        validation: the rows that choose the weights to keep.
        test: the held-out rows.
        steps: of training, for a family that is not slower than the others.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    steps: int

    def batches(self, steps: int, seed: int) -> np.ndarray:
        """Return the rows of each step, `[steps, BATCH, D]`: whole passes, shuffled anew each time."""
        rng = np.random.default_rng(seed)
        passes = -(-steps * BATCH // len(self.train))
        rows = np.concatenate([rng.permutation(len(self.train)) for _ in range(passes)])
        return self.train[rows[: steps * BATCH].reshape(steps, BATCH)]


STEPS = {"annthyroid": 400, "satellite": 320, "shuttle": 400}


def open_table(name: str) -> Table:
    """Open a table of ADBench: its inliers, dequantized, standardised by the train split."""
    options = {"dataset": name, "dequantize": True}
    parts = {split: open_source("adbench", split, **options).x for split in SPLITS}
    mean, sd = parts["train"].mean(axis=0, dtype="float64"), parts["train"].std(axis=0, dtype="float64")
    scaled = {split: ((x - mean) / sd).astype("float32") for split, x in parts.items()}
    return Table(name, scaled["train"], scaled["validation"], scaled["test"], STEPS[name])
