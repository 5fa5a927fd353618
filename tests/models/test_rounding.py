"""Data with a large offset: refused where float32 would leave little of them, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowzoo import Flow, layers
from flowzoo.data.tables import numbers
from flowzoo.errors import DataError
from flowzoo.models.dtypes import dtype_policy
from flowzoo.rounding import lost_in_float32

RNG = np.random.default_rng(0)
MINUTES = RNG.uniform(1.7e9, 1.7e9 + 300, (500, 1))
PLAIN = RNG.normal(5, 3, (500, 2))


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint32"])
def test_times_of_some_minutes_are_refused(dtype: str) -> None:
    x = np.concatenate([PLAIN, MINUTES], axis=1).astype(dtype)
    for door in ("fit", "adapt"):
        flow = Flow([layers.Standardize()], event_shape=(3,), name="mine")
        flow.compile("sgd", run_eagerly=True)
        with pytest.raises(ValueError, match=r"Column 2 of x .* float32 .* an offset .*dtype='float64'"):
            getattr(flow, door)(x)
        assert not flow.adapted
    with pytest.raises(DataError, match=r"t.npz, column 2: float32 rounds .* Subtract an offset"):
        numbers(x, "t.npz")
    with pytest.raises(DataError, match=r"t.csv, column 'time': float32 rounds"):
        numbers(x[:, 2], "t.csv, column 'time'")


def test_conditions_too() -> None:
    flow = Flow([layers.Standardize()], event_shape=(2,), condition_shape=(1,))
    with pytest.raises(ValueError, match="Column 0 of condition"):
        flow.adapt(PLAIN, MINUTES)
    flow.adapt(PLAIN, MINUTES - 1.7e9)


def test_float64_flows_and_labels_take_what_they_are_given() -> None:
    with dtype_policy("float64"):
        flow = Flow([layers.Standardize()], (1,))
    flow.adapt(MINUTES)
    Flow([layers.Standardize()], (2,), num_classes=3).adapt(PLAIN, np.arange(500) % 3)


ORDINARY: dict[str, Any] = {
    "normal": PLAIN,
    "of any scale": PLAIN * [1e-20, 1e20],
    "constant": np.full([500, 1], 0.1),
    "constant to the rounding of float64": 0.1 * (1 + 1e-15 * RNG.normal(size=[500, 1])),
    "large and constant": np.full([500, 1], 1.7e9 + 0.3),
    "heavy tails": RNG.standard_cauchy([500, 3]),
    "one far out": np.concatenate([[[1e9]], RNG.normal(size=[500, 1])]),
    "times of a year": RNG.uniform(1.7e9, 1.73e9, [500, 1]),
    "years": RNG.integers(1950, 2024, [500, 1]),
    "images": RNG.integers(0, 65536, [20, 4, 4, 1]),
    "rare": np.where(np.arange(500) == 7, 101.0, 100.1)[:, None],
    "one example": MINUTES[:1],
    "too large for float32": 1e200 * PLAIN,
    "none": MINUTES[:0],
    "float32": MINUTES.astype("float32"),
    "bytes": np.zeros([4, 2], "uint8"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_no_false_alarm(name: str) -> None:
    assert lost_in_float32(ORDINARY[name]) is None


def test_what_is_lost_is_measured() -> None:
    x = np.zeros([300_000, 2, 3])  # in more than one piece
    x[:, 1, 0] = 1.7e9 + RNG.uniform(0, 1e4, 300_000)
    loss = lost_in_float32(x)
    assert loss is not None and loss.index == (1, 0)
    column = x[:, 1, 0]
    np.testing.assert_allclose([loss.mean, loss.spread], [column.mean(), column.std()], rtol=1e-9)
    np.testing.assert_allclose(loss.error, (column - column.astype("float32")).std(), rtol=1e-6)
