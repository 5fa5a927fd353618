"""What one does with the latents of a trained flow: reconstruct, interpolate, move along an attribute.

All functions take examples in the data's own units, whole numbers for discrete flows, and return such. A
flow's latent of an example is exact, unlike an autoencoder's: what is decoded from it is the example itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowzoo import random
from flowzoo.errors import near_matches
from flowzoo.layers.domain import AngleDomain
from flowzoo.networks.base import positive_int

METHODS = ("spherical", "linear")
# Vectors closer than this angle are joined by a straight line: the arc between them is one, to float32.
_SMALLEST_ANGLE = 1e-3
# Examples that go through a model at once where a folder of them may be large.
_BATCH = 64


def reconstruct(model: Any, x: Any, condition: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Take examples to their latents and back.

    Args:
        model: a Flow.
        x: examples, [n, *event_shape].
        condition: [n, *condition_shape], or one for all.

    Returns:
        What comes back, and its error: the signed difference from `x`, for a discrete flow before the
        rounding that hides errors below half a value, for angles the short way round the circle.

    Raises:
        ValueError: as `Flow.to_latent`.
    """
    z = model.to_latent(x, condition)
    return np.asarray(model.from_latent(z, condition)), _error(model, x, z, condition)


def round_trip_error(model: Any, x: Any, condition: Any = None) -> np.ndarray:
    """Return the error of `reconstruct` alone, in one pass there and one back."""
    return _error(model, x, model.to_latent(x, condition), condition)


def _error(model: Any, x: Any, z: Any, condition: Any) -> np.ndarray:
    middle = 0.5 if model.discrete else 0.0
    back = np.asarray(model.before_rounding(z, condition), "float64")
    error = back - middle - np.asarray(x, "float64")
    if isinstance(model.domain, AngleDomain):
        # pi comes back as -pi, which is the same angle.
        error -= 2 * np.pi * np.round(error / (2 * np.pi))
    return error


def interpolate(
    model: Any, a: Any, b: Any, steps: int = 9, condition: Any = None, method: str = "spherical"
) -> np.ndarray:
    """Go from one example to another through the latent space.

    With `method="spherical"` the latents z_a and z_b are joined along the arc between their directions,
    sin((1 - t) w) / sin w and sin(t w) / sin w their weights and w the angle between them, while the length
    goes evenly from one to the other: latents of a normal base lie near a sphere, whose inside is empty.

    Args:
        model: a Flow.
        a: the first example, [*event_shape].
        b: the last, likewise.
        steps: how many examples, both ends included.
        condition: one condition for all.
        method: "spherical" or "linear".

    Returns:
        The examples, [steps, *event_shape]; the first and the last are `a` and `b`, taken there and back.

    Raises:
        ValueError: fewer than 2 steps, an unknown method, ends that are not one example each, what
            `Flow.to_latent` refuses.

    References:
        Shoemake, Animating Rotation with Quaternion Curves (1985), https://doi.org/10.1145/325334.325242,
        section 3.3 (the arc); White, Sampling Generative Networks (2016), https://arxiv.org/abs/1609.04468.
    """
    positive_int("steps", steps, 2)
    if method not in METHODS:
        hint = near_matches(method, METHODS) if isinstance(method, str) else ""
        raise ValueError(f"method takes one of {', '.join(METHODS)}. Received: {method!r}{hint}")
    pair = [np.asarray(a), np.asarray(b)]
    if any(example.shape != tuple(model.event_shape) for example in pair):
        received = " and ".join(str(example.shape) for example in pair)
        raise ValueError(
            f"a and b take one example each, of shape {tuple(model.event_shape)}. Received: shapes {received}"
        )
    ends = np.asarray(model.to_latent(np.stack(pair), condition), "float64")
    path = _between(ends.reshape(2, -1), np.linspace(0, 1, steps), method)
    return np.asarray(model.from_latent(path.reshape(steps, *ends.shape[1:]).astype("float32"), condition))


def _between(ends: np.ndarray, t: np.ndarray, method: str) -> np.ndarray:
    """Return points between two vectors, [len(t), size]."""
    t = t[:, None]
    lengths = np.linalg.norm(ends, axis=1)
    if method == "linear" or not lengths.all():
        return (1 - t) * ends[0] + t * ends[1]
    unit = ends / lengths[:, None]
    angle = np.arccos(np.clip(unit[0] @ unit[1], -1, 1))
    if not _SMALLEST_ANGLE < angle < np.pi - _SMALLEST_ANGLE:
        return (1 - t) * ends[0] + t * ends[1]
    arc = (np.sin((1 - t) * angle) * unit[0] + np.sin(t * angle) * unit[1]) / np.sin(angle)
    return ((1 - t) * lengths[0] + t * lengths[1]) * arc


def direction(model: Any, without: Any, with_: Any, condition: Any = None) -> np.ndarray:
    """Return the direction of an attribute: the mean latent of examples with it less that of others.

    Args:
        model: a Flow.
        without: examples without the attribute, [n, *event_shape].
        with_: examples with it, [m, *event_shape].
        condition: one condition for all.

    Returns:
        A latent, [*latent_shape].

    Raises:
        ValueError: no example of a kind; as `Flow.to_latent`.

    References:
        Kingma & Dhariwal, Glow (2018), https://arxiv.org/abs/1807.03039, section 6.
    """
    means = [_mean_latent(model, x, condition) for x in (without, with_)]
    return (means[1] - means[0]).astype("float32")


