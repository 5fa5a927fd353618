"""Flows in the plane held against a known density, by quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo.data import Source

CELLS = 600
_BATCH = 40_000


def applies(model: Any, source: Source) -> bool:
    """Say whether the flow is an unconditional density in the plane, and the truth is known."""
    known = source.log_density is not None
    return known and tuple(model.event_shape) == (2,) and model.condition_shape is None and not model.discrete


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
        ValueError: the flow or the source is of another kind.
    """
    if not applies(model, source):
        raise ValueError(
            f"divergence takes an unconditional flow of event_shape=(2,) and a source of known density. "
            f"Received: event_shape={model.event_shape}, condition_shape={model.condition_shape}, "
            f"source {source.name!r}"
        )
    points, cell, box = grid(source.head()[0], cells)
    log_p = source.log_density(points)  # type: ignore[misc]
    parts = [np.asarray(model.log_prob(points[i : i + _BATCH])) for i in range(0, len(points), _BATCH)]
    log_q = np.concatenate(parts).astype("float64")
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


def grid(x: np.ndarray, cells: int) -> tuple[np.ndarray, float, list[list[float]]]:
    """Return the centres of the cells, `[cells^2, 2]`, the area of one, and the box (low and high corner)."""
    x = np.asarray(x, "float64")
    low, high = x.min(axis=0), x.max(axis=0)
    low, high = np.floor(low - (high - low) / 2), np.ceil(high + (high - low) / 2)
    axes = [a + (b - a) * (np.arange(cells) + 0.5) / cells for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    return points, float(np.prod((high - low) / cells)), [low.tolist(), high.tolist()]
