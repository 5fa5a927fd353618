"""Where the data of a layer lie: how they are drawn, where their density is integrated, in which coordinates.

A support is that of `LayerCase.support`: a name for all entries, or a tuple with one an entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

# Coordinates of a simplex: all entries but the last, which is what they leave of 1.


def is_simplex(support: Any) -> bool:
    return support == "simplex"


def draw(support: Any, rng: np.random.Generator, shape: tuple[int, ...], num_values: int = 0) -> np.ndarray:
    """Draw data, [batch, *event_shape], well inside the support."""
    if isinstance(support, tuple) and support[0] != "box":
        columns = [draw(entry, rng, (*shape[:-1], 1)) for entry in support]
        return np.concatenate(columns, axis=-1)
    if isinstance(support, tuple):
        _, low, high = support
        return low + (high - low) * rng.uniform(0.02, 0.98, shape)
    if support == "unit":
        return rng.uniform(0.02, 0.98, shape)
    if support == "integers":
        return rng.integers(0, num_values, shape)
    if support == "positive":
        return np.exp(rng.normal(size=shape))
    if support == "angle":
        return rng.uniform(-np.pi, np.pi, shape)
    if support == "simplex":
        return rng.dirichlet(np.full(shape[-1], 3.0), shape[:-1])
    return rng.normal(size=shape)


def draw_latent(support: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw latents: angles for a layer of angles, else normal."""
    if support == "angle":
        return rng.uniform(-np.pi, np.pi, shape)
    return rng.normal(size=shape)


def base_log_density(support: Any, z: tf.Tensor) -> tf.Tensor:
    """The log-density of flattened latents [batch, D]: uniform for angles, else standard normal."""
    if support == "angle":
        return tf.fill(z.shape[:1], tf.constant(-z.shape[1] * np.log(2 * np.pi), z.dtype))
    return tf.reduce_sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi), axis=1)


def to_data(support: Any, coordinates: tf.Tensor) -> tf.Tensor:
    """Return data from coordinates as many as latents have."""
    if not is_simplex(support):
        return coordinates
    return tf.concat([coordinates, 1 - tf.reduce_sum(coordinates, axis=-1, keepdims=True)], axis=-1)


def coordinates(support: Any, x: tf.Tensor) -> tf.Tensor:
    """Undo `to_data`."""
    return x[..., :-1] if is_simplex(support) else x


def inside(support: Any, points: np.ndarray) -> np.ndarray:
    """Say which coordinates [n, D] belong to data: all of a box, the lower corner of it for a simplex."""
    if not is_simplex(support):
        return np.ones(len(points), bool)
    return 1 - points.sum(axis=-1) > 1e-12


def axes(support: Any, samples: np.ndarray, points: int) -> list[np.ndarray]:
    """Return where the density is evaluated along each coordinate, given samples [n, D] of the density."""
    own = isinstance(support, tuple) and support[0] != "box"
    supports = support if own else (support,) * samples.shape[1]
    return [_axis(entry, samples[:, i], points) for i, entry in enumerate(supports)]


def _axis(support: Any, samples: np.ndarray, points: int) -> np.ndarray:
    if support in ("unit", "simplex"):
        return np.linspace(1e-9, 1 - 1e-9, points)
    if support == "angle":
        return np.linspace(-np.pi, np.pi, points)
    if support == "positive":
        return np.geomspace(samples.min() / 100, 100 * samples.max(), points)
    if isinstance(support, tuple):
        _, low, high = support
        return low + (high - low) / (1 + np.exp(-np.linspace(-20, 20, points)))
    margin = 1.2 * (samples.max() - samples.min())
    return np.linspace(samples.min() - margin, samples.max() + margin, points)