def _mean_latent(model: Any, x: Any, condition: Any) -> np.ndarray:
    """Return the mean latent of examples, however many: they go through the model in batches."""
    if not len(x):
        raise ValueError("A direction takes at least one example of each kind. Received: none")
    total = np.zeros(model.latent_shape, "float64")
    for start in range(0, len(x), _BATCH):
        total += np.asarray(model.to_latent(x[start : start + _BATCH], condition), "float64").sum(axis=0)
    return total / len(x)


def move(model: Any, x: Any, along: Any, strengths: Sequence[float], condition: Any = None) -> np.ndarray:
    """Move examples along a direction in the latent space.

    Args:
        model: a Flow.
        x: examples, [n, *event_shape].
        along: [*latent_shape], from `direction` say.
        strengths: how far, in lengths of `along`; 0 is the example itself.
        condition: [n, *condition_shape], or one for all.

    Returns:
        [n, len(strengths), *event_shape].

    Raises:
        ValueError: `along` is not a latent, or `strengths` no list of finite numbers; as `Flow.to_latent`.
    """
    strengths = _listed("strengths", strengths)
    z, along = np.asarray(model.to_latent(x, condition)), np.asarray(along, "float32")
    if along.shape != z.shape[1:]:
        raise ValueError(f"along takes a latent of shape {z.shape[1:]}. Received: shape {along.shape}")
    moved = np.stack([z + np.float32(strength) * along for strength in strengths], axis=1)
    given = _repeated(model, condition, len(strengths))
    flat = model.from_latent(moved.reshape(-1, *z.shape[1:]), given)
    return np.asarray(flat).reshape(len(z), len(strengths), *model.event_shape)


def temperatures(
    model: Any, num: int, values: Sequence[float], condition: Any = None, seed: int = 0
) -> np.ndarray:
    """Draw the same noise at several temperatures.

    Args:
        model: a Flow.
        num: how many samples at each.
        values: the temperatures.
        condition: [num, *condition_shape], or one for all.
        seed: of the noise.

    Returns:
        [len(values), num, *event_shape].

    Raises:
        ValueError: `values` is no list of finite numbers; as `Flow.sample`.
    """
    values = _listed("values", values)
    return np.stack([np.asarray(model.sample(num, condition, value, seed)) for value in values])


def resample_levels(model: Any, x: Any, condition: Any = None, seed: int = 0) -> np.ndarray:
    """Draw the latents of a multi-scale flow's levels anew, from the finest level on.

    Args:
        model: a Flow with `Split`s: Glow, RealNVP or an NSF of images.
        x: examples, [n, *event_shape].
        condition: [n, *condition_shape], or one for all.
        seed: of the new noise.

    Returns:
        [n, 1 + levels, *event_shape]: each example, then with the latents of its finest level drawn anew,
        then of the two finest, and so on; the last is a new sample.

    Raises:
        ValueError: the flow has one level alone; as `Flow.to_latent`.

    References:
        Dinh et al., Density estimation using Real NVP (2017), https://arxiv.org/abs/1605.08803, appendix D.
    """
    levels = level_slices(model)
    if len(levels) < 2:
        raise ValueError(f"{model.name} has one level: there is nothing to keep while another is drawn anew.")
    z = np.asarray(model.to_latent(x, condition))
    noise = np.asarray(model.base.sample([len(z), *model.latent_shape], random.as_seed(seed), 1.0))
    rows = [z]
    for part in levels:
        rows.append(rows[-1].copy())
        rows[-1][:, part] = noise[:, part]
    stacked = np.stack(rows, axis=1)
    given = _repeated(model, condition, len(rows))
    flat = model.from_latent(stacked.reshape(-1, *model.latent_shape), given)
    return np.asarray(flat).reshape(len(z), len(rows), *model.event_shape)


def _listed(name: str, numbers: Any) -> list[float]:
    """Return a list of at least one finite number, as floats."""
    try:
        found = np.asarray(numbers, "float64")
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"{name} takes a list of finite numbers, [0.5, 1.0] say. Received: {numbers!r}")
    return found.tolist()


def _repeated(model: Any, condition: Any, times: int) -> Any:
    """Return the conditions of examples for so many latents of each; one for all stays what it is."""
    if condition is None or np.ndim(condition) <= len(model.condition_shape or ()):
        return condition
    return np.repeat(np.asarray(condition), times, axis=0)


def level_slices(model: Any) -> list[slice]:
    """Return which entries of a flow's flat latent belong to each level, the finest first.

    Args:
        model: a Flow; one without `Split`s has one level.
    """
    from flowzoo.layers.chain import Chain
    from flowzoo.layers.multiscale import Split

    layer, levels, end = model.chain, [], int(np.prod(model.latent_shape))
    while isinstance(layer, Chain | Split):
        if isinstance(layer, Chain):
            if not layer.chained:
                break
            layer = layer.chained[0]
            continue
        start = int(np.prod(layer.inner.event_shape))
        levels.append(slice(start, end))
        layer, end = layer.inner, start
    return [*levels, slice(0, end)]
