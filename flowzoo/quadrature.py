"""Flows in the plane held against a known density, by quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo.data import Source
from flowzoo.networks.base import positive_int

CELLS = 600
COARSE_CELLS = 200
MOST_CONDITIONS = 10
_BATCH = 40_000
_CLOSE = 1e-4


def applies(model: Any, source: Source) -> bool:
    """Say whether the flow is an unconditional density in the plane, and the truth is known."""
    return _in_the_plane(model, source) and model.condition_shape is None


def applies_given_conditions(model: Any, source: Source) -> bool:
    """Say whether the flow is a density in the plane given conditions, and where its mass lies is known."""
    conditions = model.condition_shape is not None and source.condition_shape is not None
    return conditions and _in_the_plane(model, source)


def _in_the_plane(model: Any, source: Source) -> bool:
    # Where the truth is known the data are made: no outlier far away makes the cells too large.
    return source.log_density is not None and tuple(model.event_shape) == (2,) and not model.discrete


def _received(model: Any, source: Source) -> str:
    shapes = f"event_shape={model.event_shape}, condition_shape={model.condition_shape}"
    return f"Received: {shapes}, source {source.name!r}"


def divergence(model: Any, source: Source, cells: int = CELLS) -> dict[str, Any]:
    """Return KL(truth || flow) in nats and the integral of the flow's density.

    Both are sums over the centres of `cells` x `cells` equal cells. The box reaches half of the data's extent
    beyond the data on each side, to whole numbers, so that edges of a density that lie on them (a
    checkerboard's) are edges of cells.

    Args:
        model: an unconditional flow of events of the shape (2,).
        source: points whose density is known.
        cells: on each axis.

    Returns:
        `kl` and `entropy` (of the truth) in nats, `mass` (the integral of the flow's density over the box),
        `true_mass`, `box` and `cells`.

    Raises:
        ValueError: the flow or the source is of another kind, or `cells` is no whole number of at least 1.
    """
    if not applies(model, source):
        takes = "divergence takes an unconditional flow of event_shape=(2,) and a source of known density"
        raise ValueError(f"{takes}. {_received(model, source)}")
    points, cell, box = grid(source.head()[0], cells)
    log_p = source.log_density(points)  # type: ignore[misc]
    log_q = _log_prob(model, points, None)
    p = np.exp(log_p) * cell
    inside = p > 0
    return {
        "kl": float(np.sum(p[inside] * (log_p - log_q)[inside])),
        "entropy": float(-np.sum(p[inside] * log_p[inside])),
        "mass": float(np.exp(log_q).sum() * cell),
        "true_mass": float(p.sum()),
        "box": box,
        "cells": cells,
    }


def masses(model: Any, source: Source, cells: int | None = None) -> dict[str, Any]:
    """Return the integral of a conditional flow's density given each of the source's conditions.

    Args:
        model: a flow of events of the shape (2,) that takes conditions.
        source: points of known density with their conditions; of more than `MOST_CONDITIONS` different ones
            as many are taken, spread over their order.
        cells: on each axis; the cells are those of `divergence`. None takes `COARSE_CELLS`, and `CELLS` where
            those give an integral that is off by more than 1e-4.

    Returns:
        `conditions` (as lists or numbers), `masses` (an integral for each), `box` and `cells`.

    Raises:
        ValueError: the flow or the source is of another kind, or `cells` is no whole number of at least 1.
    """
    if not applies_given_conditions(model, source):
        takes = "masses takes a conditional flow of event_shape=(2,) and a source of known density with"
        raise ValueError(f"{takes} conditions. {_received(model, source)}")
    x, condition = source.head()
    different = np.unique(np.asarray(condition), axis=0)
    places = np.linspace(0, len(different) - 1, min(len(different), MOST_CONDITIONS)).round().astype(int)
    found = _masses(model, x, different[places], COARSE_CELLS if cells is None else cells)
    if cells is None and not np.allclose(found["masses"], 1, rtol=0, atol=_CLOSE):
        found = _masses(model, x, different[places], CELLS)
    return found


def _masses(model: Any, x: np.ndarray, conditions: np.ndarray, cells: int) -> dict[str, Any]:
    points, cell, box = grid(x, cells)
    return {
        "conditions": conditions.tolist(),
        "masses": [float(np.exp(_log_prob(model, points, one)).sum() * cell) for one in conditions],
        "box": box,
        "cells": cells,
    }


def _log_prob(model: Any, points: np.ndarray, condition: Any) -> np.ndarray:
    """Return the log_prob of all points in float64, given one condition or none."""
    parts = []
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH]
        given = None if condition is None else np.broadcast_to(condition, (len(batch), *np.shape(condition)))
        parts.append(np.asarray(model.log_prob(batch, given)))
    return np.concatenate(parts).astype("float64")


def grid(x: np.ndarray, cells: int) -> tuple[np.ndarray, float, list[list[float]]]:
    """Return the centres of the cells, `[cells^2, 2]`, the area of one, and the box (low and high corner)."""
    cells = positive_int("cells", cells)
    x = np.asarray(x, "float64")
    low, high = x.min(axis=0), x.max(axis=0)
    low, high = np.floor(low - (high - low) / 2), np.ceil(high + (high - low) / 2)
    axes = [a + (b - a) * (np.arange(cells) + 0.5) / cells for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    return points, float(np.prod((high - low) / cells)), [low.tolist(), high.tolist()]
